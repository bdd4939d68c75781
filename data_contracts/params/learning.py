"""Parameters of what is learned and how it is judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_contracts.errors import UsageError
from data_contracts.model_card import named_window
from data_contracts.params.base import Params


def _known_windows(names: tuple[str, str, str]) -> tuple[str, str, str]:
    try:
        for name in names:
            named_window(name)
    except UsageError as error:
        raise ValueError(error.what) from None
    return names


WindowNames = Annotated[tuple[str, str, str], AfterValidator(_known_windows)]
WINDOW_NAMES = ("lung", "mediastinum", "bone")


class FeatureParams(Params):
    """Backbone and where its weights come from.

    weights: "auto" (torchvision's default weights), "none" (random), or the path of a local file.
    weights_sha256: digest the local file must have; empty accepts and records it.
    input_size_px: planes are resized to this many pixels a side.
    windows: the three HU windows that become a plane's channels: lung, mediastinum, bone, or centre:width.
    device: "cuda" or "cpu"; auto takes a GPU where there is one.
    engine: what computes on a processor: openvino, compile (torch.compile), torch, or int8 (OpenVINO on quantised
        convolutions, never taken by itself); auto takes the first that is installed.
    precision: auto takes bf16 where the device has it in hardware, and fp32 where the first batch comes out different.
    """

    backbone: str = "resnet50"
    weights: str = "auto"
    weights_sha256: str = ""
    input_size_px: int = Field(96, ge=32)
    windows: WindowNames = WINDOW_NAMES
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "openvino", "compile", "torch", "int8"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0)


class AdaptationGateParams(Params):
    """Bounds of the rule that chooses among source-only and adapted networks without a label of the target.

    min_domain_distance: proxy A-distance of source-only's representations of the two sites from which on a shift is
        seen; below it, and with logits that a mix of the source's classes explains, nothing is adapted.
    max_source_auc_drop: how much AUC an adapted network may lose on source validation.
    min_infomax_gain: what it must gain on source-only's InfoMax on the target, in nats.
    max_mixture_excess: how far its logits on the target may be from every mix of the source's classes, as a multiple
        of what sampling alone gives; where source-only's are farther, so far as they are.
    min_agreement: share of target nodules that it and source-only must call alike.
    alignment_penalty: what a move of one standard deviation has to gain, in multiples of what sampling alone gives.
    """

    min_domain_distance: float = Field(0.6, ge=0, le=2)
    max_source_auc_drop: float = Field(0.0075, ge=0)
    min_infomax_gain: float = 0.0
    max_mixture_excess: float = Field(1.0, ge=0)
    min_agreement: float = Field(0.7, ge=0, le=1)
    alignment_penalty: float = Field(0.3, ge=0)


class EvaluateParams(Params):
    """How figures are computed.

    bootstrap: draws of patients. size_match_tolerance: how far the diameters of a pair may be apart, as a share.
    operating_specificity: whose threshold sensitivity and specificity are reported at first, and in subgroups.
    conformal_alpha: share of a class whose prediction set may miss it.
    """

    bootstrap: int = Field(1000, ge=100)
    size_match_tolerance: float = Field(0.10, gt=0)
    ece_bins: int = Field(10, ge=2)
    operating_specificity: float = 0.90
    conformal_alpha: float = Field(0.10, gt=0, lt=0.5)
    seed: int = Field(0, ge=0)

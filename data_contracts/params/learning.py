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
    seed: int = 0


class TrainParams(Params):
    """Fitting a head, or a head and the last stages, on one dataset.

    backbone: resnet18, resnet34, resnet50, mobilenet_v2 or efficientnet_b0.
    weights: "auto" (torchvision's default weights), "none" (random), or the path of a local file.
    weights_sha256: digest the local file must have; empty accepts and records it.
    input_size_px: planes are resized to this many pixels a side.
    windows: the three HU windows that become a plane's channels: lung, mediastinum, bone, or centre:width.
    unfreeze: how many of the last stages of the backbone learn; 0 is a probe on frozen features.
    soft_label_weight: share of the readers' mean in the target, beside the hard label; where there is
        no hard label the readers' mean is the whole target, unless this is 0.
    auxiliary_weight: weight of the auxiliary outputs (readers' other ratings, log-diameter) beside the class.
    batchnorm: "frozen" keeps the statistics of the weights, "adaptive" goes on learning them.
    augmentations: variants of each patch, the first of which is the patch itself; without a frozen stage
        every epoch draws a new one.
    views: flips and quarter turns that a prediction is the mean of.
    patience: epochs without a better validation figure before fitting stops.
    lr_head, lr_backbone: learning rates after the warm-up of `warmup_epochs`; they fall along a cosine.
    source_site: site whose labels are learned from; empty takes every site.
    target_site: site that an adaptation learns to look like, without its labels.
    adaptation: "dann" also fits a domain-adversarial network; a gate then chooses between it and source-only.
    dann_weight, dann_gamma: weight of the domain loss, and how steeply it rises.
    threads: of torch; 0 takes every core.
    precision: of the stages that learn, and of features taken from a table. bf16 (mixed: weights, head and validation
        stay in fp32) is faster only where the processor has it in hardware; auto takes it there, where the gradients of
        the first batch agree with those of fp32.
    noise: standard deviation of Gaussian noise on augmented images, in units of the normalised image.
    common_spacing_mm: grid to which crops of differing pixel spacing are resampled; 0 leaves them.
    """

    preset: str = ""
    backbone: str = "resnet50"
    weights: str = "auto"
    weights_sha256: str = ""
    input_size_px: int = Field(96, ge=32)
    windows: WindowNames = WINDOW_NAMES
    head: Literal["linear", "mlp"] = "mlp"
    unfreeze: int = Field(1, ge=0)
    epochs: int = Field(20, ge=1)
    patience: int = Field(6, ge=1)
    batch_size: int = Field(32, ge=2)
    lr_head: float = Field(1e-3, gt=0)
    lr_backbone: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    soft_label_weight: float = Field(0.0, ge=0, le=1)
    auxiliary_weight: float = Field(0.0, ge=0)
    batchnorm: Literal["frozen", "adaptive"] = "frozen"
    augmentations: int = Field(4, ge=1)
    views: int = Field(1, ge=1, le=8)
    common_spacing_mm: float = Field(0.0, ge=0)
    source_site: str = ""
    target_site: str = ""
    adaptation: Literal["none", "dann"] = "none"
    dann_weight: float = Field(1.0, ge=0)
    dann_gamma: float = Field(10.0, gt=0)
    seed: int = 0
    threads: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    noise: float = Field(0.0, ge=0)


class AdaptationGateParams(Params):
    """Bounds an adapted network must keep, without any target label, or source-only stays."""

    max_source_auc_drop: float = 0.01
    min_infomax_gain: float = 0.0
    max_prevalence_shift: float = 0.15
    min_agreement: float = 0.7


class EvaluateParams(Params):
    """How figures are computed."""

    bootstrap: int = Field(1000, ge=100)
    size_match_tolerance: float = Field(0.10, gt=0)
    ece_bins: int = Field(10, ge=2)
    operating_specificity: float = 0.90
    seed: int = 0

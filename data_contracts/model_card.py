"""ModelCard: what a network expects and was trained on; it travels with its weights."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from data_contracts.errors import UsageError
from data_contracts.patch_kind import PatchKind
from data_contracts.records import Record


class Window(Record):
    """A HU window: values below centre - width/2 become 0, above centre + width/2 become 1."""

    center_hu: float
    width_hu: float


LUNG_WINDOW = Window(center_hu=-600, width_hu=1500)
MEDIASTINAL_WINDOW = Window(center_hu=40, width_hu=400)
BONE_WINDOW = Window(center_hu=300, width_hu=1500)
WINDOWS: dict[str, Window] = {"lung": LUNG_WINDOW, "mediastinum": MEDIASTINAL_WINDOW, "bone": BONE_WINDOW}


def named_window(name: str) -> Window:
    """The window called `name`, or a custom one written as centre:width in HU, such as "-500:1400".

    Raises
    ------
    UsageError: another name, or a width that is not positive.
    """
    if name in WINDOWS:
        return WINDOWS[name]
    try:
        center_hu, width_hu = (float(part) for part in name.split(":"))
    except ValueError:
        raise UsageError(
            f"unknown window {name[:40]!r}",
            todo=f"Known: {', '.join(WINDOWS)}, or centre:width in HU, such as -500:1400.",
        ) from None
    if not (math.isfinite(center_hu) and 0 < width_hu < math.inf):
        raise UsageError(f"the width of a window is positive, not {width_hu:g} HU")
    return Window(center_hu=center_hu, width_hu=width_hu)


Volumetric = Literal["planes", "i3d", "acs", "native"]


class InputSpec(Record):
    """From a stored patch to the images a backbone sees.

    kind, patch_shape, value_unit: as in the DatasetCard the network was trained on.
    windows: HU windows, each a channel (HU patches only).
    volumetric: how a 3d patch enters: "planes" (its three central planes), or as a volume, through a 2D backbone
        inflated by "i3d" or "acs", or through a backbone that is three-dimensional itself ("native").
    input_size_px: planes or volumes are resized to this many pixels a side.
    mean, std: per channel, after scaling to 0..1 (torchvision's ImageNet constants by default); their number is that of
        the channels.
    views: how many of the eight flips and quarter turns a prediction is the mean of.
    """

    kind: PatchKind
    patch_shape: tuple[int, ...]
    value_unit: Literal["HU", "grey"]
    spacing_mm: float | None
    input_size_px: int
    windows: tuple[Window, ...] = (LUNG_WINDOW, MEDIASTINAL_WINDOW, BONE_WINDOW)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    volumetric: Volumetric = "planes"
    views: int = Field(1, ge=1, le=8)


class Calibration(Record):
    """Late fusion and calibration, all fitted on validation: p = sigmoid(bias + image * logit + size * ln(d / 10 mm)).

    image_only, size_only: the same with the other weight at zero, fitted on their own.
    temperature: by which the fused logit was divided (the weights hold it already), 1 where it was not.
    image_only_temperature: by which the network's logit is divided where it stands alone; 1 in cards of before.
    """

    bias: float
    image_weight: float
    size_weight: float
    image_only_bias: float
    image_only_weight: float
    size_only_bias: float
    size_only_weight: float
    temperature: float = 1.0
    image_only_temperature: float = 1.0


class ConformalQuantiles(Record):
    """Split-conformal prediction sets of each class, frozen on validation: a class is in a nodule's set where its own
    probability (score, or 1 - score for benign) is at least 1 - quantile.

    alpha: share of a class whose set may miss it. n_benign, n_malignant: validation nodules that they come from; with
    too few for alpha the quantile is 1 and the set always holds the class.
    """

    alpha: float = Field(gt=0, lt=1)
    benign: float
    malignant: float
    n_benign: int
    n_malignant: int


class ModelCard(Record):
    """model_card.json beside checkpoint.safetensors.

    weights: "none" where the backbone started from random numbers, else the name or file it came from.
    checkpoint_sha256: of checkpoint.safetensors; checked before every load.
    members: how many networks of this backbone stand side by side, their mean being the logit.
    pooling: how the planes of a patch are joined. concepts: what is read out beside malignancy, each in 0..1.
    concept_figures: of each concept on held-out patients: n, spearman, spearman_low, spearman_high, kappa, mae.
    thresholds: operating points frozen on validation, e.g. {"specificity_0.90": 0.61}.
    conformal: frozen on validation; None in cards of before, or where validation lacks a class.
    """

    name: str
    run_id: str
    backbone: str
    weights: str
    weights_sha256: str
    pretrained: bool
    head: str
    members: int = Field(1, ge=1)
    pooling: Literal["mean", "attention"] = "mean"
    concepts: tuple[str, ...] = ()
    concept_figures: dict[str, dict[str, float | None]] = {}
    input: InputSpec
    calibration: Calibration
    thresholds: dict[str, float] = {}
    conformal: ConformalQuantiles | None = None
    checkpoint_sha256: str
    dataset_id: str
    training: dict[str, object] = {}
    intended_use: str = "Research decision support on CT lung nodules. Not for diagnostic use."
    warnings: tuple[str, ...] = ()

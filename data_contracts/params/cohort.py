"""Parameters of cohorts: splits, labels, patches, phantoms."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from data_contracts.params.base import Params
from data_contracts.patch_kind import PatchKind


class SplitParams(Params):
    """Fractions of patients; what is left of train and validation is test.

    salt: goes into the hash that decides each patient's split; another salt is another split.
    """

    train: float = Field(0.55, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    salt: str = "noduleflow"


class LabelParams(Params):
    """From readers to a label: mean malignancy above `threshold` is 1, below is 0, exactly there is indeterminate.

    min_readers: a nodule that fewer readers rated has no label.
    """

    min_readers: int = Field(1, ge=1)
    threshold: float = 3.0


class ImageParams(Params):
    """Images of class folders as patches of one size.

    size_px: pixels a side of every patch.
    resize: "fit" scales an image until its longer side has `size_px` and pads the other with black, "stretch" scales
        both sides, "never" keeps its pixels and cuts or pads around its centre.
    channels: "auto" keeps three only where an image has colour.
    grey_low, grey_high: values of images deeper than 8 bits that become 0 and 255; where they are not given, the lowest
        and highest value of all of them.
    """

    size_px: int = Field(64, ge=16, le=1024)
    resize: Literal["fit", "stretch", "never"] = "fit"
    channels: Literal["auto", "grey", "rgb"] = "auto"
    grey_low: float | None = None
    grey_high: float | None = None

    @model_validator(mode="after")
    def _both_ends_of_the_greys(self) -> Self:
        if (self.grey_low is None) != (self.grey_high is None):
            raise ValueError("grey_low and grey_high are given together")
        if self.grey_low is not None and self.grey_high is not None and not self.grey_low < self.grey_high:
            raise ValueError("grey_low must be below grey_high")
        return self


class PatchParams(Params):
    """Patches around nodules: a cube of `size_mm` a side, sampled every `spacing_mm`.

    kind: three neighbouring axial slices, planes through the centre, or the cube.
    planes: of 2.5d: axial, coronal and sagittal, or these and the six diagonal ones.
    min_reader_marks: a nodule that fewer readers marked has no patch.
    target: what the label says: malignant or benign, or nodule or not.
    jitter_copies: further patches of each training nodule, each moved within a ball of `jitter_mm`.
    negatives_per_series: places without a nodule, half of them anywhere in the lungs and half on vessels and other
        bright structures; for target "nodule" only.
    negative_margin_mm: how far a negative stays off the surface of every nodule.
    """

    kind: PatchKind = "2.5d"
    planes: Literal[3, 9] = 3
    size_mm: float = Field(48.0, gt=0)
    spacing_mm: float = Field(0.75, gt=0)
    min_reader_marks: int = Field(1, ge=1)
    target: Literal["malignancy", "nodule"] = "malignancy"
    jitter_copies: int = Field(0, ge=0, le=100)
    jitter_mm: float = Field(2.0, gt=0)
    negatives_per_series: int = Field(0, ge=0, le=10_000)
    negative_margin_mm: float = Field(5.0, ge=0)
    seed: int = Field(0, ge=0)
    patches_per_shard: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _negatives_need_their_target(self) -> Self:
        if self.negatives_per_series and self.target != "nodule":
            raise ValueError("negatives_per_series needs target=nodule: they are neither malignant nor benign")
        return self


class PhantomParams(Params):
    """A phantom cohort; the same values give the same bytes.

    reserved_patients: LIDC patients whose nodules must not be used; None takes the built-in list.
    """

    seed: int = Field(0, ge=0)
    n_patients: int = Field(48, ge=2)
    nodules_per_patient: int = Field(4, ge=1)
    site_b_fraction: float = Field(0.5, ge=0, le=1)
    matrix: int = Field(320, ge=64)
    field_of_view_mm: float = Field(340.0, gt=0)
    length_mm: float = Field(150.0, gt=0)
    spacing_a_mm: float = Field(1.25, gt=0)
    spacing_b_mm: float = Field(3.0, gt=0)
    noise_a_hu: float = Field(18.0, ge=0)
    noise_b_hu: float = Field(55.0, ge=0)
    min_diameter_mm: float = 4.0
    max_diameter_mm: float = 30.0
    reserved_patients: tuple[str, ...] | None = None

"""One frozen parameter class a step. Defaults live here; a preset holds only what differs; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from data_contracts.errors import UnknownParameterError, UsageError
from data_contracts.model_card import named_window
from data_contracts.patches import PatchKind
from data_contracts.records import Record, digest_of
from data_contracts.volume import PADDING_HU


def _known_windows(names: tuple[str, str, str]) -> tuple[str, str, str]:
    try:
        for name in names:
            named_window(name)
    except UsageError as error:
        raise ValueError(error.what) from None
    return names


WindowNames = Annotated[tuple[str, str, str], AfterValidator(_known_windows)]
WINDOW_NAMES = ("lung", "mediastinum", "bone")


class Params(Record):
    """Base: values from a mapping, errors by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_mapping(cls, values: dict[str, Any], *, where: str = "") -> Self:
        """Parameters from a preset or from --set options.

        Raises
        ------
        UnknownParameterError: a key that the step does not have.
        UsageError: a value of the wrong kind or out of range.
        """
        unknown = sorted(set(values) - set(cls.model_fields))
        if unknown:
            raise UnknownParameterError(
                f"unknown parameter {unknown[0]!r}", where=where, todo=f"Known: {', '.join(sorted(cls.model_fields))}."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            what = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"parameter {field!r}: {what}" if field else what, where=where) from None

    def digest(self) -> str:
        """Short digest of all values."""
        return digest_of(self.model_dump(mode="json"))


class IngestParams(Params):
    """Policies of ingest.

    min_slices: fewest slices of a volume.
    padding_hu: value given to voxels outside the field of view.
    spacing_tolerance_mm: how far a slice may lie from its place on an even grid.
    lossy: whether pixels compressed with loss are accepted with a finding, or refused.
    tilt: a tilted gantry's volume keeps its sheared affine, is resampled to an orthogonal grid, or is refused.
    missing: missing slices refuse the series, or are interpolated from their neighbours with a finding.
    max_missing: most neighbouring slices that may be interpolated.
    burned_in: text in the pixels (by the header, or by the rules of known scanners) refuses the series, is
        blanked with a finding, or is only flagged.
    preferred_kernel: which reconstruction of a study is chosen: the sharper, the softer, or either.
    preferred_thickness_mm: slice thickness that the choice tries to come near from below.
    compress: write volume.nii.gz in place of volume.nii.
    keep_vault: seal the original identifiers of accepted studies, so that holders of the key find the way back.
    """

    min_slices: int = Field(3, ge=2)
    padding_hu: int = PADDING_HU
    spacing_tolerance_mm: float = Field(0.1, gt=0)
    lossy: Literal["flag", "refuse"] = "flag"
    tilt: Literal["shear", "resample", "refuse"] = "shear"
    missing: Literal["refuse", "interpolate"] = "refuse"
    max_missing: int = Field(1, ge=1)
    burned_in: Literal["refuse", "blank", "flag"] = "refuse"
    preferred_kernel: Literal["any", "sharp", "soft"] = "any"
    preferred_thickness_mm: float = Field(1.25, gt=0)
    compress: bool = False
    keep_vault: bool = True


class DeidentifyParams(Params):
    """Options of the confidentiality profile (DICOM PS3.15 Annex E) for DICOM that leaves as DICOM.

    retain_dates: dates of a patient move together by a secret number of days and times stay, so that intervals hold;
        without it they are removed or emptied.
    retain_device: serial numbers, station names and calibration dates stay.
    retain_patient: sex, age (90 and more as 90), size, weight and the like stay.
    retain_safe_private: private elements that are known to hold technical numbers stay.
    clean_descriptors: words of CT stay in descriptions; without it they are removed or emptied.
    burned_in: objects with text in their pixels are refused, blanked where the places are known, or only flagged.
    """

    retain_dates: bool = True
    retain_device: bool = False
    retain_patient: bool = False
    retain_safe_private: bool = True
    clean_descriptors: bool = True
    burned_in: Literal["refuse", "blank", "flag"] = "refuse"


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
    seed: int = 0
    patches_per_shard: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _negatives_need_their_target(self) -> Self:
        if self.negatives_per_series and self.target != "nodule":
            raise ValueError("negatives_per_series needs target=nodule: they are neither malignant nor benign")
        return self


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


class PhantomParams(Params):
    """A phantom cohort; the same values give the same bytes.

    reserved_patients: LIDC patients whose nodules must not be used; None takes the built-in list.
    """

    seed: int = 0
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


class ReviewParams(Params):
    """What a report holds.

    key_image_size_mm: side of a key image.
    min_diameter_mm: smaller nodules are left out.
    lung_segmenter: a folder of `segmenters/` in the workspace with a trained network; empty takes the classical mask.
    """

    key_image_size_mm: float = Field(60.0, gt=0)
    pdf: bool = True
    min_diameter_mm: float = Field(0.0, ge=0)
    lung_segmenter: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")

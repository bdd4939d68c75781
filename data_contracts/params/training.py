"""Parameters of a fit."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from data_contracts.params.base import Params
from data_contracts.params.learning import WINDOW_NAMES, WindowNames

#: adabn: the target's BatchNorm statistics, no training; style: kernels and noise as augmentation, no alignment
AdaptationMethod = Literal["adabn", "style", "coral", "dann", "cdan", "cdan-e", "mcc", "mutual"]
ADAPTATION_METHODS: tuple[str, ...] = get_args(AdaptationMethod)


def _methods(value: object) -> object:
    """One name, several with commas between them, "all" or "none" as a tuple."""
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["all"]:
        return ADAPTATION_METHODS
    return tuple(name for name in names if name != "none")


AdaptationMethods = Annotated[tuple[AdaptationMethod, ...], BeforeValidator(_methods)]


class TrainParams(Params):
    """Fitting a head, or a head and the last stages, on one dataset.

    backbone: resnet18/34/50, mobilenet_v2, efficientnet_b0 and others of torchvision whose body is a row of
        convolutional blocks, small_cnn (to be trained from nothing), or medicalnet_resnet10/18/34/50, which take a 3d
        patch whole.
    weights: "auto" (torchvision's default weights), "none" (random), the path of a local file, or a registered version
        (its number or alias) of the same backbone that learned from nobody of the test split.
    weights_sha256: digest the local file must have; empty accepts and records it.
    input_size_px: planes, or volumes, are resized to this many pixels a side.
    windows: the three HU windows that become channels: lung, mediastinum, bone, or centre:width; medicalnet_* has one
        channel, the first.
    volumetric: how a 3d patch enters: "planes" (its three central planes), or as a volume through the backbone inflated
        to three dimensions: "i3d" (kernels repeated along the new axis), "acs" (kernels split over the three planes).
    pooling: how the planes of a patch are joined: "mean", or "attention" (a learned weight for each).
    unfreeze: how many of the last stages of the backbone learn; 0 is a probe on frozen features.
    soft_label_weight: share of the readers' mean in the target, beside the hard label; where there is
        no hard label the readers' mean is the whole target, unless this is 0.
    auxiliary_weight: weight of the concept outputs (readers' other ratings, log-diameter) beside the class.
    auxiliary_weights: weight of a concept among them, by name, such as {spiculation = 2.0}; 1 where it is not named.
    mask_weight: weight of a small decoder that predicts from the maps of the stages that learn, pixel by pixel, the
        share of the readers whose outline covers it; needs a dataset with outlines (`import-npz --votes`). The decoder
        is there only while the network learns.
    class_weights: "balanced" lets both classes count alike, "size" lets them count alike at each diameter, so that the
        image is learned from and not how large a nodule is; "none" lets each nodule count.
    batchnorm: "frozen" keeps the statistics of the weights, "adaptive" goes on learning them.
    batchnorm_domain: from whose images adaptive statistics are learned in an adaptation: joint, source or target.
    augmentations: variants of each patch, the first of which is the patch itself; without a frozen stage
        every epoch draws a new one.
    members: networks that the model is the mean of, each fitted without one of as many parts of the training and
        validation patients; what it says of that part calibrates them all. 1 is one network and the validation split.
    blend_concepts: let the concept outputs add to the logit, as far as those predictions pay for it (members > 1).
    fusion_balance: share of the fit of image + size in which both classes count alike at each diameter: more of it
        gives more of the score to the image.
    calibration: of scores on validation, by a temperature with an offset for the prevalence ("logistic") or without
        one ("temperature").
    views: flips and quarter turns that a prediction is the mean of.
    patience: epochs without a better validation figure before fitting stops.
    optimizer: adamw, or sgd with Nesterov momentum 0.9.
    schedule: of the learning rates after the warm-up of `warmup_epochs`: "cosine", or "annealed" (Ganin et al. 2016).
    lr_head, lr_backbone: learning rates after the warm-up.
    lr_decay: factor of `lr_backbone` from each stage to the one before it, 1 for the same rate everywhere.
    accumulate: batches whose gradients are joined into one step.
    source_site: site whose labels are learned from; empty takes every site.
    target_site: site that an adaptation learns to look like, without its labels.
    target_label_weight: beta of J = J_source + beta J_target, joint training with labelled patches of `target_site`;
        0 leaves them alone. beta rises with lambda(p) as an adaptation does.
    adaptation: networks to fit beside source-only, a gate then chooses: adabn, style, coral, dann, cdan, cdan-e, mcc,
        mutual, several with commas between them, or all.
    adaptation_weight, adaptation_gamma: weight of the adaptation's loss, and how steeply it rises.
    teacher: version, alias or run whose logits are learned beside the labels (distillation); empty for none.
    distillation_temperature, distillation_weight: T, and the share of the teacher's soft targets in the loss of the
        class (Hinton et al. 2015).
    threads: of torch; 0 takes every core.
    precision: of the stages that learn, and of features taken from a table. bf16 (mixed: weights, head and validation
        stay in fp32) is faster only where the processor has it in hardware; auto takes it there, where the gradients of
        the first batch agree with those of fp32.
    near_duplicates: one picture in two splits under two patient keys is a warning that keeps a version from being
        promoted, or ends the training.
    deterministic: refuse operations whose result is not the same every time (torch's own switch).
    noise: standard deviation of Gaussian noise on augmented images, in units of the normalised image.
    style: augment with kernel sharpening and noise, measured on one study's B40f and B70f, too, in every network of the
        run; at least four variants of each patch then.
    common_spacing_mm: grid to which crops of differing pixel spacing are resampled; 0 leaves them.
    """

    preset: str = ""
    backbone: str = "resnet50"
    weights: str = "auto"
    weights_sha256: str = ""
    input_size_px: int = Field(96, ge=32)
    windows: WindowNames = WINDOW_NAMES
    volumetric: Literal["planes", "i3d", "acs"] = "planes"
    pooling: Literal["mean", "attention"] = "mean"
    head: Literal["linear", "mlp"] = "mlp"
    unfreeze: int = Field(1, ge=0)
    epochs: int = Field(20, ge=1)
    patience: int = Field(6, ge=1)
    batch_size: int = Field(32, ge=2)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "annealed"] = "cosine"
    lr_head: float = Field(1e-3, gt=0)
    lr_backbone: float = Field(1e-4, gt=0)
    lr_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(1e-3, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    soft_label_weight: float = Field(0.0, ge=0, le=1)
    auxiliary_weight: float = Field(0.0, ge=0)
    auxiliary_weights: dict[str, float] = {}
    # Left out where it is off: runs without it keep the ids that they had before it was there.
    mask_weight: float = Field(0.0, ge=0, exclude_if=lambda weight: weight == 0)
    class_weights: Literal["balanced", "size", "none"] = "balanced"
    batchnorm: Literal["frozen", "adaptive"] = "frozen"
    batchnorm_domain: Literal["joint", "source", "target"] = "joint"
    augmentations: int = Field(4, ge=1)
    members: int = Field(1, ge=1, le=10)
    blend_concepts: bool = False
    fusion_balance: float = Field(0.0, ge=0, le=1)
    calibration: Literal["logistic", "temperature"] = "logistic"
    views: int = Field(1, ge=1, le=8)
    common_spacing_mm: float = Field(0.0, ge=0)
    source_site: str = ""
    target_site: str = ""
    target_label_weight: float = Field(0.0, ge=0)
    adaptation: AdaptationMethods = ()
    adaptation_weight: float = Field(1.0, ge=0)
    adaptation_gamma: float = Field(10.0, gt=0)
    teacher: str = ""
    distillation_temperature: float = Field(2.0, gt=0)
    distillation_weight: float = Field(0.7, ge=0, le=1)
    seed: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    deterministic: bool = False
    near_duplicates: Literal["refuse", "warn"] = "warn"
    noise: float = Field(0.0, ge=0)
    style: bool = False

    @field_validator("auxiliary_weights")
    @classmethod
    def _no_reward_for_errors(cls, weights: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, weight in weights.items() if not 0 <= weight < float("inf")]:
            raise ValueError(f"the weight of {wrong[0]} is no number of 0 or more")
        return weights

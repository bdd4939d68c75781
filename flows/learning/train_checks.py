"""What a training run could only stumble over after whole fits, or would not do at all: said before the first step."""

from __future__ import annotations

import pandas as pd

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.params import TrainParams
from data_contracts.params.learning import WINDOW_NAMES
from flows.datasets.labelled import check_common_spacing
from flows.datasets.training_cohort import TrainingCohort
from flows.learning.members import check_members
from flows.learning.wanted_networks import JOINT, network_names
from flows.progress import say
from models.adaptation.methods import WITHOUT_LOSS, check_reach
from models.adaptation.statistics import batchnorms
from models.networks.backbones import Backbone, build_backbone
from models.networks.inflate import as_volumetric
from models.networks.inputs import input_spec, plane_count
from pipeline.scoring.folds import patient_folds


def check_run(cohort: TrainingCohort, params: TrainParams) -> None:
    """Refuse parameters that end a run of this dataset late, or that change nothing where they stand.

    What the dataset alone leaves without effect (a preset asks for readers' means, nobody rated) is said.

    Raises
    ------
    UsageError: the parameters contradict each other, the backbone or the dataset.
    NothingUsableError: rows that a later stage of the run needs are not there.
    """
    check_members(params)
    check_common_spacing(cohort.reader, params)
    spec = input_spec(cohort.reader.card, params)
    backbone = as_volumetric(build_backbone(params.backbone, seed=params.seed), spec.volumetric)
    backbone.split(params.unfreeze)
    if params.pooling == "attention" and plane_count(spec) == 1:
        raise UsageError(
            "attention weighs the planes of a patch, these have one",
            where="pooling=attention",
            todo="Set pooling=mean, or prepare patches of several planes (kind=2.5d).",
        )
    if params.windows != WINDOW_NAMES and spec.value_unit != "HU":
        raise UsageError(
            "grey patches have no HU that a window could be laid over",
            where=f"windows={','.join(params.windows)}",
            todo="Leave windows out.",
        )
    _check_masks(cohort, params)
    _check_noise(params, backbone)
    _check_batchnorm(params, backbone)
    check_reach(params)
    _check_rows(cohort, params)
    _tell_without_effect(cohort, params)


def _check_masks(cohort: TrainingCohort, params: TrainParams) -> None:
    if params.mask_weight == 0:
        return
    where = f"mask_weight={params.mask_weight:g}"
    if not cohort.reader.card.masks:
        raise UsageError(
            "the dataset holds no outlines of readers",
            where=where,
            todo="Import it with `import-npz --votes ARRAY`, or set mask_weight=0.",
        )
    if params.unfreeze == 0:
        raise UsageError(
            "a mask is learned by stages of the backbone, and none learns",
            where=f"{where}, unfreeze=0",
            todo="Set unfreeze above 0, or mask_weight=0.",
        )


def _check_noise(params: TrainParams, backbone: Backbone) -> None:
    """The first variant is the patch itself; without a frozen stage every epoch draws another."""
    if params.noise > 0 and params.augmentations == 1 and params.unfreeze < len(backbone.stages):
        raise UsageError(
            "noise is added to augmented patches, there are none",
            where=f"noise={params.noise:g}, augmentations=1",
            todo="Set augmentations=4, or noise=0.",
        )


def _check_batchnorm(params: TrainParams, backbone: Backbone) -> None:
    if "adabn" in params.adaptation and not batchnorms(backbone):
        others = ",".join(method for method in params.adaptation if method != "adabn") or "none"
        raise UsageError(
            f"adabn changes BatchNorm statistics, and {backbone.name} has none",
            where=f"adaptation={','.join(params.adaptation)}",
            todo=f"Set adaptation={others}, or another backbone.",
        )
    _, learned = backbone.split(params.unfreeze)
    if params.batchnorm == "adaptive" and not batchnorms(learned):
        raise UsageError(
            f"the stages of {backbone.name} that learn have no BatchNorm whose statistics could be learned",
            where=f"batchnorm=adaptive, unfreeze={params.unfreeze}",
            todo="Set batchnorm=frozen, or unfreeze stages that have it.",
        )
    if params.batchnorm_domain == "joint":
        return
    where = f"batchnorm_domain={params.batchnorm_domain}"
    if params.batchnorm == "frozen":
        raise UsageError(
            "frozen BatchNorm statistics are learned from nobody's images",
            where=where,
            todo="Set batchnorm=adaptive, or leave batchnorm_domain out.",
        )
    if not set(params.adaptation) - set(WITHOUT_LOSS):
        raise UsageError(
            "no network of this run learns from images of both sites by an adaptation's loss",
            where=where,
            todo="Leave batchnorm_domain out, or add an adaptation such as dann.",
        )


def _check_rows(cohort: TrainingCohort, params: TrainParams) -> None:
    """Rows that are first asked for when other networks of the run have been fitted."""
    joint = JOINT in network_names(params)
    cohort.learned(joint=joint)
    cohort.source_validation()
    _check_parts(cohort.train(), params)
    if params.adaptation and cohort.target().empty:
        raise NothingUsableError(
            "the target site has no training patients to adapt to",
            where=f"site {params.target_site}",
            todo="Add studies of it, or change the fractions with `prepare --set train=...`.",
        )


def _check_parts(rows: pd.DataFrame, params: TrainParams) -> None:
    if params.members == 1:
        return
    held = patient_folds(rows["patient_key"], rows["label"], params.members, params.seed)
    poor = [member for member in range(params.members) if rows["label"][held != member].dropna().nunique() < 2]
    if poor:
        raise NothingUsableError(
            f"without its part of the patients member {poor[0]} would not see both labels",
            where=f"members={params.members}",
            todo="Add annotated studies, or set members=1.",
        )


def _tell_without_effect(cohort: TrainingCohort, params: TrainParams) -> None:
    rows = cohort.learned(joint=JOINT in network_names(params))
    if params.soft_label_weight > 0 and rows["label_soft"].isna().all():
        say("warning: soft_label_weight has no effect: no training nodule has a mean of its readers")
    by_size = params.class_weights == "size" or params.fusion_balance > 0
    if by_size and not (rows["diameter_mm"] > 0).any():
        say("warning: class_weights=size and fusion_balance have no effect: no training nodule has a diameter")

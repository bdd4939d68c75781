"""What a training could not do, or would silently leave out, is refused in one line before the first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from card_factory import resnet50_card
from two_sites import NARROW, make_workspace

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.params import TrainParams
from flows.datasets.labelled import off_grid, patches_of
from flows.datasets.training_cohort import TrainingCohort
from flows.learning.crossval import cross_validate
from flows.learning.train_checks import check_run
from flows.learning.training import train_flow
from flows.versions.judged_rows import doubts
from flows.workspace import Workspace
from models.networks.inputs import input_spec
from pipeline.cohort.dataset import PatchReader

SITES = {"source_site": "A", "target_site": "B"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    return make_workspace(tmp_path_factory.mktemp("refusals"))


@pytest.fixture
def dataset(made: tuple[Workspace, str], tmp_path: Path) -> Path:
    """The folder of a dataset of its own, whose files a test may change."""
    workspace, dataset_id = made
    return Path(shutil.copytree(workspace.datasets_root / dataset_id, tmp_path / "datasets" / dataset_id))


def checked(dataset: Path, **changes: Any) -> None:
    params = TrainParams.from_mapping({**NARROW, "backbone": "small_cnn", **changes})
    check_run(TrainingCohort(dataset, params), params)


def with_rows(dataset: Path, **columns: Any) -> None:
    path = dataset / "index.parquet"
    table = pd.read_parquet(path)
    table.assign(**{name: change(table) for name, change in columns.items()}).to_parquet(path, index=False)


def with_card(dataset: Path, **changes: Any) -> None:
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unfreeze": 9}, "small_cnn has 4 stages, 9 cannot be unfrozen"),
        ({**SITES, "adaptation": "dann", "unfreeze": 0}, "nothing can adapt.*adaptation=dann"),
        ({**SITES, "adaptation": "mcc,cdan,coral", "unfreeze": 0}, "nothing can adapt.*adaptation=cdan,coral"),
        ({"blend_concepts": True, "auxiliary_weight": 0.5}, "no held-out predictions of several members"),
        ({"blend_concepts": True, "members": 2}, "no concepts to blend"),
        ({"members": 2, "head": "mlp"}, "need a linear head"),
        ({**SITES, "adaptation": "dann", "batchnorm_domain": "target"}, "batchnorm_domain=target.*batchnorm=adaptive"),
        ({"batchnorm": "adaptive", "batchnorm_domain": "source"}, "no network of this run.*batchnorm_domain=source"),
        (
            {**SITES, "adaptation": "adabn,style", "batchnorm": "adaptive", "batchnorm_domain": "target"},
            "no network of this run",
        ),
        ({"batchnorm": "adaptive", "unfreeze": 0}, "no BatchNorm whose statistics could be learned"),
        ({"backbone": "convnext_tiny", "batchnorm": "adaptive"}, "stages of convnext_tiny that learn"),
        ({**SITES, "backbone": "convnext_tiny", "adaptation": "adabn,mcc"}, "convnext_tiny has none.*adaptation=mcc"),
        ({"pooling": "attention"}, "these have one: pooling=attention"),
        ({"windows": ["lung", "bone", "40:400"]}, "grey patches have no HU"),
        ({"noise": 0.1}, "no(ne|ise).*augmentations=1"),
        ({"volumetric": "i3d"}, "the dataset holds 2d patches"),
    ],
)
def test_parameters_that_fail_late_or_do_nothing_are_refused_at_once(
    dataset: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        checked(dataset, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unfreeze": 4, "batchnorm": "adaptive", "noise": 0.1},
        {"unfreeze": 0, "augmentations": 2, "noise": 0.1},
        {**SITES, "adaptation": "all"},
        {**SITES, "adaptation": "all", "unfreeze": 0, "head": "mlp"},
        {**SITES, "adaptation": "mcc,mutual,adabn,style", "unfreeze": 0},
        {**SITES, "adaptation": "dann,adabn", "batchnorm": "adaptive", "batchnorm_domain": "target"},
        {**SITES, "target_label_weight": 1.0},
        {"members": 2, "auxiliary_weight": 0.5, "blend_concepts": True},
    ],
)
def test_what_a_run_can_do_is_not_refused(dataset: Path, changes: dict[str, Any]) -> None:
    checked(dataset, **changes)


def test_rows_that_a_later_network_needs_are_asked_for_before_the_first(dataset: Path) -> None:
    with_rows(dataset, label=lambda rows: rows["label"].where(rows["site"] == "A", 1))
    checked(dataset, **SITES, adaptation="coral")
    with pytest.raises(NothingUsableError, match=r"training \(site B\) patients do not show both labels"):
        checked(dataset, **SITES, target_label_weight=1.0)
    with_rows(dataset, split=lambda rows: rows["split"].where(rows["site"] == "A", "test"))
    with pytest.raises(NothingUsableError, match="no training patients to adapt to: site B"):
        checked(dataset, **SITES, adaptation="adabn")


def test_members_of_which_one_would_see_one_label_only_are_refused(dataset: Path) -> None:
    def one_malignant(rows: pd.DataFrame) -> pd.Series:
        first = rows.index[(rows["split"] == "train") & (rows["label"] == 1)][0]
        return (rows.index == first).astype(int)

    with_rows(dataset, label=one_malignant)
    with pytest.raises(NothingUsableError, match=r"member \d would not see both labels: members=2"):
        checked(dataset, members=2)


def test_what_the_dataset_leaves_without_effect_is_said(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked(dataset, soft_label_weight=0.7, class_weights="size")
    assert "no effect" not in capsys.readouterr().err
    with_rows(dataset, label_soft=lambda rows: np.nan, diameter_mm=lambda rows: np.nan)
    checked(dataset, soft_label_weight=0.7, class_weights="size")
    told = capsys.readouterr().err
    assert "soft_label_weight has no effect" in told and "class_weights=size and fusion_balance have no effect" in told


def test_a_common_grid_needs_the_pixel_spacing_of_every_patch(dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"the dataset has no pixel spacing.*dataset sites.*column pixel_spacing"):
        checked(dataset, common_spacing_mm=0.6)
    with_rows(dataset, pixel_spacing_mm=lambda rows: np.where(rows.index < 3, np.nan, 0.7))
    with pytest.raises(UsageError, match=r"3 of 160 patches have no pixel spacing.*common_spacing_mm=0.6"):
        checked(dataset, common_spacing_mm=0.6)
    with_rows(dataset, pixel_spacing_mm=lambda rows: 0.7)
    checked(dataset, common_spacing_mm=0.6)


def test_a_common_grid_for_patches_that_were_cut_on_another_is_refused(dataset: Path) -> None:
    with_card(dataset, spacing_mm=0.75)
    with pytest.raises(UsageError, match=r"grid of 0.75 mm already.*spacing_mm=0.6"):
        checked(dataset, common_spacing_mm=0.6)
    checked(dataset, common_spacing_mm=0.75)


def test_training_and_cross_validation_refuse_it_before_any_fit(made: tuple[Workspace, str]) -> None:
    workspace, dataset_id = made
    params = TrainParams.from_mapping({**NARROW, "common_spacing_mm": 0.6})
    with pytest.raises(UsageError, match="no pixel spacing"):
        train_flow.fn(str(workspace.root), dataset_id, params, "model")
    with pytest.raises(UsageError, match="no pixel spacing"):
        cross_validate(workspace.datasets_root / dataset_id, params, n_folds=2)
    assert not workspace.runs_root.exists()


def test_where_a_version_is_judged_patches_off_its_grid_are_counted_and_told(
    made: tuple[Workspace, str], dataset: Path
) -> None:
    params = TrainParams.from_mapping({**NARROW, "common_spacing_mm": 0.6})
    rows = PatchReader(dataset).index
    spec = input_spec(PatchReader(dataset).card, params)
    card = resnet50_card().model_copy(
        update={"input": spec, "training": {"common_spacing_mm": 0.6}, "dataset_id": dataset.name}
    )
    assert off_grid(PatchReader(dataset), rows, card) == len(rows)
    (told,) = doubts(made[0], PatchReader(dataset), rows, card, np.zeros(len(rows)))
    assert told.startswith("160 of 160 patches are not known to lie on the grid of 0.6 mm")
    some = rows.assign(pixel_spacing_mm=np.where(rows.index < 3, np.nan, 0.75))
    reader = PatchReader(dataset)
    assert off_grid(reader, some, card) == 3
    np.testing.assert_array_equal(patches_of(reader, some.head(3), params), reader.load(list(rows["patch_id"][:3])))
    assert off_grid(reader, some.assign(pixel_spacing_mm=0.75), card) == 0
    native = card.model_copy(update={"training": {}})  # of patches that were cut on its grid: nothing is resampled
    assert off_grid(reader, some.assign(pixel_spacing_mm=np.where(rows.index < 3, 0.6, 0.75)), native) == len(rows) - 3
    with_card(dataset, spacing_mm=0.75)
    assert off_grid(PatchReader(dataset), rows, card) == len(rows)
    without = card.model_copy(update={"input": spec.model_copy(update={"spacing_mm": None})})
    assert off_grid(reader, rows, without) == 0

"""What training looks for in its dataset before it learns: it stops at a leaked picture and warns of flipped labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from two_sites import make_workspace

from data_contracts.cohort_audit import CohortAudit
from data_contracts.errors import LeakError
from data_contracts.params import LabelParams, SplitParams, TrainParams
from flows.datasets.cohort_audit import audit_cohort, warnings_of
from flows.datasets.training_cohort import TrainingCohort
from flows.workspace import Workspace
from pipeline.cohort.importers import import_npz


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files behind the dataset of two sites."""
    folder = tmp_path_factory.mktemp("two-sites")
    make_workspace(folder)
    return folder


def dataset(source: Path, tmp_path: Path, change: object) -> Path:
    """The dataset of two sites after `change` of its images and table."""
    table = pd.read_csv(source / "sites.csv")
    with np.load(source / "sites.npz") as stored:
        images = stored["image"]
    images, table = change(images, table)  # type: ignore[operator]
    np.savez(tmp_path / "changed.npz", image=images)
    table.to_csv(tmp_path / "changed.csv", index=False)
    workspace = Workspace(tmp_path / "workspace").create()
    card = import_npz(
        tmp_path / "changed.npz",
        name="changed",
        table=tmp_path / "changed.csv",
        datasets_root=workspace.datasets_root,
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    return workspace.datasets_root / card.dataset_id


def same(images: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    return images, table


def turned_copies(images: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Twelve patients come again, turned, under other keys: most of some pair are in two splits."""
    again = table.iloc[:12].assign(patient_id=[f"again-{row}" for row in range(12)])
    copies = np.rot90(images[:12], 1, axes=(2, 3))
    return np.concatenate([images, copies]), pd.concat([table, again], ignore_index=True)


def flipped_import(images: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Of five imports one has its ratings upside down."""
    table = table.assign(batch=[f"import {row // 2 % 5}" for row in range(len(table))])
    other = {"4;4;5": "2;1;2", "2;1;2": "4;4;5"}
    wrong = table["batch"] == "import 2"
    table.loc[wrong, "malignancy"] = table.loc[wrong, "malignancy"].map(other)
    return images, table.drop(columns="spiculation")


def test_a_clean_dataset_passes_and_is_looked_at_once(source: Path, tmp_path: Path) -> None:
    cohort = TrainingCohort(dataset(source, tmp_path, same), TrainParams())
    found = audit_cohort(tmp_path / "run", cohort)
    assert found.same_pictures == ()
    assert warnings_of(tmp_path / "run") == found.warnings() == ()
    written = (tmp_path / "run" / "cohort.json").stat().st_mtime_ns
    audit_cohort(tmp_path / "run", cohort)
    assert (tmp_path / "run" / "cohort.json").stat().st_mtime_ns == written


def test_one_picture_under_two_patients_is_a_warning_or_ends_the_training_before_anything_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(source, tmp_path, turned_copies)
    with pytest.raises(
        LeakError, match=r"two splits show the same picture under two patient keys.*near_duplicates=warn"
    ):
        audit_cohort(tmp_path / "run", TrainingCohort(folder, TrainParams(near_duplicates="refuse")))
    assert not (tmp_path / "run").exists()
    found = audit_cohort(tmp_path / "run", TrainingCohort(folder, TrainParams()))
    assert found.same_pictures
    assert all(int(pair.second) - 160 == int(pair.first) for pair in found.same_pictures)
    assert "same picture" in capsys.readouterr().err


def test_an_import_with_flipped_labels_is_named_in_the_warnings(source: Path, tmp_path: Path) -> None:
    folder = dataset(source, tmp_path, flipped_import)
    found = audit_cohort(tmp_path / "run", TrainingCohort(folder, TrainParams()))
    assert found.labels.verdict == "alert"
    assert any("batch 'import 2' contradict the others" in warning for warning in found.warnings())
    assert CohortAudit.read(tmp_path / "run" / "cohort.json") == found


def test_before_there_is_a_file_there_are_no_warnings(tmp_path: Path) -> None:
    assert warnings_of(tmp_path) == ()

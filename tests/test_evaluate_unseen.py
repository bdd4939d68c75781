"""Which rows of another dataset a version may be judged by: all of patients that it did not learn from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data_contracts.params import LabelParams, SplitParams
from flows.versions.evaluation import unseen_rows
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import import_npz


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder of two datasets, the second with the second half of the first one's patients and as many new ones."""
    folder = tmp_path_factory.mktemp("crops")
    cards = []
    for name, patients in (("one", range(40)), ("other", range(20, 60))):
        np.savez(
            folder / f"{name}.npz",
            image=np.zeros((40, 3, 32, 32), dtype=np.uint8) + np.arange(40)[:, None, None, None].astype(np.uint8),
        )
        table = {
            "patient_id": [f"P{n}" for n in patients],
            "n_readers": 1,
            "malignancy": [1, 5] * 20,
            "diameter_mm": 8.0,
        }
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
        cards.append(
            import_npz(
                folder / f"{name}.npz",
                name=name,
                table=folder / f"{name}.csv",
                datasets_root=folder / "datasets",
                split=SplitParams(),
                label=LabelParams(),
            )
        )
    return folder / "datasets", *cards


def test_of_another_dataset_all_patients_count_that_the_version_did_not_learn_from(datasets):
    root, one, other = datasets
    workspace, trained = SimpleNamespace(datasets_root=root), SimpleNamespace(dataset_id=one.dataset_id)
    rows, whose = unseen_rows(workspace, PatchReader(root / other.dataset_id), trained)
    learned = PatchReader(root / one.dataset_id).index
    learned = set(learned.loc[learned["split"] != "test", "patient_key"])
    assert not set(rows["patient_key"]) & learned
    assert len(rows) >= 20  # every new patient, whatever split the other dataset gives it
    assert whose.startswith("all patients")


def test_of_its_own_dataset_and_where_that_is_gone_the_held_out_split_counts(datasets):
    root, _one, other = datasets
    workspace = SimpleNamespace(datasets_root=root)
    for trained_on in (other.dataset_id, "gone"):
        rows, whose = unseen_rows(
            workspace, PatchReader(root / other.dataset_id), SimpleNamespace(dataset_id=trained_on)
        )
        assert set(rows["split"]) == {"test"}
        assert whose.startswith("held-out")

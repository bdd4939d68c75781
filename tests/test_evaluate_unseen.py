"""Which rows of another dataset a version may be judged by: all of patients that it did not learn from."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from card_factory import resnet50_card

from data_contracts.errors import NothingUsableError
from data_contracts.params import LabelParams, SplitParams
from flows.registry.evidence import FITTED_FILE, fitted_patients
from flows.versions.evaluation import unseen_rows
from flows.versions.judged_rows import known_pictures
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import import_npz
from pipeline.scoring.label_check import judged_label_warnings


def imported(folder, name):
    """The card of the crops and the table of that name."""
    return import_npz(
        folder / f"{name}.npz",
        name=name,
        table=folder / f"{name}.csv",
        datasets_root=folder / "datasets",
        split=SplitParams(),
        label=LabelParams(),
    )


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
        cards.append(imported(folder, name))
    return folder / "datasets", *cards


@pytest.fixture
def version(datasets, tmp_path):
    """The run folder of a version of the first dataset, with the list of its patients that registering leaves."""
    root, one, _other = datasets
    card = resnet50_card().model_copy(update={"dataset_id": one.dataset_id})
    index = PatchReader(root / one.dataset_id).index
    learned = sorted(set(index.loc[index["split"] != "test", "patient_key"]))
    (tmp_path / FITTED_FILE).write_text(json.dumps({"patients": learned}))
    return tmp_path, card, set(learned)


@pytest.mark.parametrize("trained_on_is_there", [True, False])
def test_of_another_dataset_all_patients_count_that_the_version_did_not_learn_from(
    datasets, version, tmp_path, trained_on_is_there
):
    root, _one, other = datasets
    folder, card, learned = version
    workspace = SimpleNamespace(datasets_root=root if trained_on_is_there else tmp_path / "nothing")
    rows, whose = unseen_rows(PatchReader(root / other.dataset_id), card, fitted_patients(workspace, folder, card))
    assert not set(rows["patient_key"]) & learned
    assert len(rows) >= 20  # every new patient, whatever split the other dataset gives it
    assert whose.startswith("all patients")


def test_of_its_own_dataset_the_held_out_split_counts(datasets, version):
    root, one, _other = datasets
    folder, card, learned = version
    workspace = SimpleNamespace(datasets_root=root)
    rows, whose = unseen_rows(PatchReader(root / one.dataset_id), card, fitted_patients(workspace, folder, card))
    assert set(rows["split"]) == {"test"} and not set(rows["patient_key"]) & learned
    assert whose.startswith("held-out")


def test_a_version_of_which_nobody_knows_whom_it_learned_from_is_judged_on_nobody(datasets, version, tmp_path):
    root, _one, other = datasets
    folder, card, _learned = version
    (folder / FITTED_FILE).unlink()
    fitted = fitted_patients(SimpleNamespace(datasets_root=tmp_path / "nothing"), folder, card)
    with pytest.raises(NothingUsableError, match="nobody knows any more whom this version learned from"):
        unseen_rows(PatchReader(root / other.dataset_id), card, fitted)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of three datasets of noisy discs: one, the same pictures under other names, and others."""
    folder = tmp_path_factory.mktemp("pictures")
    j, i = np.mgrid[:32, :32] - 15.5
    cards = {}
    for name, seed, patients in (("one", 0, "P"), ("renamed", 0, "Q"), ("fresh", 1, "R")):
        random = np.random.default_rng(seed)
        middle, radius = random.uniform(-6, 6, (40, 2)), random.uniform(4, 12, 40)
        disc = np.hypot(j - middle[:, :1, None], i - middle[:, 1:, None]) < radius[:, None, None]
        plane = np.clip(40 + 120 * disc + random.normal(0, 25, (40, 32, 32)), 0, 255).astype(np.uint8)
        np.savez(folder / f"{name}.npz", image=np.repeat(plane[:, None], 3, axis=1))
        table = {"patient_id": [f"{patients}{n}" for n in range(40)], "n_readers": 1, "malignancy": [1, 5] * 20}
        pd.DataFrame({**table, "diameter_mm": 8.0}).to_csv(folder / f"{name}.csv", index=False)
        cards[name] = imported(folder, name)
    return SimpleNamespace(datasets_root=folder / "datasets"), cards


def test_pictures_that_a_version_learned_from_are_known_under_other_patients_too(pictures):
    workspace, cards = pictures
    card = resnet50_card().model_copy(update={"dataset_id": cards["one"].dataset_id})
    n_learned = int((PatchReader(workspace.datasets_root / card.dataset_id).index["split"] != "test").sum())
    for name, expected in (("renamed", n_learned), ("fresh", 0), ("one", 0)):
        reader = PatchReader(workspace.datasets_root / cards[name].dataset_id)
        assert known_pictures(workspace, reader, reader.index, card) == expected


def test_swapped_labels_and_diameters_are_told_where_a_version_is_judged():
    random = np.random.default_rng(0)
    labels = np.repeat([0.0, 1.0], 60)
    signal = labels + random.normal(0, 0.5, 120)
    assert judged_label_warnings(labels, signal, signal) == ()
    assert judged_label_warnings(labels, random.normal(size=120), random.normal(size=120)) == ()
    ranked, smaller = judged_label_warnings(1 - labels, signal, signal)
    assert "ranks benign above malignant" in ranked and "are the smaller ones" in smaller

"""First weights of the ablation: no held-out patient is looked at, and phantoms come as the LIDC crops do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from two_sites import NARROW, make_workspace

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))

import pretraining
from phantom_crops import PER_PATIENT, phantom_crops

from data_contracts.nodules import RATINGS
from data_contracts.params import TrainParams
from flows.learning.crossval import fold_rows
from models.networks.backbones import build_backbone
from models.weights.zoo import load_weights
from pipeline.cohort.lidc_database import LidcDatabase
from pipeline.cohort.patch_reader import PatchReader
from pipeline.cohort.phantom_plan import builtin_reserved_patients

FIRST = TrainParams.from_mapping({**NARROW, "backbone": "small_cnn"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace, dataset_id = make_workspace(tmp_path_factory.mktemp("pretraining"))
    return workspace.datasets_root / dataset_id


def test_a_fold_is_pretrained_on_its_training_patients_alone_and_once(dataset: Path, monkeypatch) -> None:
    seen: list[set[str]] = []
    rows_of = pretraining.patches_of

    def recorded(reader, rows, params):
        seen.append(set(rows["patient_key"]))
        return rows_of(reader, rows, params)

    monkeypatch.setattr(pretraining, "patches_of", recorded)
    monkeypatch.setattr(pretraining, "SSL_EPOCHS", 1)
    # A file, as the ablation gives it: random weights are drawn from a seed here.
    start = dataset.parent / "start.pt"
    torch.save(build_backbone("small_cnn", seed=1).state_dict(), start)
    made = [pretraining.first_weights("self-supervised", dataset, FIRST, start, 1, 3) for _ in range(2)]
    parts = fold_rows(PatchReader(dataset).index, 1, 3, 0)
    assert seen == [set(parts["train"]["patient_key"])]
    assert not seen[0] & (set(parts["test"]["patient_key"]) | set(parts["validation"]["patient_key"]))
    assert made[0] == made[1]
    first, learned = (build_backbone("small_cnn", seed=0) for _ in range(2))
    load_weights(first, start)
    assert load_weights(learned, made[0]).pretrained
    pairs = zip(first.parameters(), learned.parameters(), strict=True)
    assert any(not torch.equal(before, after) for before, after in pairs)


def test_phantoms_come_as_crops_of_patients_that_were_not_excluded() -> None:
    everybody = [patient for patient in LidcDatabase().patients() if patient not in builtin_reserved_patients()]
    allowed = everybody[:40]
    excluded = tuple(patient for patient in LidcDatabase().patients() if patient not in allowed)
    crops = list(phantom_crops(0, 320, 2, excluded))
    assert len(crops) == 2 * PER_PATIENT
    known = {round(nodule.diameter_mm, 6) for patient in allowed for nodule in LidcDatabase().nodules(patient)}
    for image, facts in crops:
        assert image.shape == (3, 64, 64) and image.dtype == np.uint8 and (image.min(), image.max()) == (0, 255)
        assert round(facts["diameter_mm"], 6) in known
        assert facts["n_readers"] == len(facts["malignancy"].split(";")) and set(facts) >= set(RATINGS)
    middles = np.stack([image[1] for image, _ in crops]).astype(float)
    assert middles[:, 30:34, 30:34].mean() > middles.mean() + 20

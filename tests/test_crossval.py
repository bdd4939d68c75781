"""Cross-validation of a recipe keeps patients apart and scores every nodule once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import UsageError
from data_contracts.params import LabelParams, SplitParams, TrainParams
from flows.datasets.labelled import concept_targets, labelled_patches, patches_of
from flows.learning.crossval import cross_validate, fold_predictions, fold_rows
from flows.learning.members import check_members, fit_members
from models.networks.inputs import input_spec
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import import_npz


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """48 crops of 24 patients: a disc whose size and brightness follow the readers' malignancy."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    malignancy = rng.integers(1, 6, (48, 3))
    mean = malignancy.mean(axis=1)
    diameter = 4 + 3 * mean + rng.normal(0, 1, 48)
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.hypot(y, x)[None] < diameter[:, None, None] / 2 / 0.7
    image = rng.normal(60, 15, (48, 3, 32, 32)) + (disc * (30 + 20 * mean[:, None, None]))[:, None]
    np.savez(folder / "crops.npz", image=image.clip(0, 255).astype(np.uint8))
    table = pd.DataFrame(
        {
            "row": range(48),
            "patient_id": [f"P{row // 2}" for row in range(48)],
            "n_readers": [3] * 40 + [1] * 8,
            "malignancy": [
                ";".join(map(str, ratings[: 3 if row < 40 else 1])) for row, ratings in enumerate(malignancy)
            ],
            "texture": "5;5;4",
            "diameter_mm": diameter,
            "pixel_spacing": rng.choice([0.6, 0.7, 0.8], 48),
        }
    )
    table.to_csv(folder / "nodules.csv", index=False)
    card = import_npz(
        folder / "crops.npz",
        name="small",
        table=folder / "nodules.csv",
        datasets_root=folder / "datasets",
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    return folder / "datasets" / card.dataset_id


RECIPE = TrainParams(
    backbone="mobilenet_v2", weights="none", input_size_px=32, unfreeze=0, head="linear", epochs=3, augmentations=1,
    soft_label_weight=0.5, auxiliary_weight=0.5, common_spacing_mm=0.7, views=2,
)  # fmt: skip


def test_no_patient_is_in_two_parts_of_a_fold_and_every_row_is_tested_once(dataset):
    index = PatchReader(dataset).index
    tested: list[str] = []
    for fold in range(4):
        parts = fold_rows(index, fold, 4, seed=0)
        patients = [set(rows["patient_key"]) for rows in parts.values()]
        assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
        assert sum(len(rows) for rows in parts.values()) == len(index)
        tested += list(parts["test"]["patch_id"])
    assert sorted(tested) == sorted(index["patch_id"])


def test_every_nodule_gets_one_out_of_fold_score(dataset):
    table = cross_validate(dataset, RECIPE, n_folds=2)
    index = PatchReader(dataset).index
    assert list(table["patch_id"]) == sorted(index["patch_id"])
    assert set(table["fold"]) == {0, 1}
    assert table[["score", "score_image", "score_size"]].notna().all(axis=None)
    assert table.groupby("patient_key")["fold"].nunique().max() == 1


def test_nodules_of_few_readers_count_in_proportion_and_only_with_their_mean(dataset):
    reader = PatchReader(dataset)
    rows = reader.index
    soft = labelled_patches(reader, rows, RECIPE)
    np.testing.assert_allclose(soft.weights, rows["n_readers"] / 3)
    hard = labelled_patches(reader, rows, RECIPE.model_copy(update={"soft_label_weight": 0.0}))
    assert hard.soft_labels is None and hard.weights is None
    assert np.isnan(hard.labels[rows["n_readers"] == 1]).all()


def test_concept_targets_are_log_diameter_and_ratings_from_zero_to_one(dataset):
    rows = PatchReader(dataset).index.assign(diameter_mm=[3.0, 50.0, *[np.sqrt(150.0)] * 46])
    targets = concept_targets(rows)
    np.testing.assert_allclose(targets[:3, 0], [0, 1, 0.5])
    np.testing.assert_allclose(targets[:, 1], (14 / 3 - 1) / 4)


def test_crops_of_native_spacing_come_on_the_common_grid(dataset):
    reader = PatchReader(dataset)
    plain = patches_of(reader, reader.index, RECIPE.model_copy(update={"common_spacing_mm": 0.0}))
    common = patches_of(reader, reader.index, RECIPE)
    same = np.isclose(reader.index["pixel_spacing_mm"], 0.7)
    assert (np.abs(plain[same].astype(int) - common[same]) <= 1).all()
    assert not np.array_equal(plain[~same], common[~same])


MEMBERS = RECIPE.model_copy(update={"unfreeze": 1, "epochs": 1, "members": 2, "blend_concepts": True})


def test_a_model_of_several_members_scores_every_row_and_goes_on_from_finished_members(dataset, tmp_path):
    first = fold_predictions(dataset, MEMBERS, 0, n_folds=2, state_dir=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("member-*/outputs.npy")}
    again = fold_predictions(dataset, MEMBERS, 0, n_folds=2, state_dir=tmp_path)
    assert len(kept) == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert np.isfinite(first["logit"]).all()
    pd.testing.assert_frame_equal(first, again)


def test_each_member_is_judged_on_patients_it_did_not_learn_from(dataset, tmp_path, monkeypatch):
    reader = PatchReader(dataset)
    learned = []
    monkeypatch.setattr(
        "flows.learning.members.labelled_patches",
        lambda reader, rows, params: learned.append(set(rows["patient_key"])) or labelled_patches(reader, rows, params),
    )
    spec = input_spec(reader.card, MEMBERS)
    _, logits, history = fit_members(reader, reader.index, MEMBERS, spec, tmp_path)
    assert not learned[0] & learned[1]
    assert learned[0] | learned[1] == set(reader.index["patient_key"])
    assert len(logits) == len(reader.index)
    assert [epoch.epoch for epoch in history] == [0, 1]


@pytest.mark.parametrize("wrong", [{"unfreeze": 0}, {"head": "mlp"}, {"pooling": "attention"}])
def test_what_cannot_be_joined_is_refused_before_anything_is_fitted(wrong):
    with pytest.raises(UsageError):
        check_members(MEMBERS.model_copy(update=wrong))

"""Places that become patches: nodules, moved copies of them in training, and places without a nodule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import UsageError
from data_contracts.manifest import Split
from data_contracts.params import PatchParams
from data_contracts.volume import CTVolume
from pipeline.cohort.places import series_places
from pipeline.imaging.lungs import segment_lungs

NODULE_MM = np.array([-60.0, 5.0, 10.0])
TARGET = {"target": "nodule", "negatives_per_series": 40}


def chest() -> CTVolume:
    """Two lungs of 2 l with straight vessels and one nodule of 12 mm, 2 mm voxels."""
    hu = np.full((110, 130, 170), -1000, np.int16)
    affine = np.eye(4)
    affine[:3, :3] = 2.0 * np.eye(3)[::-1]
    affine[:3, 3] = (-169.0, -129.0, -109.0)
    volume = CTVolume(hu, affine)
    x, y, z = np.moveaxis(volume.to_lps_mm(np.moveaxis(np.indices(hu.shape), 0, -1)), -1, 0)
    hu[(x / 150) ** 2 + (y / 110) ** 2 < 1] = 40
    for middle in (-65, 65):
        hu[((x - middle) / 50) ** 2 + (y / 80) ** 2 + (z / 95) ** 2 < 1] = -850
    for offset in (-30, 0, 30):
        vessel = ((y - offset) ** 2 + (z + offset) ** 2 < 9) & (np.abs(np.abs(x) - 65) < 35)
        hu[vessel] = 30
    hu[(x - NODULE_MM[0]) ** 2 + (y - NODULE_MM[1]) ** 2 + (z - NODULE_MM[2]) ** 2 < 36] = 20
    return volume


@pytest.fixture(scope="module")
def volume() -> CTVolume:
    return chest()


def nodules() -> pd.DataFrame:
    x, y, z = NODULE_MM
    row = {"nodule_id": "n1", "series_key": "s" * 16, "x_mm": x, "y_mm": y, "z_mm": z, "diameter_mm": 12.0}
    table = pd.DataFrame([{**row, "n_readers": 4, "n_ratings": 4, "label_soft": 0.75, "malignancy": 4.0}])
    table["label"] = pd.array([1], dtype="Int8")
    return table


def centers(rows: pd.DataFrame) -> np.ndarray:
    return rows[["x_mm", "y_mm", "z_mm"]].to_numpy()


def test_without_copies_and_negatives_the_nodules_are_the_places(volume):
    rows = series_places(volume, nodules(), PatchParams(), Split.TRAIN)
    assert rows["patch_id"].tolist() == ["n1"]
    assert rows["place"].tolist() == ["nodule"]
    pd.testing.assert_frame_equal(rows[nodules().columns], nodules())


@settings(max_examples=25, deadline=None)
@given(jitter_mm=st.floats(0.5, 8.0), seed=st.integers(0, 5))
def test_copies_stay_within_their_ball_and_only_training_patients_have_them(volume, jitter_mm, seed):
    params = PatchParams(jitter_copies=5, jitter_mm=jitter_mm, seed=seed)
    rows = series_places(volume, nodules(), params, Split.TRAIN)
    assert rows["patch_id"].tolist() == ["n1", *(f"n1-j{number}" for number in range(1, 6))]
    assert set(rows["nodule_id"]) == {"n1"}
    distance = np.linalg.norm(centers(rows)[1:] - NODULE_MM, axis=1)
    assert (distance > 0).all()
    assert distance.max() <= jitter_mm
    assert rows["label"].tolist() == [1] * 6
    for split in (Split.VALIDATION, Split.TEST):
        assert len(series_places(volume, nodules(), params, split)) == 1


def test_the_places_are_the_same_at_every_call_and_others_with_another_seed(volume):
    params = PatchParams(**TARGET, jitter_copies=2)
    rows = series_places(volume, nodules(), params, Split.TRAIN)
    pd.testing.assert_frame_equal(rows, series_places(volume, nodules(), params, Split.TRAIN))
    other = series_places(volume, nodules(), PatchParams(**TARGET, jitter_copies=2, seed=1), Split.TRAIN)
    assert not np.allclose(centers(rows)[1:], centers(other)[1:])
    assert rows["patch_id"].is_unique


def test_negatives_lie_in_the_lungs_off_every_nodule_half_of_them_on_vessels(volume):
    rows = series_places(volume, nodules(), PatchParams(**TARGET, negative_margin_mm=7.0), Split.TEST)
    negative = rows[rows["place"] != "nodule"]
    assert negative["place"].value_counts().to_dict() == {"lung": 20, "vessel": 20}
    assert rows["label"].tolist() == [1] + [0] * 40
    assert rows["label_soft"].isna().all()
    assert np.linalg.norm(centers(negative) - NODULE_MM, axis=1).min() > 6.0 + 7.0
    lungs = segment_lungs(volume)
    assert max(lungs.distance_mm(center) for center in centers(negative)) < 3.0
    indices = np.rint(volume.to_kji(centers(negative))).astype(int)
    hu = volume.hu[tuple(indices.T)]
    assert np.median(hu[negative["place"] == "vessel"]) > -200
    assert np.median(hu[negative["place"] == "lung"]) < -700


def test_negatives_without_the_target_that_gives_them_a_meaning_are_refused():
    with pytest.raises(UsageError, match="target=nodule"):
        PatchParams.from_mapping({"negatives_per_series": 3}, where="--set")

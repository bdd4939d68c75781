"""The demo's few patients are split so that every part of each site has both labels, whatever secret names them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from data_contracts.errors import NothingUsableError
from flows.whole.cohort import phantom_params
from flows.whole.demo_split import demo_split
from pipeline.cohort.phantom import generate_cohort
from pipeline.cohort.split import split_of
from pipeline.deidentify.pseudonyms import Pseudonymizer


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "cohort"
    coarse = {"matrix": 96, "spacing_a_mm": 4.0, "spacing_b_mm": 5.0}
    generate_cohort(phantom_params(fast=True, seed=0).model_copy(update=coarse), folder)
    return folder


def test_every_part_of_each_site_has_both_labels_under_any_secret(cohort: Path) -> None:
    nodules = pd.read_csv(cohort / "nodules.csv").groupby(["series_instance_uid", "nodule"])["malignancy"].mean()
    salts = set()
    for secret in [f"k{number}".encode() for number in range(16)]:
        pseudonymizer = Pseudonymizer(secret)
        params = demo_split(cohort, pseudonymizer)
        salts.add(params.salt)
        found = set()
        for file in cohort.glob("site-*/*/IM0001*"):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            split = split_of(pseudonymizer.patient_key(header.PatientID, header.get("IssuerOfPatientID", "")), params)
            for mean in nodules[header.SeriesInstanceUID]:
                found |= {(file.parents[1].name, split, mean > 3)} if mean != 3 else set()
        assert len(found) == 2 * 3 * 2
    assert len(salts) > 1, "no secret here needed another salt"


def test_the_demo_of_its_own_secret_is_split_as_ever(cohort: Path) -> None:
    secret = hashlib.sha256(b"noduleflow demo 0").hexdigest().encode()
    assert demo_split(cohort, Pseudonymizer(secret)).salt == "demo-43"


def test_a_cohort_that_cannot_be_split_is_one_line(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "nodules.csv").write_text((cohort / "nodules.csv").read_text())
    first = sorted((cohort / "site-a").iterdir())[0]
    (tmp_path / "site-a").mkdir()
    (tmp_path / "site-a" / first.name).symlink_to(first)
    with pytest.raises(NothingUsableError, match="too small"):
        demo_split(tmp_path, Pseudonymizer(b"one"))

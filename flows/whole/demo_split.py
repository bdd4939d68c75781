"""A split of a few dozen phantoms that has something of everything, whatever secret names them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pydicom

from data_contracts.errors import NothingUsableError
from data_contracts.manifest import Split
from data_contracts.params import LabelParams, SplitParams
from pipeline.cohort.split import split_of
from pipeline.deidentify.pseudonyms import Pseudonymizer

#: With the demo's own secret the first of them is the one; counts chose it, no score was seen.
_FIRST, _LAST = 43, 1043


def demo_split(cohort: Path, pseudonymizer: Pseudonymizer) -> SplitParams:
    """The first salt with which both labels are in training, validation and test of each site.

    cohort: as `generate_cohort` writes it. pseudonymizer: the workspace's, since a split follows from patient keys.

    Raises
    ------
    NothingUsableError: no salt does, because the cohort is too small.
    """
    patients = list(_patients(cohort, pseudonymizer))
    for number in range(_FIRST, _LAST):
        params = SplitParams(train=0.5, validation=0.2, salt=f"demo-{number}")
        found = {(site, split_of(key, params), label) for site, key, labels in patients for label in labels}
        if len(found) == len({site for site, _, _ in patients}) * len(Split) * 2:
            return params
    raise NothingUsableError("the cohort is too small to split", where=f"{len(patients)} patients")


def _patients(cohort: Path, pseudonymizer: Pseudonymizer) -> Iterable[tuple[str, str, set[bool]]]:
    """Site, patient key and labels of each patient."""
    threshold = LabelParams().threshold
    truth = pd.read_csv(cohort / "nodules.csv")
    nodules = truth.groupby(["series_instance_uid", "nodule"])["malignancy"].mean()
    labels = (nodules[nodules != threshold] > threshold).groupby("series_instance_uid").agg(set)
    tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    for folder in sorted(cohort.glob("site-*/*")):
        header = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True, specific_tags=tags)
        key = pseudonymizer.header_patient_key(
            str(header.get("PatientID", "")), str(header.get("IssuerOfPatientID", "")), str(header.StudyInstanceUID)
        )
        yield folder.parent.name, key, set(labels.get(str(header.SeriesInstanceUID), set()))

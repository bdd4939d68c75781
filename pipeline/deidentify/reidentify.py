"""Pseudonymous objects given back their identity, for those who hold the key: reports go home under the true UIDs."""

from __future__ import annotations

import copy
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from data_contracts.errors import NothingUsableError
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.values import shift_temporal
from pipeline.deidentify.vault import PatientIdentity, StudyIdentity

#: what an object derived from a pseudonymous study takes over from it; its other dates are its own
_STUDY_DATES = (0x00080020,)
_SIGNS = ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence")


def study_key_of(dataset: Dataset, pseudonymizer: Pseudonymizer) -> str:
    """Key of the study that an object belongs to, "" where its study is no pseudonym of this secret."""
    uid = str(dataset.get("StudyInstanceUID", "") or "")
    key = Pseudonymizer.key_of_pseudonym(uid)
    return key if key and pseudonymizer.uid_of_key(key) == uid else ""


def reidentify(dataset: Dataset, identity: StudyIdentity, pseudonymizer: Pseudonymizer) -> Dataset:
    """A copy with the patient, the UIDs at every depth and the dates put back.

    An instance that was de-identified has all its dates moved back. A new object about the study, as a report, keeps
    its own dates and UIDs; only its study's are the true ones again.

    Raises
    ------
    NothingUsableError: the object is of none of the study's patients.
    """
    patient_key, patient = _patient(dataset, identity)
    whole = copy.deepcopy(dataset)
    whole.decode()
    originals = identity.originals()
    known = {pseudonymizer.uid_of_key(key): uid for key, uid in originals.items()}
    is_instance = str(dataset.get("SOPInstanceUID", "")) in known
    _restore(whole, known, patient_key, patient, is_instance)
    whole.PatientID, whole.PatientName = patient.patient_id, patient.patient_name
    if patient.issuer:
        whole.IssuerOfPatientID = patient.issuer
    whole.AccessionNumber = identity.accession_numbers[0] if len(identity.accession_numbers) == 1 else ""
    whole.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*_SIGNS, *(("LongitudinalTemporalInformationModified",) if is_instance else ())):
        if keyword in whole:
            delattr(whole, keyword)
    if getattr(whole, "file_meta", None) is not None:
        whole.file_meta.MediaStorageSOPInstanceUID = UID(str(whole.SOPInstanceUID))
    return whole


def _patient(dataset: Dataset, identity: StudyIdentity) -> tuple[str, PatientIdentity]:
    key = str(dataset.get("PatientID", "") or "")
    if key in identity.patients:
        return key, identity.patients[key]
    if not key and len(identity.patients) == 1:
        return next(iter(identity.patients.items()))
    raise NothingUsableError("the object is not of a patient of this study", where=identity.study_key)


def _restore(dataset: Dataset, known: dict[str, str], key: str, patient: PatientIdentity, all_dates: bool) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _restore(item, known, key, patient, all_dates)
        elif element.VR == "UI" and element.value:
            element.value = _each(element.value, lambda text: known.get(text, text))
        elif element.VR in ("DA", "DT") and element.value and (all_dates or element.tag in _STUDY_DATES):
            vr, days = element.VR, -patient.shift_days
            element.value = _each(element.value, lambda text, vr=vr, days=days: _moved(text, vr, days))  # type: ignore[misc]
        elif str(element.value) == key and element.VR in ("LO", "PN"):
            element.value = patient.patient_name if element.VR == "PN" else patient.patient_id


def _moved(text: str, representation: str, days: int) -> str:
    return shift_temporal(text.encode(), representation, days).decode()


def _each(value: Any, function: Any) -> Any:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return function(str(value))
    return [function(str(part)) for part in value]

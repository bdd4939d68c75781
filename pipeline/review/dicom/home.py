"""Results on their way back to the PACS their study came from: under its true UIDs, with the patient's identity.

The objects get other UIDs of their own there, so that an archive that has both does not take one for the other. Only a
holder of the key can tell which belongs to which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from data_contracts.errors import NothingUsableError
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.reidentify import reidentify
from pipeline.deidentify.vault import StudyIdentity
from pipeline.review.dicom.maker import uid_elements
from pipeline.review.dicom.text import valid_name, valid_text

#: what the study's own header gives, and what it must look like
_HEADER = {
    "PatientBirthDate": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "StudyDate": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "StudyTime": re.compile(r"([01]\d|2[0-3])[0-5]\d([0-5]\d(\.\d{1,6})?)?"),
    "PatientSex": re.compile("[MFO]"),
}
_CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2",)


def with_identity(
    objects: Mapping[str, Dataset], identity: StudyIdentity, pseudonymizer: Pseudonymizer
) -> dict[str, Dataset]:
    """Copies of the results of one study with its identity. What a broken source holds is cut to valid values.

    Raises
    ------
    NothingUsableError: the objects are of another study, or an image they refer to is not known.
    """
    own = {str(made.get(name)) for made in objects.values() for name in ("SOPInstanceUID", "SeriesInstanceUID")}
    originals = {pseudonymizer.uid_of_key(key): uid for key, uid in identity.originals().items()}
    _check_references(objects, originals)
    return {name: _with_identity(made, identity, pseudonymizer, own) for name, made in objects.items()}


def _with_identity(made: Dataset, identity: StudyIdentity, pseudonymizer: Pseudonymizer, own: set[str]) -> Dataset:
    whole = reidentify(made, identity, pseudonymizer)
    for dataset, keyword in uid_elements(whole):
        value = dataset[keyword].value
        if isinstance(value, str) and str(value) in own:
            setattr(dataset, keyword, pseudonymizer.pseudonymous_uid(f"result {value}"))
    whole.file_meta.MediaStorageSOPInstanceUID = UID(str(whole.SOPInstanceUID))
    whole.PatientName = valid_name(str(whole.PatientName))
    for keyword, representation in (("PatientID", "LO"), ("IssuerOfPatientID", "LO"), ("AccessionNumber", "SH")):
        if keyword in whole:
            setattr(whole, keyword, valid_text(str(whole[keyword].value or ""), representation))
    for keyword, form in _HEADER.items():
        if form.fullmatch(text := identity.header.get(keyword, "")):
            setattr(whole, keyword, text)
    whole.StudyID = valid_text(identity.header.get("StudyID", ""), "SH")
    if name := identity.header.get("ReferringPhysicianName", ""):
        whole.ReferringPhysicianName = valid_name(name)
    whole.pop("LongitudinalTemporalInformationModified", None)
    return whole


def _check_references(objects: Mapping[str, Dataset], originals: Mapping[str, str]) -> None:
    """Every series and image of the source must be known, or the results would refer to what no archive has."""
    for name, made in objects.items():
        for dataset, keyword in uid_elements(made):
            uid: Any = dataset[keyword].value
            if keyword == "StudyInstanceUID" and str(uid) not in originals:
                raise NothingUsableError("the results are of another study", where=name)
            is_image = keyword == "ReferencedSOPInstanceUID" and str(
                dataset.get("ReferencedSOPClassUID", "")
            ).startswith("1.2.840.10008.5.1.4.1.1.2")
            if is_image and str(uid) not in originals:
                raise NothingUsableError("an image that the results refer to is not sealed with its study", where=name)

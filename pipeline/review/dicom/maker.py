"""Who made an object, from what, and under which UIDs: the same for every kind of result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from data_contracts.review import StudyReview
from pipeline.review.dicom.source import SourceStudy
from pipeline.review.dicom.text import valid_text
from pipeline.review.wording import NOT_DIAGNOSTIC

MANUFACTURER = "noduleflow"
#: series number of each kind of object, high so that the scanner's come first
SERIES_NUMBERS = {"SEG": 9101, "SR": 9102, "KEY": 9103, "PDF": 9104}
_DESCRIPTIONS = {
    "SEG": "Nodule segmentation",
    "SR": "Nodule measurements",
    "KEY": "Nodule key images",
    "PDF": "Nodule report",
}
#: attributes that a library fills with the time of the call; an object has the time of its review
_DATES = ("InstanceCreationDate", "ContentDate", "SeriesDate", "DateOfSecondaryCapture")
_TIMES = ("InstanceCreationTime", "ContentTime", "SeriesTime", "TimeOfSecondaryCapture")


def derived_uid(*parts: object) -> str:
    """The UID that stands for `parts`: 2.25.<128 bits of their SHA-256> (PS3.5 B.2)."""
    digest = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
    return f"2.25.{int(digest[:32], 16)}"


@dataclass(frozen=True)
class Maker:
    """The model and the program that made a study's results, and when.

    study: the images that they are about. created: of the review, with its time zone.
    """

    study: SourceStudy
    model_name: str
    model_version: str
    checkpoint_sha256: str
    software_version: str
    created: datetime

    @classmethod
    def of(cls, review: StudyReview, study: SourceStudy, software_version: str) -> Maker:
        """The maker of a review's results."""
        return cls(
            study=study,
            model_name=valid_text(review.model_name) or "model",
            model_version=valid_text(review.model_version) or "unknown",
            checkpoint_sha256=valid_text(review.model.checkpoint_sha256),
            software_version=valid_text(software_version) or "unknown",
            created=datetime.fromisoformat(review.created_utc),
        )

    def series_uid(self, kind: str) -> str:
        """Of the results of one kind: a version's results of a study are one series."""
        return derived_uid("series", self.study.study_uid, kind, self.model_name, self.model_version)

    def instance_uid(self, kind: str, *content: object) -> str:
        """Of one object; the same content has the same UID, whenever it is made."""
        made_by = (self.model_name, self.model_version, self.checkpoint_sha256, self.software_version)
        return derived_uid("instance", self.study.study_uid, kind, *made_by, *content)

    def tracking_uid(self, finding_id: str) -> str:
        """Of a finding, whichever version measures it."""
        return derived_uid("finding", self.study.study_uid, finding_id)

    def device_uid(self) -> str:
        """Of the model version as an observer."""
        return derived_uid("device", self.model_name, self.model_version, self.checkpoint_sha256)

    @property
    def serial_number(self) -> str:
        """What tells the device from others: the digest of its weights."""
        return self.checkpoint_sha256[:16] or "unknown"

    @property
    def software_versions(self) -> list[str]:
        """Of the program and of the model."""
        return [valid_text(f"noduleflow {self.software_version}"), valid_text(f"model version {self.model_version}")]

    def description(self, kind: str) -> str:
        """Series description: what it is, and that it is no diagnosis."""
        return valid_text(f"{_DESCRIPTIONS[kind]} (AI, {NOT_DIAGNOSTIC.lower()})")

    def equipment(self) -> dict[str, Any]:
        """The arguments by which highdicom's objects take their equipment."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.model_name,
            "software_versions": self.software_versions,
            "device_serial_number": self.serial_number,
        }

    def sign(self, made: Dataset) -> None:
        """Give an object the time of its review, and say that its identity is a pseudonym.

        reidentify takes the signs of a pseudonym away again.
        """
        date, time = self.created.strftime("%Y%m%d"), self.created.strftime("%H%M%S")
        for keywords, value in ((_DATES, date), (_TIMES, time)):
            for keyword in keywords:
                if keyword in made:
                    setattr(made, keyword, value)
        made.SeriesDate, made.SeriesTime = date, time
        made.InstanceCreationDate, made.InstanceCreationTime = date, time
        for item in made.get("ContributingEquipmentSequence") or []:
            item.ContributionDateTime = date + time
        made.TimezoneOffsetFromUTC = self.created.strftime("%z") or "+0000"
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = "Derived from a de-identified study, noduleflow"
        if self.study.values.get("StudyDate"):
            made.LongitudinalTemporalInformationModified = "MODIFIED"


def uid_elements(dataset: Dataset) -> Iterator[tuple[Dataset, str]]:
    """(dataset, keyword) of every UID element at every depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from uid_elements(item)
        elif element.VR == "UI":
            yield dataset, element.keyword

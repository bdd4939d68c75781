"""What a radiologist sees of a study, and what the radiologist answers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from data_contracts.model_card import ModelCard
from data_contracts.records import Record
from data_contracts.series import QualityFinding


class Measurement(Record):
    """Size of a finding, to 0.1 mm and 1 mm3; `method` says how it was measured."""

    mean_diameter_mm: float
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    volume_mm3: float | None = None
    mean_hu: float | None = None
    method: str


class Finding(Record):
    """One nodule of a study.

    lps_mm: centre in the patient (LPS); slice_number: 1-based, in order of the volume's k axis.
    probability: calibrated; None where the network could not be asked (`note` says why).
    concepts: what the network reads out beside malignancy, in the concept's own unit; predictions, unlike `ratings`.
    explanation: what stands below the map, or in its place; empty where no map was asked for.
    key_images: files beside the report.
    """

    finding_id: str
    nodule_id: str
    series_key: str
    lps_mm: tuple[float, float, float]
    kji: tuple[float, float, float]
    slice_number: int
    side: str = ""
    measurement: Measurement
    probability: float | None
    probability_size_only: float | None = None
    probability_image_only: float | None = None
    n_readers: int = 0
    ratings: dict[str, float] = {}
    concepts: dict[str, float] = {}
    explanation: str = ""
    source: str
    padded: bool = False
    key_images: tuple[str, ...] = ()
    note: str = ""


class SeriesSummary(Record):
    """The technique of a reviewed series, as a reader expects it at the head of a report."""

    series_key: str
    site: str
    n_slices: int
    spacing_kji_mm: tuple[float, float, float]
    slice_thickness_mm: float | None
    kernel: str
    manufacturer: str
    kvp: float | None
    contrast: bool | None
    findings: tuple[QualityFinding, ...] = ()


class StudyReview(Record):
    """review.json: everything the report pages show."""

    study_key: str
    patient_key: str
    created_utc: str
    model_name: str
    model_version: str
    model: ModelCard
    evaluation_summary: dict[str, str] = {}
    series: tuple[SeriesSummary, ...]
    findings: tuple[Finding, ...]
    origin_of_findings: str
    not_examined: tuple[str, ...]
    warnings: tuple[str, ...] = ()


#: Fixed list of reasons a reader can give, by the answer they belong to; free text would carry identities.
ANSWER_REASONS: dict[str, dict[str, str]] = {
    "reject": {
        "vessel": "Vessel or bronchus",
        "scar": "Scar or atelectasis",
        "pleura": "Pleural plaque or thickening",
        "lymph_node": "Intrapulmonary lymph node",
        "infection": "Infiltrate or inflammation",
        "artifact": "Motion, noise or other artifact",
        "duplicate": "Same nodule as another finding",
        "outside_lung": "Not in the lung",
    },
    "correct": {
        "size": "Diameter is wrong",
        "position": "Position is off",
        "probability": "Probability does not fit the image",
    },
    "any": {"technique": "Image quality does not allow an answer", "other": "Other"},
}


class FindingAnswer(Record):
    """A reader's answer to one finding; a correction says what is corrected.

    comment_code: a code of ANSWER_REASONS that belongs to the answer (or to any), or "".
    """

    finding_id: str = Field(min_length=1, max_length=200)
    nodule_id: str = Field(min_length=1, max_length=200)
    answer: Literal["accept", "reject", "correct"]
    malignant: bool | None = None
    diameter_mm: float | None = Field(None, gt=0, le=300)
    comment_code: str = ""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        known = {**ANSWER_REASONS["any"], **ANSWER_REASONS.get(self.answer, {})}
        if self.comment_code and self.comment_code not in known:
            raise ValueError(f"reason code does not belong to the answer {self.answer!r}")
        if self.answer != "correct" and self.diameter_mm is not None:
            raise ValueError("a diameter is given only with the answer 'correct'")
        if self.answer == "reject" and self.malignant is not None:
            raise ValueError("a rejected finding is neither malignant nor benign")
        if self.answer == "correct" and self.malignant is None and self.diameter_mm is None and not self.comment_code:
            raise ValueError("a correction says what is corrected: malignant, diameter or reason")
        return self


class ReaderFeedback(Record):
    """feedback.json: the answers of one reader to one report; at most one answer a finding."""

    study_key: str
    model_version: str
    reader: str = Field(min_length=1, max_length=64)
    time_utc: str
    model_visible_first: bool
    answers: tuple[FindingAnswer, ...] = Field(min_length=1)

    @field_validator("time_utc")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("time_utc needs its time zone, as in 2026-11-21T08:30:00Z")
        return value

    @model_validator(mode="after")
    def _answers_once(self) -> Self:
        ids = [answer.finding_id for answer in self.answers]
        if len(set(ids)) < len(ids):
            raise ValueError("a finding is answered twice")
        return self

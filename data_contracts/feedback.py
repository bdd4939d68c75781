"""What a radiologist answers to a report: per finding, nodules it missed, by whom, when, and what was seen first."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from data_contracts.guidelines import LungRads, NoduleType
from data_contracts.records import Record

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
        "type": "Nodule type is wrong",
        "category": "Guideline category is wrong",
        "probability": "Probability does not fit the image",
    },
    "any": {"technique": "Image quality does not allow an answer", "other": "Other"},
}

#: Longest free comment, in characters.
MAX_COMMENT = 1000

#: Most answers, and most missed nodules, of one file.
MAX_ANSWERS, MAX_MISSED = 2000, 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has control characters, or signs that hide or turn text around")
    return text


def _shown(line: str) -> str:
    """A line without signs that are not shown; every kind of space is a space."""
    return "".join(sign if sign.isprintable() else " " * sign.isspace() for sign in line)


#: to 0.01 mm, finer than any voxel: a coordinate in a structured report has 32 bits and comes back as it was
_Hundredths = AfterValidator(lambda value: round(value, 2) + 0.0)
_Millimetres = Annotated[float, Field(strict=True, ge=-100_000, le=100_000, allow_inf_nan=False), _Hundredths]
Position = tuple[_Millimetres, _Millimetres, _Millimetres]
#: a strict number: `true` is not 1 mm
_Diameter = Annotated[float, Field(strict=True, ge=0.1, le=300, allow_inf_nan=False), _Hundredths]
_Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class FindingAnswer(Record):
    """A reader's answer to one finding; a correction says what is corrected.

    malignant: the reader's judgement; None where left open. diameter_mm, nodule_type, lung_rads, lps_mm (LPS
    millimetres): what the reader puts in the place of the report's figure, only with the answer "correct".
    reason: a code of ANSWER_REASONS that belongs to the answer (or to any), or "".
    """

    finding_id: _Name
    nodule_id: _Name
    answer: Literal["accept", "reject", "correct"]
    malignant: bool | None = None
    diameter_mm: _Diameter | None = None
    nodule_type: NoduleType | None = None
    lung_rads: LungRads | None = None
    lps_mm: Position | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        known = {**ANSWER_REASONS["any"], **ANSWER_REASONS.get(self.answer, {})}
        if self.reason and self.reason not in known:
            raise ValueError(f"reason code does not belong to the answer {self.answer!r}")
        corrected = [name for name in ("diameter_mm", "nodule_type", "lung_rads", "lps_mm") if getattr(self, name)]
        if self.answer != "correct" and corrected:
            raise ValueError(f"{corrected[0]} is given only with the answer 'correct'")
        if self.answer == "reject" and self.malignant is not None:
            raise ValueError("a rejected finding is neither malignant nor benign")
        if self.answer == "correct" and self.malignant is None and not corrected and not self.reason:
            raise ValueError("a correction says what: diameter, type, category, place, malignant or a reason")
        return self


class MissedNodule(Record):
    """A nodule that the report does not have and the reader adds.

    lps_mm: its centre, LPS millimetres. diameter_mm: mean diameter. series_key: "" is the one series of the report.
    """

    lps_mm: Position
    diameter_mm: _Diameter
    nodule_type: NoduleType | None = None
    malignant: bool | None = None
    series_key: str = Field("", max_length=200, pattern="^[0-9A-Za-z]*$")


class AnsweredFinding(Record):
    """What a report said of one finding when it was answered; lps_mm and diameters in millimetres."""

    finding_id: str
    nodule_id: str
    series_key: str
    lps_mm: tuple[float, float, float]
    diameter_mm: float
    nodule_type: NoduleType | None = None
    lung_rads: str | None = None


class AnsweredReport(Record):
    """The report that some answers answer, as far as they refer to it; later reports may say something else.

    series_keys: of all series of the report.
    """

    study_key: str
    patient_key: str
    model_name: str
    model_version: str
    series_keys: tuple[str, ...]
    findings: tuple[AnsweredFinding, ...]

    def find(self, finding_id: str) -> AnsweredFinding | None:
        """The finding of that id; None where the report has none."""
        return next((finding for finding in self.findings if finding.finding_id == finding_id), None)


class ReaderFeedback(Record):
    """feedback.json: the answers of one reader to one report; at most one answer a finding.

    Without answers and missed nodules it says that the reader read a study without findings and misses none.
    reader: the name the reader goes by; kept as it is, without signs that hide or turn text around.
    time_utc: kept in UTC, to the millisecond. role: an adjudicator settles what readers differ on.
    model_visible_first: the reader saw what the model says before answering.
    second_read: the answers of a blind second reading; neither the model's figures nor earlier answers were shown.
    comment: free text of at most MAX_COMMENT characters; it may name a person, so it leaves this file for nothing but
        the structured report that the reader asks for.
    """

    SCHEMA_VERSION: ClassVar[int] = 2

    study_key: _Name
    model_version: _Name
    reader: str = Field(min_length=1, max_length=64)
    role: Literal["reader", "adjudicator"] = "reader"
    time_utc: str
    model_visible_first: bool
    second_read: bool = False
    answers: tuple[FindingAnswer, ...] = Field((), max_length=MAX_ANSWERS)
    missed: tuple[MissedNodule, ...] = Field((), max_length=MAX_MISSED)
    comment: str = Field("", max_length=MAX_COMMENT)

    @property
    def names_no_nodule(self) -> bool:
        """Whether it neither answers a finding nor adds a nodule."""
        return not self.answers and not self.missed

    @property
    def reader_key(self) -> str:
        """By what two files are told to be of one reader: the name without case."""
        return self.reader.casefold()

    @field_validator("reader", mode="before")
    @classmethod
    def _is_a_name(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        name = " ".join(unicodedata.normalize("NFC", value).split())
        return _printable(name)

    @field_validator("comment", mode="before")
    @classmethod
    def _is_plain_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        lines = unicodedata.normalize("NFC", value).splitlines()
        return "\n".join(_shown(line).rstrip() for line in lines).strip()

    @field_validator("time_utc")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError("time_utc needs its time zone, as in 2026-11-21T08:30:00Z")
        try:
            return time.astimezone(UTC).isoformat(timespec="milliseconds")
        except OverflowError:
            raise ValueError("time_utc is no time of this calendar") from None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        ids = [answer.finding_id for answer in self.answers]
        if len(set(ids)) < len(ids):
            raise ValueError("a finding is answered twice")
        if self.second_read and self.model_visible_first:
            raise ValueError("a second reading is blind: the model's figures were not visible first")
        return self

    @classmethod
    def convert(cls, body: dict[str, Any], version: object, where: str) -> dict[str, Any]:
        """Version 1 had `comment_code` for a reason and knew neither missed nodules, roles nor comments."""
        answers = body.get("answers")
        if version != 1 or not isinstance(answers, list):
            return super().convert(body, version, where)
        return body | {"answers": [_of_version_1(answer) for answer in answers]}


def _of_version_1(answer: object) -> object:
    if not isinstance(answer, dict) or "comment_code" not in answer:
        return answer
    rest = {name: value for name, value in answer.items() if name != "comment_code"}
    return rest | {"reason": answer["comment_code"]}

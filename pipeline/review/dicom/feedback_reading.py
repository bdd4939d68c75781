"""The way back: a structured report of answers as the feedback it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage
from pydicom.valuerep import DT

from data_contracts.errors import AnnotationError
from data_contracts.feedback import ReaderFeedback
from pipeline.review.dicom import codes
from pipeline.review.dicom import feedback_codes as terms
from pipeline.review.dicom.codes import Code

_MEASUREMENTS, _GROUP, _TRACKING = "126010", "125007", "112039"
_PERSON_NAME, _VERSION = "121008", "111003"
_TODO = "Only reports that `noduleflow feedback --sr` wrote, or of the same template and codes, can be read."


def feedback_of_report(
    report: Dataset, study_key: str, nodule_ids: Mapping[str, str], *, where: str = ""
) -> ReaderFeedback:
    """The answers that a report of `feedback_report` holds.

    study_key: of the study it belongs to. nodule_ids: finding id -> nodule id of the report that was answered; a
    finding that it does not have is a nodule that a reader added, whose id is both.

    Raises
    ------
    AnnotationError: no such report, not verified by its reader, or what it says breaks the contract of answers.
    """
    try:
        return _feedback(report, study_key, nodule_ids)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise AnnotationError(f"the report says what no answer can: {field}: {first['msg']}", where=where) from None
    except AnnotationError as error:
        raise AnnotationError(error.what, where=where, todo=_TODO) from None
    except Exception as error:  # a foreign or broken report may raise anything when it is looked at
        raise AnnotationError(
            f"not a report of answers that can be read ({type(error).__name__})", where=where, todo=_TODO
        ) from None


def _feedback(report: Dataset, study_key: str, nodule_ids: Mapping[str, str]) -> ReaderFeedback:
    if report.get("SOPClassUID") != Comprehensive3DSRStorage:
        raise AnnotationError("not a Comprehensive 3D SR")
    if report.get("VerificationFlag") != "VERIFIED" or not report.get("VerifyingObserverSequence"):
        raise AnnotationError("the report is not verified by its reader")
    container = next((item for item in _items(report) if _concept(item) == _MEASUREMENTS), None)
    groups = [] if container is None else [item for item in _items(container) if _concept(item) == _GROUP]
    by_title = [(str(_text(group, _TRACKING)), group) for group in groups]
    reading = next((group for title, group in by_title if title == terms.READING_TITLE), None)
    if reading is None:
        raise AnnotationError("the report says nothing of a reading")
    answers, missed = [], []
    for title, group in by_title:
        if title == terms.READING_TITLE:
            continue
        said = _said(group)
        if said["answer"] == "missed":
            series_key = title.rpartition(" in ")[2]
            missed.append({**_without(said, "answer", "reason", "lung_rads"), "series_key": series_key})
        else:
            answers.append({"finding_id": title, "nodule_id": nodule_ids.get(title, title), **said})
    verified = report.VerifyingObserverSequence[0]
    written = _text(reading, terms.READER_AS_WRITTEN[0])
    person = next(item for item in _items(report) if _concept(item) == _PERSON_NAME)
    return ReaderFeedback.model_validate(
        {
            "study_key": study_key,
            "model_version": _text(reading, _VERSION),
            "reader": written or str(person.PersonName),
            "role": _coded(reading, terms.ROLE, terms.ROLES),
            "time_utc": _time(str(verified.VerificationDateTime)),
            "model_visible_first": _coded(reading, terms.SEEN_FIRST, terms.YES_NO),
            "second_read": _coded(reading, terms.SECOND_READ, terms.YES_NO),
            "answers": answers,
            "missed": missed,
            "comment": _text(reading, terms.COMMENT[0]) or "",
        }
    )


def _said(group: Dataset) -> dict[str, Any]:
    """What one group says of a nodule."""
    size = next((item for item in _items(group) if _concept(item) == codes.DIAMETER[0]), None)
    place = next((item for item in _items(group) if item.ValueType == "SCOORD3D"), None)
    return {
        "answer": _coded(group, terms.ANSWER, terms.ANSWERS),
        "reason": _coded(group, terms.REASON, terms.REASONS) or "",
        "malignant": _coded(group, terms.MALIGNANT, terms.MALIGNANCIES),
        "nodule_type": _coded(group, terms.TYPE, terms.TYPES),
        "lung_rads": _coded(group, terms.CATEGORY, terms.CATEGORIES),
        "diameter_mm": None if size is None else float(size.MeasuredValueSequence[0].NumericValue),
        "lps_mm": None if place is None else tuple(float(value) for value in place.GraphicData),
    }


def _without(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in names}


def _time(text: str) -> str:
    """The time of a DT value; without its zone it is no time."""
    time = datetime.fromisoformat(DT(text).isoformat())
    if time.tzinfo is None:
        raise AnnotationError("the time of the verification has no time zone")
    return time.astimezone(UTC).isoformat()


def _items(item: Dataset) -> Iterator[Dataset]:
    yield from item.get("ContentSequence") or ()


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def _text(group: Dataset, concept: str) -> str | None:
    found = next((item for item in _items(group) if _concept(item) == concept), None)
    return None if found is None else str(found.TextValue)


def _coded(group: Dataset, concept: Code, values: Mapping[Any, Code]) -> Any:
    """The key of `values` whose code the group gives for a concept; None where it gives none."""
    found = next((item for item in _items(group) if _concept(item) == concept[0]), None)
    return None if found is None else _key(values, found)


def _key(values: Mapping[Any, Code], item: Dataset) -> Any:
    code = str(item.ConceptCodeSequence[0].CodeValue)
    for key, known in values.items():
        if known[0] == code:
            return key
    raise AnnotationError(f"the report has a code that no answer has ({code[:16]})")

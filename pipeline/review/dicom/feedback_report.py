"""A reader's answers as a Comprehensive 3D SR of template TID 1500 (PS3.16), verified by the reader.

The first measurement group (TID 1501) is of the reading itself: which version was answered, what was seen first, the
comment. Then one group an answer and one a missed nodule, with the tracking identifiers of the findings' own report; a
group with a place of its own has a point in the patient (TID 1410). `feedback_reading` is the way back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DT

from data_contracts.errors import NothingUsableError
from data_contracts.feedback import AnsweredReport, FindingAnswer, MissedNodule, ReaderFeedback
from pipeline.review.dicom import codes
from pipeline.review.dicom import feedback_codes as terms
from pipeline.review.dicom.codes import Code, coded
from pipeline.review.dicom.maker import MANUFACTURER, Maker
from pipeline.review.dicom.report import device_observer, private_scheme
from pipeline.review.dicom.source import SourceSeries, source_image
from pipeline.review.dicom.text import valid_name, valid_text
from pipeline.review.wording import NOT_DIAGNOSTIC

KIND = "FEEDBACK"
_NUMBER = 9105
_NOT_STATED = "not stated"


@dataclass(frozen=True)
class _Group:
    """What one measurement group says."""

    title: str
    uid: str
    evaluations: tuple[tuple[Code, Code], ...] = ()
    diameter_mm: float | None = None
    series: SourceSeries | None = None
    near_mm: tuple[float, float, float] | None = None
    place_mm: tuple[float, float, float] | None = None


def feedback_report(feedback: ReaderFeedback, report: AnsweredReport, maker: Maker, organization: str = "") -> Dataset:
    """The answers of one reader to one report; the same answers give the same object, byte for byte.

    maker: of the report that was answered. organization: whom the reader works for, as far as known.

    Raises
    ------
    NothingUsableError: the images of the study cannot be referred to.
    """
    maker = replace(maker, created=datetime.fromisoformat(feedback.time_utc))
    usable = {series.series_key: series for series in maker.study.series if any(series.sop_uids)}
    if not usable:
        raise NothingUsableError(
            "no answers in DICOM: the UIDs of the study's images are not kept", todo="Ingest its source again."
        )
    groups = [
        _reading_group(feedback, maker),
        *(_answer_group(answer, report, maker, usable) for answer in feedback.answers),
        *(_missed_group(missed, number, maker, usable) for number, missed in enumerate(feedback.missed, start=1)),
    ]
    first = next(iter(usable.values()))
    evidence = [source_image(maker.study, first, first.image_at(first.shape_kji[0] // 2))]
    evidence += [source_image(maker.study, group.series, _slice(group)) for group in groups if group.series]
    name = valid_name(feedback.reader) or "reader"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*represent the intended person name")
        made = hd.sr.Comprehensive3DSR(
            evidence=list({str(image.SOPInstanceUID): image for image in evidence}.values()),
            content=_content(feedback, groups, maker, name)[0],
            series_instance_uid=maker.series_uid(KIND),
            series_number=_NUMBER,
            sop_instance_uid=maker.instance_uid(KIND, feedback.model_dump(mode="json")),
            instance_number=1,
            is_complete=True,
            is_final=True,
            is_verified=True,
            verifying_observer_name=name,
            verifying_organization=valid_text(organization) or _NOT_STATED,
            series_description=valid_text(f"Nodule answers of a reader ({NOT_DIAGNOSTIC.lower()})"),
            coding_schemes=[private_scheme()],
            **maker.equipment(),
        )
    made.file_meta.MediaStorageSOPInstanceUID = UID(made.SOPInstanceUID)
    made.VerifyingObserverSequence[0].VerificationDateTime = DT(maker.created.strftime("%Y%m%d%H%M%S.%f%z"))
    maker.sign(made)
    return made


def _content(feedback: ReaderFeedback, groups: list[_Group], maker: Maker, name: str) -> hd.sr.MeasurementReport:
    person = hd.sr.ObserverContext(
        observer_type=coded("121006", "DCM", "Person"),
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name=name),
    )
    made = [_as_group(group, maker) for group in groups]
    texts = ((terms.COMMENT, feedback.comment), (terms.READER_AS_WRITTEN, feedback.reader * (feedback.reader != name)))
    for concept, text in texts:
        if text:
            relation = hd.sr.RelationshipTypeValues.CONTAINS
            made[0][0].ContentSequence.append(hd.sr.TextContentItem(coded(*concept), text, relation))
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_person_context=person, observer_device_context=device_observer(maker)
        ),
        procedure_reported=coded(*codes.CT_PROCEDURE),
        imaging_measurements=made,
        language_of_content_item_and_descendants=hd.sr.LanguageOfContentItemAndDescendants(
            coded("en", "RFC5646", "English")
        ),
    )


def _as_group(group: _Group, maker: Maker) -> Any:
    common: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(uid=group.uid, identifier=group.title),
        "qualitative_evaluations": [
            hd.sr.QualitativeEvaluation(coded(*name), coded(*value)) for name, value in group.evaluations
        ],
        "measurements": None,
    }
    if group.title == terms.READING_TITLE:
        common["algorithm_id"] = hd.sr.AlgorithmIdentification(
            name=maker.model_name,
            version=maker.model_version,
            manufacturer=MANUFACTURER,
            family=coded(*codes.ALGORITHM_FAMILY),
        )
    else:
        common |= {"finding_type": coded(*codes.NODULE), "finding_category": coded(*codes.ABNORMAL_STRUCTURE)}
    if group.diameter_mm is not None:
        size = hd.sr.Measurement(
            coded(*codes.DIAMETER), group.diameter_mm, coded(*codes.MM), derivation=coded(*codes.MEAN)
        )
        common["measurements"] = [size]
    if group.place_mm is not None and group.series is not None and group.series.frame_of_reference_uid:
        region = hd.sr.ImageRegion3D(
            hd.sr.GraphicTypeValues3D.POINT,
            np.array([group.place_mm], dtype=np.float32),
            group.series.frame_of_reference_uid,
        )
        return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)
    if group.place_mm is not None:
        raise NothingUsableError(
            "a place cannot be given in DICOM: the images have no frame of reference", where=group.title
        )
    if group.series is not None:
        image = group.series
        k = _slice(group)
        common["source_images"] = [
            hd.sr.SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_uids[k], image.frame_of(k))
        ]
    return hd.sr.MeasurementsAndQualitativeEvaluations(**common)


def _reading_group(feedback: ReaderFeedback, maker: Maker) -> _Group:
    said = (
        (terms.ROLE, terms.ROLES[feedback.role]),
        (terms.SEEN_FIRST, terms.YES_NO[feedback.model_visible_first]),
        (terms.SECOND_READ, terms.YES_NO[feedback.second_read]),
    )
    uid = maker.instance_uid("READING", feedback.reader_key, feedback.time_utc)
    return _Group(terms.READING_TITLE, uid, said)


def _answer_group(
    answer: FindingAnswer, report: AnsweredReport, maker: Maker, series: Mapping[str, SourceSeries]
) -> _Group:
    said = [(terms.ANSWER, terms.ANSWERS[answer.answer])]
    if answer.reason:
        said.append((terms.REASON, terms.REASONS[answer.reason]))
    finding = report.find(answer.finding_id)
    return _Group(
        title=answer.finding_id,
        uid=maker.tracking_uid(answer.finding_id),
        evaluations=(*said, *_judgement(answer.malignant, answer.nodule_type, answer.lung_rads)),
        diameter_mm=answer.diameter_mm,
        series=series.get(finding.series_key) if finding else next(iter(series.values())),
        near_mm=finding.lps_mm if finding else answer.lps_mm,
        place_mm=answer.lps_mm,
    )


def _missed_group(missed: MissedNodule, number: int, maker: Maker, series: Mapping[str, SourceSeries]) -> _Group:
    said = ((terms.ANSWER, terms.ANSWERS["missed"]), *_judgement(missed.malignant, missed.nodule_type, None))
    if missed.series_key not in series:
        raise NothingUsableError("a missed nodule is in a series without images", where=missed.series_key)
    return _Group(
        title=f"{terms.MISSED_TITLE} {number} in {missed.series_key}",
        uid=maker.tracking_uid(f"{missed.series_key} {missed.lps_mm}"),
        evaluations=said,
        diameter_mm=missed.diameter_mm,
        series=series[missed.series_key],
        near_mm=missed.lps_mm,
        place_mm=missed.lps_mm,
    )


def _judgement(malignant: bool | None, nodule_type: str | None, lung_rads: str | None) -> tuple[tuple[Code, Code], ...]:
    said: list[tuple[Code, Code]] = []
    if malignant is not None:
        said.append((terms.MALIGNANT, terms.MALIGNANCIES[malignant]))
    if nodule_type is not None:
        said.append((terms.TYPE, terms.TYPES[nodule_type]))
    if lung_rads is not None:
        said.append((terms.CATEGORY, terms.CATEGORIES[lung_rads]))
    return tuple(said)


def _slice(group: _Group) -> int:
    """The slice with an image of its own that is nearest to the nodule; the middle one where its place is not known."""
    assert group.series is not None
    if group.near_mm is None:
        return group.series.image_at(group.series.shape_kji[0] // 2)
    kji = np.linalg.solve(group.series.affine, [*group.near_mm, 1.0])
    return group.series.image_at(float(kji[0]))

"""The findings of a review as a Comprehensive 3D SR of template TID 1500 (PS3.16).

Each outlined finding has a group of TID 1411 that refers to its segment and holds its figures, and for viewers that
show no segments two of TID 1410, its long and its short axis as lines on its key slice (a group has one region). A
finding without an outline has one of TID 1410 with a circle around the mark and its figures. All groups of a finding
have its tracking identifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from data_contracts.review import Finding, StudyReview
from pipeline.review.dicom import codes
from pipeline.review.dicom.brock_items import brock_figures
from pipeline.review.dicom.codes import coded
from pipeline.review.dicom.maker import MANUFACTURER, SERIES_NUMBERS, Maker
from pipeline.review.dicom.masks import Drawing
from pipeline.review.dicom.report_statements import evaluations, study_statements, texts
from pipeline.review.dicom.report_values import Measurements, figures
from pipeline.review.dicom.segmentation import tracking_id
from pipeline.review.dicom.source import SourceSeries, source_image

Group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations | hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, eq=False)
class ReportedFinding:
    """A finding with the places that its report refers to.

    segment: (Segmentation object, segment number); None where it has no outline.
    """

    finding: Finding
    series: SourceSeries
    drawing: Drawing
    segment: tuple[Dataset, int] | None


def measurement_report(reported: Sequence[ReportedFinding], review: StudyReview, maker: Maker) -> Dataset:
    """The report of findings of a study, in their order, at least one, and of what the review says of the study."""
    groups: list[Group] = []
    for item in reported:
        groups += _groups(item, review, maker)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device_observer(maker)),
        procedure_reported=coded(*codes.CT_PROCEDURE),
        imaging_measurements=groups,
        language_of_content_item_and_descendants=hd.sr.LanguageOfContentItemAndDescendants(
            coded("en", "RFC5646", "English")
        ),
    )
    statements = study_statements(review)
    if statements is not None:
        content[0].ContentSequence.append(statements)
    evidence = [source_image(maker.study, item.series, item.drawing.k) for item in reported]
    evidence += [item.segment[0] for item in reported if item.segment is not None]
    unique = {str(image.SOPInstanceUID): image for image in evidence}
    made = hd.sr.Comprehensive3DSR(
        evidence=list(unique.values()),
        content=content[0],
        series_instance_uid=maker.series_uid("SR"),
        series_number=SERIES_NUMBERS["SR"],
        sop_instance_uid=maker.instance_uid("SR", "draft"),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=maker.description("SR"),
        coding_schemes=[private_scheme()],
        **maker.equipment(),
    )
    said = Dataset()
    said.ContentSequence = made.ContentSequence
    digest = sha256(said.to_json().encode())
    made.SOPInstanceUID = UID(maker.instance_uid("SR", digest.hexdigest()))
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    maker.sign(made)
    return made


def device_observer(maker: Maker) -> hd.sr.ObserverContext:
    """The model version as an observer."""
    return hd.sr.ObserverContext(
        observer_type=coded("121007", "DCM", "Device"),
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=maker.device_uid(),
            name="noduleflow",
            manufacturer_name=MANUFACTURER,
            model_name=maker.model_name,
            serial_number=maker.serial_number,
        ),
    )


def private_scheme() -> CodingSchemeIdentificationItem:
    """What names the scheme of our own terms in an object that uses it."""
    return CodingSchemeIdentificationItem(
        designator=codes.PRIVATE_SCHEME, name="noduleflow terms", responsible_organization=MANUFACTURER
    )


def _groups(item: ReportedFinding, review: StudyReview, maker: Maker) -> list[Group]:
    finding = item.finding
    measured = figures(finding, maker) + brock_figures(finding.finding_id, review.guidelines)
    stated = evaluations(finding, review.guidelines)
    common: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=maker.tracking_uid(finding.finding_id), identifier=tracking_id(finding)
        ),
        "finding_type": coded(*codes.NODULE),
        "finding_category": coded(*codes.ABNORMAL_STRUCTURE),
        "finding_sites": [_site(finding)],
    }
    if item.segment is None:
        assert item.drawing.circle is not None, "what has no outline has a circle"
        planar = _planar(item, item.drawing.circle, measured, common, stated)
        planar[0].ContentSequence.extend(texts(finding, review))
        return [planar]
    made, number = item.segment
    segment = hd.sr.ReferencedSegment(
        sop_class_uid=made.SOPClassUID,
        sop_instance_uid=made.SOPInstanceUID,
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(item.series.series_uid),
    )
    volumetric = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        **common, referenced_segment=segment, measurements=measured, qualitative_evaluations=stated or None
    )
    volumetric[0].ContentSequence.extend(texts(finding, review))
    return [volumetric, *(_planar(item, line, [axis], common) for line, axis in _axes(item))]


def _planar(
    item: ReportedFinding,
    points: NDArray[np.float32],
    measurements: Measurements,
    common: dict[str, Any],
    stated: list[hd.sr.QualitativeEvaluation] | None = None,
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410: an ellipse by the four ends of its axes, or a line, on the key slice."""
    image = hd.sr.SourceImageForRegion(
        item.series.sop_class_uid, item.series.sop_uids[item.drawing.k], item.series.frame_of(item.drawing.k)
    )
    kind = hd.sr.GraphicTypeValues.ELLIPSE if len(points) == 4 else hd.sr.GraphicTypeValues.POLYLINE
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        **common,
        referenced_region=hd.sr.ImageRegion(kind, points, image),
        measurements=measurements,
        qualitative_evaluations=stated or None,
    )


def _site(finding: Finding) -> hd.sr.FindingSite:
    side = codes.LATERALITY.get(finding.side)
    return hd.sr.FindingSite(coded(*codes.LUNG), laterality=coded(*side) if side else None)


def _axes(item: ReportedFinding) -> list[tuple[NDArray[np.float32], hd.sr.Measurement]]:
    """The lines that were measured, with their lengths."""
    size, drawing = item.finding.measurement, item.drawing
    axes = (
        (codes.LONG_AXIS, size.long_axis_mm, drawing.long_axis),
        (codes.SHORT_AXIS, size.short_axis_mm, drawing.short_axis),
    )
    return [
        (line, hd.sr.Measurement(coded(*code), float(length_mm), coded(*codes.MM)))
        for code, length_mm, line in axes
        if length_mm is not None and line is not None
    ]

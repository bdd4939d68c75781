"""Measurement groups of nodules out of structured reports of template TID 1500 (PS3.16).

Read are the groups of TID 1410, 1411 and 1501: tracking identifiers, the segment or the regions they refer to (SCOORD
on an image, SCOORD3D in the patient), qualitative evaluations as ratings, diameter and volume. The tree is walked by
concept codes, wherever a writer put the items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from data_contracts.errors import AnnotationError
from pipeline.annotations.dicom_seg import lidc_nodule_name
from pipeline.annotations.sr_codes import DIAMETERS, LENGTH_MM, VOLUME_MM3, VOLUMES, rating_of, rating_value

REPORT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35))
_MAX_DEPTH, _MAX_ITEMS = 32, 200_000
_GROUP = ("125007", "DCM")
_IDENTIFIER, _UNIQUE = ("112039", "DCM"), ("112040", "DCM")
_SEGMENTS = (("121191", "DCM"), ("121214", "DCM"))
_SOURCE_SERIES = ("121232", "DCM")

Points = tuple[tuple[float, ...], ...]


@dataclass
class MeasurementGroup:
    """One measurement group, as far as a nodule table needs it.

    Attributes
    ----------
    sop_instance_uid: of the report. nodule_name: as of a segment, see dicom_seg.lidc_nodule_name.
    source_sop_uid: an image that it was made on.
    segment: (SOP Instance UID, segment number) it refers to; ("", 0) where none.
    regions: (SOP Instance UID, graphic type, ((column, row), ...)), as DICOM counts: 0.5 is the first pixel's centre.
    regions_mm: (frame of reference UID, graphic type, ((x, y, z), ...)) LPS.
    problems: what in it cannot be understood.
    """

    place: str
    sop_instance_uid: str
    tracking_identifier: str = ""
    tracking_uid: str = ""
    segment: tuple[str, int] = ("", 0)
    series_instance_uid: str = ""
    source_sop_uid: str = ""
    ratings: dict[str, float] = field(default_factory=dict)
    diameters_mm: dict[tuple[str, str], float] = field(default_factory=dict)
    volume_mm3: float | None = None
    regions: list[tuple[str, str, Points]] = field(default_factory=list)
    regions_mm: list[tuple[str, str, Points]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def nodule_name(self) -> str:
        """The nodule of an LIDC tracking identifier, else ""."""
        return lidc_nodule_name([self.tracking_identifier])

    @property
    def diameter_mm(self) -> float | None:
        """Of the diameters that it states, the first by the order of DIAMETERS."""
        return next((self.diameters_mm[code] for code in DIAMETERS if code in self.diameters_mm), None)


def read_report(ds: Dataset) -> list[MeasurementGroup]:
    """The measurement groups of a report, in its order.

    Raises
    ------
    AnnotationError: no content, nested too deep, or not to be read.
    """
    try:
        series = _series_of_images(ds)
        containers = [item for item, _ in _walk(ds) if _concept(item) == _GROUP]
        uid = str(ds.get("SOPInstanceUID", ""))
        return _of_findings([_group(item, number, uid, series) for number, item in enumerate(containers, start=1)])
    except AnnotationError:
        raise
    except Exception as error:  # a hostile header may raise anything when it is looked at
        raise AnnotationError(f"the report cannot be read ({type(error).__name__})") from None


def _of_findings(groups: list[MeasurementGroup]) -> list[MeasurementGroup]:
    """Groups without those of TID 1410 that draw what a group of TID 1411 measures: it takes their regions over.

    Both have the same tracking identifiers: a nodule with its volume, and its long axis on a slice, is one nodule.
    """
    measured = {
        (group.tracking_uid, group.tracking_identifier): group
        for group in reversed(groups)
        if group.segment[0] and group.tracking_uid and not group.problems
    }
    kept = []
    for group in groups:
        first = measured.get((group.tracking_uid, group.tracking_identifier), group)
        if first is group or group.segment[0] or group.ratings or group.problems or not group.regions:
            kept.append(group)
            continue
        first.regions += group.regions
        first.diameters_mm = {**group.diameters_mm, **first.diameters_mm}
        first.source_sop_uid = first.source_sop_uid or group.source_sop_uid
    return kept


def _walk(ds: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    """(item, the item it hangs on) of every content item below `ds`."""
    stack = [(ds, 0)]
    count = 0
    while stack:
        parent, depth = stack.pop()
        for item in parent.get("ContentSequence") or []:
            count += 1
            if depth >= _MAX_DEPTH or count > _MAX_ITEMS:
                raise AnnotationError("the report is nested too deep or far too long")
            yield item, parent
            stack.append((item, depth + 1))


def _concept(item: Dataset) -> tuple[str, str]:
    return _code(item, "ConceptNameCodeSequence")[0]


def _code(item: Dataset, name: str) -> tuple[tuple[str, str], str]:
    """((code value, scheme), meaning) of the first item of a code sequence."""
    items = item.get(name)
    if not items:
        return ("", ""), ""
    code = items[0]
    value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
    return (str(value), str(code.get("CodingSchemeDesignator", ""))), str(code.get("CodeMeaning", ""))


def _series_of_images(ds: Dataset) -> dict[str, str]:
    """Series Instance UID of each image that the report lists as evidence."""
    found = {}
    for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(name) or []:
            for series in study.get("ReferencedSeriesSequence") or []:
                for image in series.get("ReferencedSOPSequence") or []:
                    found[str(image.get("ReferencedSOPInstanceUID", ""))] = str(series.get("SeriesInstanceUID", ""))
    return found


def _group(container: Dataset, number: int, report_uid: str, series: dict[str, str]) -> MeasurementGroup:
    group = MeasurementGroup(f"measurement group {number}", report_uid)
    for item, parent in _walk(container):
        concept, kind = _concept(item), str(item.get("ValueType", ""))
        if concept == _IDENTIFIER:
            group.tracking_identifier = str(item.get("TextValue", ""))
        elif concept == _UNIQUE:
            group.tracking_uid = str(item.get("UID", ""))
        elif concept == _SOURCE_SERIES:
            group.series_instance_uid = str(item.get("UID", ""))
        elif kind == "IMAGE":
            _take_image(group, item, concept, parent)
        elif kind == "NUM":
            _take_number(group, item, concept)
        elif kind == "SCOORD":
            _take_region(group, item)
        elif kind == "SCOORD3D":
            frame = str(item.get("ReferencedFrameOfReferenceUID", ""))
            _take_points(group, item, 3, frame, group.regions_mm)
        elif kind == "CODE" and parent is container:
            _take_rating(group, item, concept)
    if not group.series_instance_uid:
        images = [group.source_sop_uid, *(uid for uid, _, _ in group.regions)]
        group.series_instance_uid = next((series[uid] for uid in images if series.get(uid)), "")
    return group


def _reference(item: Dataset) -> Dataset:
    items = item.get("ReferencedSOPSequence")
    return items[0] if items else Dataset()


def _take_image(group: MeasurementGroup, item: Dataset, concept: tuple[str, str], parent: Dataset) -> None:
    reference = _reference(item)
    uid = str(reference.get("ReferencedSOPInstanceUID", ""))
    numbers = reference.get("ReferencedSegmentNumber")
    if concept in _SEGMENTS or numbers is not None:
        first = numbers[0] if isinstance(numbers, list) or hasattr(numbers, "__getitem__") else numbers
        group.segment = (uid, int(first or 1))
    elif str(parent.get("ValueType", "")) != "SCOORD":
        group.source_sop_uid = group.source_sop_uid or uid


def _take_number(group: MeasurementGroup, item: Dataset, concept: tuple[str, str]) -> None:
    code = (concept[0], concept[1].upper())
    if code not in DIAMETERS and code not in VOLUMES:
        return
    values = item.get("MeasuredValueSequence")
    if not values:
        return
    unit = _code(values[0], "MeasurementUnitsCodeSequence")[0][0]
    number = float(values[0].NumericValue)
    factor = (LENGTH_MM if code in DIAMETERS else VOLUME_MM3).get(unit)
    if factor is None or not np.isfinite(number) or number <= 0:
        group.problems.append(f"a measurement is not positive, or its unit {unit[:16]!r} is unknown")
    elif code in DIAMETERS:
        group.diameters_mm.setdefault(code, number * factor)
    elif group.volume_mm3 is None:
        group.volume_mm3 = number * factor


def _take_rating(group: MeasurementGroup, item: Dataset, concept: tuple[str, str]) -> None:
    rating = rating_of(concept, _code(item, "ConceptNameCodeSequence")[1])
    if rating is None:
        return
    code, meaning = _code(item, "ConceptCodeSequence")
    value = rating_value(rating, code, meaning)
    if value is None:
        group.problems.append(f"the code {code[0][:16]!r} of {code[1][:16]!r} is no known value of {rating}")
    elif group.ratings.setdefault(rating, float(value)) != value:
        group.problems.append(f"{rating} is given twice with different values")


def _take_region(group: MeasurementGroup, item: Dataset) -> None:
    images = [_reference(child) for child in item.get("ContentSequence") or [] if child.get("ValueType") == "IMAGE"]
    uid = str(images[0].get("ReferencedSOPInstanceUID", "")) if images else ""
    _take_points(group, item, 2, uid, group.regions)


def _take_points(
    group: MeasurementGroup, item: Dataset, n_axes: int, owner: str, into: list[tuple[str, str, Points]]
) -> None:
    data = item.get("GraphicData")
    numbers = np.array([] if data is None else data, dtype=np.float64).ravel()
    if not len(numbers) or len(numbers) % n_axes or not np.isfinite(numbers).all():
        group.problems.append("a region's coordinates are missing, incomplete or not finite")
        return
    points: NDArray[np.float64] = numbers.reshape(-1, n_axes)
    into.append((owner, str(item.get("GraphicType", "")), tuple(tuple(point) for point in points.tolist())))

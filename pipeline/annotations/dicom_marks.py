"""Marks out of DICOM SEG and SR files given together: the evaluations of a report join the segments they refer to.

A group of a report finds its segment by its reference (object and number); where that object is not among the files,
by tracking UID and identifier, or by the tracking UID where one segment alone has it, or else among the segments that
the workspace knows already. In IDC's LIDC files the readers'
annotations of one nodule share the tracking UID, so it names the nodule, not the mark.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_contracts.errors import AnnotationError
from data_contracts.nodules import NoduleAnnotation
from pipeline.annotations.dicom_files import open_object
from pipeline.annotations.dicom_seg import SEGMENTATION_CLASSES, Segment, read_segmentation
from pipeline.annotations.dicom_sr import REPORT_CLASSES, MeasurementGroup, read_report
from pipeline.annotations.report_places import report_mark
from pipeline.headers.values import silence_pydicom


class _Found:
    """What the files hold: (number of the path, item), and marks for what cannot be read."""

    def __init__(self) -> None:
        self.segments: list[tuple[int, Segment]] = []
        self.groups: list[tuple[int, MeasurementGroup]] = []
        self.broken: list[NoduleAnnotation] = []
        self.seen: set[str] = set()


def read_dicom_marks(paths: Sequence[Path]) -> list[NoduleAnnotation]:
    """Marks of the SEG and SR objects among files and in folders; other files of a folder are passed over.

    Every mark says in `file_number` which of `paths` it comes from, from 1. What cannot be used is a mark with its
    problem.
    """
    silence_pydicom()
    found = _Found()
    for number, path in enumerate(paths, start=1):
        for position, file in enumerate(_files(path), start=1):
            try:
                _read(file, number, file == path, found)
            except AnnotationError as error:
                place = "" if file == path else f"file {position} of the folder"
                values = {"place": place, "problem": error.line(), "file_number": number, "whole_file": True}
                found.broken.append(NoduleAnnotation.model_validate({"reader": "", "source": "dicom", **values}))
    return [*found.broken, *_joined(found)]


def _files(path: Path) -> Iterator[Path]:
    yield from (item for item in sorted(path.rglob("*")) if item.is_file()) if path.is_dir() else [path]


def _read(file: Path, number: int, alone: bool, found: _Found) -> None:
    """Take a file's segments or groups; an object that was there before is passed over, in a folder other files too."""
    try:
        ds = open_object(file, (*SEGMENTATION_CLASSES, *REPORT_CLASSES))
    except AnnotationError:
        if alone:
            raise
        return
    if ds is None:
        if alone:
            raise AnnotationError("the DICOM file is neither a segmentation nor a structured report")
        return
    uid = str(ds.get("SOPInstanceUID", ""))
    if uid and uid in found.seen:
        return
    found.seen.add(uid)
    if str(ds.SOPClassUID) in SEGMENTATION_CLASSES:
        found.segments += [(number, segment) for segment in read_segmentation(ds)]
    else:
        found.groups += [(number, group) for group in read_report(ds)]


def _joined(found: _Found) -> list[NoduleAnnotation]:
    """Marks of all segments and of the groups that refer to none."""
    by_reference = {(segment.sop_instance_uid, segment.number): segment for _, segment in found.segments}
    by_tracking: dict[tuple[str, ...], list[Segment]] = defaultdict(list)
    for _, segment in found.segments:
        by_tracking[segment.tracking_uid, segment.tracking_identifier].append(segment)
        by_tracking[(segment.tracking_uid,)].append(segment)
    evaluations: dict[int, list[tuple[int, MeasurementGroup]]] = defaultdict(list)
    names = _Names([*(item for _, item in found.segments), *(item for _, item in found.groups)])
    marks = []
    for number, group in found.groups:
        named = by_reference.get(group.segment)
        if named is None and group.tracking_uid:
            same = by_tracking.get((group.tracking_uid, group.tracking_identifier), [])
            same = same if len(same) == 1 else by_tracking.get((group.tracking_uid,), [])
            named = same[0] if len(same) == 1 else None
        if named is None:
            marks.append(report_mark(group, names.of(group), number))
        else:
            evaluations[id(named)].append((number, group))
    for number, segment in found.segments:
        marks += _segment_marks(segment, number, evaluations.get(id(segment), []), names)
    return marks


class _Names:
    """Which nodule a segment or a group belongs to, and how its reader is told from others."""

    def __init__(self, items: Sequence[Segment | MeasurementGroup]) -> None:
        objects = {(item.tracking_uid, item.sop_instance_uid, item.place) for item in items if item.tracking_uid}
        self._shared = Counter(uid for uid, _, _ in objects)
        self._own = Counter((self.of(item), item.sop_instance_uid) for item in items)

    def of(self, item: Segment | MeasurementGroup) -> str:
        """A nodule's name: its LIDC name, or a tracking UID that several share; "" leaves it to the place."""
        if item.nodule_name:
            return f"lidc {item.nodule_name}"
        return f"tracking {item.tracking_uid}" if self._shared[item.tracking_uid] > 1 else ""

    def reader(self, item: Segment | MeasurementGroup) -> str:
        """One object is one reader's, unless it holds a nodule more than once."""
        several = self.of(item) and self._own[self.of(item), item.sop_instance_uid] > 1
        return f"object {item.sop_instance_uid} {item.place if several else ''}"


def _segment_marks(
    segment: Segment, file_number: int, evaluations: list[tuple[int, MeasurementGroup]], names: _Names
) -> list[NoduleAnnotation]:
    base = NoduleAnnotation(
        series_instance_uid=segment.series_instance_uid,
        sop_instance_uid=segment.source_sop_uid,
        frame_of_reference_uid=segment.frame_of_reference_uid,
        reader=names.reader(segment),
        nodule=names.of(segment),
        segment=f"{segment.sop_instance_uid} {segment.number}" if len(segment.shapes) == 1 else "",
        source="dicom-seg",
        place=segment.place,
        problem=segment.problem,
        file_number=file_number,
    )
    marks = []
    for part, shape in enumerate(segment.shapes, start=1):
        values = {"lps_mm": shape.center_mm, "diameter_mm": shape.diameter_mm, "volume_mm3": shape.volume_mm3}
        if len(segment.shapes) > 1:
            values |= {"place": f"{segment.place}, part {part}", "nodule": ""}
        marks.append(base.model_copy(update=values))
    if not marks or not evaluations:
        return marks or [base]
    if len(marks) > 1:
        problem = f"its segment holds {len(marks)} separate parts"
        return marks + [_unused(group, number, problem) for number, group in evaluations]
    return [_evaluated(marks[0], group, len(evaluations) > 1) for _, group in evaluations]


def _evaluated(mark: NoduleAnnotation, group: MeasurementGroup, several: bool) -> NoduleAnnotation:
    """A segment's mark with a reader's evaluation; what the report states is taken before what was measured here."""
    return mark.model_copy(
        update={
            "ratings": group.ratings,
            "diameter_mm": group.diameter_mm or mark.diameter_mm,
            "volume_mm3": group.volume_mm3 or mark.volume_mm3,
            "problem": "; ".join(group.problems),
            "place": f"{mark.place}, {group.place}",
            "reader": f"{mark.reader} {group.sop_instance_uid} {group.place}" if several else mark.reader,
            "source": "dicom-seg+sr",
        }
    )


def _unused(group: MeasurementGroup, file_number: int, problem: str) -> NoduleAnnotation:
    return NoduleAnnotation(
        reader="",
        series_instance_uid=group.series_instance_uid,
        source="dicom-sr",
        place=group.place,
        problem=problem,
        file_number=file_number,
    )

"""Segments out of DICOM segmentation objects (PS3.3 A.51 and A.105): binary, fractional and label maps.

Positions come from the functional groups of the frames, so omitted empty frames, any order of frames, oblique planes
and other grids than the source's are all the same. A fractional pixel counts from half of the maximum on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels

from data_contracts.errors import AnnotationError
from pipeline.annotations.segment_shape import PlaneMask, Shape, segment_shapes

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_MAX_FRAMES, _MAX_FRAME_PIXELS = 50_000, 2**26
#: category "Anatomical Structure" in SNOMED CT and SRT: an organ, not a finding
_ANATOMY = (("123037004", "SCT"), ("T-D000A", "SRT"), ("91723000", "SCT"))
_NODULE_WORDS = re.compile(r"nodul|lesion|tumou?r|mass|neoplas|cancer|carcinoma|metasta|gtv", re.IGNORECASE)
#: how IDC names the annotations of LIDC (Fedorov 2020, Med Phys 47:5953): one nodule, one annotation a reader
_LIDC_NAME = re.compile(r"\s*(nodule\s+\S+)\s+-\s+annotation\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Segment:
    """One segment and the nodules in it.

    Attributes
    ----------
    sop_instance_uid, number: which segment of which object.
    tracking_uid, tracking_identifier: as the segment has them.
    nodule_name: "nodule 1" of a description "Nodule 1 - Annotation ...", else "".
    series_instance_uid, source_sop_uid, frame_of_reference_uid: what was segmented; "" where it is not said.
    shapes: its nodules, largest first.
    problem: why it cannot be used.
    """

    sop_instance_uid: str
    number: int
    tracking_uid: str
    tracking_identifier: str
    nodule_name: str
    series_instance_uid: str
    source_sop_uid: str
    frame_of_reference_uid: str
    shapes: tuple[Shape, ...]
    problem: str = ""

    @property
    def place(self) -> str:
        """Where it stands in its file."""
        return f"segment {self.number}"


def read_segmentation(ds: Dataset) -> list[Segment]:
    """The segments of a segmentation object, by number.

    Raises
    ------
    AnnotationError: no geometry, frames that do not fit, pixels that cannot be decoded.
    """
    try:
        return _segments(ds)
    except AnnotationError:
        raise
    except Exception as error:  # a hostile header may raise anything when it is looked at
        raise AnnotationError(f"the segmentation cannot be read ({type(error).__name__})") from None


def lidc_nodule_name(words: list[str]) -> str:
    """ "nodule 1" of the first word like "Nodule 1 - Annotation IL057_127364"; "" where none is."""
    named = next((found for found in map(_LIDC_NAME.fullmatch, words) if found), None)
    return " ".join(named[1].lower().split()) if named else ""


def _segments(ds: Dataset) -> list[Segment]:
    n_frames = int(ds.get("NumberOfFrames", 1) or 1)
    groups = list(ds.PerFrameFunctionalGroupsSequence)
    if not 0 < n_frames <= _MAX_FRAMES or int(ds.Rows) * int(ds.Columns) > _MAX_FRAME_PIXELS:
        raise AnnotationError("the segmentation has no frames, or far too many or too large ones")
    if len(groups) != n_frames:
        raise AnnotationError(f"{len(groups)} frames are described, {n_frames} are said to be there")
    shared = ds.SharedFunctionalGroupsSequence[0] if ds.get("SharedFunctionalGroupsSequence") else Dataset()
    planes: dict[int, list[PlaneMask]] = defaultdict(list)
    sources: dict[int, str] = {}
    heights = []
    for group, pixels in zip(groups, iter_pixels(ds, raw=True), strict=True):
        geometry = _geometry(group, shared)
        heights.append(geometry[3])
        for number, mask in _masks(ds, group, shared, pixels):
            plane = _cut(mask, geometry)
            if plane is not None:
                planes[number].append(plane)
                sources.setdefault(number, _source_sop(group, shared))
    distance_mm = _plane_distance_mm(heights, groups[0], shared)
    # segment 0 of a label map is its background
    return [_segment(ds, item, planes, sources, distance_mm) for item in ds.SegmentSequence if int(item.SegmentNumber)]


def _segment(
    ds: Dataset, item: Dataset, planes: dict[int, list[PlaneMask]], sources: dict[int, str], distance_mm: float | None
) -> Segment:
    number = int(item.SegmentNumber)
    words = [str(item.get(name, "")) for name in ("TrackingID", "SegmentDescription", "SegmentLabel")]
    shapes: tuple[Shape, ...] = ()
    problem = ""
    try:
        if _is_anatomy(item, words):
            raise AnnotationError("the segment is an anatomical structure, no nodule")
        shapes = tuple(segment_shapes(planes.get(number, []), distance_mm))
    except AnnotationError as error:
        problem = error.what
    return Segment(
        sop_instance_uid=str(ds.SOPInstanceUID),
        number=number,
        tracking_uid=str(item.get("TrackingUID", "")),
        tracking_identifier=words[0],
        nodule_name=lidc_nodule_name(words),
        series_instance_uid=_source_series(ds),
        source_sop_uid=sources.get(number, ""),
        frame_of_reference_uid=str(ds.get("FrameOfReferenceUID", "")),
        shapes=shapes,
        problem=problem,
    )


def _is_anatomy(item: Dataset, words: list[str]) -> bool:
    category = _first(item, "SegmentedPropertyCategoryCodeSequence")
    kind = _first(item, "SegmentedPropertyTypeCodeSequence")
    code = (str(category.get("CodeValue", "")), str(category.get("CodingSchemeDesignator", "")))
    return code in _ANATOMY and not any(map(_NODULE_WORDS.search, [*words, str(kind.get("CodeMeaning", ""))]))


def _first(ds: Dataset, name: str) -> Dataset:
    """First item of a sequence; an empty dataset where there is none."""
    items = ds.get(name)
    return items[0] if items else Dataset()


def _group(group: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group of a frame, its own or the shared one."""
    return _first(group, name) or _first(shared, name)


Geometry = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]


def _geometry(group: Dataset, shared: Dataset) -> Geometry:
    """(origin, step to the next row, step to the next column, height along the normal) of a frame, LPS mm."""
    origin = np.array(_group(group, shared, "PlanePositionSequence").ImagePositionPatient, dtype=np.float64)
    along = np.array(_group(group, shared, "PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64)
    spacing = np.array(_group(group, shared, "PixelMeasuresSequence").PixelSpacing, dtype=np.float64)
    if origin.shape != (3,) or along.shape != (6,) or spacing.shape != (2,):
        raise AnnotationError("position, orientation or spacing of a frame is incomplete")
    normal = np.cross(along[:3], along[3:])
    if not (np.isfinite([*origin, *along]).all() and (spacing > 0).all() and abs(np.linalg.norm(normal) - 1) < 0.01):
        raise AnnotationError("position, orientation or spacing of a frame cannot be")
    return origin, along[3:] * spacing[0], along[:3] * spacing[1], float(origin @ normal)


def _masks(ds: Dataset, group: Dataset, shared: Dataset, pixels: NDArray[Any]) -> list[tuple[int, NDArray[np.bool_]]]:
    """(segment number, mask) of each segment in a frame."""
    kind = str(ds.get("SegmentationType", "BINARY"))
    if kind == "LABELMAP":
        background = int(ds.get("PixelPaddingValue", 0))
        return [(int(value), pixels == value) for value in np.unique(pixels) if value != background]
    number = int(_group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
    least = int(ds.get("MaximumFractionalValue", 1)) / 2 if kind == "FRACTIONAL" else 0.5
    return [(number, pixels >= least)]


def _cut(mask: NDArray[np.bool_], geometry: Geometry) -> PlaneMask | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    origin, row_step, column_step, height = geometry
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return PlaneMask(cut, int(rows[0]), int(columns[0]), origin, row_step, column_step, height)


def _plane_distance_mm(heights: list[float], group: Dataset, shared: Dataset) -> float | None:
    gaps = np.diff(np.unique(np.round(heights, 3)))
    if len(gaps):
        return float(gaps.min())
    measures = _group(group, shared, "PixelMeasuresSequence")
    stated = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    return float(stated) if stated and float(stated) > 0 else None


def _source_series(ds: Dataset) -> str:
    return str(_first(ds, "ReferencedSeriesSequence").get("SeriesInstanceUID", ""))


def _source_sop(group: Dataset, shared: Dataset) -> str:
    image = _first(_group(group, shared, "DerivationImageSequence"), "SourceImageSequence")
    return str(image.get("ReferencedSOPInstanceUID", ""))

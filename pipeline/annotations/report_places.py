"""A measurement group that refers to no segment at hand, as a mark: its place from the regions it holds."""

from __future__ import annotations

import numpy as np

from data_contracts.errors import AnnotationError
from data_contracts.nodules import NoduleAnnotation
from pipeline.annotations.dicom_sr import MeasurementGroup
from pipeline.annotations.outlines import drawn_points, largest_distance, outlines_center


def report_mark(group: MeasurementGroup, nodule: str, file_number: int) -> NoduleAnnotation:
    """The mark of a group; with its problem where it says no place, or says it in a way that is not known.

    A stated diameter is taken before the extent of the regions.
    """
    values: dict[str, object] = {}
    problems = list(group.problems)
    try:
        if group.regions_mm:
            values = _in_patient(group)
        elif group.regions:
            values = _on_images(group)
        elif group.segment[0]:
            values = {"segment": "{} {}".format(*group.segment)}
        else:
            problems.append("it refers to no segment and holds no region")
    except AnnotationError as error:
        problems.append(error.what)
    return NoduleAnnotation.model_validate(
        {
            "series_instance_uid": group.series_instance_uid,
            "sop_instance_uid": group.source_sop_uid,
            "reader": f"object {group.sop_instance_uid}",
            "diameter_mm": group.diameter_mm,
            "volume_mm3": group.volume_mm3,
            "nodule": nodule,
            "ratings": group.ratings,
            "source": "dicom-sr",
            "place": group.place,
            "problem": "; ".join(problems),
            "file_number": file_number,
            **values,
        }
    )


def _in_patient(group: MeasurementGroup) -> dict[str, object]:
    outlines = [drawn_points(kind, np.array(points)) for _, kind, points in group.regions_mm]
    center = outlines_center(outlines)
    extents = [largest_distance(points) for points in outlines]
    return {
        "frame_of_reference_uid": group.regions_mm[0][0],
        "lps_mm": tuple(center.tolist()),
        "diameter_mm": group.diameter_mm or max((extent for extent in extents if extent), default=None),
    }


def _on_images(group: MeasurementGroup) -> dict[str, object]:
    """Outlines in pixels; DICOM counts from the corner of the first pixel, the table of nodules from its centre."""
    outlines = [(uid, drawn_points(kind, np.array(points)) - 0.5) for uid, kind, points in group.regions]
    if any(not uid for uid, _ in outlines):
        raise AnnotationError("a region does not say on which image it lies")
    return {
        "sop_instance_uid": outlines[0][0],
        "outlines": tuple((uid, tuple(map(tuple, points.tolist()))) for uid, points in outlines),
    }

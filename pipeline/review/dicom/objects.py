"""All the DICOM objects of a reviewed study, by the names of their files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from data_contracts.params import ReviewParams
from data_contracts.review import Finding, StudyReview
from pipeline.review.dicom.encapsulated_pdf import encapsulated_pdf
from pipeline.review.dicom.key_image import PACS_VIEWS, key_image
from pipeline.review.dicom.maker import Maker
from pipeline.review.dicom.masks import Drawing, FindingMask, drawing_of_mark, drawing_of_outline, mask_on_images
from pipeline.review.dicom.report import ReportedFinding, measurement_report
from pipeline.review.dicom.segmentation import segment_numbers, segmentation
from pipeline.review.dicom.source import SourceSeries, SourceStudy
from pipeline.review.key_images import key_image_name
from pipeline.review.measure import Outline


@dataclass(frozen=True)
class StudyObjects:
    """Objects by file name, and what could not be said with them, in words."""

    objects: dict[str, Dataset] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass
class _Placed:
    """Where the findings lie on the images of their series."""

    masks: dict[str, FindingMask] = field(default_factory=dict)
    drawings: dict[str, Drawing] = field(default_factory=dict)


@contextmanager
def _keys_for_names() -> Iterator[None]:
    """A key stands in the place of the patient's name, and has one part: highdicom warns of each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*represent the intended person name")
        yield


@_keys_for_names()
def study_objects(
    review: StudyReview,
    outlines: Mapping[str, Outline],
    pictures: Mapping[str, bytes],
    sides_mm: Mapping[str, float],
    pdf: bytes | None,
    study: SourceStudy,
    software_version: str,
    params: ReviewParams,
) -> StudyObjects:
    """Segmentation, measurement report, key images and encapsulated report of a study.

    outlines: by finding id; a finding without one has no segment. pictures: key images by file name, as
    `render_key_images` draws them. sides_mm: what the close-ups of a finding cover, by finding id. pdf: the report,
    None for none.

    The objects refer to the images of `study` and take its identity over. The same review gives the same objects, byte
    for byte. A series on whose images nothing can be drawn is left out, with a problem that says why.
    """
    maker = Maker.of(review, study, software_version)
    by_key = {series.series_key: series for series in study.series}
    usable = {key: series for key, series in by_key.items() if not series.problem}
    problems = [
        f"series {key} has no segmentation and no measurements in DICOM: {by_key[key].problem}"
        for key in dict.fromkeys(finding.series_key for finding in review.findings)
        if key not in usable
    ]
    findings = [finding for finding in review.findings if finding.series_key in usable]
    placed = _placed(findings, outlines, usable)
    objects: dict[str, Dataset] = {}
    segments: dict[str, tuple[Dataset, int]] = {}
    for number, key in enumerate(dict.fromkeys(finding.series_key for finding in findings), start=1):
        own = [finding for finding in findings if finding.series_key == key and finding.finding_id in placed.masks]
        if own:
            made = segmentation(own, placed.masks, usable[key], maker, number)
            objects["seg.dcm" if "seg.dcm" not in objects else f"seg-{number}.dcm"] = made
            segments |= {name: (made, place) for name, place in segment_numbers(own, placed.masks).items()}
    reported = [
        ReportedFinding(
            finding,
            usable[finding.series_key],
            placed.drawings[finding.finding_id],
            segments.get(finding.finding_id),
        )
        for finding in findings
    ]
    if reported:
        objects["sr.dcm"] = measurement_report(reported, review, maker)
    number = 1
    for item in reported[: params.dicom_key_images]:
        made_of = _key_images(item, pictures, maker, sides_mm[item.finding.finding_id], number)
        objects |= made_of
        number += len(made_of)
    if pdf is not None:
        images = [(series, series.image_at(series.shape_kji[0] // 2)) for series in usable.values()]
        objects["report.dcm"] = encapsulated_pdf(pdf, images, maker)
    return StudyObjects(objects, tuple(problems))


def _placed(findings: list[Finding], outlines: Mapping[str, Outline], series: Mapping[str, SourceSeries]) -> _Placed:
    placed = _Placed()
    for finding in findings:
        own, outline = series[finding.series_key], outlines.get(finding.finding_id)
        mask = mask_on_images(outline, own) if outline is not None else None
        if outline is None or mask is None:
            diameter_mm = finding.measurement.mean_diameter_mm
            placed.drawings[finding.finding_id] = drawing_of_mark(finding.lps_mm, diameter_mm, own)
        else:
            placed.masks[finding.finding_id] = mask
            placed.drawings[finding.finding_id] = drawing_of_outline(outline, mask, own)
    return placed


def _key_images(
    item: ReportedFinding, pictures: Mapping[str, bytes], maker: Maker, side_mm: float, first: int
) -> dict[str, Dataset]:
    made: dict[str, Dataset] = {}
    for view in PACS_VIEWS:
        png = pictures.get(key_image_name(item.finding.finding_id, view))
        if png is None:
            continue
        name = key_image_name(item.finding.finding_id, view).removesuffix(".png") + ".dcm"
        made[name] = key_image(
            png,
            view,
            item.finding,
            item.series,
            item.drawing.k,
            maker,
            number=first + len(made),
            side_mm=side_mm,
        )
    return made

"""The findings of a series as a DICOM Segmentation (PS3.3 A.51): one binary segment a finding.

The frames lie on the images as they were sent, tilted gantries included, so that a viewer lays them over the images.
highdicom writes the header; the frames are laid out here, because it takes no segments that overlap without an array of
images times segments, which 200 findings fill with gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from data_contracts.errors import GeometryError
from data_contracts.review import Finding
from pipeline.review.dicom.codes import (
    ABNORMAL_STRUCTURE,
    LATERALITY,
    LUNG,
    NODULE,
    OUTLINING,
    SEGMENTATION,
    SOURCE_FOR_PROCESSING,
    coded,
)
from pipeline.review.dicom.maker import MANUFACTURER, SERIES_NUMBERS, Maker, derived_uid
from pipeline.review.dicom.masks import FindingMask
from pipeline.review.dicom.source import SourceSeries, SourceStudy, source_image
from pipeline.review.dicom.text import valid_text
from pipeline.review.wording import NOT_DIAGNOSTIC

#: display colours, CIELab as DICOM counts (PS3.3 C.10.7.1.1): amber as the marks of the key images
_COLOUR = (55000, 34500, 49500)


def segmentation(
    findings: Sequence[Finding], masks: Mapping[str, FindingMask], series: SourceSeries, maker: Maker, number: int = 1
) -> Dataset:
    """The Segmentation object of a series.

    findings: those of `masks` become segments 1, 2, ... in this order; at least one. masks: by finding id, on the
    images of `series`. number: instance number.

    Raises
    ------
    GeometryError: nothing can be drawn on the images; the words say why.
    """
    if series.problem:
        raise GeometryError(f"no segmentation of series {series.series_key}: {series.problem}")
    outlined = [finding for finding in findings if finding.finding_id in masks]
    planes = sorted({k for finding in outlined for k in masks[finding.finding_id].slices()})
    content = [
        [finding.finding_id, finding.side, *(masks[finding.finding_id].origin_kji), _digest(masks[finding.finding_id])]
        for finding in outlined
    ]
    made = _header(outlined, series, maker, planes, number, maker.instance_uid("SEG", series.series_uid, content))
    _lay_frames(made, [masks[finding.finding_id] for finding in outlined], series, planes)
    maker.sign(made)
    return made


def segment_numbers(findings: Sequence[Finding], masks: Mapping[str, FindingMask]) -> dict[str, int]:
    """Segment number of each finding in the object that `segmentation` makes of them."""
    outlined = [finding.finding_id for finding in findings if finding.finding_id in masks]
    return {finding_id: number for number, finding_id in enumerate(outlined, start=1)}


def _header(
    findings: list[Finding], series: SourceSeries, maker: Maker, planes: list[int], number: int, uid: str
) -> Dataset:
    """A Segmentation of empty frames, with everything but its frames as it will be."""
    made = hd.seg.Segmentation(
        source_images=[_upright_image(maker.study, series, planes[0])],
        pixel_array=np.zeros((1, *series.shape_kji[1:]), dtype=np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(finding, place, maker) for place, finding in enumerate(findings, start=1)],
        series_instance_uid=maker.series_uid("SEG"),
        series_number=SERIES_NUMBERS["SEG"],
        sop_instance_uid=uid,
        instance_number=number,
        content_description=NOT_DIAGNOSTIC,
        content_label="NODULES",
        content_creator_name="noduleflow^AI",
        omit_empty_frames=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=maker.description("SEG"),
        **maker.equipment(),
    )
    made.BodyPartExamined = "CHEST"
    made.ReferencedSeriesSequence = [_referenced_series(series, planes)]
    return made


def _upright_image(study: SourceStudy, series: SourceSeries, k: int) -> Dataset:
    """The header of slice `k` with its geometry, as of a single-slice image: all that the header of frames asks for."""
    image = source_image(study, series, series.images_of(k)[0])
    image.SOPClassUID = str(CTImageStorage)
    image.FrameOfReferenceUID = series.frame_of_reference_uid or derived_uid("frame", series.series_uid)
    image.PositionReferenceIndicator = ""
    image.ImagePositionPatient = _position_mm(series, k)
    across, down = (series.affine[:3, axis] / np.linalg.norm(series.affine[:3, axis]) for axis in (2, 1))
    image.ImageOrientationPatient = [decimal(value) for value in (*across, *down)]
    image.PixelSpacing = [decimal(float(np.linalg.norm(series.affine[:3, axis]))) for axis in (1, 2)]
    image.SliceThickness = decimal(series.slice_thickness_mm or _plane_distance_mm(series))
    return image


def _referenced_series(series: SourceSeries, planes: list[int]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series.series_uid
    item.ReferencedInstanceSequence = []
    for k in planes:
        for image in _source_items(series, k):
            same = [known for known in item.ReferencedInstanceSequence if known == image]
            item.ReferencedInstanceSequence += [] if same else [image]
    return item


def _description(finding: Finding, number: int, maker: Maker) -> hd.seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name="noduleflow region growing",
        family=coded(*OUTLINING),
        version=maker.software_version,
        source=MANUFACTURER,
        parameters={"start": "mark of the finding", "use": NOT_DIAGNOSTIC},
    )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Nodule {number}",
        segmented_property_category=coded(*ABNORMAL_STRUCTURE),
        segmented_property_type=coded(*NODULE),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=maker.tracking_uid(finding.finding_id),
        tracking_id=tracking_id(finding),
        anatomic_regions=[coded(*LUNG)],
    )
    if finding.side in LATERALITY:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [coded(*LATERALITY[finding.side])]
    description.RecommendedDisplayCIELabValue = list(_COLOUR)
    return description


def tracking_id(finding: Finding) -> str:
    """By which people tell a finding from the others of the report; the same in segment and report."""
    return valid_text(finding.finding_id)


def _lay_frames(made: Dataset, masks: list[FindingMask], series: SourceSeries, planes: list[int]) -> None:
    """Enter the frames: for each segment its slices, and what each frame is and comes from."""
    shape = series.shape_kji[1:]
    position = {k: number for number, k in enumerate(planes, start=1)}
    groups = [
        _frame(series, k, number, position[k]) for number, mask in enumerate(masks, start=1) for k in mask.slices()
    ]
    # frames that do not fill bytes follow one another without a gap (PS3.5 8.1.1)
    bits, loose, pixels = shape[0] * shape[1] % 8, np.zeros(0, dtype=np.bool_), bytearray()
    for mask in masks:
        for k in mask.slices():
            loose = np.concatenate([loose, mask.plane(k, shape).ravel()]) if bits else mask.plane(k, shape).ravel()
            whole = len(loose) - len(loose) % 8
            pixels += np.packbits(loose[:whole], bitorder="little").tobytes()
            loose = loose[whole:]
    pixels += np.packbits(loose, bitorder="little").tobytes()
    made.PerFrameFunctionalGroupsSequence = groups
    made.NumberOfFrames = len(groups)
    made.PixelData = bytes(pixels) + b"\0" * (len(pixels) % 2)
    made.SegmentsOverlap = "UNDEFINED"
    shared = made.SharedFunctionalGroupsSequence[0]
    # readers look for it in the frames; with one segment it is put here
    if "SegmentIdentificationSequence" in shared:
        del shared.SegmentIdentificationSequence
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = decimal(_plane_distance_mm(series))
    made.pop("DimensionOrganizationType", None)
    dimension = derived_uid("dimension", made.SOPInstanceUID)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimension
    for item in made.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimension


def _frame(series: SourceSeries, k: int, segment: int, position: int) -> Dataset:
    """Functional groups of one frame. position: which of the planes it is, from 1."""
    content, place, identity, derivation = Dataset(), Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [segment, position]
    place.ImagePositionPatient = _position_mm(series, k)
    identity.ReferencedSegmentNumber = segment
    derivation.SourceImageSequence = _source_items(series, k)
    for image in derivation.SourceImageSequence:
        image.PurposeOfReferenceCodeSequence = [coded(*SOURCE_FOR_PROCESSING)]
        image.SpatialLocationsPreserved = "YES" if series.sop_uids[k] else "NO"
    derivation.DerivationCodeSequence = [coded(*SEGMENTATION)]
    group = Dataset()
    group.FrameContentSequence, group.PlanePositionSequence = [content], [place]
    group.SegmentIdentificationSequence, group.DerivationImageSequence = [identity], [derivation]
    return group


def _source_items(series: SourceSeries, k: int) -> list[Dataset]:
    """References to the images that slice `k` was made from."""
    return [series.reference_to(own) for own in series.images_of(k)]


def _position_mm(series: SourceSeries, k: int) -> list[str]:
    return [decimal(value) for value in series.affine[:3, 3] + k * series.affine[:3, 0]]


def _plane_distance_mm(series: SourceSeries) -> float:
    """Distance of neighbouring planes along their normal."""
    normal = np.cross(series.affine[:3, 2], series.affine[:3, 1])
    return float(abs(series.affine[:3, 0] @ normal) / np.linalg.norm(normal))


def decimal(value: float) -> str:
    """A decimal string (DS) of at most 16 characters."""
    return str(DSfloat(round(float(value), 8) + 0.0, auto_format=True))


def _digest(mask: FindingMask) -> str:
    return sha256(repr(mask.mask.shape).encode() + np.packbits(mask.mask).tobytes()).hexdigest()

"""What each object of a series is, before anything is asked about its geometry."""

from __future__ import annotations

from collections.abc import Iterable

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.intake.codecs import LOSSY, is_supported
from pipeline.intake.geometry import Refusal
from pipeline.intake.headers import SliceHeader
from pipeline.intake.multiframe import expand_frames

#: CT Image, Enhanced CT Image, Legacy Converted Enhanced CT Image Storage
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: words of ImageType whose pixels are not HU of one place
_NOT_HU = {
    *("PERFUSION", "RCBF", "RCBV", "MTT", "TTP", "SCREEN SAVE", "SCREENSHOT", "DOSE", "MOSAIC", "CT_DOSE"),
    *("MIP", "MAX_IP", "MAXIMUM", "MINIP", "MIN_IP", "MINIMUM", "PROJECTION IMAGE", "VOLUME_RENDERING", "VRT"),
    *("SUBTRACTION", "SUBTRACT", "IODINE", "MATERIAL_SPECIFIC", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"),
}
_LOCALIZER = ("LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM", "SCANOGRAM")


def triage(headers: Iterable[SliceHeader], params: IngestParams) -> tuple[list[SliceHeader], list[Refusal]]:
    """The CT planes among the objects of a series, and the others by reason; multi-frame objects as their frames."""
    planes: list[SliceHeader] = []
    refused: dict[ReasonCode, list[SliceHeader]] = {}
    for header in headers:
        reason = _object_reason(header)
        if reason is None and header.n_frames > 1:
            frames = expand_frames(header)
            if frames:
                kept = [frame for frame in frames if _image_reason(frame) is None]
                planes += kept
                reason = None if kept else _image_reason(frames[0])
            else:
                reason = ReasonCode.UNSUPPORTED_MULTIFRAME
        elif reason is None:
            reason = _image_reason(header)
            if reason is None:
                planes.append(header)
        if reason is not None:
            refused.setdefault(reason, []).append(header)
    # a CT image that ends before its pixels leaves a hole that the positions of the others need not show
    cut = [header for header in refused.get(ReasonCode.NOT_AN_IMAGE, []) if header.sop_class_uid in CT_CLASSES]
    if planes and cut:
        refused[ReasonCode.NOT_AN_IMAGE] = [header for header in refused[ReasonCode.NOT_AN_IMAGE] if header not in cut]
    refusals = [
        Refusal(reason, f"{len(group)} object(s)", tuple(group)) for reason, group in sorted(refused.items()) if group
    ]
    if planes and cut:
        detail = f"{len(cut)} of {len(planes) + len(cut)} slices end before their pixels"
        return [], [*refusals, Refusal(ReasonCode.PIXEL_DECODE_FAILED, detail, tuple(cut))]
    if planes and (refusal := _series_refusal(planes, params)):
        return [], [*refusals, refusal]
    return planes, refusals


def is_lossy(header: SliceHeader) -> bool:
    """Whether the pixels went through a compression with loss."""
    return header.lossy or header.transfer_syntax in LOSSY


def is_derived(header: SliceHeader) -> bool:
    """Whether the image was computed from others (a reformat still holds HU)."""
    return header.image_type[:1] == ("DERIVED",)


def _object_reason(header: SliceHeader) -> ReasonCode | None:
    if header.sop_class_uid.startswith(_SECONDARY_CAPTURE):
        return ReasonCode.DERIVED_IMAGE
    if header.modality not in ("CT", ""):
        return ReasonCode.NOT_CT
    if header.sop_class_uid and header.sop_class_uid not in CT_CLASSES:
        return ReasonCode.NOT_AN_IMAGE if header.pixel_offset is None else ReasonCode.NOT_CT
    if header.pixel_offset is None:
        return ReasonCode.NOT_AN_IMAGE
    return None


def _image_reason(header: SliceHeader) -> ReasonCode | None:
    words = set(header.image_type)
    if any(word.startswith(_LOCALIZER) for word in words):
        return ReasonCode.LOCALIZER
    if header.samples_per_pixel != 1 or words & _NOT_HU:
        return ReasonCode.DERIVED_IMAGE
    return None


def _series_refusal(planes: list[SliceHeader], params: IngestParams) -> Refusal | None:
    """What makes the planes of a series unusable as HU, by their headers."""

    def first(reason: ReasonCode, detail: str, found: list[SliceHeader]) -> Refusal | None:
        if not found:
            return None
        return Refusal(reason, f"{len(found)} of {len(planes)} slices {detail}", tuple(found))

    return (
        first(
            ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX,
            "have a transfer syntax without a decoder",
            [plane for plane in planes if not is_supported(plane.transfer_syntax)],
        )
        or first(
            ReasonCode.BURNED_IN_ANNOTATION,
            "say that text is burned in",
            [plane for plane in planes if plane.burned_in],
        )
        or first(
            ReasonCode.NO_RESCALE,
            "have no rescale slope or intercept",
            [plane for plane in planes if plane.rescale_slope in (None, 0.0) or plane.rescale_intercept is None],
        )
        or first(
            ReasonCode.RESCALE_TYPE_NOT_HU,
            "have a rescale type other than HU",
            # a converted multi-frame object says US where the original said nothing
            [plane for plane in planes if plane.rescale_type not in ("", "HU") and plane.n_frames == 1],
        )
        or (
            first(
                ReasonCode.LOSSY_COMPRESSION,
                "are compressed with loss",
                [plane for plane in planes if is_lossy(plane)],
            )
            if params.lossy == "refuse"
            else None
        )
    )

"""What each object of a series is, before anything is asked about its geometry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from pydicom.uid import UID

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.deidentify.burned_in import BurnedInAction, burned_in_action
from pipeline.headers.multiframe import ENHANCED_CLASSES, expand_frames, frame_numbers, has_frames, torn_concatenations
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal
from pipeline.pixels.codecs import LOSSY, is_supported

#: CT Image Storage and its multi-frame forms
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", *ENHANCED_CLASSES)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: words of ImageType whose pixels are not HU of one place
_NOT_HU = {
    *("PERFUSION", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "MOSAIC"),
    *("SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "ANNOTATED", "SUMMARY", "CSA REPORT"),
    *("DOSE", "CT_DOSE", "DOSE_INFO", "DOSE INFO", "DOSE_PROTOCOL", "PROTOCOL", "PATIENT PROTOCOL"),
    *("PATIENT_PROTOCOL", "CT_SOM5 PROT", "CT_SOM7 PROT"),
    *("MIP", "MAX_IP", "MAXIP", "MAXIMUM", "MINIP", "MIN_IP", "MINIMUM", "THICKMIP", "THIN MIP", "THICK MIP"),
    *("PROJECTION IMAGE", "VOLUME_RENDERING", "VRT", "VR", "SSD", "3D", "FLY_THROUGH"),
    *("CURVED", "CURVED_MPR", "CURVED MPR", "CPR", "PANORAMIC", "STRAIGHTENED", "UNFOLDED"),
    *("SUBTRACTION", "SUBTRACT", "IODINE", "MATERIAL_SPECIFIC", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "RHO_Z"),
}
_LOCALIZER = ("LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM", "SCANOGRAM")
_RATIO = re.compile(r"ISO_[0-9]{5}_[0-9]{1,2}(/ISO_[0-9]{5}_[0-9]{1,2})*")

Bin = tuple[ReasonCode, str]


def triage(headers: Iterable[SliceHeader], params: IngestParams) -> tuple[list[SliceHeader], list[Refusal]]:
    """The CT planes among the objects of a series, and the others by reason; multi-frame objects as their frames."""
    planes: list[SliceHeader] = []
    refused: dict[Bin, list[SliceHeader]] = {}
    cut: list[SliceHeader] = []
    enhanced: list[SliceHeader] = []
    for header in headers:
        found = _object_reason(header)
        if found is None and has_frames(header):
            frames = expand_frames(header)
            if isinstance(frames, str):
                refused.setdefault((ReasonCode.UNSUPPORTED_MULTIFRAME, frames), []).append(header)
                continue
            enhanced.append(header)
        elif found is None:
            frames = [header]
        elif found[0] is ReasonCode.NOT_AN_IMAGE and header.sop_class_uid in CT_CLASSES:
            cut.append(header)
            continue
        else:
            refused.setdefault(found, []).append(header)
            continue
        for frame in frames:
            if (why := _image_reason(frame)) is None:
                planes.append(frame)
            else:
                refused.setdefault(why, []).append(frame)
    torn = torn_concatenations(enhanced)
    for reason, detail, parts in torn:
        lost = {(part.sop_instance_uid, part.path) for part in parts}
        planes = [plane for plane in planes if (plane.sop_instance_uid, plane.path) not in lost]
        refused[reason, detail] = parts
    refusals = [
        Refusal(reason, _counted(reason, detail, group), tuple(group))
        for (reason, detail), group in sorted(refused.items())
    ]
    if cut and not planes:
        refusals.append(Refusal(ReasonCode.NOT_AN_IMAGE, f"{len(cut)} object(s): CT without pixels", tuple(cut)))
    elif cut:
        # a CT image that ends before its pixels leaves a hole that the positions of the others need not show
        detail = f"{len(cut)} of {len(planes) + len(cut)} slices end before their pixels"
        return [], [*refusals, Refusal(ReasonCode.PIXEL_DECODE_FAILED, detail, tuple(cut))]
    if planes and (refusal := _series_refusal(planes, params)):
        return [], [*refusals, refusal]
    return planes, refusals


def is_lossy(header: SliceHeader) -> bool:
    """Whether the pixels went through a compression with loss."""
    return header.lossy or header.transfer_syntax in LOSSY


def lossy_detail(lossy: list[SliceHeader], count: int) -> str:
    """How many slices were compressed with loss, by which standard and how much, as far as their headers say."""
    text = f"{len(lossy)} of {count} slices are compressed with loss"
    methods = {header.lossy_method for header in lossy if _RATIO.fullmatch(header.lossy_method)}
    ratios = [header.lossy_ratio for header in lossy if header.lossy_ratio is not None]
    if methods:
        text += f", by {', '.join(sorted(methods))}"
    return text + (f", at most {max(ratios):.1f} : 1" if ratios else "")


def is_derived(header: SliceHeader) -> bool:
    """Whether the image was computed from others (a reformat still holds HU)."""
    return header.image_type[:1] == ("DERIVED",)


def burned_in_actions(planes: Iterable[SliceHeader], params: IngestParams) -> list[BurnedInAction]:
    """What the policy on text in the pixels makes of each plane."""
    known: dict[tuple[object, ...], BurnedInAction] = {}
    actions = []
    for plane in planes:
        size = (plane.rows, plane.columns, plane.burned_in)
        key = (plane.manufacturer, plane.model_name, plane.sop_class_uid, plane.image_type, *size)
        if key not in known:
            known[key] = burned_in_action(
                plane.manufacturer,
                plane.model_name,
                plane.sop_class_uid,
                plane.image_type,
                plane.rows,
                plane.columns,
                "YES" if plane.burned_in else "",
                params.burned_in,
            )
        actions.append(known[key])
    return actions


def _counted(reason: ReasonCode, detail: str, group: list[SliceHeader]) -> str:
    frames = frame_numbers(group) if reason in (ReasonCode.LOCALIZER, ReasonCode.DERIVED_IMAGE) else ""
    return f"{len(group)} object(s): {detail}" + (f" ({frames})" if frames else "")


def _class_name(header: SliceHeader) -> str:
    """The standard's name of the object's SOP class; no word of the header itself."""
    name = UID(header.sop_class_uid).name
    return "an unknown SOP class" if name == header.sop_class_uid else name


def _object_reason(header: SliceHeader) -> Bin | None:
    if header.sop_class_uid.startswith(_SECONDARY_CAPTURE):
        return ReasonCode.DERIVED_IMAGE, _class_name(header)
    if header.pixel_offset is None and header.sop_class_uid not in ("", *CT_CLASSES):
        return ReasonCode.NOT_AN_IMAGE, _class_name(header)
    if header.modality not in ("CT", ""):
        modality = "of another modality" if header.sop_class_uid in CT_CLASSES else _class_name(header)
        return ReasonCode.NOT_CT, modality
    if header.sop_class_uid and header.sop_class_uid not in CT_CLASSES:
        return ReasonCode.NOT_CT, _class_name(header)
    if header.pixel_offset is None:
        return ReasonCode.NOT_AN_IMAGE, "without pixels"
    return None


def _image_reason(header: SliceHeader) -> Bin | None:
    if any(word.startswith(_LOCALIZER) for word in header.image_type):
        return ReasonCode.LOCALIZER, "said by the image type"
    if header.samples_per_pixel != 1:
        return ReasonCode.DERIVED_IMAGE, "a picture in colours"
    if words := sorted(_NOT_HU.intersection(header.image_type)):
        return ReasonCode.DERIVED_IMAGE, f"image type {words[0]}"
    return None


def _series_refusal(planes: list[SliceHeader], params: IngestParams) -> Refusal | None:
    """What makes the planes of a series unusable as HU, by their headers."""

    def first(reason: ReasonCode, detail: str, wrong: Callable[[SliceHeader], bool]) -> Refusal | None:
        found = [plane for plane in planes if wrong(plane)]
        if not found:
            return None
        frames = frame_numbers(found)
        text = f"{len(found)} of {len(planes)} slices {detail}" + (f" ({frames})" if frames else "")
        return Refusal(reason, text, tuple(found))

    return (
        first(
            ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX,
            "have a transfer syntax without a decoder",
            lambda plane: not is_supported(plane.transfer_syntax),
        )
        or _burned_in(planes, params)
        or first(
            ReasonCode.NO_RESCALE,
            "have no rescale slope or intercept",
            lambda plane: plane.rescale_slope in (None, 0.0) or plane.rescale_intercept is None,
        )
        or first(
            ReasonCode.RESCALE_TYPE_NOT_HU,
            "have a rescale type other than HU",
            # a converted multi-frame object says US where the original said nothing
            lambda plane: (
                plane.rescale_type not in ("", "HU") and not (has_frames(plane) and plane.rescale_type == "US")
            ),
        )
        or _lossy(planes, params)
    )


def _burned_in(planes: list[SliceHeader], params: IngestParams) -> Refusal | None:
    actions = burned_in_actions(planes, params)
    found = [plane for plane, action in zip(planes, actions, strict=True) if action.what == "refuse"]
    if not found:
        return None
    why = next(action.why for action in actions if action.what == "refuse")
    return Refusal(ReasonCode.BURNED_IN_ANNOTATION, f"{len(found)} of {len(planes)} slices: {why}", tuple(found))


def _lossy(planes: list[SliceHeader], params: IngestParams) -> Refusal | None:
    lossy = [plane for plane in planes if is_lossy(plane)]
    if not lossy or params.lossy != "refuse":
        return None
    return Refusal(ReasonCode.LOSSY_COMPRESSION, lossy_detail(lossy, len(planes)), tuple(lossy))

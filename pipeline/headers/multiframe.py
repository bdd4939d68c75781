"""Enhanced multi-frame CT: one SliceHeader for each frame, from its functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from data_contracts.reasons import ReasonCode
from pipeline.headers.values import Values, Vector, number_of, numbers_of, text_of, texts_of

if TYPE_CHECKING:
    from pipeline.headers.slice_header import SliceHeader

#: Enhanced CT Image, Legacy Converted Enhanced CT Image Storage
ENHANCED_CLASSES = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
#: sequences of functional groups that are read
_GROUPS = (
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "CTXRayDetailsSequence",
)
_MOST_NAMED = 8


@dataclass(frozen=True)
class FrameFacts:
    """What one frame of an enhanced multi-frame object says about itself; None where it says nothing.

    acquisition: FrameAcquisitionNumber, TemporalPositionIndex, StackID.
    """

    position: Vector | None
    orientation: Vector | None
    pixel_spacing: Vector | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    image_type: tuple[str, ...]
    slice_thickness_mm: float | None
    acquisition: tuple[str, ...]
    kernel: str = field(repr=False)
    kvp: float | None = None
    acquisition_time: str = field(default="", repr=False)


def read_frames(dataset: Values, n_frames: int) -> tuple[FrameFacts, ...]:
    """Facts of every frame that has a functional group of its own, however many the object says it has; () for none.

    n_frames: of the object; with a single one, the shared group alone is enough.
    """
    try:
        shared, own = dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")
        if not shared and not own:
            return ()
        for_all = _groups_of(shared[0]) if shared else {}
        each = list(own) if own else [Dataset()] if n_frames == 1 else []
        return tuple(_frame_facts({**for_all, **_groups_of(item)}) for item in each)
    except Exception:  # broken sequences: the object then has no geometry, and is refused for that
        return ()


def _groups_of(item: Dataset) -> dict[str, Dataset]:
    """The first item of each functional group that is there and whole."""
    found = {}
    for keyword in _GROUPS:
        try:
            if sequence := item.get(keyword):
                found[keyword] = sequence[0]
        except Exception:  # a broken group is a missing group
            continue
    return found


def _frame_facts(groups: dict[str, Dataset]) -> FrameFacts:
    nothing = Dataset()
    measures = groups.get("PixelMeasuresSequence", nothing)
    transform = groups.get("PixelValueTransformationSequence", nothing)
    content = groups.get("FrameContentSequence", nothing)
    return FrameFacts(
        position=numbers_of(groups.get("PlanePositionSequence", nothing), "ImagePositionPatient", 3),
        orientation=numbers_of(groups.get("PlaneOrientationSequence", nothing), "ImageOrientationPatient", 6),
        pixel_spacing=numbers_of(measures, "PixelSpacing", 2),
        slope=number_of(transform, "RescaleSlope"),
        intercept=number_of(transform, "RescaleIntercept"),
        rescale_type=text_of(transform, "RescaleType").upper(),
        image_type=tuple(
            word.upper() for word in texts_of(groups.get("CTImageFrameTypeSequence", nothing), "FrameType")
        ),
        slice_thickness_mm=number_of(measures, "SliceThickness"),
        acquisition=tuple(
            text_of(content, word) for word in ("FrameAcquisitionNumber", "TemporalPositionIndex", "StackID")
        ),
        kernel=" ".join(texts_of(groups.get("CTReconstructionSequence", nothing), "ConvolutionKernel")),
        kvp=number_of(groups.get("CTXRayDetailsSequence", nothing), "KVP"),
        acquisition_time=text_of(content, "FrameAcquisitionDateTime"),
    )


def has_frames(header: SliceHeader) -> bool:
    """Whether an object keeps its geometry in functional groups, or holds several images."""
    return header.n_frames > 1 or header.sop_class_uid in ENHANCED_CLASSES


def expand_frames(header: SliceHeader) -> list[SliceHeader] | str:
    """The frames of a multi-frame object as slices, or why they do not say where they lie."""
    if not header.frames:
        return f"{header.n_frames} frames without functional groups"
    if len(header.frames) < header.n_frames:
        first = len(header.frames) + 1
        return f"no functional groups for frame {first} to {header.n_frames} of {header.n_frames}"
    if len(header.frames) > header.n_frames:
        return f"functional groups for {len(header.frames)} frames, {header.n_frames} frames"
    return [
        replace(
            header,
            frame=index,
            frames=(),
            position=facts.position,
            orientation=facts.orientation,
            pixel_spacing=facts.pixel_spacing,
            rescale_slope=facts.slope,
            rescale_intercept=facts.intercept,
            rescale_type=facts.rescale_type,
            image_type=facts.image_type or header.image_type,
            slice_thickness_mm=facts.slice_thickness_mm,
            acquisition=facts.acquisition,
            kernel=facts.kernel or header.kernel,
            kvp=header.kvp if facts.kvp is None else facts.kvp,
            acquisition_time=facts.acquisition_time,
            instance_number=None,
        )
        for index, facts in enumerate(header.frames)
    ]


def frame_numbers(frames: Iterable[SliceHeader]) -> str:
    """ "frame 3, 7" for frames of multi-frame objects, "" for single images."""
    numbers = sorted({header.frame + 1 for header in frames if has_frames(header)})
    more = ", ..." if len(numbers) > _MOST_NAMED else ""
    return f"frame {', '.join(map(str, numbers[:_MOST_NAMED]))}{more}" if numbers else ""


def torn_concatenations(objects: Iterable[SliceHeader]) -> list[tuple[ReasonCode, str, list[SliceHeader]]]:
    """Concatenations (PS3.3 C.7.6.16.1.3) of which a part is missing: reason, detail with its number, and the rest."""
    parts: dict[str, dict[int, list[SliceHeader]]] = defaultdict(lambda: defaultdict(list))
    totals: dict[str, int] = defaultdict(int)
    for header in objects:
        uid, number, total = header.concatenation
        if uid and number.isascii() and number.isdigit():
            parts[uid][int(number)].append(header)
            totals[uid] = max(totals[uid], int(number), int(total) if total.isascii() and total.isdigit() else 0)
    torn = []
    for uid, known in parts.items():
        absent = totals[uid] - sum(1 <= number <= totals[uid] for number in known)
        if absent:
            first = next(number for number in range(1, totals[uid] + 1) if number not in known)
            detail = f"{absent} of {totals[uid]} parts of a concatenation are missing, the first is part {first}"
            torn.append((ReasonCode.MISSING_SLICES, detail, [header for group in known.values() for header in group]))
    return torn

"""Enhanced multi-frame CT: one SliceHeader for each frame, from its functional groups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from pipeline.intake.header_values import Vector, number_of, numbers_of, text_of, texts_of

if TYPE_CHECKING:
    from pipeline.intake.headers import SliceHeader


@dataclass(frozen=True)
class FrameFacts:
    """What one frame of an enhanced multi-frame object says about itself; None where it says nothing."""

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


def _frame_facts(shared: Dataset | None, own: Dataset) -> FrameFacts:
    """Facts of one frame: its own functional group, else the shared one."""

    def group(keyword: str) -> Dataset:
        for source in (own, shared):
            try:
                sequence = source.get(keyword) if source is not None else None
                if sequence:
                    return sequence[0]  # type: ignore[no-any-return]
            except Exception:  # a broken group is a missing group
                continue
        return Dataset()

    pixel, transform = group("PixelMeasuresSequence"), group("PixelValueTransformationSequence")
    content = group("FrameContentSequence")
    return FrameFacts(
        position=numbers_of(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers_of(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_spacing=numbers_of(pixel, "PixelSpacing", 2),
        slope=number_of(transform, "RescaleSlope"),
        intercept=number_of(transform, "RescaleIntercept"),
        rescale_type=text_of(transform, "RescaleType").upper(),
        image_type=texts_of(group("CTImageFrameTypeSequence"), "FrameType"),
        slice_thickness_mm=number_of(pixel, "SliceThickness"),
        acquisition=(text_of(content, "FrameAcquisitionNumber"), text_of(content, "TemporalPositionIndex")),
        kernel=text_of(group("CTReconstructionSequence"), "ConvolutionKernel"),
    )


def read_frames(dataset: Dataset, n_frames: int) -> tuple[FrameFacts, ...]:
    """Facts of every frame that has a functional group of its own; () where there is none."""
    try:
        shared, own = dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")
        if not shared and not own:
            return ()
        first = shared[0] if shared else None
        return tuple(_frame_facts(first, own[index]) for index in range(min(n_frames, len(own or ()))))
    except Exception:  # broken sequences: the object then has no geometry, and is refused for that
        return ()


def expand_frames(header: SliceHeader) -> list[SliceHeader]:
    """The frames of a multi-frame object as slices; [] where they do not say where they lie."""
    if len(header.frames) != header.n_frames:
        return []
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
        )
        for index, facts in enumerate(header.frames)
    ]

"""Headers of CT planes in memory, for what is asked of headers alone: their files are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.headers.slice_header import SliceHeader

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

_PLANE = SliceHeader(
    path=Path("/nowhere"),
    relative="nowhere",
    sop_instance_uid="1.2.3",
    series_instance_uid="1.2",
    study_instance_uid="1.1",
    patient_id="P",
    issuer="",
    study_date="",
    frame_of_reference_uid="1.9",
    identifiers=(),
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    modality="CT",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    transfer_syntax="1.2.840.10008.1.2.1",
    rows=512,
    columns=512,
    samples_per_pixel=1,
    bits_allocated=16,
    bits_stored=16,
    high_bit=15,
    signed=True,
    position=(0.0, 0.0, 0.0),
    orientation=AXIAL,
    pixel_spacing=(0.7, 0.7),
    rescale_slope=1.0,
    rescale_intercept=-1024.0,
    rescale_type="HU",
    padding_value=None,
    padding_limit=None,
    lossy=False,
    burned_in=False,
    acquisition=("1", ""),
    manufacturer="FACTORY",
    model_name="One",
    kernel="SOFT",
    slice_thickness_mm=2.0,
    pixel_offset=1000,
)


def plane(position: Iterable[float], number: int, **facts: Any) -> SliceHeader:
    """One plane at a position, LPS mm."""
    x, y, z = (float(value) for value in position)
    name = facts.pop("name", "1.2.3")
    return replace(_PLANE, position=(x, y, z), sop_instance_uid=f"{name}.{number}", instance_number=number, **facts)


def stack(heights_mm: Iterable[float], **facts: Any) -> list[SliceHeader]:
    """Axial planes at some heights; a fact that is a function is called with the number of each slice."""
    made = []
    for number, height in enumerate(heights_mm, start=1):
        own = {name: fact(number) if isinstance(fact, Callable) else fact for name, fact in facts.items()}  # type: ignore[arg-type]
        made.append(plane((-120.5, -98.25, height), number, **own))
    return made


def every(step_mm: float, count: int, start_mm: float = 33.0) -> np.ndarray:
    """Heights of an even stack."""
    return np.round(start_mm + step_mm * np.arange(count), 6)

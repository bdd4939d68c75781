"""What is said of slices: a refusal, or a note on what was accepted."""

from __future__ import annotations

from dataclasses import dataclass

from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader


@dataclass(frozen=True)
class Refusal:
    """Why slices do not make a volume; slices: those concerned, where they can be named."""

    reason: ReasonCode
    detail: str
    slices: tuple[SliceHeader, ...] = ()


@dataclass(frozen=True)
class Note:
    """What a user of an accepted volume must know; slices: those concerned, where not all are."""

    reason: ReasonCode
    detail: str
    slices: tuple[SliceHeader, ...] = ()

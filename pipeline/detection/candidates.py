"""What a finder of nodules gives, and what it looks like to those who call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data_contracts.params import DetectionParams
from data_contracts.volume import CTVolume
from pipeline.imaging.lungs import LungMask


@dataclass(frozen=True)
class Candidate:
    """A place that may be a nodule.

    lps_mm: its centre. diameter_mm: its extent. score: how sure the finder is, 0 to 1; scores of different finders are
    not comparable.
    """

    lps_mm: tuple[float, float, float]
    diameter_mm: float
    score: float


class CandidateFinder(Protocol):
    """Finds candidates in a volume of HU whose lungs are known; the best first."""

    def __call__(self, volume: CTVolume, lungs: LungMask, params: DetectionParams) -> Sequence[Candidate]:
        """Candidates of one volume, by falling score; none where the lungs are not plausible."""

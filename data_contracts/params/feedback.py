"""Parameters of readers' answers."""

from __future__ import annotations

from pydantic import Field

from data_contracts.params.base import Params


class FeedbackParams(Params):
    """When two readings agree, and what is read twice.

    diameter_tolerance_mm, diameter_tolerance_share: diameters that differ by no more than the larger of both are the
        same; 1.5 mm is what Lung-RADS v2022 calls growth.
    position_tolerance_mm: centres this near, or within half the larger diameter, are one place.
    second_read_share: of the accepted findings, return for a blind second reading.
    """

    diameter_tolerance_mm: float = Field(1.5, ge=0)
    diameter_tolerance_share: float = Field(0.15, ge=0, le=1)
    position_tolerance_mm: float = Field(3.0, ge=0)
    second_read_share: float = Field(0.1, ge=0, le=1)

"""Parameters of the guidelines: how far two measurements of one nodule differ."""

from __future__ import annotations

from pydantic import Field

from data_contracts.params.base import Params


class GuidelineParams(Params):
    """Error bars of diameters, volumes and doubling times; their sources stand in the guidelines' variability.toml.

    reader_diameter_cv, reader_volume_cv: spread (standard deviation / mean) between readers of one nodule.
    volume_repeatability: limit that 95 % of the relative differences between two automated volumes of one unchanged
        nodule keep, (V2 - V1) / mean.
    thin_slice_mm: slices up to this have that limit; thicker ones a limit wider in proportion.
    """

    reader_diameter_cv: float = Field(default=0.085, gt=0, lt=1)
    reader_volume_cv: float = Field(default=0.218, gt=0, lt=1)
    volume_repeatability: float = Field(default=0.27, gt=0, lt=2)
    thin_slice_mm: float = Field(default=1.25, gt=0)

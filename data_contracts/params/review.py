"""Parameters of a report."""

from __future__ import annotations

from pydantic import Field

from data_contracts.params.base import Params


class ReviewParams(Params):
    """What a report holds.

    key_image_size_mm: side of a key image.
    min_diameter_mm: smaller nodules are left out.
    maps: on shows where the network looked, if `noduleflow explain` found its maps reliable, else says why it does not.
    lung_segmenter: a folder of `segmenters/` in the workspace with a trained network; empty takes the classical mask.
    """

    key_image_size_mm: float = Field(60.0, gt=0)
    pdf: bool = True
    maps: bool = False
    min_diameter_mm: float = Field(0.0, ge=0)
    lung_segmenter: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")

"""The pictures of a series' findings, and the slices around the most suspicious ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.params import ReviewParams
from data_contracts.volume import CTVolume
from flows.reviewing.at_once import for_each
from pipeline.review.key_images import KEY_IMAGE_PX, SMALL_IMAGE_PX, render_key_images
from pipeline.review.stack import pack_stack


@dataclass(frozen=True)
class Pictured:
    """Key images (PNG by view) of one finding, and the stack the page scrolls through; None where it has none."""

    images: dict[str, bytes]
    stack: bytes | None


def pictures_of(
    volume: CTVolume,
    centers_lps_mm: NDArray[np.float64],
    diameters_mm: NDArray[np.float64],
    scores: NDArray[np.floating],
    params: ReviewParams,
) -> list[Pictured]:
    """Of each finding of a series, (n, 3) and (n,).

    The most suspicious `params.stacks` have a stack, and they and those that go out as DICOM have large key images.
    """
    rank = np.empty(len(scores), dtype=int)
    rank[np.argsort(-np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=-1.0), kind="stable")] = range(len(scores))

    def picture(number: int) -> Pictured:
        center, diameter_mm = centers_lps_mm[number], float(diameters_mm[number])
        is_large = rank[number] < max(params.stacks, params.dicom_key_images)
        images = render_key_images(volume, center, diameter_mm, params, KEY_IMAGE_PX if is_large else SMALL_IMAGE_PX)
        has_stack = rank[number] < params.stacks
        return Pictured(images, pack_stack(volume, center, diameter_mm, params) if has_stack else None)

    return for_each(len(scores), picture)

"""Places of a search that are one nodule: its outlines from each of them cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.review.measure import Outline

#: outlines of one nodule from two places share more than half of each
_MIN_SHARE = 0.5
#: points of an outline that are looked up in another
_POINTS = 500


def repeats(outlines: Sequence[Outline | None], centers_lps_mm: NDArray[np.float64]) -> list[bool]:
    """Which places are of a nodule that an earlier one has already.

    Parameters
    ----------
    outlines: of each place, the likeliest first; None where nothing could be outlined.
    centers_lps_mm: (n, 3). A place without an outline repeats the one in whose outline it lies.
    """
    kept: list[Outline] = []
    found = []
    for outline, center in zip(outlines, centers_lps_mm, strict=True):
        is_again = any(_is_same(outline, earlier, center) for earlier in kept)
        if outline is not None and not is_again:
            kept.append(outline)
        found.append(is_again)
    return found


def _is_same(outline: Outline | None, earlier: Outline, center: NDArray[np.float64]) -> bool:
    if outline is None:
        return _share_inside(center[None], earlier) == 1
    return min(_share_inside(_points(outline), earlier), _share_inside(_points(earlier), outline)) > _MIN_SHARE


def _points(outline: Outline) -> NDArray[np.float64]:
    """Some points of an outline, evenly taken, (n, 3) LPS mm."""
    voxels = np.argwhere(outline.mask)
    voxels = voxels[:: max(len(voxels) // _POINTS, 1)]
    return np.asarray(voxels @ outline.affine[:3, :3].T + outline.affine[:3, 3], dtype=np.float64)


def _share_inside(points_lps_mm: NDArray[np.float64], outline: Outline) -> float:
    if not len(points_lps_mm):
        return 0.0
    kji = np.rint(np.linalg.solve(outline.affine[:3, :3], (points_lps_mm - outline.affine[:3, 3]).T).T).astype(int)
    held = kji[((kji >= 0) & (kji < outline.mask.shape)).all(axis=1)]
    return float(outline.mask[tuple(held.T)].sum()) / len(points_lps_mm)

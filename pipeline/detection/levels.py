"""The lungs of a chest on even grids of 1, 2 and 4 mm, with what is not lung filled in.

Chest wall and mediastinum are far brighter than any nodule's surroundings; a blob search over them finds nothing but
their edges. So outside the lungs every level holds the HU of the lungs around, and a nodule at the pleura stands free.
Small blobs are searched in the mask as it is, which is closed over 9 mm already; larger ones in one closed over 20 mm,
so that a mass at the pleura is inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.volume import CTVolume
from pipeline.imaging.lungs import LungMask
from pipeline.imaging.resample import index_map, sample_grid, sample_volume

#: distance between the voxels of the finest level
FINE_MM = 1.0
_MARGIN_MM = 12.0
_WIDE_CLOSING_MM = 20.0
#: what is brighter or darker tells nothing more about a blob
_DARKEST_HU, _BRIGHTEST_HU = -1000.0, 200.0
_SHARE = 1000


@dataclass(frozen=True, eq=False)
class Level:
    """One grid, patient-oriented.

    hu: float32 (k, j, i), clipped to -1000..200. filled: the same, with the lungs' HU outside of them.
    inside: float32 (k, j, i), share of lung, 0 to 1. affine: (k, j, i, 1) to LPS mm. spacing_mm: of the voxels.
    """

    hu: NDArray[np.float32]
    filled: NDArray[np.float32]
    inside: NDArray[np.float32]
    affine: NDArray[np.float64]
    spacing_mm: float

    def to_lps_mm(self, kji: NDArray[np.floating]) -> NDArray[np.float64]:
        """LPS mm (n, 3) of index points (n, 3)."""
        return np.asarray(kji @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_kji(self, lps_mm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Index points (n, 3) of LPS mm (n, 3)."""
        return np.asarray((lps_mm - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T)


@dataclass(frozen=True, eq=False)
class Pyramid:
    """levels: of 1, 2 and 4 mm. lung_hu: the median of the lungs."""

    levels: tuple[Level, ...]
    lung_hu: float


def build_pyramid(volume: CTVolume, lungs: LungMask) -> Pyramid:
    """The lungs of a volume on the three grids, cut to the lungs and 12 mm around.

    The mask must hold lung. Coarser levels are means of 2 x 2 x 2 voxels of the finer.
    """
    affine, shape = _box(lungs)
    fine = np.empty(shape, dtype=np.float32)
    sample_volume(volume, affine, fine, padding_hu=_DARKEST_HU)
    np.clip(fine, _DARKEST_HU, _BRIGHTEST_HU, out=fine)
    narrow = _share(lungs.sides > 0, lungs, affine, shape)
    wide = _share(_closed(lungs), lungs, affine, shape)
    values = fine[::2, ::3, ::3][narrow[::2, ::3, ::3] > 0.99]
    lung_hu = float(np.median(values)) if len(values) else -850.0
    levels = [Level(fine, _filled(fine, narrow, lung_hu), narrow, affine, FINE_MM)]
    for spacing_mm in (2 * FINE_MM, 4 * FINE_MM):
        before = levels[-1]
        hu, wide = _halved(before.hu), _halved(wide)
        coarse = before.affine.copy()
        coarse[:3, 3] += before.affine[:3, :3].sum(axis=1) / 2
        coarse[:3, :3] *= 2
        levels.append(Level(hu, _filled(hu, wide, lung_hu), wide, coarse, spacing_mm))
    return Pyramid(tuple(levels), lung_hu)


def _box(lungs: LungMask) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """The finest grid: affine and shape, a multiple of four voxels along each axis."""
    step = np.linalg.norm(lungs.affine[:3, :3], axis=0)
    bounds = np.array([np.flatnonzero(lungs.sides.any(axis=axes))[[0, -1]] for axes in ((1, 2), (0, 2), (0, 1))])
    low = bounds[:, 0] - _MARGIN_MM / step
    extent_mm = (bounds[:, 1] - bounds[:, 0]) * step + 2 * _MARGIN_MM
    counts = 4 * np.ceil((extent_mm / FINE_MM + 1) / 4).astype(int)
    affine = lungs.affine.copy()
    affine[:3, 3] = lungs.affine[:3, :3] @ low + lungs.affine[:3, 3]
    affine[:3, :3] = lungs.affine[:3, :3] / step * FINE_MM
    return affine, (int(counts[0]), int(counts[1]), int(counts[2]))


def _share(
    mask: NDArray[np.bool_], lungs: LungMask, affine: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """A mask of the lungs' coarse grid on another, trilinear, 0 to 1."""
    coarse = CTVolume(mask.astype(np.int16) * _SHARE, lungs.affine)
    matrix, offset = index_map(coarse, affine)
    out = np.empty(shape, dtype=np.float32)
    sample_grid(coarse.hu, matrix, offset, shape, 0.0, out=out)
    out *= np.float32(1.0 / _SHARE)
    return out


def _closed(lungs: LungMask) -> NDArray[np.bool_]:
    """Each lung closed with a ball of 20 mm, by distances: bool (k, j, i) on the mask's grid."""
    spacing = np.linalg.norm(lungs.affine[:3, :3], axis=0)
    reach = int(np.ceil(_WIDE_CLOSING_MM / spacing.min())) + 1
    closed = lungs.sides > 0
    for side in np.unique(lungs.sides[closed]):
        own = lungs.sides == side
        (box,) = ndimage.find_objects(own.astype(np.uint8))
        part = np.pad(own[box], reach)
        grown = ndimage.distance_transform_edt(~part, sampling=spacing) <= _WIDE_CLOSING_MM
        shrunk = ndimage.distance_transform_edt(grown, sampling=spacing) > _WIDE_CLOSING_MM
        closed[box] |= shrunk[(slice(reach, -reach),) * 3]
    return np.asarray(closed)


def _filled(hu: NDArray[np.float32], inside: NDArray[np.float32], lung_hu: float) -> NDArray[np.float32]:
    fill = np.float32(lung_hu)
    return np.asarray(fill + inside * (hu - fill), dtype=np.float32)


def _halved(image: NDArray[np.float32]) -> NDArray[np.float32]:
    k, j, i = (size // 2 for size in image.shape)
    pairs = image[0 : 2 * k : 2] + image[1 : 2 * k : 2]
    pairs = pairs[:, 0 : 2 * j : 2] + pairs[:, 1 : 2 * j : 2]
    return np.asarray((pairs[:, :, 0 : 2 * i : 2] + pairs[:, :, 1 : 2 * i : 2]) * np.float32(0.125))

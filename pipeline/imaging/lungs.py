"""The lungs: a classical mask that needs no download and no training, or that of a network, and what speaks against it.

    coarse grid -> below -400 HU -> minus what touches the sides of the volume -> large parts -> left and right
    -> closing and holes -> LungMask

Works on a coarse patient-oriented grid, so that a full chest takes about a second. The trachea stays in where it
is connected at that resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.imaging.resample import index_map, resample

Side = Literal["left", "right"]

_GRID_MM = 3.0
_AIR_BELOW_HU = -400.0
_MIN_PART_ML = 80.0
#: Vessels and nodules up to about twice this are closed over.
_CLOSING_MM = 9.0
#: Two lungs joined by a thin bridge come apart within so many erosions of a voxel.
_MAX_EROSIONS = 8
_RIGHT, _LEFT = 1, 2
#: Inflated lungs of adults hold 2-9 l; less is a part of a chest or a wrong mask, more is not only lung.
PLAUSIBLE_ML = (800.0, 10000.0)
#: One lung below this share of both is a wrong mask, a lost lung or an effusion.
_MIN_SHARE = 0.2
_PLAUSIBLE_MEAN_HU = (-950.0, -500.0)


@dataclass(frozen=True, eq=False)
class LungMask:
    """Lungs on a coarse patient-oriented grid.

    sides: uint8 (k, j, i): 0 outside, 1 right lung, 2 left lung.
    affine: (k, j, i, 1) of `sides` to LPS mm.
    volume_ml: right and left together; left_ml, right_ml: each.
    implausible: why the mask should not be trusted; empty where nothing speaks against it.
    """

    sides: NDArray[np.uint8]
    affine: NDArray[np.float64]
    right_ml: float
    left_ml: float
    implausible: tuple[str, ...]

    @property
    def volume_ml(self) -> float:
        """Both lungs, ml."""
        return self.right_ml + self.left_ml

    @property
    def is_plausible(self) -> bool:
        """Whether nothing speaks against the mask."""
        return not self.implausible

    def on_grid_of(self, volume: CTVolume) -> NDArray[np.bool_]:
        """The mask on a volume's own grid, bool (k, j, i), nearest neighbour."""
        coarse = CTVolume(hu=self.sides.astype(np.int16), affine=self.affine)
        matrix, offset = index_map(coarse, volume.affine)
        return ndimage.affine_transform(
            self.sides > 0, matrix, offset, volume.shape_kji, order=0, mode="constant", cval=0, output=np.bool_
        )

    def distance_mm(self, lps_mm: NDArray[np.floating]) -> float:
        """Distance of a point to the nearest lung voxel centre, mm; infinity where no lung was found."""
        nearest = self._nearest(lps_mm)
        return float("inf") if nearest is None else nearest[0]

    def side_of(self, lps_mm: NDArray[np.floating]) -> Side | None:
        """The patient's side of the lung nearest to a point, None where no lung was found."""
        nearest = self._nearest(lps_mm)
        if nearest is None:
            return None
        return "left" if nearest[1] == _LEFT else "right"

    def _nearest(self, lps_mm: NDArray[np.floating]) -> tuple[float, int] | None:
        voxels, tree = self._places
        if not len(voxels):
            return None
        distance, nearest = tree.query(np.asarray(lps_mm, dtype=np.float64))
        return float(distance), int(self.sides[tuple(voxels[nearest])])

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], cKDTree]:
        """Lung voxels (n, 3) as k, j, i, and a tree of their centres in mm: a study asks once a nodule."""
        voxels = np.argwhere(self.sides)
        return voxels, cKDTree(voxels @ self.affine[:3, :3].T + self.affine[:3, 3])


class LungSegmenter(Protocol):
    """Tells lung from everything else on a patient-oriented grid (k superior, j posterior, i left)."""

    spacing_mm: float

    def __call__(self, hu: NDArray[np.int16]) -> NDArray[np.bool_]:
        """Where lung is, bool (k, j, i), of int16 HU (k, j, i) sampled every `spacing_mm`."""


def segment_lungs(volume: CTVolume, segmenter: LungSegmenter | None = None) -> LungMask:
    """The lungs of a chest CT on any grid; an empty, implausible mask where there are none.

    segmenter: a trained one in place of the classical; sides, volumes and doubts are found in the same way.
    """
    grid_mm = _GRID_MM if segmenter is None else segmenter.spacing_mm
    coarse = resample(volume, grid_mm)
    if segmenter is None:
        smoothed_hu = ndimage.median_filter(coarse.hu, size=3)
        lungs = _without_outside_air(smoothed_hu < _AIR_BELOW_HU)
    else:
        lungs = segmenter(coarse.hu)
    sides = _fill(_left_and_right(_large_parts(lungs, grid_mm)), grid_mm)
    voxel_ml = grid_mm**3 / 1000.0
    right_ml, left_ml = (float((sides == side).sum()) * voxel_ml for side in (_RIGHT, _LEFT))
    return LungMask(sides, coarse.affine, right_ml, left_ml, _doubts(right_ml, left_ml, coarse.hu[sides > 0]))


def _without_outside_air(air: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Air that is not connected to the front, back, left or right face; lungs may leave through the top or bottom."""
    labels, _ = ndimage.label(air)
    faces = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    outside = np.unique(np.concatenate([face.ravel() for face in faces]))
    return np.asarray(air & ~np.isin(labels, outside))


def _large_parts(air: NDArray[np.bool_], grid_mm: float) -> NDArray[np.bool_]:
    labels, n_parts = ndimage.label(air)
    size_ml = np.bincount(labels.ravel(), minlength=n_parts + 1) * grid_mm**3 / 1000.0
    size_ml[0] = 0.0
    return np.asarray((size_ml >= max(_MIN_PART_ML, 0.05 * size_ml.max()))[labels])


def _left_and_right(lungs: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """0, 1 right, 2 left: each voxel goes with the nearest of the two largest parts left after a few erosions.

    In LPS x grows to the patient's left, and so does i on a patient-oriented grid.
    """
    seeds = lungs
    for _ in range(_MAX_EROSIONS):
        labels, n_parts = ndimage.label(seeds)
        sizes = np.bincount(labels.ravel(), minlength=n_parts + 1)[1:]
        if n_parts >= 2 and np.sort(sizes)[-2] >= _MIN_SHARE * sizes.max():
            first, second = np.argsort(sizes)[-2:] + 1
            middles = ndimage.center_of_mass(seeds, labels, [first, second])
            right, left = (first, second) if middles[0][2] < middles[1][2] else (second, first)
            part = np.select([labels == right, labels == left], [_RIGHT, _LEFT], 0).astype(np.uint8)
            nearest = ndimage.distance_transform_edt(part == 0, return_distances=False, return_indices=True)
            return np.asarray(part[tuple(nearest)] * lungs, dtype=np.uint8)
        seeds = ndimage.binary_erosion(seeds)
    i = np.arange(lungs.shape[2])
    return np.asarray(lungs * np.where(i < lungs.shape[2] / 2, _RIGHT, _LEFT), dtype=np.uint8)


def _fill(sides: NDArray[np.uint8], grid_mm: float) -> NDArray[np.uint8]:
    """Each lung closed with a ball and its holes filled slice by slice; the right lung wins where both claim."""
    radius = max(int(_CLOSING_MM / grid_mm), 1)
    ball = np.linalg.norm(np.indices((2 * radius + 1,) * 3) - radius, axis=0) <= radius
    filled = np.zeros_like(sides)
    for side in (_LEFT, _RIGHT):
        closed = ndimage.binary_closing(np.pad(sides == side, radius, mode="edge"), ball)
        inner = closed[(slice(radius, -radius),) * 3] | (sides == side)
        for k, plane in enumerate(inner):
            filled[k][ndimage.binary_fill_holes(plane)] = side
    return filled


def _doubts(right_ml: float, left_ml: float, hu: NDArray[np.int16]) -> tuple[str, ...]:
    total_ml = right_ml + left_ml
    if total_ml == 0:
        return ("no lung was found",)
    doubts = []
    if not PLAUSIBLE_ML[0] <= total_ml <= PLAUSIBLE_ML[1]:
        doubts.append(f"{total_ml:.0f} ml of lung is outside {PLAUSIBLE_ML[0]:.0f}-{PLAUSIBLE_ML[1]:.0f} ml")
    if min(right_ml, left_ml) < _MIN_SHARE * total_ml:
        doubts.append(f"one side has only {min(right_ml, left_ml):.0f} of {total_ml:.0f} ml")
    mean_hu = float(hu[hu > PADDING_HU].mean())
    if not _PLAUSIBLE_MEAN_HU[0] <= mean_hu <= _PLAUSIBLE_MEAN_HU[1]:
        doubts.append(f"a mean of {mean_hu:.0f} HU is not that of aerated lung")
    return tuple(doubts)

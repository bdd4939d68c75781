"""Blobs of every size: maxima of the scale-normalised Laplacian of Gaussian, and the curvature there.

The response of a ball of contrast C and radius r to -s^2 times the Laplacian of a Gaussian of width s is greatest at
its middle for s = r / sqrt(3), where it is 0.925 C; so responses of different widths compare (Lindeberg 1998, Int J
Comput Vis 30:79). A vessel curves strongly in two directions, a wall in one, a ball in three: the eigenvalues of the
Hessian tell (Li, Sone and Doi 2003, Med Phys 30:2040).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.detection.kernels import correlate_i, correlate_j, correlate_k, local_maxima, negative_laplacian
from pipeline.detection.levels import Level, Pyramid

#: widths of the Gaussians in mm, by level of the pyramid: balls of 3.3 to 40 mm
WIDTHS_MM = ((0.95, 1.4, 2.0), (2.8, 4.0), (5.6, 8.0, 11.5))
#: a ball's diameter over the width at which it responds most
DIAMETER_OF_WIDTH = 2.0 * math.sqrt(3.0)
#: ground glass stands about 200 HU above the lung; a ball responds with 0.925 of that
_LEAST_RESPONSE_HU = 100.0
#: how far above its usual spread in the lungs a response has to be
_LEAST_SPREADS = 4.0
_MOST_PER_WIDTH = 6000
#: least curvature along a blob's longest axis, as a share of that along its shortest
_LEAST_ROUNDNESS = 0.08
_TRUNCATE = 3.5


@dataclass(frozen=True, eq=False)
class Blobs:
    """Places and sizes, n of them.

    lps_mm: (n, 3). diameter_mm, response_hu: (n,). curvature: (n, 3), eigenvalues of the negative Hessian times the
    width squared, HU, greatest first. level: (n,), number of the pyramid's level.
    """

    lps_mm: NDArray[np.float64]
    diameter_mm: NDArray[np.float64]
    response_hu: NDArray[np.float64]
    curvature: NDArray[np.float64]
    level: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.diameter_mm)

    def take(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> Blobs:
        """Some of them."""
        return Blobs(
            self.lps_mm[which],
            self.diameter_mm[which],
            self.response_hu[which],
            self.curvature[which],
            self.level[which],
        )


def find_blobs(pyramid: Pyramid, most: int) -> Blobs:
    """The blobs of the lungs, strongest first, at most `most`; of several in one place the strongest."""
    found = [blob for number, level in enumerate(pyramid.levels) for blob in _of_level(level, number)]
    joined = Blobs(*(np.concatenate([getattr(part, name) for part in found]) for name in Blobs.__dataclass_fields__))
    ordered = joined.take(np.argsort(-joined.response_hu, kind="stable"))
    return ordered.take(_apart(ordered)[:most])


def _of_level(level: Level, number: int) -> list[Blobs]:
    smooth, held = level.filled, 0.0
    scratch, response = np.empty_like(smooth), np.empty_like(smooth)
    spare = np.empty_like(smooth)
    parts = []
    for width_mm in WIDTHS_MM[number]:
        width = width_mm / level.spacing_mm
        smooth = _blur(smooth, math.sqrt(width**2 - held**2), scratch, spare)
        held = width
        negative_laplacian(smooth, width**2, response)
        parts.append(_peaks(level, number, smooth, response, width_mm))
    return parts


def _blur(
    image: NDArray[np.float32], sigma: float, scratch: NDArray[np.float32], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`image` smoothed by a Gaussian of `sigma` voxels, into `out`, which may be `image` itself."""
    steps = np.arange(int(_TRUNCATE * sigma + 0.5) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights = (weights / (2 * weights.sum() - weights[0])).astype(np.float32)
    correlate_k(image, weights, scratch)
    correlate_j(scratch, weights, out)
    correlate_i(out, weights, out)
    return out


def _peaks(
    level: Level, number: int, smooth: NDArray[np.float32], response: NDArray[np.float32], width_mm: float
) -> Blobs:
    sample = response[1:-1:2, 1:-1:3, 1:-1:3][level.inside[1:-1:2, 1:-1:3, 1:-1:3] > 0.99]
    spread = 1.4826 * float(np.median(np.abs(sample - np.median(sample)))) if len(sample) else 0.0
    threshold = max(_LEAST_RESPONSE_HU, _LEAST_SPREADS * spread)
    places = np.empty((_MOST_PER_WIDTH, 3), dtype=np.int32)
    count = local_maxima(response, level.inside, threshold, places)
    while count > _MOST_PER_WIDTH:
        # a lung that is full of noise or disease: the strongest are kept, whatever their place
        threshold *= 1.25
        count = local_maxima(response, level.inside, threshold, places)
    kji = places[:count].astype(np.int64)
    curvature = _curvature(smooth, kji) * (width_mm / level.spacing_mm) ** 2
    is_round = curvature[:, 2] > _LEAST_ROUNDNESS * curvature[:, 0]
    kji, curvature = kji[is_round], curvature[is_round]
    return Blobs(
        lps_mm=level.to_lps_mm(_refined(response, kji)),
        diameter_mm=np.full(len(kji), DIAMETER_OF_WIDTH * width_mm),
        response_hu=response[tuple(kji.T)].astype(np.float64),
        curvature=curvature,
        level=np.full(len(kji), number),
    )


def _curvature(smooth: NDArray[np.float32], kji: NDArray[np.int64]) -> NDArray[np.float64]:
    """Eigenvalues of the negative Hessian by differences of neighbours, greatest first, per voxel squared: (n, 3)."""

    def at(*step: int) -> NDArray[np.float64]:
        return np.asarray(smooth[tuple((kji + np.array(step)).T)], dtype=np.float64)

    hessian = np.empty((len(kji), 3, 3))
    middle = at(0, 0, 0)
    unit = np.eye(3, dtype=int)
    for a in range(3):
        hessian[:, a, a] = at(*unit[a]) + at(*-unit[a]) - 2 * middle
        for b in range(a + 1, 3):
            same = at(*(unit[a] + unit[b])) + at(*(-unit[a] - unit[b]))
            other = at(*(unit[a] - unit[b])) + at(*(unit[b] - unit[a]))
            hessian[:, a, b] = hessian[:, b, a] = (same - other) / 4
    return np.asarray(np.linalg.eigvalsh(-hessian)[:, ::-1]) if len(kji) else np.zeros((0, 3))


def _refined(response: NDArray[np.float32], kji: NDArray[np.int64]) -> NDArray[np.float64]:
    """The tops of parabolas through the maxima and their neighbours, at most half a voxel away: (n, 3)."""
    refined = kji.astype(np.float64)
    middle = response[tuple(kji.T)].astype(np.float64)
    for axis in range(3):
        step = np.zeros(3, dtype=int)
        step[axis] = 1
        before = response[tuple((kji - step).T)].astype(np.float64)
        after = response[tuple((kji + step).T)].astype(np.float64)
        bend = 2 * middle - before - after
        shift = np.divide(after - before, 2 * bend, out=np.zeros_like(bend), where=bend > 1e-6)
        refined[:, axis] += np.clip(shift, -0.5, 0.5)
    return refined


def _apart(blobs: Blobs) -> NDArray[np.int64]:
    """Which blobs stand, strongest first: none within half the lesser radius (2 mm at least) of a stronger one."""
    if not len(blobs):
        return np.zeros(0, dtype=np.int64)
    tree = cKDTree(blobs.lps_mm)
    radius = blobs.diameter_mm / 2
    standing = np.ones(len(blobs), dtype=bool)
    for one in range(len(blobs)):
        if not standing[one]:
            continue
        near = np.array(tree.query_ball_point(blobs.lps_mm[one], max(2.0, 0.7 * radius[one])))
        near = near[near > one]
        away = np.linalg.norm(blobs.lps_mm[near] - blobs.lps_mm[one], axis=1)
        similar = np.maximum(radius[near], radius[one]) < 2.1 * np.minimum(radius[near], radius[one])
        reach = np.maximum(2.0, 0.7 * np.minimum(radius[near], radius[one]))
        standing[near[similar & (away < reach)]] = False
    return np.flatnonzero(standing)

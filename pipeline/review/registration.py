"""Where a point of one chest CT lies in another CT of the same patient.

    whole lungs, 8 mm grid      translation by masked correlation over every shift, also for scans of other extent
    blocks of lung, 3 mm grid   affine map by block matching with trimmed least squares: position, size of breath
    around one point, 2 mm      shift by correlation of the surroundings, without the point's own nodule

Correlation with masks: Padfield 2012, IEEE Trans Image Process 21:2706. Block matching with a trimmed fit: Ourselin et
al. 2000, MICCAI. Positions are LPS mm throughout, so that the grids of the two scans need not agree in anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from data_contracts.volume import CTVolume
from pipeline.imaging.lungs import LungMask
from pipeline.imaging.resample import index_map, resample, sample_grid

Floats = NDArray[np.float64]

_COARSE_MM, _BLOCK_MM, _LOCAL_MM = 8.0, 3.0, 2.0
#: What both scans must share of the first one's lungs.
_LEAST_OVERLAP = 0.25
#: Correlation below which two scans show no common anatomy.
_LEAST_CORRELATION = 0.45
_BLOCK_HALF, _BLOCK_STEP, _MOST_BLOCKS, _LEAST_BLOCKS = 4, 7, 350, 12
#: Search around the place expected, in voxels of the block grid, round by round.
_BLOCK_SEARCH = (6, 4, 3)
_KEPT_BLOCKS = 0.65
_LOCAL_HALF, _LOCAL_SEARCH = 11, 6
#: A local shift must be this well supported, and is held back by its length.
_LEAST_LOCAL, _PULL = 0.5, 0.35
_AIR_HU, _BRIGHT_HU, _OUTSIDE_HU = -1000.0, 100.0, -32768.0


@dataclass(frozen=True, eq=False)
class Scan:
    """One chest CT that is compared with another: its volume and its lungs."""

    volume: CTVolume
    lungs: LungMask

    @cached_property
    def blocks(self) -> tuple[NDArray[np.float32], Floats]:
        """Smoothed HU on the block grid (k, j, i), and its affine."""
        grid = resample(self.volume, _BLOCK_MM)
        hu = np.clip(grid.hu.astype(np.float32), _AIR_HU, _BRIGHT_HU)
        return ndimage.gaussian_filter(hu, 0.8), grid.affine


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where points of `now` lie in `before`.

    matrix: (4, 4), (x, y, z, 1) of `now` to LPS mm of `before`. doubt: why it is not to be trusted; "" where it is.
    correlation: median of the blocks that agree with it. error_mm: median distance of those blocks from it.
    """

    now: Scan
    before: Scan
    matrix: Floats
    correlation: float
    error_mm: float
    doubt: str = ""

    def to_before(self, lps_mm: Floats, diameter_mm: float) -> Floats:
        """Place in `before` of a point of `now`, LPS mm, refined by what surrounds a nodule of `diameter_mm` there."""
        return _refined(self.now, self.before, self.matrix, lps_mm, diameter_mm)

    def to_now(self, lps_mm: Floats, diameter_mm: float) -> Floats:
        """Place in `now` of a point of `before`, LPS mm, refined likewise."""
        back = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        return _refined(self.before, self.now, back, lps_mm, diameter_mm)


def align(now: Scan, before: Scan) -> Alignment:
    """Align two CTs of one patient; where it cannot be done the result says so in `doubt`."""
    shift_mm, correlation = _translation_mm(now, before)
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    if correlation < _LEAST_CORRELATION:
        return Alignment(now, before, matrix, correlation, np.inf, "the two scans show no common anatomy")
    error_mm = np.inf
    for search in _BLOCK_SEARCH:
        from_mm, to_mm, each = _matched_blocks(now, before, matrix, search)
        if len(each) < _LEAST_BLOCKS:
            return Alignment(now, before, matrix, correlation, error_mm, "the two scans share too little lung")
        matrix, kept, error_mm = _trimmed_affine(from_mm, to_mm, each)
        correlation = float(np.median(each[kept]))
    doubts = [
        (correlation < _LEAST_CORRELATION, "the two scans hardly resemble each other"),
        (error_mm > 6.0, f"the alignment is off by {error_mm:.0f} mm"),
        (not 0.6 < float(np.linalg.det(matrix[:3, :3])) < 1.7, "the alignment changes the size of the lungs too much"),
    ]
    return Alignment(now, before, matrix, correlation, error_mm, next((why for bad, why in doubts if bad), ""))


def correlation_map(
    template: NDArray[np.floating],
    weight: NDArray[np.bool_],
    region: NDArray[np.floating],
    known: NDArray[np.bool_],
    least_overlap: float,
) -> NDArray[np.float64]:
    """Correlation coefficient of a template (k, j, i) at every place where it lies whole in a region.

    weight: what of the template counts. known: what of the region is known. Places where less than `least_overlap` of
    the counted template is known have -1. Shape: region - template + 1.
    """
    shape = region.shape
    valid = tuple(slice(0, n - m + 1) for n, m in zip(shape, template.shape, strict=True))
    sizes = [fft.next_fast_len(n, real=True) for n in shape]

    def transformed(values: NDArray[np.floating]) -> NDArray[np.complex128]:
        return np.asarray(fft.rfftn(values, sizes))

    def correlated(first: NDArray[np.complex128], second: NDArray[np.complex128]) -> Floats:
        return np.asarray(fft.irfftn(np.conj(first) * second, sizes)[valid])

    middle = float(template[weight].mean()) if weight.any() else 0.0
    fixed = np.where(weight, template - middle, 0.0)
    moving = np.where(known, region - middle, 0.0)
    f, ff, w = transformed(fixed), transformed(fixed**2), transformed(weight.astype(np.float64))
    m, mm, k = transformed(moving), transformed(moving**2), transformed(known.astype(np.float64))
    count = np.maximum(correlated(w, k), 1e-3)
    sum_f, sum_m = correlated(f, k), correlated(w, m)
    covariance = correlated(f, m) - sum_f * sum_m / count
    spread = np.maximum(correlated(ff, k) - sum_f**2 / count, 0) * np.maximum(correlated(w, mm) - sum_m**2 / count, 0)
    # A flat piece correlates with nothing; 1 HU^2 a voxel is below any noise.
    result = np.where(spread > count**2, covariance / np.sqrt(np.maximum(spread, 1e-9)), 0.0)
    return np.where(count >= max(least_overlap * weight.sum(), 1.0), np.clip(result, -1, 1), -1.0)


def _translation_mm(now: Scan, before: Scan) -> tuple[Floats, float]:
    """Shift that takes `now` to `before`, LPS mm, and the correlation there."""
    step = round(_COARSE_MM / _BLOCK_MM)
    (hu, affine), (other, other_affine) = ((ndimage.uniform_filter(h, step)[::step, ::step, ::step], a)
                                           for h, a in (now.blocks, before.blocks))  # fmt: skip
    spacing = step * _BLOCK_MM
    lungs = _on_grid(now.lungs, affine, hu.shape, step)
    weight = ndimage.binary_dilation(lungs, iterations=2) if lungs.any() else np.ones(hu.shape, dtype=np.bool_)
    boxes = ndimage.find_objects(weight.astype(np.int8))[0]
    first = np.array([box.start for box in boxes])
    template, weight = hu[boxes], weight[boxes]
    pad = [max(int(0.75 * n), 3) for n in template.shape]
    widths = [(p, max(p, n - m + p)) for p, n, m in zip(pad, template.shape, other.shape, strict=True)]
    known = np.pad(np.ones(other.shape, dtype=np.bool_), widths)
    found = correlation_map(template, weight, np.pad(other, widths), known, _LEAST_OVERLAP)
    best = np.array(np.unravel_index(int(found.argmax()), found.shape))
    index = best - pad - first
    shift = index[::-1] * spacing + (other_affine[:3, 3] - affine[:3, 3])
    return shift.astype(np.float64), float(found.max())


def _on_grid(lungs: LungMask, affine: Floats, shape: tuple[int, ...], step: int) -> NDArray[np.bool_]:
    coarse = affine.copy()
    coarse[:3, :3] *= step
    matrix, offset = index_map(CTVolume(lungs.sides.astype(np.int16), lungs.affine), coarse)
    return np.asarray(
        ndimage.affine_transform(lungs.sides > 0, matrix, offset, shape, order=0, mode="constant", cval=0)
    )


def _matched_blocks(now: Scan, before: Scan, matrix: Floats, search: int) -> tuple[Floats, Floats, Floats]:
    """Centres (n, 3) of blocks in `now`, where they are found in `before`, LPS mm, and their correlation (n,)."""
    hu, affine = now.blocks
    other, other_affine = before.blocks
    # `before` as `now` would see it by the map so far: what is left to find are small shifts.
    onto = np.linalg.inv(other_affine) @ matrix @ affine
    seen = np.empty(hu.shape, dtype=np.float32)
    sample_grid(other, onto[:3, :3], onto[:3, 3], (hu.shape[0], hu.shape[1], hu.shape[2]), _OUTSIDE_HU, out=seen)
    known = seen > _OUTSIDE_HU / 2
    reach = _BLOCK_HALF + search
    centers = _block_centers(hu, _on_grid(now.lungs, affine, hu.shape, 1), reach)
    rows = []
    for center in centers:
        inner = tuple(slice(c - _BLOCK_HALF, c + _BLOCK_HALF + 1) for c in center)
        outer = tuple(slice(c - reach, c + reach + 1) for c in center)
        template = hu[inner]
        found = correlation_map(template, np.ones(template.shape, np.bool_), seen[outer], known[outer], 0.9)
        best = np.array(np.unravel_index(int(found.argmax()), found.shape))
        if found.max() > 0.3 and np.all((best > 0) & (best < 2 * search)):
            rows.append((*center, *(center + _between(found, best) - search), float(found.max())))
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    from_mm = table[:, :3] @ affine[:3, :3].T + affine[:3, 3]
    found_mm = table[:, 3:6] @ affine[:3, :3].T + affine[:3, 3]
    return from_mm, found_mm @ matrix[:3, :3].T + matrix[:3, 3], table[:, 6]


def _between(found: Floats, best: NDArray[np.int64]) -> Floats:
    """The peak between the voxels: a parabola through it and its neighbours along each axis."""
    place = best.astype(np.float64)
    for axis in range(3):
        step = np.zeros(3, dtype=np.int64)
        step[axis] = 1
        below, here, above = (float(found[tuple(best + way * step)]) for way in (-1, 0, 1))
        bend = below - 2 * here + above
        place[axis] += 0.0 if bend >= -1e-9 else float(np.clip((below - above) / (2 * bend), -0.5, 0.5))
    return place


def _block_centers(hu: NDArray[np.float32], lungs: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """Lattice points (n, 3) in the lungs whose block and search lie in the grid, the richest in contrast first."""
    spread = ndimage.generic_gradient_magnitude(hu, ndimage.sobel)
    spread = ndimage.uniform_filter(spread, 2 * _BLOCK_HALF + 1)
    places = np.argwhere(lungs[::_BLOCK_STEP, ::_BLOCK_STEP, ::_BLOCK_STEP]) * _BLOCK_STEP
    inside = ((places >= reach) & (places < np.array(hu.shape) - reach)).all(axis=1)
    places = places[inside]
    order = np.argsort(-spread[tuple(places.T)], kind="stable")
    return places[order[:_MOST_BLOCKS]]


def _trimmed_affine(from_mm: Floats, to_mm: Floats, correlation: Floats) -> tuple[Floats, NDArray[np.int64], float]:
    """Affine map of the blocks that agree best, which blocks, and their median distance from it in mm."""
    middle = np.median(from_mm, axis=0)
    points = np.column_stack([from_mm - middle, np.ones(len(from_mm))])
    moved = to_mm - from_mm
    solution = np.zeros((4, 3))
    solution[3] = np.median(moved, axis=0)
    n_kept = max(int(_KEPT_BLOCKS * len(points)), _LEAST_BLOCKS // 2)
    kept = np.arange(len(points))
    for _ in range(12):
        away = np.linalg.norm(points @ solution - moved, axis=1)
        kept = np.argsort(away, kind="stable")[:n_kept]
        root = correlation[kept, None] ** 0.5
        # A few blocks hold the map near a shift: 20 mm of lever a block.
        hold = np.diag([20.0, 20.0, 20.0, 0.0]) * np.sqrt(5.0)
        left, right = np.vstack([points[kept] * root, hold]), np.vstack([moved[kept] * root, np.zeros((4, 3))])
        solution = np.linalg.lstsq(left, right, rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3, :3] += solution[:3].T
    matrix[:3, 3] = solution[3] - solution[:3].T @ middle
    away = np.linalg.norm(points @ solution - moved, axis=1)
    return matrix, kept, float(np.median(away[kept]))


def _refined(source: Scan, target: Scan, matrix: Floats, lps_mm: Floats, diameter_mm: float) -> Floats:
    """The place of a point by the map, moved to where its surroundings fit best."""
    point = np.asarray(lps_mm, dtype=np.float64)
    expected = matrix[:3, :3] @ point + matrix[:3, 3]
    half = _LOCAL_HALF + min(int(diameter_mm / 2 / _LOCAL_MM), 12)
    template, seen = _cube(source.volume, point, np.eye(3), half)
    region, known = _cube(target.volume, expected, matrix[:3, :3], half + _LOCAL_SEARCH)
    away_mm = np.linalg.norm(np.indices(template.shape) - half, axis=0) * _LOCAL_MM
    # Neither growth nor disappearance of the nodule itself may pull.
    weight = seen & (away_mm > 0.65 * diameter_mm + 1)
    found = correlation_map(template, weight, region, known, 0.75)
    offsets = np.moveaxis(np.indices(found.shape) - _LOCAL_SEARCH, 0, -1)
    held = found - _PULL * (np.linalg.norm(offsets, axis=-1) / _LOCAL_SEARCH) ** 2
    best = np.unravel_index(int(held.argmax()), held.shape)
    if found[best] < _LEAST_LOCAL:
        return np.asarray(expected)
    return np.asarray(expected + matrix[:3, :3] @ (offsets[best][::-1] * _LOCAL_MM))


def _cube(
    volume: CTVolume, center_mm: Floats, axes: Floats, half: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clipped HU (k, j, i) = steps along `axes` of z, y, x around a point, and what of it is inside the volume."""
    affine = np.eye(4)
    affine[:3, :3] = axes[:, ::-1] * _LOCAL_MM
    affine[:3, 3] = center_mm - affine[:3, :3] @ np.full(3, half)
    matrix, offset = index_map(volume, affine)
    hu = np.empty((2 * half + 1,) * 3, dtype=np.float32)
    sample_grid(volume.hu, matrix, offset, hu.shape, _OUTSIDE_HU, out=hu)
    known = hu > _OUTSIDE_HU / 2
    smoothed = ndimage.gaussian_filter(np.clip(hu, _AIR_HU, _BRIGHT_HU), 0.6)
    return smoothed, known

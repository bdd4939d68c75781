"""A closed surface around a centre as a sum of spherical harmonics, fitted to the voxels near it.

radius(u) = sum of coefficients x harmonics of the direction u. Fitted by robust Gauss-Newton to HU on the scanner's own
grid: a nodule of its own density in lung, blurred by pixel, kernel and slice thickness. What the surface cannot follow
(a vessel that leaves, a wall) has no weight, and smoothness closes the gap there.

Blur moves the edge of a curved body inwards by half the trace of curvature x variance (for a ball sigma^2 / r); the
model says so, which is why small nodules in thick slices keep their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

#: How far a harmonic of degree l goes, as a share of the radius: _SHAPE / (l (l + 1)).
_SHAPE = 0.9
#: Neighbouring voxels share their noise: this many count as one.
_SHARED_NOISE = 9.0
#: In-plane blur of scanner, kernel and the nodule's own edge, standard deviation in mm: least, first guess, most.
_BLUR_MM = (0.3, 0.7, 1.6)
#: Residuals of this share of the contrast have no weight: in the first rounds, later.
_GENEROUS, _STRICT = 0.7, 0.45
#: A slice is taken as this many mm apart.
_PART_MM = 1.25
_ROUNDS = 8
_MOST_POINTS = 4500


def harmonics(directions: Floats, degree: int) -> Floats:
    """Real spherical harmonics up to `degree` at unit vectors (n, 3), (n, (degree + 1)^2), mean square 1 each."""
    x, y, z = directions.T
    legendre: dict[tuple[int, int], Floats] = {(0, 0): np.ones(len(directions))}
    # Associated Legendre functions without their sin^m, which the powers of (x, y) bring.
    for m in range(degree + 1):
        if m:
            legendre[m, m] = (2 * m - 1) * legendre[m - 1, m - 1]
        if m < degree:
            legendre[m + 1, m] = (2 * m + 1) * z * legendre[m, m]
        for n in range(m + 2, degree + 1):
            legendre[n, m] = ((2 * n - 1) * z * legendre[n - 1, m] - (n + m - 1) * legendre[n - 2, m]) / (n - m)
    columns: list[Floats] = []
    around = [(np.ones_like(x), np.zeros_like(x))]
    for _ in range(degree):
        real, imaginary = around[-1]
        around.append((real * x - imaginary * y, real * y + imaginary * x))
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            k = abs(m)
            scale = math.sqrt((2 * n + 1) * (2 if m else 1) * math.factorial(n - k) / math.factorial(n + k))
            columns.append(scale * legendre[n, k] * around[k][0 if m >= 0 else 1])
    return np.stack(columns, axis=1)


def degrees(degree: int) -> NDArray[np.int64]:
    """The degree of each column of `harmonics`."""
    return np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)


def sphere(n_points: int) -> Floats:
    """Unit vectors (n, 3) spread evenly: a golden spiral."""
    number = np.arange(n_points)
    z = 1 - (2 * number + 1) / n_points
    turn = number * math.pi * (3 - math.sqrt(5))
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


@dataclass(frozen=True, eq=False)
class Star:
    """A star-shaped surface and the densities on both sides.

    coefficients: of `harmonics`, mm. edge_hu: (4,) of the harmonics up to degree 1, density just below the surface;
    deeper_hu: what is added from there to the middle. blur_mm: in-plane standard deviation of the edge.
    """

    coefficients: Floats
    edge_hu: Floats
    deeper_hu: float
    lung_hu: float
    blur_mm: float
    most_hu: float
    rimmed: bool = False

    @property
    def degree(self) -> int:
        return math.isqrt(len(self.coefficients)) - 1

    @property
    def radius_mm(self) -> float:
        """Mean radius."""
        return float(self.coefficients[0])

    def of_degree(self, degree: int) -> Star:
        """The same surface with more or less detail."""
        kept = self.coefficients[: (degree + 1) ** 2]
        return replace(self, coefficients=np.pad(kept, (0, (degree + 1) ** 2 - len(kept))))

    def radii_mm(self, directions: Floats) -> Floats:
        """Distance of the surface from the centre along unit vectors (n, 3)."""
        return np.asarray(harmonics(directions, self.degree) @ self.coefficients)


@dataclass(frozen=True, eq=False)
class Voxels:
    """Voxels around a centre: offsets_mm (n, 3) in LPS, hu (n,), and the blur across slices.

    normal: unit vector of the slices; thickness_mm: of a slice.
    """

    offsets_mm: Floats
    hu: Floats
    normal: Floats
    thickness_mm: float

    def of(self, chosen: NDArray[np.generic]) -> Voxels:
        return replace(self, offsets_mm=self.offsets_mm[chosen], hu=self.hu[chosen])


def fit(start: Star, voxels: Voxels, noise_hu: float) -> Star:
    """The surface that explains the voxels within a few mm of it best."""
    reach = 2.5 + voxels.thickness_mm / 2
    samples = _samples(start, voxels, reach)
    if len(samples.hu) < 2 * len(start.coefficients):
        return start
    n_shape = len(start.coefficients)
    state = np.concatenate([start.coefficients, start.edge_hu, [0.0, start.lung_hu, math.log(_BLUR_MM[1])]])
    if start.rimmed:
        state[n_shape + 4] = start.most_hu - start.edge_hu[0]
    guess, held = _expected(state, n_shape, start)
    for number in range(_ROUNDS):
        contrast = max(float(state[n_shape] - state[n_shape + 5]), 60.0)
        near = np.abs(samples.middle @ state[:n_shape] - samples.away_mm) < reach
        model, slopes = _model(state, n_shape, samples, start.rimmed)
        rest = samples.hu - model
        # From generous to strict: at first the surface itself may be off by a part of a millimetre.
        scale = max(contrast * (_GENEROUS if number < 3 else _STRICT), 4 * noise_hu)
        weight = np.clip(1 - (rest / scale) ** 2, 0, None) ** 2 * near
        weight /= _SHARED_NOISE * ((0.08 * contrast) ** 2 + noise_hu**2) * samples.thinned
        used = np.flatnonzero(weight > 0)
        weighted = slopes[used] * weight[used, None]
        normal = weighted.T @ slopes[used] + np.diag(held)
        toward = weighted.T @ rest[used] - held * (state - guess)
        _hold_below(normal, toward, state, n_shape, start.most_hu, 0.03 * contrast)
        step = np.linalg.solve(normal, toward)
        longest = float(np.abs(samples.middle @ step[:n_shape]).max())
        state = state + step * min(1.0, 0.25 * max(state[0], 1.0) / max(longest, 1e-9))
        state[n_shape + 6] = np.clip(state[n_shape + 6], math.log(_BLUR_MM[0]), math.log(_BLUR_MM[2]))
        if number > 4 and longest < 0.03:
            break
    edge, rest_of = state[n_shape : n_shape + 4], state[n_shape + 4 :]
    return Star(
        state[:n_shape], edge, float(rest_of[0]), float(rest_of[1]), math.exp(rest_of[2]), start.most_hu, start.rimmed
    )


def _hold_below(normal: Floats, toward: Floats, state: Floats, n_shape: int, most_hu: float, spread_hu: float) -> None:
    """Slices too thick to show the middle leave density and height open: no tissue is denser than `most_hu`."""
    for parts in ([n_shape], [n_shape, n_shape + 4]):
        excess = float(state[parts].sum()) - most_hu
        if excess > 0:
            normal[np.ix_(parts, parts)] += spread_hu**-2
            toward[parts] -= excess * spread_hu**-2


@dataclass(frozen=True, eq=False)
class _Samples:
    """Voxels near the surface, each as `parts` points across its slice.

    away_mm, middle: distance and harmonics of the voxels' centres; r, basis, across: of their points (n x parts);
    across: squared cosine between point and slice normal. thinned: share of the voxels that take part.
    """

    hu: Floats
    away_mm: Floats
    middle: Floats
    parts: int
    r: Floats
    basis: Floats
    across: Floats
    part_mm: float
    thinned: float


def _samples(start: Star, voxels: Voxels, reach: float) -> _Samples:
    parts = int(np.clip(round(voxels.thickness_mm / _PART_MM), 1, 6))
    away = np.linalg.norm(voxels.offsets_mm, axis=1)
    limits = start.radii_mm(sphere(200))
    kept = np.flatnonzero((away < limits.max() + reach + 0.5) & (away > max(limits.min() - reach - 0.5, 0.05)))
    thinned = min(1.0, _MOST_POINTS / max(len(kept) * parts, 1))
    if thinned < 1.0:
        kept = kept[np.random.default_rng(0).permutation(len(kept))[: _MOST_POINTS // parts]]
    voxels, away = voxels.of(kept), away[kept]
    part_mm = voxels.thickness_mm / parts
    steps = ((np.arange(parts) + 0.5) / parts - 0.5) * voxels.thickness_mm
    points = (voxels.offsets_mm[:, None, :] + steps[None, :, None] * voxels.normal).reshape(-1, 3)
    r = np.maximum(np.linalg.norm(points, axis=1), 1e-3)
    directions = points / r[:, None]
    basis = harmonics(directions, start.degree)
    middle = basis if parts == 1 else harmonics(voxels.offsets_mm / away[:, None], start.degree)
    across = (directions @ voxels.normal) ** 2
    return _Samples(voxels.hu, away, middle, parts, r, basis, across, part_mm, thinned)


def _expected(state: Floats, n_shape: int, start: Star) -> tuple[Floats, Floats]:
    """What every parameter is before a voxel is seen, and the inverse of its variance."""
    guess, held = state.copy(), np.zeros(len(state))
    order = degrees(start.degree)[1:]
    guess[1:n_shape] = 0.0
    held[1:n_shape] = (order * (order + 1) / (_SHAPE * start.radius_mm)) ** 2
    held[n_shape + 1 : n_shape + 4] = 1 / 80.0**2
    held[n_shape + 4 :] = 1 / np.array([150.0, 30.0, 0.35]) ** 2
    if start.rimmed:
        held[n_shape + 4] = 1 / 500.0**2
        held[n_shape + 6] = 1 / 0.15**2
    return guess, held


def _model(state: Floats, n_shape: int, samples: _Samples, rimmed: bool) -> tuple[Floats, Floats]:
    """HU expected of voxels (n,) and its derivative by every parameter (n, p)."""
    radius = np.maximum(samples.basis @ state[:n_shape], 0.5)
    plane = math.exp(2 * state[n_shape + 6])
    slab = plane + samples.part_mm**2 / 12
    sigma = np.sqrt(plane * (1 - samples.across) + slab * samples.across)
    bend = (plane * (1 + samples.across) + slab * (1 - samples.across)) / (2 * np.maximum(radius, 1.5))
    depth = radius - samples.r
    part = np.clip((depth - bend) / sigma, -8, 8)
    share = ndtr(part)
    bell = np.exp(-(part**2) / 2) / (sigma * math.sqrt(2 * math.pi))
    edge = samples.basis[:, :4] @ state[n_shape : n_shape + 4]
    inner = np.clip(depth / (0.5 * radius) - (0.3 if rimmed else 0.0), 0, 0.7 if rimmed else 1.0)
    level = edge + state[n_shape + 4] * inner - state[n_shape + 5]

    def of_voxels(values: Floats) -> Floats:
        return np.asarray(values.reshape(-1, samples.parts, *values.shape[1:]).mean(axis=1))

    slopes = np.empty((len(samples.hu), len(state)))
    slopes[:, :n_shape] = of_voxels(samples.basis * (bell * level)[:, None])
    slopes[:, n_shape : n_shape + 4] = of_voxels(samples.basis[:, :4] * share[:, None])
    slopes[:, n_shape + 4] = of_voxels(share * inner)
    slopes[:, n_shape + 5] = of_voxels(1 - share)
    slopes[:, n_shape + 6] = of_voxels(-bell * level * (part * plane / sigma + 2 * plane / np.maximum(radius, 1.5)))
    return state[n_shape + 5] + of_voxels(share * level), slopes

"""From a mark to the surface of its nodule: centre, a first surface along rays, the fitted one.

The mark may be off by a few mm and by a fifth in size; the surface may be on a vessel or on the pleura.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.volume import CTVolume
from pipeline.review.measurement.neighbours import RISE, free_of_neighbours, on_vessel, rim_hu
from pipeline.review.measurement.star import Floats, Star, Voxels, degrees, fit, harmonics, sphere
from pipeline.review.measurement.surroundings import (
    Cube,
    OutlineError,
    Wall,
    cube_around,
    lung_hu,
    voxels_around,
    wall_near,
)

#: Least contrast between nodule and lung that is worth a surface.
MIN_CONTRAST_HU = 80.0
#: A surface this many times wider than the mark has leaked; this many times narrower has missed the nodule.
MAX_GROWTH, MIN_GROWTH = 1.6, 0.4
#: Directions in which an edge must be seen.
_LEAST_SEEN = 0.3
#: Density of a solid nodule without calcium, at most.
TISSUE_HU = 60.0
#: Wider edges than this are not the blur of a scanner.
_MOST_BLUR_MM = 1.28
_LARGE_MM = 8.0
#: Least dense solid tissue at the edge of a nodule.
_GLASS_HU = -300.0
#: More voxels near the surface than this make no difference.
_MOST_VOXELS = 8000
_RAYS = 250
#: Share of the surface that may lie beyond the scan.
_MOST_CUT = 0.03
_RAY_STEP_MM = 0.35


@dataclass(frozen=True, eq=False)
class Nodule:
    """A fitted nodule.

    center_mm: LPS, of the surface's centre. noise_hu: of the lung around it. thickness_mm: of the slices.
    """

    center_mm: Floats
    star: Star
    wall: Wall | None
    noise_hu: float
    thickness_mm: float


def find_nodule(volume: CTVolume, center_lps_mm: Floats, diameter_mm: float) -> Nodule:
    """The nodule at a mark; raises OutlineError where none can be trusted."""
    nodule = _found(volume, center_lps_mm, diameter_mm)
    off_mm = float(np.linalg.norm(nodule.center_mm - center_lps_mm))
    if off_mm < 0.25 * nodule.star.radius_mm and nodule.star.radius_mm > 0.75 * diameter_mm / 2:
        return nodule
    # A mark this far off also misplaced what counts as lung and wall: once more from what was found.
    try:
        return _found(volume, nodule.center_mm, 2.15 * nodule.star.radius_mm)
    except OutlineError:
        return nodule


def _found(volume: CTVolume, center_lps_mm: Floats, diameter_mm: float) -> Nodule:
    center = np.asarray(center_lps_mm, dtype=np.float64)
    radius = diameter_mm / 2
    if not volume.contains(center):
        raise OutlineError("the mark lies outside the scan")
    cube = _cube(volume, center, 2.2 * radius + 8, float(np.clip(radius / 5, 1.0, 2.5)))
    voxels = voxels_around(volume, center, 2.2 * radius + 8)
    lung, noise = lung_hu(voxels, radius)
    wall = wall_near(cube, radius, lung)
    fine = _cube(volume, center, 2.0 * radius + 3, float(np.clip(radius / 8, 0.5, 2.0)))
    middle, core = _centered(fine, wall, radius, lung)
    if core - lung < MIN_CONTRAST_HU:
        raise OutlineError("the mark is hardly brighter than the lung around it")
    around = Voxels(voxels.offsets_mm - middle, voxels.hu, voxels.normal, voxels.thickness_mm)
    if wall is not None:
        # a blurred wall reaches into the lung by the blur of its edge
        around = around.of((wall.depth_mm(voxels.offsets_mm) > 1.0) & ~wall.holds(voxels.offsets_mm))
    star = _surface(fine, wall, middle, radius, core, lung, noise, around)
    rim = rim_hu(star, around, noise)
    if rim is None and core > _GLASS_HU and (_too_blurred(star) or star.lung_hu > lung + 80):
        # A blur that no scanner has, or a lung that is too dense: a rim was taken for either.
        rim = lung + 240.0
    if rim is not None:
        # What was found is the solid part: the ground glass around it belongs to the nodule.
        wider = _rim_surface(fine, wall, middle, max(radius, 1.2 * star.radius_mm), rim, lung, noise, around, core)
        if wider is not None and 1.05 * star.radius_mm < wider.radius_mm < MAX_GROWTH * radius:
            star = wider
    _refuse_cut(volume, center + middle, star, radius)
    shifted = None if wall is None else _moved(wall, middle)
    return Nodule(center + middle, star, shifted, noise, around.thickness_mm)


def _too_blurred(star: Star) -> bool:
    """A rim about a large core is wide enough to be seen as such; there a soft edge is one."""
    return star.blur_mm > _MOST_BLUR_MM and star.radius_mm < _LARGE_MM


def _refuse_cut(volume: CTVolume, center: Floats, star: Star, radius: float) -> None:
    """Raise OutlineError where the edge of the scan goes through the nodule."""
    directions = sphere(_RAYS)
    reach = np.maximum(star.radii_mm(directions), 0.7 * radius)
    kji = volume.to_kji(center + directions * reach[:, None])
    beyond = ((kji < -0.5) | (kji > np.array(volume.shape_kji) - 0.5)).any(axis=1)
    if beyond.mean() > _MOST_CUT:
        raise OutlineError("the edge of the scan cuts the nodule")


def _surface(
    fine: Cube,
    wall: Wall | None,
    middle: Floats,
    radius: float,
    core: float,
    lung: float,
    noise: float,
    around: Voxels,
    most: float | None = None,
) -> Star:
    """The fitted surface whose inside is about as dense as `core`; `most` where its middle may be denser."""
    start, edges = _start(fine, wall, middle, radius, core, lung, around.thickness_mm)
    if edges.mean() < _LEAST_SEEN:
        raise OutlineError("the outline leaks into neighbouring tissue")
    if most is not None:
        start = replace(start, most_hu=max(most, TISSUE_HU), edge_hu=np.array([core, 0, 0, 0]), rimmed=True)
    start = start.of_degree(_degree(start.radius_mm, around.thickness_mm))
    r = np.linalg.norm(around.offsets_mm, axis=1)
    radii = start.radii_mm(sphere(_RAYS))
    reach = 3 + around.thickness_mm / 2
    near = np.flatnonzero((r > radii.min() - reach) & (r < radii.max() + reach))
    if len(near) > _MOST_VOXELS:
        near = np.random.default_rng(0).permutation(near)[:_MOST_VOXELS]
    around = around.of(near)
    free = free_of_neighbours(around.offsets_mm, start, edges)
    free &= ~on_vessel(fine, middle, start, core, lung, around.offsets_mm)
    return fit(start, around.of(free), noise)


def _rim_surface(
    fine: Cube,
    wall: Wall | None,
    middle: Floats,
    radius: float,
    rim: float,
    lung: float,
    noise: float,
    around: Voxels,
    core: float,
) -> Star | None:
    """The surface of a ground glass rim around a denser core; None where the fit finds no such rim."""
    try:
        star = _surface(fine, wall, middle, radius, rim, lung, noise, around, most=core)
    except OutlineError:
        return None
    edge = float(star.edge_hu[0])
    return star if lung + 100 < edge < _GLASS_HU and star.lung_hu < lung + 80 else None


def _cube(volume: CTVolume, center: Floats, half_mm: float, spacing_mm: float) -> Cube:
    return cube_around(volume, center, half=int(np.ceil(half_mm / spacing_mm)), spacing_mm=spacing_mm)


def _moved(wall: Wall, by_mm: Floats) -> Wall:
    """The same wall seen from another centre."""
    h, u, v = wall.axes @ by_mm
    a, b, c, d, e, f = wall.coefficients
    moved = (
        a + b * u + c * v + d * u * u + e * u * v + f * v * v - h,
        b + 2 * d * u + e * v,
        c + e * u + 2 * f * v,
        d,
        e,
        f,
    )
    return replace(wall, coefficients=np.array(moved))


def _centered(cube: Cube, wall: Wall | None, radius: float, lung: float) -> tuple[Floats, float]:
    """Middle of the bright body at the mark, offset (x, y, z), and the density of its core."""
    axis = cube.axis_mm
    z, y, x = (part.ravel() for part in np.meshgrid(axis, axis, axis, indexing="ij"))
    hu = cube.hu.ravel()
    free = ~np.isnan(hu) & (x * x + y * y + z * z < (2 * radius + 2) ** 2)
    places, hu = np.stack([x, y, z], axis=1)[free], hu[free].astype(np.float64)
    if wall is not None:
        outside = (wall.depth_mm(places) > 0.5) & ~wall.holds(places)
        places, hu = places[outside], hu[outside]
    middle = np.zeros(3)
    near = (places**2).sum(axis=1) < max(0.6 * radius, 1.5) ** 2
    if near.sum() < 4:
        raise OutlineError("nothing nodule-like at the mark")
    core = float(np.percentile(hu[near], 75))
    if core - lung < MIN_CONTRAST_HU:
        return middle, core
    share = np.clip((hu - lung) / (core - lung) - 0.25, 0, 0.75)
    for _ in range(8):
        within = ((places - middle) ** 2).sum(axis=1) < (1.05 * radius) ** 2
        weight = share * within
        if weight.sum() <= 0:
            break
        moved = weight @ places / weight.sum()
        middle = moved * min(1.0, min(0.7 * radius + 1, 3 + 0.15 * radius) / max(float(np.linalg.norm(moved)), 1e-9))
    near = ((places - middle) ** 2).sum(axis=1) < max(0.5 * radius, 1.0) ** 2
    if near.sum() < 3:
        raise OutlineError("nothing nodule-like at the mark")
    return middle, float(np.percentile(hu[near], 60))


def _start(
    cube: Cube, wall: Wall | None, middle: Floats, radius: float, core: float, lung: float, thickness_mm: float
) -> tuple[Star, NDArray[np.bool_]]:
    """A first surface where the density falls along the rays of `sphere`, and which rays see it fall."""
    directions = sphere(_RAYS)
    r = np.arange(0.5, 1.7 * radius + 2, _RAY_STEP_MM)
    places = middle + directions[:, None, :] * r[None, :, None]
    index = cube.index_of(places.reshape(-1, 3)).T
    hu = ndimage.map_coordinates(cube.hu, index, order=1, mode="constant", cval=np.nan).reshape(_RAYS, len(r))
    unknown = np.isnan(hu)
    if wall is not None:
        flat = places.reshape(-1, 3)
        unknown |= ((wall.depth_mm(flat) < 0.8) | wall.holds(flat)).reshape(_RAYS, len(r))
    rise = np.clip((np.nan_to_num(hu, nan=lung) - lung) / (core - lung) - RISE, -0.4, 0.4)
    rise[unknown] = 0.0
    # the best end of a ray: all that is bright before it, all that is dark behind it
    gain = np.cumsum(rise, axis=1) * _RAY_STEP_MM
    # no edge is seen where what follows is not dark
    after = np.stack([np.where(np.arange(len(r)) >= n, rise, 0)[:, n : n + 6].mean(axis=1) for n in range(len(r))], 1)
    basis = harmonics(directions, 4)
    order = degrees(4)
    hold = np.diag(np.concatenate([[0.0], (order[1:] * (order[1:] + 1) / (0.9 * radius)) ** 2]))
    coefficients = np.zeros(basis.shape[1])
    coefficients[0] = radius
    weight = np.zeros(_RAYS)
    for pull in (0.04, 0.06, 0.09, 0.12, 0.12):
        smooth = basis @ coefficients
        best = (gain - pull * (r[None, :] - smooth[:, None]) ** 2 / max(radius / 4, 1.0)).argmax(axis=1)
        dark = -after[np.arange(_RAYS), best]
        weight = np.clip(dark / 0.2, 0, 1) * (~unknown[np.arange(_RAYS), best])
        found = r[best] + _RAY_STEP_MM / 2
        normal = (basis * weight[:, None]).T @ basis + hold * 0.5
        normal[0, 0] += 1.0
        aim = (basis * weight[:, None]).T @ found
        aim[0] += coefficients[0]
        coefficients = np.linalg.solve(normal, aim)
    edge = np.array([max(0.8 * core + 0.2 * lung, lung + 60), 0, 0, 0])
    # the middle of a small faint nodule is thinned by thick slices; tissue has a density of its own
    thinned = 0.12 * min(1.0, thickness_mm / (2 * radius))
    most = core + thinned * (core - lung) if core < -300 else max(core, TISSUE_HU)
    return Star(coefficients, edge, 0.0, lung, 0.7, most), weight > 0.3


def _degree(radius: float, thickness_mm: float) -> int:
    """Detail that size and slices can show."""
    by_size = 4 if radius < 4.5 else 6 if radius < 9 else 8
    return min(by_size, max(3, 2 + round(2 * radius / thickness_mm)))

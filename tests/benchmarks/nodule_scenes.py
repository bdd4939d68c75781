"""Phantom nodules of known size in a phantom chest, scanned with any slice thickness, kernel and dose.

A patient is drawn once on fine planes; each nodule's surroundings are cut out before any scanner and scanned as often
as wanted. Truth comes from the signed distance of the shape on a grid of 0.3 mm: what of the nodule lies in the lung.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.params import PhantomParams
from data_contracts.volume import CTVolume
from pipeline.cohort.phantom_anatomy import AxialGrid
from pipeline.cohort.phantom_patient import PhantomPatient, PlacedNodule
from pipeline.cohort.phantom_plan import PatientPlan, plan_cohort
from pipeline.cohort.phantom_scanner import scanner_of
from pipeline.review.measurement.axes import axial_axes, mask_axes

PLANE_MM = 0.5
TRUTH_MM = 0.3
#: mean HU of a texture rating decides the type a reader would call it
TEXTURE_OF = {"solid": 5.0, "part_solid": 3.0, "ground_glass": 1.0}
THICKNESSES_MM = (1.0, 2.5, 5.0)
#: name: (sharp kernel, noise in HU)
SCANNERS = {"soft, usual dose": (False, 18.0), "sharp, usual dose": (True, 30.0), "soft, low dose": (False, 40.0)}


@dataclass(frozen=True, eq=False)
class Scene:
    """A nodule and what is around it before any scanner.

    object_hu: (plane, row, column); origin_mm: (z, y, x) of its first voxel, the nodule's centre at 0.
    place: isolated, vessel, thick vessel or pleura. Truth in mm and mm3; solid_* of the core of a part-solid nodule.
    """

    name: str
    place: str
    nodule_type: str
    object_hu: NDArray[np.float32]
    origin_mm: tuple[float, float, float]
    pixel_mm: float
    mean_diameter_mm: float
    volume_mm3: float
    solid_diameter_mm: float | None
    solid_volume_mm3: float | None

    def scan(
        self, thickness_mm: float, sharp: bool, noise_hu: float, rng: np.random.Generator
    ) -> tuple[CTVolume, NDArray[np.float64]]:
        """The volume a scanner gives, slices at any phase, and the nodule's centre in LPS mm."""
        each = round(thickness_mm / PLANE_MM)
        first = int(rng.integers(each))
        slices = (len(self.object_hu) - first) // each
        size = self.object_hu.shape[1]
        grid = AxialGrid(size, size * self.pixel_mm)
        scanner = dataclasses.replace(
            scanner_of(PhantomParams(), "b" if sharp else "a"), spacing_mm=thickness_mm, noise_hu=noise_hu
        )
        planes = [self.object_hu[first + n * each : first + (n + 1) * each] for n in range(slices)]
        hu = np.stack([scanner.slice_hu(part, grid, rng) for part in planes])
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = thickness_mm, self.pixel_mm, self.pixel_mm, 1.0
        z, y, x = self.origin_mm
        shift = rng.uniform(-50, 50, 3)
        affine[:3, 3] = np.array([x, y, z + first * PLANE_MM + (thickness_mm - PLANE_MM) / 2]) + shift
        return CTVolume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine), shift


def scenes_of(seed: int, n_nodules: int = 10, growth: tuple[float, ...] = (1.0,)) -> Iterator[tuple[Scene, ...]]:
    """Nodules of one phantom patient; each as often as `growth` says, grown in volume by those factors.

    Diameters are drawn evenly in log from 6 to 30 mm, types in turn; shapes are of LIDC nodules that are not reserved.
    """
    params = PhantomParams(
        seed=seed, n_patients=2, nodules_per_patient=n_nodules, matrix=480, length_mm=160.0, min_diameter_mm=9.0
    )
    rng = np.random.default_rng([seed, 77])
    plan = _with_types(plan_cohort(params)[0], rng)
    patient = PhantomPatient(params, plan)
    heights = ((np.arange(int(params.length_mm / PLANE_MM)) + 0.5) * PLANE_MM).astype(np.float32)
    sizes_mm = np.exp(rng.uniform(np.log(6.0), np.log(30.0 / max(growth) ** (1 / 3)), n_nodules))
    shapes = [
        _scaled(placed, min(size / _mean_diameter_mm(placed), 1.0))
        for placed, size in zip(patient.nodules, sizes_mm, strict=True)
    ]
    drawn = []
    for factor in growth:
        patient.nodules = [_scaled(placed, factor ** (1 / 3)) for placed in shapes]
        drawn.append((patient.object_hu(heights), patient.nodules))
    for number in range(n_nodules):
        yield tuple(_scene(f"{seed}-{number}", patient, hu, placed[number], heights) for hu, placed in drawn)


def _with_types(plan: PatientPlan, rng: np.random.Generator) -> PatientPlan:
    """The plan with textures in turn, no calcification, and edges as readers rate them."""
    kinds = rng.permutation(np.resize(list(TEXTURE_OF), len(plan.nodules)))
    nodules = []
    for nodule, kind in zip(plan.nodules, kinds, strict=True):
        given = {"texture": TEXTURE_OF[str(kind)], "calcification": 6.0}
        marks = tuple(dataclasses.replace(mark, ratings={**mark.ratings, **given}) for mark in nodule.marks)
        nodules.append(dataclasses.replace(nodule, marks=marks))
    return dataclasses.replace(plan, nodules=tuple(nodules))


def _scaled(placed: PlacedNodule, factor: float) -> PlacedNodule:
    shape = placed.shape
    k, j, i = (step * factor for step in shape.spacing_kji_mm)
    scaled = dataclasses.replace(
        shape,
        distance_mm=(shape.distance_mm * factor).astype(np.float32),
        spacing_kji_mm=(k, j, i),
        radius_mm=shape.radius_mm * factor,
    )
    return dataclasses.replace(placed, shape=scaled)


def _fine(placed: PlacedNodule) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Offsets along an axis, mm, and the signed distance on that cube."""
    reach = placed.shape.radius_mm + 1
    axis = np.arange(-reach, reach, TRUTH_MM)
    return axis, placed.shape.at(axis, axis, axis)


def _mean_diameter_mm(placed: PlacedNodule) -> float:
    axes = axial_axes(_fine(placed)[1], TRUTH_MM)
    return (axes.long_mm + axes.short_mm) / 2


def _scene(
    name: str, patient: PhantomPatient, hu: NDArray[np.float32], placed: PlacedNodule, heights: NDArray[np.float32]
) -> Scene:
    axis, distance = _fine(placed)
    x, y, z = placed.center_mm
    thorax, vessels = patient._thorax, patient._vessels
    depth = thorax.lung_depth_mm(x + axis[None, None, :], y + axis[None, :, None], z + axis[:, None, None])
    inside = (distance > 0) & (depth > 0)
    axes = axial_axes(np.minimum(distance, depth), TRUTH_MM)
    texture = placed.nodule.mean_ratings["texture"]
    kind = next(name for name, value in TEXTURE_OF.items() if value == texture)
    solid: tuple[float, float] | tuple[None, None] = (None, None)
    if kind == "part_solid":
        # where the core of pipeline.cohort.phantom_shape.nodule_hu is more than half solid
        core = inside & (distance / max(float(distance.max()), 1e-3) > 0.75 - 0.25 * (texture - 2.0) + 0.5 / 6)
        core_axes = mask_axes(core, TRUTH_MM)
        solid = ((core_axes.long_mm + core_axes.short_mm) / 2, float(core.sum()) * TRUTH_MM**3)
    reach = 2.2 * placed.shape.radius_mm + 18
    line = patient.grid.axis_mm
    low_x, high_x = np.searchsorted(line, (x - reach, x + reach))
    low_y, high_y = np.searchsorted(line, (y - reach, y + reach))
    side = min(high_x - low_x, high_y - low_y)
    planes = slice(*np.searchsorted(heights, (z - reach, z + reach)))
    return Scene(
        name=name,
        place=_place(placed, (axes.long_mm + axes.short_mm) / 2, float((depth[distance > 0] <= 0.5).mean()), vessels),
        nodule_type=kind,
        object_hu=hu[planes, low_y : low_y + side, low_x : low_x + side].copy(),
        origin_mm=(float(heights[planes][0] - z), float(line[low_y] - y), float(line[low_x] - x)),
        pixel_mm=patient.grid.pixel_mm,
        mean_diameter_mm=(axes.long_mm + axes.short_mm) / 2,
        volume_mm3=float(inside.sum()) * TRUTH_MM**3,
        solid_diameter_mm=solid[0],
        solid_volume_mm3=solid[1],
    )


def _place(placed: PlacedNodule, diameter_mm: float, outside: float, vessels: object) -> str:
    """pleura: it reaches the wall. vessel: one of 1.2 mm or more runs through or along it, half as wide: thick."""
    if outside > 0.002:
        return "pleura"
    thickest = 0.0
    start, end, radius = vessels.start_mm, vessels.end_mm, vessels.radius_mm  # type: ignore[attr-defined]
    way = end - start
    part = np.clip(((placed.center_mm - start) * way).sum(axis=1) / (way**2).sum(axis=1), 0, 1)
    nearest = start + part[:, None] * way - placed.center_mm
    near = np.linalg.norm(nearest, axis=1) < placed.shape.radius_mm + radius + 1
    for offset, thick in zip(nearest[near & (radius > 0.6)], radius[near & (radius > 0.6)], strict=True):
        z, y, x = (np.array([value]) for value in offset[::-1])
        if float(placed.shape.at(z, y, x)[0, 0, 0]) > -1.2:
            thickest = max(thickest, float(thick))
    if not thickest:
        return "isolated"
    return "vessel" if 4 * thickest < diameter_mm else "thick vessel"


def ellipsoid_scene(seed: list[int], growth: float = 1.0) -> Scene:
    """An ellipsoid of 6 to 24 mm in even lung: alone, with a straight vessel, or touching a flat wall.

    growth: factor of its volume; everything else stays as the seed drew it. A part-solid one has a ball of solid tissue
    in it. Drawn on planes of 0.5 mm and pixels of 0.35 mm, then averaged to 0.7 mm.
    """
    rng = np.random.default_rng([*seed, 5])
    kind = str(rng.choice(list(TEXTURE_OF)))
    place = str(rng.choice(["isolated", "vessel", "pleura"]))
    half = np.maximum(np.exp(rng.uniform(np.log(3.0), np.log(12.0))) * np.exp(rng.normal(0, 0.1, 3)), 3.0)
    half *= growth ** (1 / 3)
    reach, pixel = 2.2 * float(half.max()) + 18, 0.7
    planes = np.arange(-reach, reach, PLANE_MM)
    line = np.arange(-reach, reach, pixel / 2)[: 2 * int(reach * 2 / pixel)]
    line = line[: len(line) // 2 * 2]
    z, y, x = planes[:, None, None], line[None, :, None], line[None, None, :]
    inside = (z / half[0]) ** 2 + (y / half[1]) ** 2 + (x / half[2]) ** 2 <= 1
    nodule_hu = {"solid": 30.0, "part_solid": -600.0, "ground_glass": -620.0}[kind]
    hu = np.where(inside, nodule_hu, -860.0).astype(np.float32)
    solid = None
    if kind == "part_solid":
        radius = float(half.min()) * 0.55
        hu[(z**2 + y**2 + x**2 <= radius**2) & inside] = 30.0
        solid = (2 * radius, 4 / 3 * np.pi * radius**3)
    if place == "vessel":
        thick = float(rng.uniform(0.15, 0.3)) * float(half.min())
        hu[(z**2 + (y - 0.3 * half[1]) ** 2 <= thick**2) & ~inside & (x > -reach)] = 40.0
    if place == "pleura":
        hu[np.broadcast_to(x > half[2] - 0.4, hu.shape)] = 40.0
    coarse = hu.reshape(len(planes), len(line) // 2, 2, len(line) // 2, 2).mean(axis=(2, 4))
    # the chord through the wall belongs to the nodule only in front of it
    cap = 0.4 if place == "pleura" else 0.0
    lost = np.pi * half[0] * half[1] / half[2] ** 2 * cap**2 * (half[2] - cap / 3)
    return Scene(
        name="-".join(str(part) for part in seed),
        place=place,
        nodule_type=kind,
        object_hu=coarse,
        origin_mm=(float(planes[0]), float(line[0] + pixel / 4), float(line[0] + pixel / 4)),
        pixel_mm=pixel,
        mean_diameter_mm=float(half[1] + half[2]) - cap / 2,
        volume_mm3=float(4 / 3 * np.pi * half.prod() - lost),
        solid_diameter_mm=None if solid is None else solid[0],
        solid_volume_mm3=None if solid is None else solid[1],
    )

"""Where the nodules of a phantom patient lie: in the lungs, some at the pleura or a vessel, none on another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import UsageError
from pipeline.cohort.phantom_anatomy import Thorax
from pipeline.cohort.phantom_shape import NoduleShape
from pipeline.cohort.phantom_vessels import VesselTree

_TRIALS = 1500
#: free space between two nodules
_GAP_MM = 5.0
#: share of its surface that a nodule at the pleura may have outside the lung
_PLEURAL_SHARE = (0.02, 0.25)
_LEAST_INSIDE = 0.75


def place_nodules(
    shapes: list[NoduleShape], thorax: Thorax, vessels: VesselTree, rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Centres (x, y, z) in the body frame, one a shape, in the order given.

    Raises
    ------
    UsageError: the lungs are too small for the nodules.
    """
    places: dict[int, NDArray[np.float64]] = {}
    # the largest first, while there is room
    for number in sorted(range(len(shapes)), key=lambda n: (-shapes[n].radius_mm, n)):
        taken = [(places[other], shapes[other].radius_mm) for other in places]
        places[number] = _place(shapes[number], taken, thorax, vessels, rng)
    return [places[number] for number in range(len(shapes))]


def _place(
    shape: NoduleShape,
    taken: list[tuple[NDArray[np.float64], float]],
    thorax: Thorax,
    vessels: VesselTree,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    manner = rng.choice(["inside", "pleura", "vessel"], p=[0.55, 0.25, 0.20])
    half = thorax.scale * 135
    low, high = (-half, -half, shape.radius_mm + 2), (half, half, thorax.length_mm - shape.radius_mm - 2)
    if low[2] >= high[2]:
        raise UsageError("the phantom is shorter than its largest nodule", where="length_mm", todo="Make it longer.")
    if manner == "vessel":
        thick = np.flatnonzero((vessels.radius_mm > 0.8) & (vessels.radius_mm < 2.2))
        chosen = vessels.end_mm[rng.choice(thick, _TRIALS)] if len(thick) else np.zeros((0, 3))
        points = chosen + rng.normal(0, 0.5 * shape.radius_mm, chosen.shape)
    else:
        points = rng.uniform(low, high, (_TRIALS * 4, 3))
    points = points[((points >= low) & (points <= high)).all(axis=1)]
    points = points[thorax.lung_depth_mm(points[:, 0], points[:, 1], points[:, 2]) > 1.0]
    for center, radius in taken:
        points = points[np.linalg.norm(points - center, axis=1) > radius + shape.radius_mm + _GAP_MM]
    surface = shape.surface_mm()
    surface = surface[:: max(1, len(surface) // 150)]
    best, best_share = None, -1.0
    for point in points:
        at = surface + point
        outside = float((thorax.lung_depth_mm(at[:, 0], at[:, 1], at[:, 2]) < 0.5).mean())
        if manner == "pleura" and _PLEURAL_SHARE[0] <= outside <= _PLEURAL_SHARE[1]:
            return np.asarray(point)
        if manner != "pleura" and outside == 0.0:
            return np.asarray(point)
        if 1 - outside > best_share:
            best, best_share = point, 1 - outside
    if best is None or best_share < _LEAST_INSIDE:
        raise UsageError(
            "a nodule finds no place in the phantom's lungs",
            where="field_of_view_mm, length_mm, nodules_per_patient",
            todo="Make the phantom larger, or ask for fewer or smaller nodules.",
        )
    return np.asarray(best)

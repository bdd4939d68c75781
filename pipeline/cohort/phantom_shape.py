"""The real shape of a LIDC nodule as a signed distance field, and what it is made of in HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.annotations.contours import contour_box, contour_mask
from pipeline.cohort.lidc_database import LidcNodule

#: pixels kept around the contours, so that the field is known outside the nodule
_MARGIN_PX = 6
#: HU of the middle of a nodule by texture rating: 1 ground glass, 3 part-solid (rim), 5 solid
_TEXTURE_HU = (-600.0, -480.0, -380.0, -60.0, 30.0)
#: width of the edge in mm by margin rating: 1 poorly defined, 5 sharp
_EDGE_MM = (3.0, 2.45, 1.9, 1.35, 0.8)
_RATED = (1.0, 2.0, 3.0, 4.0, 5.0)
_SOLID_HU = 30.0


@dataclass(frozen=True, eq=False)
class NoduleShape:
    """A nodule about its own centre.

    Attributes
    ----------
    distance_mm: float32 (k, j, i), positive inside; axes run to the head, posterior and left as LPS does.
    spacing_kji_mm: grid of the field.
    center_kji: centroid of the inside, fractional.
    radius_mm: distance from the centroid to the furthest point inside.
    """

    distance_mm: NDArray[np.float32]
    spacing_kji_mm: tuple[float, float, float]
    center_kji: tuple[float, float, float]
    radius_mm: float

    def at(self, z_mm: NDArray[np.floating], y_mm: NDArray[np.floating], x_mm: NDArray[np.floating]) -> NDArray:  # type: ignore[type-arg]
        """Signed distance in mm on the grid z x y x x of offsets from the centre (trilinear, edge values beyond)."""
        field = self.distance_mm
        for axis, offsets in enumerate((z_mm, y_mm, x_mm)):
            index = np.clip(
                np.asarray(offsets) / self.spacing_kji_mm[axis] + self.center_kji[axis],
                0,
                self.distance_mm.shape[axis] - 1.001,
            )
            low = index.astype(np.int64)
            part = (index - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            field = field.take(low, axis) * (1 - part) + field.take(low + 1, axis) * part
        return field

    def surface_mm(self) -> NDArray[np.float64]:
        """Points (n, 3) = (x, y, z) offsets from the centre, on the outermost voxels inside."""
        inside = self.distance_mm > 0
        shell = inside & ~ndimage.binary_erosion(inside)
        offsets: NDArray[np.float64] = (np.argwhere(shell) - np.array(self.center_kji)) * np.array(self.spacing_kji_mm)
        return offsets[:, ::-1]


def consensus_shape(nodule: LidcNodule) -> NoduleShape:
    """The median of the readers' outlines; between slices the signed distances are interpolated.

    Shape-based interpolation: Raya and Udupa 1990, IEEE Trans Med Imaging 9:32. One slice beyond each end
    the field is that of the end slice shrunk, which closes the nodule with a rounded cap.
    """
    spacing_mm = nodule.pixel_spacing_mm
    boxes = np.array([contour_box(mark.contours) for mark in nodule.marks])
    first, last = boxes[:, :2].min(axis=0) - _MARGIN_PX, boxes[:, 2:].max(axis=0) + _MARGIN_PX
    box = (int(first[0]), int(first[1]), int(last[0]), int(last[1]))
    drawn = np.unique([contour.z_mm for mark in nodule.marks for contour in mark.contours])
    z_mm = nodule.slice_z_mm[(nodule.slice_z_mm >= drawn[0] - 0.01) & (nodule.slice_z_mm <= drawn[-1] + 0.01)]
    z_mm = z_mm[np.append(True, np.diff(z_mm) > 0.01)]
    step_mm = float(np.median(np.diff(z_mm)))
    fields = []
    for mark in nodule.marks:
        mask = contour_mask(mark.contours, z_mm=z_mm, box=box).mask
        fields.append(_closed_field(mask, spacing_mm, step_mm))
    field = np.median(fields, axis=0).astype(np.float32)
    # pixel staircase of the outlines, not anatomy
    field = ndimage.gaussian_filter(field, (0.0, 0.7, 0.7))
    # z resolved finer than the slices, so that the centroid and the extent follow the interpolated surface
    fine = ndimage.zoom(field, ((field.shape[0] * 4 - 3) / field.shape[0], 1, 1), order=1)
    inside = _largest_component(fine > 0)
    fine = np.where(inside | (fine <= 0), fine, -0.1).astype(np.float32)
    spacing = (step_mm / 4, spacing_mm, spacing_mm)
    weight = np.clip(fine / spacing_mm + 0.5, 0, 1)
    center = ndimage.center_of_mass(weight)
    offsets = (np.argwhere(inside) - center) * spacing
    radius_mm = float(np.sqrt((offsets**2).sum(axis=1).max())) + spacing_mm / 2
    return NoduleShape(fine, spacing, (float(center[0]), float(center[1]), float(center[2])), radius_mm)


def _closed_field(mask: NDArray[np.bool_], spacing_mm: float, step_mm: float) -> NDArray[np.float32]:
    """In-plane signed distance of each slice, with one shrunk slice beyond each end of the nodule."""
    padded = np.pad(mask, ((1, 1), (0, 0), (0, 0)))
    field = np.zeros(padded.shape, dtype=np.float32)
    empty = ~padded.any(axis=(1, 2))
    for k in np.flatnonzero(~empty):
        inner = ndimage.distance_transform_edt(padded[k])
        outer = ndimage.distance_transform_edt(~padded[k])
        # half a pixel each way puts the surface between the pixel centres
        field[k] = (np.where(padded[k], inner - 0.5, 0.5 - outer) * spacing_mm).astype(np.float32)
    full = np.flatnonzero(~empty)
    for k in np.flatnonzero(empty):
        nearest = int(full[np.abs(full - k).argmin()])
        field[k] = np.minimum(field[nearest], 0) - step_mm * abs(k - nearest)
    return field


def _largest_component(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(inside)
    if count <= 1:
        return inside
    sizes = np.bincount(labels.ravel())[1:]
    return np.asarray(labels == int(sizes.argmax()) + 1)


def edge_width_mm(ratings: dict[str, float]) -> float:
    """How far the edge of the nodule fades, by the readers' margin rating."""
    return float(np.interp(ratings["margin"], _RATED, _EDGE_MM))


def nodule_hu(nodule: LidcNodule, distance_mm: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
    """HU inside a nodule by the readers' texture and calcification ratings.

    Parameters
    ----------
    distance_mm: (k, j, i) depth below the nodule's surface.
    rng: draws the inner texture and the place of eccentric calcifications.
    """
    ratings = nodule.mean_ratings
    depth = np.clip(distance_mm / max(float(distance_mm.max()), 1e-3), 0, 1)
    grain = ndimage.gaussian_filter(rng.standard_normal(distance_mm.shape).astype(np.float32), 1.2)
    grain /= max(float(grain.std()), 1e-6)
    texture = ratings["texture"]
    hu = np.full(distance_mm.shape, np.interp(texture, _RATED, _TEXTURE_HU), dtype=np.float32)
    if 2.0 < texture < 4.5:
        # part-solid: a solid core, larger the more solid the readers called it
        core = np.clip((depth - (0.75 - 0.25 * (texture - 2.0))) * 6 + 0.3 * grain, 0, 1)
        hu += core * (_SOLID_HU - hu)
    hu += grain * np.float32(12.0 if texture > 4 else 40.0)
    amount = _calcium(_pattern(nodule), depth, grain, rng)
    return np.asarray(np.maximum(hu, hu + amount * (550 - hu)), dtype=np.float32)


def _pattern(nodule: LidcNodule) -> int:
    """The calcification rating that most readers gave; 6 (absent) where they split evenly."""
    votes = [int(mark.ratings["calcification"]) for mark in nodule.marks]
    return max(sorted(set(votes), reverse=True), key=votes.count)


def _calcium(
    pattern: int, depth: NDArray[np.floating], grain: NDArray[np.floating], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Share of calcium, 0 to 1. LIDC codes: 1 popcorn, 2 laminated, 3 solid, 4 non-central, 5 central, 6 absent."""
    if pattern == 1:
        share = np.clip(grain, 0, 1) * (depth > 0.15)
    elif pattern == 2:
        share = np.clip(np.cos(depth * 4 * np.pi) * 1.5, 0, 1) * (depth > 0.1)
    elif pattern == 3:
        share = np.clip(depth * 6, 0, 1)
    elif pattern == 4:
        shift = rng.choice([-1, 1], size=3)
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in depth.shape], indexing="ij")
        away = sum((axis - 0.3 * sign) ** 2 for axis, sign in zip(axes, shift, strict=True))
        share = np.clip(1.5 - away * 12, 0, 1) * (depth > 0)
    elif pattern == 5:
        share = np.clip((depth - 0.4) * 5, 0, 1)
    else:
        share = np.zeros(depth.shape)
    return np.asarray(share, dtype=np.float32)

"""A thorax in closed form: where the lungs are, and the HU of everything else on an axial plane.

Body frame in mm: x to the left, y to the back, z to the head (LPS), x = y = 0 on the middle of the field of view,
z from 0 to the length scanned. Proportions are those of an adult chest of 316 x 216 mm at a field of view of 340 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

AIR_HU = -1000.0
_FAT_HU, _MUSCLE_HU, _ORGAN_HU, _BLOOD_HU = -100.0, 50.0, 60.0, 42.0
_RIB_PITCH_MM, _RIB_SLOPE = 27.0, 0.55


@dataclass(frozen=True)
class AxialGrid:
    """Pixel centres of the planes: a square of `matrix` pixels across `field_of_view_mm`."""

    matrix: int
    field_of_view_mm: float

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel."""
        return self.field_of_view_mm / self.matrix

    @cached_property
    def axis_mm(self) -> NDArray[np.float32]:
        """Positions along a row or a column, (matrix,)."""
        return ((np.arange(self.matrix) - (self.matrix - 1) / 2) * self.pixel_mm).astype(np.float32)


def _norm(first: Array, second: Array) -> Array:
    # ten times faster than np.hypot, which guards against overflow
    return np.asarray(np.sqrt(first * first + second * second))


@dataclass(frozen=True, eq=False)
class _Lateral:
    """Terms of the lungs' shape that do not change with height: mm where the name says so, else relative radii."""

    lobe_x: Array
    lobe_y: Array
    rho_mm: Array
    cage_mm: Array
    middle_mm: Array
    heart: Array
    roots: Array
    dome_mm: Array


@dataclass(frozen=True, eq=False)
class _Outline:
    """What is the same on every plane of a grid; arrays (row, column)."""

    grid: AxialGrid
    terms: _Lateral
    body: Array
    skin_depth_mm: Array
    couch_hu: Array


class Thorax:
    """One patient's chest; `rng` draws its proportions.

    Parameters
    ----------
    field_of_view_mm, length_mm: the body is scaled to them.
    """

    def __init__(self, field_of_view_mm: float, length_mm: float, rng: np.random.Generator) -> None:
        self.scale = field_of_view_mm / 340.0
        self.length_mm = length_mm
        # plain floats: numpy's own would turn every float32 plane into float64
        self._vary: list[float] = rng.uniform(-1, 1, size=12).tolist()
        self._outline: _Outline | None = None
        self._grain = rng.standard_normal((2, max(4, round(length_mm / 5)), 40, 40)).astype(np.float32)

    def lung_depth_mm(self, x: Array, y: Array, z: Array | float) -> Array:
        """About how far inside the lung a point lies; negative outside. Arguments broadcast, in mm."""
        return self._depth_mm(self._terms(x, y), z)

    def _terms(self, x: Array, y: Array) -> _Lateral:
        """What the lungs' shape owes to x and y alone."""
        scale, vary = self.scale, self._vary
        side = np.abs(x)
        rho = _norm(x, y) + np.float32(1e-3)
        wide, deep = (131 + 3 * vary[6]) * scale, (84 + 3 * vary[7]) * scale
        middle = np.minimum(
            (_norm(x / ((25 + 3 * vary[3]) * scale), (y + 5 * scale) / (78 * scale)) - 1) * (25 * scale),
            (_norm(x / (25 * scale), (y - 58 * scale) / (30 * scale)) - 1) * (25 * scale),
        )
        dome = np.exp(-(((side / scale - 66) / 52) ** 2) - ((y / scale + 5) / 62) ** 2) * (0.15 + 0.02 * vary[2])
        return _Lateral(
            side - 68 * scale,
            y - 2 * scale,
            rho,
            rho / _norm(x / wide, y / deep).clip(1e-4),
            middle,
            _norm((x - 24 * scale) / ((58 + 5 * vary[4]) * scale), (y + 26 * scale) / ((46 + 3 * vary[5]) * scale)),
            _norm((side - 32.5 * scale) / (15 * scale), (y - 6 * scale) / (17 * scale)),
            (dome + np.where(x < 0, 0.09, 0.06)) * self.length_mm,
        )

    def _depth_mm(self, terms: _Lateral, z: Array | float) -> Array:
        scale, vary = self.scale, self._vary
        t = np.asarray(z, dtype=np.float32) / np.float32(self.length_mm)
        apex = np.sqrt(np.clip(1 - np.clip((t - 0.35) / 0.62, 0, 1) ** 2.6, 1e-4, 1)).astype(np.float32)
        wide, deep = (62 + 3 * vary[0]) * scale * (0.25 + 0.75 * apex), (84 + 3 * vary[1]) * scale * apex
        depth = (1 - _norm(terms.lobe_x / wide, terms.lobe_y / deep)) * np.minimum(wide, deep)
        # mediastinum, spine, heart and the roots of the lungs push the lungs aside
        heart = np.sqrt(np.clip(1 - ((t - 0.22) / 0.34) ** 2, 0, 1))
        roots = np.exp(-(((t - 0.52) / 0.09) ** 2))
        for other in (
            self._cage_depth_mm(terms, z),
            terms.middle_mm,
            (terms.heart - heart) * np.float32(46 * scale),
            (terms.roots - roots) * np.float32(15 * scale),
            t * np.float32(self.length_mm) - terms.dome_mm,
        ):
            depth = np.minimum(depth, other)
        return np.asarray(depth, dtype=np.float32)

    def _cage_depth_mm(self, terms: _Lateral, z: Array | float) -> Array:
        """Depth inside the inner face of the rib cage, along the ray from the middle."""
        t = np.asarray(z, dtype=np.float32) / np.float32(self.length_mm)
        narrow = 1 - np.float32(0.36) * np.clip((t - 0.45) / 0.55, 0, 1) ** 2
        return np.asarray(narrow * terms.cage_mm - terms.rho_mm)

    def plane_hu(self, grid: AxialGrid, z_mm: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """HU without vessels and nodules, and the share of lung in each pixel; both float32 (row, column)."""
        x, y = grid.axis_mm[None, :], grid.axis_mm[:, None]
        scale, t, pixel = self.scale, z_mm / self.length_mm, grid.pixel_mm
        outline = self._outline_on(grid)
        coarse, fine = (self._grain_plane(number, t, grid.matrix) for number in range(2))
        cage = self._cage_depth_mm(outline.terms, z_mm)
        hu = np.where(outline.skin_depth_mm < 11 * scale + 2.5 * coarse, _FAT_HU, _MUSCLE_HU).astype(np.float32)
        hu += 6 * fine
        hu[(cage < -1) & (cage > -7) & (coarse > 0.9)] = _FAT_HU
        inner = np.clip(cage / pixel + 0.5, 0, 1)
        # mediastinal fat between the organs, liver and stomach below the diaphragm
        filling = np.where(coarse + 0.5 * fine > 0.55, -85.0, _BLOOD_HU + 4 * fine) if t > 0.12 else _ORGAN_HU
        hu += inner * (filling - hu)
        self._blend(hu, x, y, (24, -26), (52, 40), _BLOOD_HU, np.sqrt(max(0.0, 1 - ((t - 0.22) / 0.33) ** 2)), pixel)
        self._blend(hu, x, y, (19 + 4 * t, 38), (12, 12), _BLOOD_HU + 4, 1.0, pixel)
        if t > 0.55:
            self._blend(hu, x, y, (6, -8), (27 - 20 * (t - 0.55), 12), _BLOOD_HU + 4, 1.0, pixel)
        self._add_bones(hu, x, y, z_mm, cage, grid)
        depth = self._depth_mm(outline.terms, z_mm)
        lung = np.clip(depth / pixel + 0.5, 0, 1).astype(np.float32)
        parenchyma = (-862 + 16 * self._vary[8]) + 0.28 * y / scale + 16 * coarse + 14 * fine
        hu += lung * (parenchyma - hu)
        self._add_trachea(hu, x, y, t, pixel)
        hu -= outline.couch_hu
        hu *= outline.body
        hu += outline.couch_hu
        return hu, lung

    def _add_trachea(self, hu: NDArray[np.float32], x: Array, y: Array, t: float, pixel_mm: float) -> None:
        apart = max(0.0, 0.62 - t) * self.length_mm * 0.75 / self.scale
        if t >= 0.62:
            self._blend(hu, x, y, (-2, 4), (9, 8.5), AIR_HU + 5, 1.0, pixel_mm)
        elif apart < 34:
            for side in (-1, 1):
                self._blend(hu, x, y, (side * (4 + apart), 5), (7, 6.5), AIR_HU + 5, 1.0, pixel_mm)

    def _add_bones(
        self, hu: NDArray[np.float32], x: Array, y: Array, z_mm: float, cage: Array, grid: AxialGrid
    ) -> None:
        scale, pixel, t = self.scale, grid.pixel_mm, z_mm / self.length_mm
        disc = (z_mm % (24 * scale)) < 5 * scale
        self._blend(hu, x, y, (0, 52), (18, 14.5), 95.0 if disc else 420.0, 1.0, pixel)
        self._blend(hu, x, y, (0, 52), (16, 12.5), 95.0 if disc else 190.0, 1.0, pixel)
        self._blend(hu, x, y, (0, 81), (16, 9), 330.0, 1.0, pixel)
        self._blend(hu, x, y, (0, 73), (9.5, 8.5), 25.0, 1.0, pixel)
        self._blend(hu, x, y, (0, 95), (3.5, 9), 330.0, 1.0, pixel)
        if not disc:
            self._blend(hu, x, y, (24, 76), (12, 4.5), 330.0, 1.0, pixel)
            self._blend(hu, x, y, (-24, 76), (12, 4.5), 330.0, 1.0, pixel)
        self._blend(hu, x, y, (0, -87), (17, 5.5), 330.0, 1.0, pixel)
        self._blend(hu, x, y, (0, -87), (15, 3.5), 140.0, 1.0, pixel)
        # ribs: bars round the cage that fall towards the front
        rows, columns = np.nonzero((cage < 0) & (cage > -12 * scale) & (np.abs(x) > 22 * scale) & (y < 92 * scale))
        rise = (z_mm / scale - _RIB_SLOPE * y[rows, 0] / scale + 8 * self._vary[9]) / _RIB_PITCH_MM
        off_mm = (rise - np.round(rise)) * _RIB_PITCH_MM
        core = 1 - ((cage[rows, columns] / scale + 5.5) / 3.8) ** 2 - (off_mm / 6.5) ** 2
        bone = np.clip(core * 3.0, 0, 1)
        hu[rows, columns] += bone * (np.where(core > 0.5, 180.0, 520.0) - hu[rows, columns])
        if t > 0.5:
            # shoulder blades: thin plates behind the upper ribs
            for side in (-1, 1):
                along = (side * x / scale - 88) * 0.72 + (y / scale - 76) * -0.69
                across = (side * x / scale - 88) * 0.69 + (y / scale - 76) * 0.72
                plate = np.clip((1 - _norm(along / (30 * min(1.0, (t - 0.5) * 5)), across / 3.2)) * 3, 0, 1)
                hu += plate * (380.0 - hu)

    def _blend(
        self, hu: NDArray[np.float32], x: Array, y: Array, center: tuple[float, float], half: tuple[float, float],
        value: float, swell: float, pixel_mm: float,
    ) -> None:  # fmt: skip
        """Paint a soft-edged ellipse, given in mm of the unscaled body, into its bounding box of a plane."""
        if swell <= 0.05:
            return
        (cx, cy), (rx, ry) = center, half
        cx, cy, rx, ry = cx * self.scale, cy * self.scale, rx * self.scale * swell, ry * self.scale * swell
        rows = slice(*np.searchsorted(y[:, 0], (cy - ry - 2 * pixel_mm, cy + ry + 2 * pixel_mm)))
        columns = slice(*np.searchsorted(x[0], (cx - rx - 2 * pixel_mm, cx + rx + 2 * pixel_mm)))
        reach = 1 - _norm((x[:, columns] - cx) / rx, (y[rows] - cy) / ry)
        part = np.clip(reach * min(rx, ry) / pixel_mm + 0.5, 0, 1)
        hu[rows, columns] += part * (value - hu[rows, columns])

    def _outline_on(self, grid: AxialGrid) -> _Outline:
        if self._outline is None or self._outline.grid != grid:
            x, y, scale = grid.axis_mm[None, :], grid.axis_mm[:, None], self.scale
            wide, deep = (156 + 4 * self._vary[10]) * scale, (108 + 3 * self._vary[11]) * scale
            rho = _norm(x, y) + np.float32(1e-3)
            reach = ((np.abs(x) / wide) ** 2.5 + (np.abs(y) / deep) ** 2.5).clip(1e-9) ** 0.4
            depth = rho / reach - rho
            under = y - (deep + 3 * scale - 14 * scale * (x / (160 * scale)) ** 2)
            on_couch = (under > 0) & (np.abs(x) < 150 * scale)
            couch = np.full(depth.shape, AIR_HU, dtype=np.float32)
            couch[on_couch & (under < 22 * scale)] = -940
            couch[on_couch & (under < 2.5 * scale)] = -250
            body = np.clip(depth / grid.pixel_mm + 0.5, 0, 1)
            self._outline = _Outline(grid, self._terms(x, y), body, depth, couch)
        return self._outline

    def _grain_plane(self, number: int, t: float, matrix: int) -> NDArray[np.float32]:
        """Unit-variance texture between two planes of coarse random numbers; number 1 is the finer of the two."""
        stack = self._grain[number]
        place = float(np.clip(t, 0, 1)) * (len(stack) - 1)
        low = min(int(place), len(stack) - 2)
        part = place - low
        plane = (1 - part) * stack[low] + part * stack[low + 1]
        plane /= np.sqrt((1 - part) ** 2 + part**2)
        if number == 1:
            plane = np.tile(plane, (2, 2))[:, ::-1] + 0.0
        return np.asarray(cv2.resize(plane.astype(np.float32), (matrix, matrix), interpolation=cv2.INTER_CUBIC))

"""CTVolume: Hounsfield units on a grid with a true patient position for every voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import GeometryError

if TYPE_CHECKING:
    from highdicom import VolumeGeometry

#: HU given to voxels outside the scanner's field of view: air, below every tissue.
PADDING_HU = -1024


@dataclass(frozen=True, eq=False)
class CTVolume:
    """One CT series as a volume.

    Attributes
    ----------
    hu: int16, shape (k, j, i) = (slice, row, column), Hounsfield units.
    affine: float64 (4, 4), takes (k, j, i, 1) to LPS millimetres at voxel centres; sheared where
        the gantry was tilted. The same convention as highdicom's VolumeGeometry.
    frame_of_reference_key: keyed digest of the frame of reference, or "".
    """

    hu: NDArray[np.int16]
    affine: NDArray[np.float64]
    frame_of_reference_key: str = ""

    def __post_init__(self) -> None:
        if self.hu.dtype != np.int16 or self.hu.ndim != 3 or 0 in self.hu.shape:
            raise GeometryError(f"a CT volume is int16 (k, j, i), not {self.hu.dtype} {self.hu.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise GeometryError("the affine of a CT volume is a finite 4 x 4 matrix")
        if abs(float(np.linalg.det(self.affine[:3, :3]))) < 1e-9:
            raise GeometryError("the affine of a CT volume is singular")

    @property
    def shape_kji(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns."""
        k, j, i = self.hu.shape
        return k, j, i

    @property
    def spacing_kji_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each index, in mm.

        On a sheared grid the first figure is the length of the step between slices,
        not the distance between their planes.
        """
        k, j, i = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(k), float(j), float(i)

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three index directions are at right angles (within 1e-4)."""
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(unit.T @ unit - np.eye(3)).max() < 1e-4)

    @property
    def geometry(self) -> VolumeGeometry:
        """highdicom's geometry of this grid; raises GeometryError for a sheared grid, which it cannot hold."""
        from highdicom import VolumeGeometry

        if not self.is_orthogonal:
            raise GeometryError("a sheared grid has no orthogonal geometry", todo="Resample the volume first.")
        return VolumeGeometry(self.affine, self.shape_kji, "PATIENT")

    def to_lps_mm(self, kji: NDArray[np.floating]) -> NDArray[np.float64]:
        """Patient positions in LPS mm, (..., 3) = (x, y, z), of index points (..., 3) = (k, j, i)."""
        points = np.asarray(kji, dtype=np.float64)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_kji(self, lps_mm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Index points (..., 3) = (k, j, i), fractional, of patient positions (..., 3) in LPS mm."""
        points = np.asarray(lps_mm, dtype=np.float64)
        inverse = np.linalg.inv(self.affine[:3, :3])
        return np.asarray((points - self.affine[:3, 3]) @ inverse.T)

    def contains(self, lps_mm: NDArray[np.floating]) -> bool:
        """Whether a patient position lies inside the grid (half a voxel of tolerance)."""
        kji = self.to_kji(lps_mm)
        return bool(np.all(kji >= -0.5) and np.all(kji <= np.array(self.shape_kji) - 0.5))

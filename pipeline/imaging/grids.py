"""Where the voxels of a new grid lie in the patient.

Two conventions are in use and must not be mixed: on real chests that moves edges by up to 500 HU.

    voxel-centre    the first new centre is the first old centre (ITK, MONAI's Spacing, scipy's affine_transform);
                    the last one lies within the old field of view
    field-of-view   the first new outer edge is the first old outer edge, half a voxel before its centre
                    (cv2.resize, torch's interpolate with align_corners=False)

noduleflow uses voxel-centre throughout; field-of-view is there to compare with, and to hand over to, the others.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import GeometryError
from data_contracts.volume import CTVolume

Convention = Literal["voxel-centre", "field-of-view"]

#: Index tolerance for rounding noise at the border of the field of view.
EDGE_TOLERANCE_VOXELS = 1e-6
#: A grid of more voxels is a wrong spacing, not a chest: 4 GiB of int16.
_MAX_VOXELS = 2**31
#: Unit vectors in LPS.
_DIRECTIONS = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}


def orientation_axes(orientation: str) -> NDArray[np.float64]:
    """Unit vectors (3, 3) in LPS as columns: where k, j and i grow to, by their letters, such as "SPL".

    Raises GeometryError where the letters do not name three different axes.
    """
    letters = orientation.upper()
    axes = np.array([_DIRECTIONS.get(letter, (0.0, 0.0, 0.0)) for letter in letters], dtype=np.float64).T
    if len(letters) != 3 or not np.array_equal(np.abs(axes).sum(axis=1), np.ones(3)):
        raise GeometryError(
            f"no orientation {orientation[:8]!r}",
            todo="Name where k, j and i grow to: one of L and R, one of P and A, one of S and I, such as SPL.",
        )
    return axes


def patient_grid(
    volume: CTVolume,
    spacing_mm: float | tuple[float, float, float],
    *,
    orientation: str = "SPL",
    convention: Convention = "voxel-centre",
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Affine (4, 4), (k, j, i, 1) to LPS mm, and shape (k, j, i) of the patient-oriented grid that covers a volume.

    Parameters
    ----------
    volume: any grid; an oblique or sheared one is covered whole, corners included.
    spacing_mm: distance between new voxel centres; one figure, or one for each of k, j, i.
    orientation: where k, j and i grow to; "SPL" is superior, posterior, left.
    convention: "voxel-centre" or "field-of-view", as above.

    Raises
    ------
    GeometryError: the spacing is not positive, the grid would be absurdly large, or there is no such orientation.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (3,))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise GeometryError("the spacing of a grid is a positive number of mm")
    axes = orientation_axes(orientation)
    steps = axes.T @ volume.affine[:3, :3]
    reach = steps * (np.array(volume.shape_kji, dtype=np.float64) - 1.0)
    first = axes.T @ volume.affine[:3, 3] + np.minimum(reach, 0.0).sum(axis=1)
    between_centres = np.abs(reach).sum(axis=1)
    half_voxel = 0.5 * np.abs(steps).sum(axis=1)
    if convention == "voxel-centre":
        count = np.floor((between_centres + half_voxel) / spacing + EDGE_TOLERANCE_VOXELS) + 1
    else:
        count = np.maximum(np.rint((between_centres + 2 * half_voxel) / spacing), 1)
        first = first - half_voxel + spacing / 2
    if float(np.prod(count)) > _MAX_VOXELS:
        raise GeometryError("the new grid would have more than 2^31 voxels", todo="Use a larger spacing.")
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ first
    return affine, (int(count[0]), int(count[1]), int(count[2]))

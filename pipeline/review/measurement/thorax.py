"""Whether an outline stays where nodules of the lung can be: in the lungs and what lies between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from pipeline.imaging.lungs import LungMask
from pipeline.review.measurement.star import Floats

#: The mask of the lungs has voxels of this size, and a nodule on the pleura takes some of them.
_TOLERANCE_MM = 3.0
#: Share of an outline beyond the chest cavity that is no leak: a large mass on the wall dents the lungs' hull.
_MOST_BEYOND = 0.2
#: More voxels of an outline than this make no difference.
_MOST_VOXELS = 4000


@dataclass(frozen=True, eq=False)
class Thorax:
    """The convex hull of both lungs. planes: (n, 4), a point (x, y, z) in LPS mm lies planes @ (x, y, z, 1) beyond."""

    planes: Floats

    def beyond_mm(self, places_lps_mm: Floats) -> Floats:
        """How far places (n, 3) lie out of the hull; negative inside."""
        return np.asarray((places_lps_mm @ self.planes[:, :3].T + self.planes[:, 3]).max(axis=1))

    def is_left_by(self, mask: NDArray[np.bool_], affine: Floats) -> bool:
        """Whether an outline, bool (z, y, x) with the matrix to LPS mm, takes in the chest wall or what lies beyond."""
        voxels = np.argwhere(mask)
        voxels = voxels[:: max(1, len(voxels) // _MOST_VOXELS)]
        beyond = self.beyond_mm(voxels @ affine[:3, :3].T + affine[:3, 3]) > _TOLERANCE_MM
        return bool(beyond.mean() > _MOST_BEYOND)


def thorax_of(lungs: LungMask) -> Thorax | None:
    """The chest cavity; None where the lungs that were found are not to be trusted."""
    if not lungs.is_plausible:
        return None
    voxels = np.argwhere(lungs.sides > 0)
    if len(voxels) == 0:
        return None
    try:
        hull = ConvexHull(voxels @ lungs.affine[:3, :3].T + lungs.affine[:3, 3])
    except QhullError:  # all in one plane
        return None
    return Thorax(np.asarray(hull.equations, dtype=np.float64))

"""CTVolume as a MONAI MetaTensor, so that MONAI's transforms and networks run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_contracts.volume import CTVolume
from pipeline.imaging.nifti import to_ras

if TYPE_CHECKING:
    from monai.data import MetaTensor


def to_metatensor(volume: CTVolume) -> MetaTensor:
    """float32 HU, shape (1, i, j, k), with the affine that takes (i, j, k, 1) to RAS mm.

    Axes and affine are those MONAI's LoadImage gives for the same volume written as NIfTI. Importing MONAI takes
    13-20 s, so it happens here and not when this module is imported.
    """
    from monai.data import MetaTensor

    pixels = np.ascontiguousarray(volume.hu.transpose(2, 1, 0)[None], dtype=np.float32)
    return MetaTensor(pixels, affine=to_ras(volume.affine))

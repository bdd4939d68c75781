"""A noisy chest of any length as DICOM series in several transfer syntaxes, so that measurements need no patient.

Noise and edges are those of a thin slice, so that codecs reach the ratios that they reach on real chests: JPEG-LS needs
about 6 bits a voxel, as on an NLST screening chest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from dicom_factory import compress, save, slices_of, truth_of  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "implicit VR": ImplicitVRLittleEndian,
    "JPEG-LS": JPEGLSLossless,
    "lossless JPEG": JPEGLosslessSV1,
    "JPEG 2000": JPEG2000Lossless,
    "RLE": RLELossless,
}


def chest_hu(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Air, a wall, lungs with vessels and a spine, and noise of a grain above one voxel; int16 (n, size, size)."""
    random = np.random.default_rng(seed)
    j, i = np.mgrid[:size, :size].astype(np.float32)
    y, x = (j - size / 2) / (size / 2), (i - size / 2) / (size / 2)
    noise = ndimage.gaussian_filter(random.normal(0, 1, (8, size, size)).astype(np.float32), (0, 0.7, 0.7))
    noise *= 24 / noise.std()
    hu = np.empty((n, size, size), np.int16)
    for k in range(n):
        plane = np.full((size, size), -1000, np.float32)
        plane[(x / 0.92) ** 2 + (y / 0.68) ** 2 < 1] = -90
        plane[(x / 0.88) ** 2 + (y / 0.63) ** 2 < 1] = 45
        lungs = ((np.abs(x) - 0.42) / 0.33) ** 2 + ((y + 0.02) / 0.45) ** 2 < 1 - 0.3 * abs(k / n - 0.5)
        plane[lungs] = -860
        plane[(x / 0.12) ** 2 + ((y - 0.42) / 0.12) ** 2 < 1] = 350
        plane[lungs & (np.hypot((np.abs(x) - 0.4) * 20 % 1 - 0.5, (y * 20 + k / 9) % 1 - 0.5) < 0.12)] = 20
        plane = ndimage.gaussian_filter(plane, 0.8)
        shift = (int(random.integers(size)), int(random.integers(size)))
        plane += np.roll(noise[k % 8], shift, (0, 1)) * np.where(plane < -950, 0.6, 1)
        hu[k] = np.clip(np.rint(plane), -1024, 3071)
    return hu


def write_chest(folder: Path, name: str, hu: np.ndarray) -> None:
    """The volume as single-frame CT slices below `folder`, stored under one of SYNTAXES."""
    syntax = SYNTAXES[name]
    truth = truth_of(hu, step=(0, 0, 1.0))
    for number, ds in enumerate(slices_of(truth, "bench")):
        if name not in ("uncompressed", "implicit VR"):
            compress(ds, syntax)
        save(ds, folder / f"{number:04d}.dcm", syntax)

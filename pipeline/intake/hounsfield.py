"""From stored values to int16 HU: rescale of each slice, padding outside the field of view, plausibility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.intake.headers import SliceHeader

#: below this nothing is real: scanners write -1024 for air, -2000, -2048 or -3024 outside the field of view
UNREAL_HU = -1500
#: a padding value that maps into this range could also be tissue
_TISSUE_HU = (-900.0, 3071.0)
#: an added or forgotten 1000 or 1024 moves a slice by more than this
_JUMP_HU = 500.0
#: and leaves its picture alike: neighbours correlate at least so
_JUMP_CORRELATION = 0.5
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class HounsfieldSlice:
    """One plane: int16 HU (rows, columns), a mask of padding where any, and how many values were clipped.

    noisy_voxels: values below UNREAL_HU that are no constant field, so no padding.
    sample: every fourth row and column before padding is replaced, float32, NaN where the header names padding.
    """

    hu: NDArray[np.int16]
    padding_voxels: int
    clipped: int
    noisy_voxels: int
    sample: NDArray[np.float32]


def to_hounsfield(stored: NDArray[np.int32], header: SliceHeader, padding_hu: int) -> HounsfieldSlice:
    """HU of one plane from its stored values (PS3.3 C.11.1: value * slope + intercept), padding set to `padding_hu`.

    Fractions are rounded to the nearest integer. Only voxels with the header's padding value, or below UNREAL_HU,
    change; where the padding value could be tissue, only what is connected to the rim of the plane is padding.
    """
    slope, intercept = header.rescale_slope or 1.0, header.rescale_intercept or 0.0
    whole = slope == 1.0 and float(intercept).is_integer()
    wide = stored + np.int32(intercept) if whole else np.rint(stored * slope + intercept)
    lowest, highest = wide.min(), wide.max()
    named = _named_padding(stored, header, slope, intercept)
    clipped = 0
    if lowest < _INT16.min or highest > _INT16.max:
        outside = (wide < _INT16.min) | (wide > _INT16.max)
        clipped = int(np.count_nonzero(outside if named is None else outside & ~named))
        wide = np.clip(wide, _INT16.min, _INT16.max)
    hu = wide.astype(np.int16)

    unreal = hu <= UNREAL_HU if lowest <= UNREAL_HU else None
    sample = hu[::4, ::4]
    real = sample.astype(np.float32)
    if named is not None:
        real[named[::4, ::4]] = np.nan
    padding = named if unreal is None else unreal if named is None else named | unreal
    count = noisy = 0
    if padding is not None:
        changed = padding & (hu != padding_hu)
        count = int(np.count_nonzero(changed))
        noisy = 0 if unreal is None else _noisy_voxels(sample, unreal[::4, ::4])
        hu[changed] = padding_hu
    return HounsfieldSlice(hu, count, clipped, noisy, real)


def _noisy_voxels(sample: NDArray[np.int16], unreal: NDArray[np.bool_]) -> int:
    """Voxels of a plane below UNREAL_HU beside its three commonest values there; from one voxel in 16.

    Padding is a field of one or two values; air that was rescaled twice has noise.
    """
    _, counts = np.unique(sample[unreal], return_counts=True)
    return 16 * int(counts.sum() - np.sort(counts)[-3:].sum())


def _named_padding(
    stored: NDArray[np.int32], header: SliceHeader, slope: float, intercept: float
) -> NDArray[np.bool_] | None:
    """Mask of PixelPaddingValue (to PixelPaddingRangeLimit where given); None where there is none."""
    if header.padding_value is None:
        return None
    limit = header.padding_value if header.padding_limit is None else header.padding_limit
    low, high = min(header.padding_value, limit), max(header.padding_value, limit)
    mask = stored == low if low == high else (stored >= low) & (stored <= high)
    if not mask.any():
        return None
    ends_hu = sorted((low * slope + intercept, high * slope + intercept))
    if ends_hu[1] > _TISSUE_HU[0] and ends_hu[0] < _TISSUE_HU[1]:
        labels, _ = ndimage.label(mask)
        rim = np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
        mask = np.isin(labels, np.setdiff1d(rim, [0]))
        if not mask.any():
            return None
    return np.asarray(mask)


def jumping_slice(samples: Sequence[NDArray[np.float32]]) -> tuple[int, float] | None:
    """First slice that stands off the one before it by a large amount though it shows the same; and the amount in HU.

    Leaving the body also moves most voxels, but then the two slices have nothing in common.
    """
    for index, (previous, current) in enumerate(pairwise(samples), start=1):
        both = ~(np.isnan(previous) | np.isnan(current))
        if np.count_nonzero(both) < 16:
            continue
        one, other = previous[both], current[both]
        shift = float(np.median(other - one))
        if abs(shift) < _JUMP_HU or one.std() < 1 or other.std() < 1:
            continue
        if float(np.corrcoef(one, other)[0, 1]) >= _JUMP_CORRELATION:
            return index, shift
    return None


def implausibility(hu: NDArray[np.int16], padding_hu: int, noisy_voxels: int) -> str:
    """Why the values of a volume (k, j, i) cannot be HU of a patient, or "".

    A patient has soft tissue near 0 HU; a volume that has nothing above -500, or nothing below +500, has another scale.
    noisy_voxels: values below UNREAL_HU that were no padding.
    """
    if noisy_voxels > 0.02 * hu.size:
        return f"{100 * noisy_voxels / hu.size:.0f} % of the voxels lie below {UNREAL_HU} HU and are no padding"
    sample = hu[:: max(len(hu) // 32, 1), ::4, ::4]
    values = sample[sample != padding_hu]
    if values.size == 0:
        return "nothing but padding"
    dense = float(np.mean(values > -500))
    if dense < 0.002:
        return f"{100 * dense:.2f} % of the voxels are above -500 HU"
    sparse = float(np.mean(values < 500))
    if sparse < 0.2:
        return f"{100 * (1 - sparse):.0f} % of the voxels are above 500 HU"
    if float(np.percentile(values, 1)) >= 0 and float(np.percentile(values, 90)) >= 800:
        return "no voxel below 0 HU and a tenth of them above 800 HU"
    if int(values.max()) == int(values.min()):
        return "all voxels are equal"
    return ""

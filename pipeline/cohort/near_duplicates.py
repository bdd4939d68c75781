"""The same picture under two names: patches that were cut again, turned, mirrored, moved by a pixel or made noisier.

A patient who came twice under two pseudonyms passes every comparison of keys. Each patch is compared with each one of
another part in the eight orientations of its plane, coarse structure first; the most alike pairs are then compared in
two bands of spatial frequency, structure and grain, with every part of the picture brought to the same contrast, at
every offset of a few pixels. Grain is the fingerprint of an acquisition: two patients do not share their noise.

How alike the patches of different patients are by nature depends on the data. So the bound is the data's own: the
likeness (Fisher's z) of each patch with its most alike stranger has a median and a 90 % quantile, and what lies further
out than a normal distribution with these reaches in one of a hundred such cohorts is the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import irfft2, rfft2
from scipy.stats import norm

Floats = NDArray[np.float32]

#: (finer, coarser sigma of the band, sigma of the local contrast, its floor, least correlation that counts), in pixels
_STRUCTURE = (1.5, 5.0, 5.0, 0.3, 0.93)
_GRAIN = (0.5, 1.5, 2.0, 0.1, 0.70)
_SEARCH = (1.0, 4.0, 4.0, 0.3)
_SEARCH_PX = 32
_CANDIDATES = 5
_OFFSET_PX = 4
#: of smaller planes an offset leaves too little to tell one ball from another
_LEAST_PX = 24
#: of fewer patches nobody can say how alike strangers are
_FEW = 30
_NEARLY_EQUAL = 0.995
_LEVEL = 0.01
_BLOCK = 256


@dataclass(frozen=True)
class NearDuplicate:
    """Rows of two patches that show the same, and their correlation in the band that told."""

    first: int
    second: int
    likeness: float


def near_duplicates(planes: NDArray[np.generic], parts: NDArray[Any], owners: NDArray[Any]) -> list[NearDuplicate]:
    """Pairs of patches in different parts, under different owners, that show the same picture.

    Parameters
    ----------
    planes: (n, P, H, W) axial planes of each patch, the middle one shown, its neighbours compared with as well.
    parts: (n,) the split or fold of each patch. owners: (n,) its patient.

    Returns
    -------
    Each pair once, the most alike first. Patches without structure, and planes below 24 pixels, are not compared.
    """
    if len(planes) < 2 or min(planes.shape[-2:]) < _LEAST_PX:
        return []
    middle = planes.shape[1] // 2
    _, codes, counts = np.unique(parts.astype(str), return_inverse=True, return_counts=True)
    _, owner = np.unique(owners.astype(str), return_inverse=True)
    asked = np.flatnonzero(codes != counts.argmax())
    # A neighbouring slice is the picture of a nodule that was marked one slice further.
    sources = np.repeat(np.arange(len(planes)), planes.shape[1])
    gallery = planes.reshape(-1, *planes.shape[-2:])
    shown = np.arange(len(planes)) * planes.shape[1] + middle
    rows, sides = [], []
    for block, others, turns in _most_alike(gallery, sources, shown, asked, codes, owner):
        rows.append(np.column_stack([np.repeat(block, others.shape[1]), others.ravel()]))
        sides.append(turns.ravel())
    if not rows:
        return []
    pairs, turned = np.concatenate(rows), np.concatenate(sides)
    found: dict[tuple[int, int], float] = {}
    for *band, least in (_STRUCTURE, _GRAIN):
        even = _even(gallery, *band)
        alike = _likeness(even, np.column_stack([shown[pairs[:, 0]], pairs[:, 1]]), turned)
        bound = _bound(alike, pairs[:, 0], least)
        for (row, other), value in zip(pairs[alike >= bound], alike[alike >= bound], strict=True):
            pair = (min(int(row), int(sources[other])), max(int(row), int(sources[other])))
            found[pair] = max(found.get(pair, 0.0), float(value))
    pairs_found = [NearDuplicate(first, second, value) for (first, second), value in found.items()]
    return sorted(pairs_found, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def axial_planes(patches: NDArray[np.generic], kind: str) -> NDArray[np.generic]:
    """(n, P, H, W) axial planes of patches (n, *patch_shape): three in the middle, or the one that 2.5d has."""
    if kind == "2.5d":
        return patches[:, :1]
    middle = patches.shape[1] // 2
    return patches[:, max(middle - 1, 0) : middle + 2] if patches.shape[1] >= 3 else patches[:, middle : middle + 1]


def _bound(alike: Floats, rows: NDArray[np.int64], least: float) -> float:
    """The correlation from which on two patches are one: by what each patch has in common with its nearest stranger."""
    _, group = np.unique(rows, return_inverse=True)
    nearest = np.zeros(group.max() + 1)
    np.maximum.at(nearest, group, alike)
    nearest = nearest[nearest > 0]
    if len(nearest) < _FEW:
        return max(_NEARLY_EQUAL, least)
    middle, high = np.quantile(np.arctanh(np.minimum(nearest, 0.99999)), (0.5, 0.9))
    reach = (high - middle) / norm.isf(0.1) * norm.isf(_LEVEL / len(nearest))
    return max(least, min(float(np.tanh(middle + reach)), 0.9999))


def _most_alike(
    gallery: NDArray[np.generic],
    sources: NDArray[np.int64],
    shown: NDArray[np.int64],
    asked: NDArray[np.int64],
    codes: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Blocks of asked rows with their candidates in the gallery (rows, k) and the orientation each matched in."""
    small = _small(gallery)
    index = _unit(small)
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        best = np.full((len(block), len(gallery)), -1.0, dtype=np.float32)
        turn = np.zeros(best.shape, dtype=np.int64)
        for number in range(8):
            alike = _unit(_turned(small[shown[block]], number)) @ index.T
            better = alike > best
            best[better], turn[better] = alike[better], number
        strange = codes[sources][None] == codes[block][:, None]
        best[strange | (owner[sources][None] == owner[block][:, None])] = -2.0
        k = min(_CANDIDATES, best.shape[1])
        top = np.argpartition(-best, k - 1, axis=1)[:, :k]
        yield block, top, np.take_along_axis(turn, top, axis=1)


def _likeness(even: Floats, pairs: NDArray[np.int64], turns: NDArray[np.int64]) -> Floats:
    """(m,) highest correlation of pairs of rows of `even` over offsets, the first turned; 0 where one is empty.

    The filters and the window are the same in all directions, so a plane may be turned after them.
    """
    height, width = even.shape[-2:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    reach = np.r_[0 : _OFFSET_PX + 1, -_OFFSET_PX:0]
    out = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _BLOCK):
        part, sides = pairs[start : start + _BLOCK], turns[start : start + _BLOCK]
        one = np.empty((len(part), height, width), dtype=np.float32)
        for number in range(8):
            one[sides == number] = _turned(even[part[sides == number, 0]], number)
        one, other = _centred(one * window), _centred(even[part[:, 1]] * window)
        product = irfft2(rfft2(one) * rfft2(other).conj(), s=(height, width))
        size = np.sqrt((one**2).sum(axis=(1, 2)) * (other**2).sum(axis=(1, 2)))
        peak = product[:, reach][:, :, reach].max(axis=(1, 2))
        out[start : start + len(part)] = np.where(size > 1e-6, peak / np.maximum(size, 1e-6), 0.0)
    return out


def _even(planes: NDArray[np.generic], fine: float, coarse: float, local: float, floor: float) -> Floats:
    """A band of spatial frequency of planes (n, H, W) with the same contrast everywhere; 0 where there is no detail."""
    out = np.zeros(planes.shape, dtype=np.float32)
    for start in range(0, len(planes), _BLOCK):
        block = planes[start : start + _BLOCK].astype(np.float32)
        detail = _blur(block, fine) - _blur(block, coarse)
        power = detail**2
        overall = np.sqrt(power.mean(axis=(1, 2), keepdims=True))
        around = np.sqrt(np.maximum(_blur(power, local), 0.0)) + floor * overall
        out[start : start + len(block)] = np.where(overall > 1e-3, detail / np.maximum(around, 1e-9), 0.0)
    return out


def _blur(planes: Floats, sigma_px: float) -> Floats:
    """Gaussian blur of planes (n, H, W) as two products of matrices, which is faster than a filter on small planes."""
    rows, columns = (_smoothing(size, sigma_px) for size in planes.shape[-2:])
    return np.asarray(rows @ planes @ columns.T, dtype=np.float32)


@lru_cache(maxsize=16)
def _smoothing(size: int, sigma_px: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter1d(np.eye(size), sigma_px, axis=0), dtype=np.float32)


def _small(planes: NDArray[np.generic]) -> Floats:
    """Structure of planes (n, H, W), averaged to at most 32 pixels a side."""
    even = _even(planes, *_SEARCH)
    step = max(min(even.shape[-2:]) // _SEARCH_PX, 1)
    rows, columns = even.shape[-2] // step, even.shape[-1] // step
    side = min(rows, columns)  # square, so that it can be turned
    top, left = (rows - side) * step // 2, (columns - side) * step // 2
    cut = even[:, top : top + side * step, left : left + side * step]
    return np.asarray(cut.reshape(len(even), side, step, side, step).mean(axis=(2, 4)), dtype=np.float32)


def _turned(planes: Floats, number: int) -> Floats:
    """One of the eight flips and quarter turns of planes (n, H, W); planes that are not square are only mirrored."""
    quarter = number % 4 if planes.shape[-1] == planes.shape[-2] else 2 * (number % 2)
    turned = np.rot90(planes, quarter, axes=(-2, -1))
    return np.ascontiguousarray(turned if number < 4 else turned[..., ::-1])


def _unit(planes: Floats) -> Floats:
    """(n, pixels) vectors of mean 0 and length 1."""
    flat = _centred(planes).reshape(len(planes), -1)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def _centred(planes: Floats) -> Floats:
    return np.asarray(planes - planes.mean(axis=(1, 2), keepdims=True), dtype=np.float32)

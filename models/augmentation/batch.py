"""Random rotation, zoom, flips and Gaussian noise for a whole batch, the same bytes whatever the number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_contracts.errors import UsageError
from models.augmentation.kernels import add_noise, warp_plane, warp_volume

Array = NDArray[np.float32]


@dataclass(frozen=True)
class AugmentRanges:
    """How far a random image may be from its original.

    rotation_rad: largest turn about each axis of a volume, or in a plane.
    zoom: smallest and largest magnification.
    flip_probability: for each axis by itself.
    noise_std: standard deviation of the noise added, in units of the image.
    """

    rotation_rad: float = 0.26
    zoom: tuple[float, float] = (0.9, 1.1)
    flip_probability: float = 0.5
    noise_std: float = 0.0


def random_matrices(
    n: int, shape: Sequence[int], ranges: AugmentRanges, *, seed: int, draw: int
) -> NDArray[np.float64]:
    """Matrices (n, d, d + 1) from output to source indices, about the centre of images of `shape` (d axes, 2 or 3)."""
    axes = len(shape)
    rng = np.random.default_rng([seed, draw])
    angles = rng.uniform(-ranges.rotation_rad, ranges.rotation_rad, (n, 3 if axes == 3 else 1))
    zooms = rng.uniform(*ranges.zoom, n)
    flips = np.where(rng.random((n, axes)) < ranges.flip_probability, -1.0, 1.0)
    turn = np.broadcast_to(np.eye(axes), (n, axes, axes)).copy()
    for number, (one, other) in enumerate([(1, 2), (0, 2), (0, 1)] if axes == 3 else [(0, 1)]):
        step = np.broadcast_to(np.eye(axes), (n, axes, axes)).copy()
        cosine, sine = np.cos(angles[:, number]), np.sin(angles[:, number])
        step[:, one, one], step[:, one, other] = cosine, -sine
        step[:, other, one], step[:, other, other] = sine, cosine
        turn = turn @ step
    matrices = turn * (flips / zooms[:, None])[:, None, :]
    centre = (np.asarray(shape, dtype=np.float64) - 1) / 2
    return np.concatenate([matrices, (centre - matrices @ centre)[:, :, None]], axis=2)


def augment_batch(
    images: Array, ranges: AugmentRanges, *, seed: int, draw: int, out: Array | None = None, threads: int = 0
) -> Array:
    """Images of a batch, each turned, zoomed, flipped and made noisy at random; (seed, draw) names the random numbers.

    Parameters
    ----------
    images: volumes (N, C, D, H, W) or planes (N, C, H, W), float32; each of the N is warped by itself, its C alike.
        Planes of a patch that are to be warped apart are given as images of their own.
    out: where the result goes, of the same shape, C order.
    threads: 0 takes torch's.
    """
    _check_shape(images)
    shape = images.shape[2:]
    matrices = random_matrices(len(images), shape, ranges, seed=seed, draw=draw)
    ones = np.ones((len(images), images.shape[1]))
    keys = noise_keys(len(images), seed=seed, draw=draw)
    return warp_batch(images, matrices, ones, 0 * ones, ranges.noise_std, keys, out=out, threads=threads)


def warp_batch(
    images: Array,
    matrices: NDArray[np.floating],
    gain: NDArray[np.floating],
    shift: NDArray[np.floating],
    noise_std: float = 0.0,
    keys: NDArray[np.uint32] | None = None,
    *,
    out: Array | None = None,
    threads: int = 0,
) -> Array:
    """gain * warped + shift + noise: the images (N, C, [D,] H, W) by linear interpolation, the border repeated outside.

    Parameters
    ----------
    matrices: (N, d, d + 1), output indices to source indices.
    gain, shift: (N, C).
    keys: (N, 2), one pair of words an image, which its noise is drawn from.

    Raises
    ------
    UsageError: images of other than two or three axes, an axis of a single voxel, or an `out` that does not fit.
    """
    _check_shape(images)
    source = np.ascontiguousarray(images, dtype=np.float32)
    if out is None:
        out = np.empty_like(source)
    elif out.shape != source.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise UsageError("the output of augmentation must be float32 in C order and shaped like its input")
    warp = warp_volume if images.ndim == 5 else warp_plane
    maps, factors, offsets = (np.ascontiguousarray(part, dtype=np.float32) for part in (matrices, gain, shift))
    std = np.float32(noise_std)

    def one(number: int) -> None:
        warp(source[number], maps[number], factors[number], offsets[number], out[number])
        if std > 0 and keys is not None:
            add_noise(out[number].reshape(-1), std, keys[number, 0], keys[number, 1])

    workers = min(threads or torch.get_num_threads(), len(source))
    if workers <= 1:
        for number in range(len(source)):
            one(number)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(len(source))))
    return out


def noise_keys(n: int, *, seed: int, draw: int) -> NDArray[np.uint32]:
    """Key words (n, 2) of the noise of n images."""
    return np.random.default_rng([seed, draw, 1]).integers(0, 2**32, (n, 2), dtype=np.uint32)


def _check_shape(images: Array) -> None:
    if images.ndim not in (4, 5) or min(images.shape[2:]) < 2:
        raise UsageError(f"images of shape {images.shape} cannot be warped", todo="Give (N, C, [D,] H, W), sides >= 2.")

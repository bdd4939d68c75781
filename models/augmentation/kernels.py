"""Inner loops of augmentation: affine warps by linear interpolation, and Gaussian noise from a counter.

Coordinates outside an image are moved to its border before interpolation, as torch's grid_sample does with
padding_mode="border". Each loop over a row first finds where to read and then reads, which compilers turn into vectors.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.jit import inlined, jit

_TWO_PI = np.float32(2 * math.pi)
_STEP_24 = np.float32(2.0**-24)
#: places whose numbers are made at a time, in the first-level cache
_BLOCK = 1024


@jit
def warp_volume(
    source: NDArray[np.float32],
    matrix: NDArray[np.float32],
    gain: NDArray[np.float32],
    shift: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[c, k, j, i] = gain[c] * source[c] at matrix @ (k, j, i, 1) + shift[c]; every axis has two voxels or more.

    source: (C, D, H, W); matrix: (3, 4), output indices to source indices; out: (C, D', H', W').
    """
    channels, depth, height, width = source.shape
    zero = np.float32(0)
    last_z, last_y, last_x = np.float32(depth - 1), np.float32(height - 1), np.float32(width - 1)
    cell_z, cell_y, cell_x = np.int32(depth - 2), np.int32(height - 2), np.int32(width - 2)
    row_step, slice_step = np.int32(width), np.int32(height * width)
    count = out.shape[3]
    part_z, part_y, part_x = (np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32))
    place = np.empty(count, np.int32)
    for k in range(out.shape[1]):
        for j in range(out.shape[2]):
            row_z = matrix[0, 0] * np.float32(k) + matrix[0, 1] * np.float32(j) + matrix[0, 3]
            row_y = matrix[1, 0] * np.float32(k) + matrix[1, 1] * np.float32(j) + matrix[1, 3]
            row_x = matrix[2, 0] * np.float32(k) + matrix[2, 1] * np.float32(j) + matrix[2, 3]
            for i in range(count):
                z = min(max(row_z + matrix[0, 2] * np.float32(i), zero), last_z)
                y = min(max(row_y + matrix[1, 2] * np.float32(i), zero), last_y)
                x = min(max(row_x + matrix[2, 2] * np.float32(i), zero), last_x)
                a, b, c = min(np.int32(z), cell_z), min(np.int32(y), cell_y), min(np.int32(x), cell_x)
                part_z[i], part_y[i], part_x[i] = z - np.float32(a), y - np.float32(b), x - np.float32(c)
                place[i] = np.int32(a * slice_step) + np.int32(b * row_step) + c
            for channel in range(channels):
                flat = source[channel].reshape(-1)
                row = out[channel, k, j]
                factor, offset = gain[channel], shift[channel]
                for i in range(count):
                    near = np.uint32(place[i])
                    far = near + np.uint32(slice_step)
                    x, y = part_x[i], part_y[i]
                    v00 = flat[near] + x * (flat[near + 1] - flat[near])
                    v01 = flat[near + width] + x * (flat[near + width + 1] - flat[near + width])
                    v10 = flat[far] + x * (flat[far + 1] - flat[far])
                    v11 = flat[far + width] + x * (flat[far + width + 1] - flat[far + width])
                    v0, v1 = v00 + y * (v01 - v00), v10 + y * (v11 - v10)
                    row[i] = (v0 + part_z[i] * (v1 - v0)) * factor + offset


@jit
def warp_plane(
    source: NDArray[np.float32],
    matrix: NDArray[np.float32],
    gain: NDArray[np.float32],
    shift: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[c, j, i] = gain[c] * source[c] at matrix @ (j, i, 1) + shift[c]; source (C, H, W), matrix (2, 3)."""
    channels, height, width = source.shape
    zero = np.float32(0)
    last_y, last_x = np.float32(height - 1), np.float32(width - 1)
    cell_y, cell_x = np.int32(height - 2), np.int32(width - 2)
    count = out.shape[2]
    part_y, part_x = np.empty(count, np.float32), np.empty(count, np.float32)
    place = np.empty(count, np.int32)
    for j in range(out.shape[1]):
        row_y = matrix[0, 0] * np.float32(j) + matrix[0, 2]
        row_x = matrix[1, 0] * np.float32(j) + matrix[1, 2]
        for i in range(count):
            y = min(max(row_y + matrix[0, 1] * np.float32(i), zero), last_y)
            x = min(max(row_x + matrix[1, 1] * np.float32(i), zero), last_x)
            b, c = min(np.int32(y), cell_y), min(np.int32(x), cell_x)
            part_y[i], part_x[i] = y - np.float32(b), x - np.float32(c)
            place[i] = np.int32(b * np.int32(width)) + c
        for channel in range(channels):
            flat = source[channel].reshape(-1)
            row = out[channel, j]
            factor, offset = gain[channel], shift[channel]
            for i in range(count):
                near = np.uint32(place[i])
                v0 = flat[near] + part_x[i] * (flat[near + 1] - flat[near])
                v1 = flat[near + width] + part_x[i] * (flat[near + width + 1] - flat[near + width])
                row[i] = (v0 + part_y[i] * (v1 - v0)) * factor + offset


@inlined
def _mixed(word):  # type: ignore[no-untyped-def]
    """A bijection of 32 bits in which each bit of the word changes each bit of the result in half of the cases.

    Constants: C. Wellons, hash-prospector, "lowbias32" (bias 0.17).
    """
    word ^= word >> np.uint32(16)
    word = np.uint32(word * np.uint32(0x7FEB352D))
    word ^= word >> np.uint32(15)
    word = np.uint32(word * np.uint32(0x846CA68B))
    return np.uint32(word ^ (word >> np.uint32(16)))


@inlined
def _sine(turns):  # type: ignore[no-untyped-def]
    """sin(2 pi turns) for |turns| <= 1/4; Taylor to the 11th power, off by at most 6e-8."""
    x = turns * _TWO_PI
    square = x * x
    tail = np.float32(1 / 362880) - square * np.float32(1 / 39916800)
    tail = np.float32(-1 / 5040) + square * tail
    tail = np.float32(1 / 120) + square * tail
    tail = np.float32(-1 / 6) + square * tail
    return x + x * square * tail


@inlined
def _logarithm(value):  # type: ignore[no-untyped-def]
    """ln of a float32 in (0, 1]: exponent and mantissa apart, Cephes logf's polynomial (relative error 1e-7)."""
    bits = np.float32(value).view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # the mantissa is from sqrt(1/2) to sqrt(2)
    x = np.int32(bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
    square = x * x
    tail = np.float32(7.0376836292e-2) * x - np.float32(1.1514610310e-1)
    tail = tail * x + np.float32(1.1676998740e-1)
    tail = tail * x - np.float32(1.2420140846e-1)
    tail = tail * x + np.float32(1.4249322787e-1)
    tail = tail * x - np.float32(1.6668057665e-1)
    tail = tail * x + np.float32(2.0000714765e-1)
    tail = tail * x - np.float32(2.4999993993e-1)
    tail = tail * x + np.float32(3.3333331174e-1)
    return np.float32(exponent) * np.float32(0.6931471806) + (x + square * (tail * x - np.float32(0.5)))


@jit
def add_noise(values: NDArray[np.float32], std: np.float32, first_key: np.uint32, second_key: np.uint32) -> None:
    """Add normal numbers to values (n,): two a pair of 24-bit uniforms (Box and Muller 1958), each a hash of its place.

    They depend on the keys and the place alone, so any thread may compute any image. The largest is 5.8 `std`.
    """
    half = (values.size + 1) // 2
    one, other = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    radius, turns = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    # One short loop a step: together they are too much for the compiler to make vectors of.
    for start in range(0, half, _BLOCK):
        count = min(_BLOCK, half - start)
        for n in range(count):
            even = np.uint32(np.uint32(start + n) << np.uint32(1))
            odd = np.uint32(even | np.uint32(1))
            one[n] = _mixed(np.uint32(_mixed(np.uint32(even ^ first_key)) ^ second_key))
            other[n] = _mixed(np.uint32(_mixed(np.uint32(odd ^ first_key)) ^ second_key))
        for n in range(count):
            radius[n] = (np.float32(np.int32(one[n] >> np.uint32(8))) + np.float32(1)) * _STEP_24  # in (0, 1]
            turns[n] = np.float32(np.int32(other[n] >> np.uint32(8))) * _STEP_24 - np.float32(0.5)
        for n in range(count):
            radius[n] = _logarithm(radius[n])
        for n in range(count):
            radius[n] = std * np.sqrt(np.float32(-2) * radius[n])
        first = values[start : start + count]
        for n in range(count):
            first[n] += radius[n] * _sine(np.float32(0.25) - abs(turns[n]))
        second = values[half + start : half + start + count]  # one shorter at the end of an odd number
        for n in range(second.size):
            size = abs(turns[n])
            height = radius[n] * _sine(min(size, np.float32(0.5) - size))
            second[n] += height if turns[n] >= 0 else -height

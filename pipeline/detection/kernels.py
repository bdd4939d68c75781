"""The loops of the blob search as machine code; `pipeline.detection.blobs` knows what they are for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.jit import jit


@jit
def correlate_k(source: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Symmetric filter along the slowest axis, edges repeated; source and out: (k, j, i), weights: (radius + 1,)."""
    depth, rows, columns = source.shape
    for k in range(depth):
        for j in range(rows):
            line = out[k, j]
            here = source[k, j]
            for i in range(columns):
                line[i] = weights[0] * here[i]
            for step in range(1, len(weights)):
                before, after = source[max(k - step, 0), j], source[min(k + step, depth - 1), j]
                weight = weights[step]
                for i in range(columns):
                    line[i] += weight * (before[i] + after[i])


@jit
def correlate_j(source: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Symmetric filter along the middle axis, edges repeated."""
    depth, rows, columns = source.shape
    for k in range(depth):
        for j in range(rows):
            line = out[k, j]
            here = source[k, j]
            for i in range(columns):
                line[i] = weights[0] * here[i]
            for step in range(1, len(weights)):
                before, after = source[k, max(j - step, 0)], source[k, min(j + step, rows - 1)]
                weight = weights[step]
                for i in range(columns):
                    line[i] += weight * (before[i] + after[i])


@jit
def correlate_i(source: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Symmetric filter along the fastest axis, edges repeated; source and out may be the same array."""
    depth, rows, columns = source.shape
    radius = len(weights) - 1
    padded = np.empty(columns + 2 * radius, dtype=np.float32)
    for k in range(depth):
        for j in range(rows):
            here = source[k, j]
            padded[:radius] = here[0]
            padded[columns + radius :] = here[columns - 1]
            for i in range(columns):
                padded[i + radius] = here[i]
            line = out[k, j]
            middle = padded[radius : radius + columns]
            for i in range(columns):
                line[i] = weights[0] * middle[i]
            for step in range(1, radius + 1):
                before, after = padded[radius - step :], padded[radius + step :]
                weight = weights[step]
                for i in range(columns):
                    line[i] += weight * (before[i] + after[i])


@jit
def negative_laplacian(smooth: NDArray[np.float32], factor: float, out: NDArray[np.float32]) -> None:
    """-factor times the second differences along k, j and i, summed; 0 on the outermost voxels."""
    depth, rows, columns = smooth.shape
    out[0], out[depth - 1] = 0.0, 0.0
    scale = np.float32(factor)
    for k in range(1, depth - 1):
        out[k, 0], out[k, rows - 1] = 0.0, 0.0
        for j in range(1, rows - 1):
            here, up, down = smooth[k, j], smooth[k - 1, j], smooth[k + 1, j]
            back, front = smooth[k, j - 1], smooth[k, j + 1]
            line = out[k, j]
            line[0], line[columns - 1] = 0.0, 0.0
            for i in range(1, columns - 1):
                around = up[i] + down[i] + back[i] + front[i] + here[i - 1] + here[i + 1]
                line[i] = scale * (np.float32(6.0) * here[i] - around)


@jit
def local_maxima(
    response: NDArray[np.float32], inside: NDArray[np.float32], threshold: float, found: NDArray[np.int32]
) -> int:
    """Voxels above the threshold, inside (> 0.5), that none of 26 neighbours exceeds, into found (n, 3); their number.

    Of equal neighbours the first counts. Where there are more than `found` holds the rest is counted only.
    """
    depth, rows, columns = response.shape
    count = 0
    for k in range(1, depth - 1):
        for j in range(1, rows - 1):
            for i in range(1, columns - 1):
                value = response[k, j, i]
                if value <= threshold or inside[k, j, i] <= 0.5:
                    continue
                is_peak = True
                for dk in range(-1, 2):
                    for dj in range(-1, 2):
                        for di in range(-1, 2):
                            other = response[k + dk, j + dj, i + di]
                            earlier = dk < 0 or (dk == 0 and (dj < 0 or (dj == 0 and di < 0)))
                            if other > value or (earlier and other == value):
                                is_peak = False
                                break
                        if not is_peak:
                            break
                    if not is_peak:
                        break
                if is_peak:
                    if count < len(found):
                        found[count, 0], found[count, 1], found[count, 2] = k, j, i
                    count += 1
    return count


@jit
def sample_patches(
    image: NDArray[np.float32], centers: NDArray[np.float64], steps: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Cubes around places, trilinear, edges repeated; all in voxels of `image` (k, j, i).

    centers: (n, 3) index points. steps: (n,) voxels between samples. out: (n, side, side, side), odd side.
    """
    top_k, top_j, top_i = image.shape[0] - 1, image.shape[1] - 1, image.shape[2] - 1
    side = out.shape[1]
    half = side // 2
    for n in range(len(centers)):
        for a in range(side):
            z = min(max(centers[n, 0] + (a - half) * steps[n], 0.0), float(top_k))
            z0 = int(z)
            z1 = min(z0 + 1, top_k)
            wz = np.float32(z - z0)
            for b in range(side):
                y = min(max(centers[n, 1] + (b - half) * steps[n], 0.0), float(top_j))
                y0 = int(y)
                y1 = min(y0 + 1, top_j)
                wy = np.float32(y - y0)
                for c in range(side):
                    x = min(max(centers[n, 2] + (c - half) * steps[n], 0.0), float(top_i))
                    x0 = int(x)
                    x1 = min(x0 + 1, top_i)
                    wx = np.float32(x - x0)
                    low = image[z0, y0, x0] + wx * (image[z0, y0, x1] - image[z0, y0, x0])
                    high = image[z0, y1, x0] + wx * (image[z0, y1, x1] - image[z0, y1, x0])
                    front = low + wy * (high - low)
                    low = image[z1, y0, x0] + wx * (image[z1, y0, x1] - image[z1, y0, x0])
                    high = image[z1, y1, x0] + wx * (image[z1, y1, x1] - image[z1, y1, x0])
                    back = low + wy * (high - low)
                    out[n, a, b, c] = front + wz * (back - front)


@jit
def grow(bright: NDArray[np.bool_], region: NDArray[np.bool_]) -> int:
    """The part of `bright` (a cube) that hangs together with its middle by faces, into `region`; its voxels.

    Where the middle is not bright the nearest bright voxel within two steps begins; 0 where there is none.
    """
    side = bright.shape[0]
    half = side // 2
    region[:] = False
    best = 13
    start = (-1, -1, -1)
    for a in range(-2, 3):
        for b in range(-2, 3):
            for c in range(-2, 3):
                away = a * a + b * b + c * c
                if away < best and bright[half + a, half + b, half + c]:
                    best, start = away, (half + a, half + b, half + c)
    if start[0] < 0:
        return 0
    stack = np.empty((side * side * side, 3), dtype=np.int32)
    stack[0, 0], stack[0, 1], stack[0, 2] = start
    region[start[0], start[1], start[2]] = True
    waiting, count = 1, 1
    while waiting > 0:
        waiting -= 1
        k, j, i = stack[waiting]
        for axis in range(3):
            for sign in range(-1, 2, 2):
                a, b, c = k, j, i
                if axis == 0:
                    a += sign
                elif axis == 1:
                    b += sign
                else:
                    c += sign
                if a < 0 or b < 0 or c < 0 or a >= side or b >= side or c >= side:
                    continue
                if bright[a, b, c] and not region[a, b, c]:
                    region[a, b, c] = True
                    stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = a, b, c
                    waiting += 1
                    count += 1
    return count

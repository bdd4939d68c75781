"""Trilinear interpolation as compiled loops; `pipeline.imaging.resample` knows what they are for.

Every kernel fills output slices [first, last) and nothing else, so that threads share an output without a lock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.jit import jit

#: 1.5 * 2^23: adding and subtracting it rounds a float32 below 2^22 to the nearest integer, in vector code
_ROUND = np.float32(12582912.0)


@jit
def fill_parallel(
    source: NDArray[np.generic],
    lower_k: NDArray[np.int64],
    weight_k: NDArray[np.float32],
    lower_j: NDArray[np.int64],
    weight_j: NDArray[np.float32],
    lower_i: NDArray[np.uint32],
    weight_i: NDArray[np.float32],
    inside_k: NDArray[np.bool_],
    inside_j: NDArray[np.bool_],
    first_i: int,
    last_i: int,
    padding: float,
    rounded: bool,
    out: NDArray[np.generic],
    first: int,
    last: int,
) -> None:
    """Grids whose axes run along the source's: two or four source rows are mixed once, then sampled along i.

    source: (k, j, i). lower_*, weight_*, inside_*: for each new index the source index below, the weight of the next
    one (0 where there is none), and whether the sample lies in the field. Along i the samples first_i to last_i do.
    """
    rows = out.shape[1]
    width = source.shape[2]
    mixed = np.empty(width + 1, dtype=np.float32)
    sampled = np.empty(last_i - first_i, dtype=np.float32)
    below_i, next_i = lower_i[first_i:last_i], weight_i[first_i:last_i]
    for k in range(first, last):
        if not inside_k[k]:
            out[k, :, :] = padding
            continue
        below = lower_k[k]
        wk = weight_k[k]
        for j in range(rows):
            if not inside_j[j]:
                out[k, j, :] = padding
                continue
            upper = lower_j[j]
            wj = weight_j[j]
            row = source[below, upper]
            if wk == 0 and wj == 0:
                for i in range(width):
                    mixed[i] = row[i]
            elif wk == 0 or wj == 0:
                other = source[below, upper + 1] if wk == 0 else source[below + 1, upper]
                weight = wj + wk
                for i in range(width):
                    a = np.float32(row[i])
                    mixed[i] = a + weight * (np.float32(other[i]) - a)
            else:
                right, next_row, next_right = (
                    source[below, upper + 1],
                    source[below + 1, upper],
                    source[below + 1, upper + 1],
                )
                for i in range(width):
                    a = np.float32(row[i])
                    c = np.float32(next_row[i])
                    a += wj * (np.float32(right[i]) - a)
                    c += wj * (np.float32(next_right[i]) - c)
                    mixed[i] = a + wk * (c - a)
            mixed[width] = mixed[width - 1]
            out[k, j, :first_i] = padding
            out[k, j, last_i:] = padding
            # loops over views that start at 0: an index that might be negative cannot be turned into vector code
            line = out[k, j, first_i:last_i]
            for i in range(len(line)):
                at = below_i[i]
                a = mixed[at]
                sampled[i] = a + next_i[i] * (mixed[at + np.uint32(1)] - a)
            if rounded:
                for i in range(len(line)):
                    line[i] = (sampled[i] + _ROUND) - _ROUND
            else:
                for i in range(len(line)):
                    line[i] = sampled[i]


@jit
def fill_oblique(
    source: NDArray[np.generic],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    tolerance: float,
    padding: float,
    rounded: bool,
    out: NDArray[np.generic],
    first: int,
    last: int,
) -> None:
    """Grids at any angle: source index = matrix @ (k, j, i) + offset for every new voxel.

    Up to half a voxel (and `tolerance`) beyond the outermost centres a sample takes the value of the edge.
    """
    rows, columns = out.shape[1], out.shape[2]
    top_k, top_j, top_i = source.shape[0] - 1, source.shape[1] - 1, source.shape[2] - 1
    reach = 0.5 + tolerance
    for k in range(first, last):
        for j in range(rows):
            for i in range(columns):
                z = matrix[0, 0] * k + matrix[0, 1] * j + matrix[0, 2] * i + offset[0]
                y = matrix[1, 0] * k + matrix[1, 1] * j + matrix[1, 2] * i + offset[1]
                x = matrix[2, 0] * k + matrix[2, 1] * j + matrix[2, 2] * i + offset[2]
                if (
                    z < -reach
                    or y < -reach
                    or x < -reach
                    or z > top_k + reach
                    or y > top_j + reach
                    or x > top_i + reach
                ):
                    out[k, j, i] = padding
                    continue
                z = min(max(z, 0.0), float(top_k))
                y = min(max(y, 0.0), float(top_j))
                x = min(max(x, 0.0), float(top_i))
                z0, y0, x0 = int(z), int(y), int(x)
                z1, y1, x1 = min(z0 + 1, top_k), min(y0 + 1, top_j), min(x0 + 1, top_i)
                wz, wy, wx = np.float32(z - z0), np.float32(y - y0), np.float32(x - x0)
                a = np.float32(source[z0, y0, x0])
                a += wx * (np.float32(source[z0, y0, x1]) - a)
                b = np.float32(source[z0, y1, x0])
                b += wx * (np.float32(source[z0, y1, x1]) - b)
                a += wy * (b - a)
                c = np.float32(source[z1, y0, x0])
                c += wx * (np.float32(source[z1, y0, x1]) - c)
                d = np.float32(source[z1, y1, x0])
                d += wx * (np.float32(source[z1, y1, x1]) - d)
                c += wy * (d - c)
                a += wz * (c - a)
                out[k, j, i] = (a + _ROUND) - _ROUND if rounded else a

"""Reading plain planes as one compiled loop: file, extremes, intercept and samples without Python in between.

Two threads that return to the interpreter between each read and each addition wait for one another longer than they
work. This loop calls the C library itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from pipeline.jit import jit

_open: Any = types.ExternalFunction("open", types.intc(types.uintp, types.intc))
_pread: Any = types.ExternalFunction("pread", types.intp(types.intc, types.uintp, types.uintp, types.int64))
_close: Any = types.ExternalFunction("close", types.intc(types.intc))


@jit
def read_planes(
    names: NDArray[np.uint8],
    starts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    intercepts: NDArray[np.int64],
    signed: NDArray[np.bool_],
    hu: NDArray[np.int16],
    samples: NDArray[np.int16],
    step_j: int,
    step_i: int,
    first: int,
    last: int,
    lowest: NDArray[np.int64],
    highest: NDArray[np.int64],
    n_read: NDArray[np.int64],
) -> None:
    """Fill slices [first, last) of `hu` (k, j, i) with samples + intercept, modulo 2**16.

    names: the paths, each ended by a zero, from `starts` on. offsets: of the pixels in each file. samples: every
    step_j-th row and step_i-th column of each slice. lowest, highest: extremes of the samples as they are signed.
    n_read: bytes that each file gave, -1 where it cannot be opened.
    """
    size = hu.shape[1] * hu.shape[2]
    buffer = np.empty(size, dtype=np.int16)
    unsigned = buffer.view(np.uint16)
    for k in range(first, last):
        descriptor = _open(names.ctypes.data + starts[k], 0)
        if descriptor < 0:
            n_read[k] = -1
            continue
        n_read[k] = _pread(descriptor, buffer.ctypes.data, 2 * size, offsets[k])
        _close(descriptor)
        if n_read[k] != 2 * size:  # no page of the volume is touched for a file that is too short
            continue
        plane = hu[k].reshape(size)
        added = np.int16(intercepts[k])
        if signed[k]:
            low, high = np.int16(32767), np.int16(-32768)
            for i in range(size):
                low = min(low, buffer[i])
                high = max(high, buffer[i])
                plane[i] = buffer[i] + added
            lowest[k], highest[k] = low, high
        else:
            least, most = np.uint16(65535), np.uint16(0)
            for i in range(size):
                least = min(least, unsigned[i])
                most = max(most, unsigned[i])
                plane[i] = buffer[i] + added
            lowest[k], highest[k] = least, most
        samples[k] = hu[k, ::step_j, ::step_i]

"""Plain planes by the shortest way: uncompressed, little endian, 16 bits, slope 1, a file each, as most CT is stored.

Whatever is not plain, or turns out not to be, is left to the ordinary way, which also says what is wrong with it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.headers.slice_header import SliceHeader

_PLAIN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
#: loading the compiled loop takes half a second: worth it where volumes of this size come
_LOAD_FROM_BYTES = 1 << 25
_HIGHEST_INTERCEPT = 1 << 15

_Kernel = Callable[..., None]


class _Loader:
    """The compiled loop, loaded in the background when the first large volume asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.kernel: _Kernel | None = None

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self.load, name="load-plain-kernel")
                self._thread.start()

    def load(self) -> None:
        from pipeline.pixels.plain_kernel import read_planes

        _call(read_planes, _Tables(()), np.empty((0, 1, 1), np.int16), np.empty((0, 1, 1), np.int16), (1, 1), (0, 0))
        self.kernel = read_planes


_LOADER = _Loader()


def load_kernel() -> None:
    """Wait until the compiled loop is there; without this call volumes are read the ordinary way until it is."""
    _LOADER.load()


class _Tables:
    """What the loop needs to know of each slice, and what it answers."""

    def __init__(self, slices: Sequence[SliceHeader]) -> None:
        names = [os.fsencode(header.path) + b"\0" for header in slices]
        self.names = np.frombuffer(b"".join(names) or b"\0", dtype=np.uint8).copy()
        self.starts = np.cumsum([0, *map(len, names)], dtype=np.int64)
        self.offsets = np.array([header.pixel_offset or 0 for header in slices], dtype=np.int64)
        self.intercepts = np.array([int(header.rescale_intercept or 0) for header in slices], dtype=np.int64)
        self.signed = np.array([header.signed for header in slices], dtype=np.bool_)
        self.lowest = np.zeros(len(slices), dtype=np.int64)
        self.highest = np.zeros(len(slices), dtype=np.int64)
        self.n_read = np.zeros(len(slices), dtype=np.int64)


def _call(
    kernel: _Kernel,
    tables: _Tables,
    hu: NDArray[np.int16],
    samples: NDArray[np.int16],
    steps: tuple[int, int],
    bounds: tuple[int, int],
) -> None:
    known = (tables.names, tables.starts, tables.offsets, tables.intercepts, tables.signed)
    kernel(*known, hu, samples, *steps, *bounds, tables.lowest, tables.highest, tables.n_read)


def read_plain(
    slices: Sequence[SliceHeader],
    hu: NDArray[np.int16],
    samples: NDArray[np.int16],
    steps: tuple[int, int],
    run: Callable[[Callable[[Any], None], list[Any]], object],
    n_threads: int,
) -> dict[int, tuple[int, int]]:
    """Fill the planes of `hu` (k, j, i) that are plain with HU; lowest and highest stored value by slice.

    A slice that is not in the answer was not read, or not wholly; what `hu` and `samples` hold there means nothing.

    samples: receives every steps[0]-th row and steps[1]-th column of each plane.
    run: calls a function for each item of a list, side by side.
    """
    if not slices or not all(_is_plain(header) for header in slices) or sys.byteorder != "little":
        return {}
    kernel = _LOADER.kernel
    if kernel is None:
        if hu.nbytes >= _LOAD_FROM_BYTES:
            _LOADER.start()
        return {}
    tables = _Tables(slices)
    bounds = np.linspace(0, len(slices), 4 * n_threads + 1).astype(int).tolist()
    run(lambda part: _call(kernel, tables, hu, samples, steps, part), list(pairwise(bounds)))
    whole = 2 * hu.shape[1] * hu.shape[2]
    return {
        k: (int(tables.lowest[k]), int(tables.highest[k]))
        for k, header in enumerate(slices)
        if tables.n_read[k] == whole and _is_unchanged(header)
    }


def _is_plain(header: SliceHeader) -> bool:
    slope, intercept = header.rescale_slope or 1.0, header.rescale_intercept or 0.0
    n_bytes = 2 * header.rows * header.columns
    return (
        header.transfer_syntax in _PLAIN_SYNTAXES
        and header.n_frames == 1
        and header.bits_allocated == 16
        and 0 < header.bits_stored == header.high_bit + 1 <= 16
        and header.pixel_offset is not None
        and header.rows > 0
        and header.columns > 0
        and n_bytes <= header.pixel_length <= n_bytes + 1
        and header.pixel_offset + n_bytes <= (header.file_bytes or sys.maxsize)
        and slope == 1.0
        and float(intercept).is_integer()
        and abs(intercept) < _HIGHEST_INTERCEPT
    )


def _is_unchanged(header: SliceHeader) -> bool:
    try:
        state = header.path.stat()
    except OSError:
        return False
    return not header.modified_ns or (state.st_size, state.st_mtime_ns) == (header.file_bytes, header.modified_ns)

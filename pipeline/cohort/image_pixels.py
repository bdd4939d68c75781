"""Pixels of many images on their way to a dataset, on disk and not in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipeline.cohort.image_files import ImagePixels


class PixelFile:
    """Images appended one by one, as one channel each until one has colour; deep ones wait for the range of all.

    digests: sha256 of each image's pixels, the same whether grey is stored once or three times; of a deep image it is
        known after `fill_deep`.
    """

    def __init__(self, folder: Path, size_px: int) -> None:
        self._plain, self._deep, self._final = (folder / name for name in ("plain.raw", "deep.raw", "final.raw"))
        self._size = size_px
        self._channels: list[int] = []
        self._deep_rows: list[int] = []
        self._range: tuple[float, float] | None = None
        self.digests: list[str] = []

    def __enter__(self) -> PixelFile:
        self._streams = self._plain.open("wb"), self._deep.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.close()

    def append(self, image: ImagePixels) -> None:
        """One more image."""
        plain, deep = self._streams
        if image.plain is None:
            assert image.deep is not None
            self._deep_rows.append(len(self._channels))
            low, high = float(np.nanmin(image.deep)), float(np.nanmax(image.deep))
            before = self._range or (low, high)
            self._range = min(before[0], low), max(before[1], high)
            deep.write(image.deep.tobytes())
            body = bytes(self._size**2)
        else:
            body = np.ascontiguousarray(image.plain if image.coloured else image.plain[:1]).tobytes()
        plain.write(body)
        self._channels.append(len(body) // self._size**2)
        self.digests.append(hashlib.sha256(body).hexdigest())

    @property
    def n_deep(self) -> int:
        """How many images are deeper than 8 bits."""
        return len(self._deep_rows)

    @property
    def deep_range(self) -> tuple[float, float]:
        """The lowest and highest value of all deep images."""
        return self._range or (0.0, 255.0)

    @property
    def coloured(self) -> bool:
        """Whether any image has colour."""
        return 3 in self._channels

    def fill_deep(self, low: float, high: float) -> None:
        """Write the deep images as greys from `low` (0) to `high` (255); their padding is 0."""
        plane = self._size**2
        offsets = np.cumsum([0, *self._channels]) * plane
        with self._plain.open("r+b") as plain, self._deep.open("rb") as deep:
            for row in self._deep_rows:
                values = np.frombuffer(deep.read(4 * plane), dtype=np.float32).astype(np.float64)
                grey = np.rint((values - low) * (255 / max(high - low, 1e-12)))
                body = np.nan_to_num(np.clip(grey, 0, 255), nan=0.0).astype(np.uint8).tobytes()
                plain.seek(int(offsets[row]))
                plain.write(body)
                self.digests[row] = hashlib.sha256(body).hexdigest()

    def mapped(self, channels: int) -> NDArray[np.uint8]:
        """All images (n, channels, S, S), mapped from disk; grey ones repeat their one channel."""
        path = self._plain
        if set(self._channels) != {channels}:
            path = self._final
            plane = self._size**2
            with self._plain.open("rb") as plain, path.open("wb") as final:
                for have in self._channels:
                    body = plain.read(have * plane)
                    final.write(body if have == channels else body * channels)
        return np.memmap(path, np.uint8, "r", shape=(len(self._channels), channels, self._size, self._size))

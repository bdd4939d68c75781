"""The samples of one image plane out of its file: native, deflated, in items, or compressed."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import DecodeError
from pipeline.headers.code_streams import RLE
from pipeline.headers.elements import UNDEFINED_LENGTH, OddHeaderError, ShortBufferError
from pipeline.headers.file_front import read_front
from pipeline.headers.open_file import inflate
from pipeline.headers.slice_header import SliceHeader
from pipeline.pixels.codecs import NATIVE, Plane, decode_frame
from pipeline.pixels.coded_frames import CodedFrame
from pipeline.pixels.fragments import Place, frame_places

_DEFLATED = "1.2.840.10008.1.2.1.99"
#: the front of a file ends in these bytes: meta information of a sound file takes some hundred
_FRONT_BYTES = 1 << 16
#: what may stand before the pixels of a deflated dataset, inflated; a bomb is larger
_MOST_HEADER_BYTES = 1 << 24
#: and what may stand behind them
_MOST_BEHIND_BYTES = 1 << 16
#: pixels of a plane; the largest matrix of a CT scanner is 2048 x 2048
MOST_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """Which bits of a sample are its value (PS3.5 section 8.1.1): `bits` of them from bit `shift` on.

    codec: transfer syntax that the bytes had in truth. lossy: the code stream itself is not reversible.
    """

    bits: int
    shift: int
    signed: bool
    codec: str
    lossy: bool = False


class PixelFile:
    """The pixel data of one file, open while its frames are read; several threads may read it at once.

    Raises
    ------
    DecodeError: the file has no pixels, is not what its header was read from, or its lengths do not fit.
    OSError: it cannot be read.
    """

    def __init__(self, header: SliceHeader) -> None:
        _check(header)
        self._descriptor = os.open(header.path, os.O_RDONLY)
        self._lock = threading.Lock()
        self._inflated: bytes | None = None
        self._places: list[list[Place]] | None = None
        try:
            state = os.fstat(self._descriptor)
            if header.modified_ns and (state.st_size, state.st_mtime_ns) != (header.file_bytes, header.modified_ns):
                raise DecodeError("the file changed while it was read")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def samples(self, header: SliceHeader, plane: Plane | None = None) -> tuple[Plane, SampleFormat]:
        """Samples of the frame that `header` names, (rows, columns) in native byte order, and how to read them.

        plane: C-contiguous memory of 16-bit samples; it is written, and a view of it returned, where samples have 16
        bits.

        Raises
        ------
        DecodeError: pixels are missing, cut short, broken, or of another size than the header says.
        """
        if header.transfer_syntax not in NATIVE:
            stream = self._joined(self._frame(header))
            samples, frame = decode_frame(stream, header.rows, header.columns, header.bits_allocated, plane)
            return samples, _coded_format(header, frame)
        width = header.bits_allocated // 8
        kind = np.dtype(f"u{width}")
        out = np.empty((header.rows, header.columns), kind) if plane is None or width != 2 else plane.view(kind)
        self._read_native(header, out.data.cast("B"))
        if NATIVE[header.transfer_syntax] == ">":
            out.byteswap(inplace=True)
        shift = header.high_bit + 1 - header.bits_stored
        if not 0 <= shift <= header.bits_allocated - header.bits_stored:
            shift = 0
        return out, SampleFormat(header.bits_stored, shift, header.signed, header.transfer_syntax)

    def _read_native(self, header: SliceHeader, out: memoryview) -> None:
        n_bytes = len(out)
        if header.pixel_length == UNDEFINED_LENGTH:  # native samples in items, one a frame
            places = self._frame(header)
            if not n_bytes <= sum(length for _, length in places) <= n_bytes + 1:
                raise DecodeError(f"{sum(length for _, length in places)} bytes of pixels for {n_bytes}")
            out[:] = self._joined(places)[:n_bytes]
            return
        whole, least_row = header.n_frames * n_bytes, n_bytes // max(header.rows, header.columns)
        # a few bytes more are padding; a row or a column more is another matrix than the header's
        if not whole <= header.pixel_length < whole + max(least_row, 2):
            raise DecodeError(f"{header.pixel_length} bytes of pixels for {whole}")
        start = header.frame * n_bytes
        if header.transfer_syntax == _DEFLATED:
            start += header.inflated_offset
            part = self._inflate(header, header.inflated_offset + whole)[start : start + n_bytes]
            if len(part) < n_bytes:
                raise DecodeError(f"{n_bytes - len(part)} of {n_bytes} bytes of pixels are missing")
            out[:] = part
            return
        start += header.pixel_offset or 0
        done = 0
        while done < n_bytes:
            count = os.preadv(self._descriptor, [out[done:]], start + done)
            if count == 0:
                raise DecodeError(f"{n_bytes - done} of {n_bytes} bytes of pixels are missing")
            done += count

    def _inflate(self, header: SliceHeader, limit_bytes: int) -> bytes:
        with self._lock:
            if self._inflated is None:
                if header.inflated_offset > _MOST_HEADER_BYTES:
                    raise DecodeError(f"{header.inflated_offset >> 20} MiB stand before the deflated pixels")
                try:
                    front = read_front(os.pread(self._descriptor, _FRONT_BYTES, 0))
                except (OddHeaderError, ShortBufferError):
                    raise DecodeError("the beginning of the file cannot be read") from None
                data, ended = inflate(self._descriptor, front.start, limit_bytes + _MOST_BEHIND_BYTES)
                if not ended:
                    raise DecodeError("the deflated data do not end behind the pixels")
                self._inflated = data
            return self._inflated

    def _frame(self, header: SliceHeader) -> list[Place]:
        with self._lock:
            if self._places is None:
                self._places = frame_places(self._descriptor, header.pixel_offset or 0, header.n_frames)
        if header.frame >= len(self._places):
            raise DecodeError(f"no pixels for frame {header.frame + 1}")
        return self._places[header.frame]

    def _joined(self, places: list[Place]) -> bytes:
        parts = [os.pread(self._descriptor, length, offset) for offset, length in places]
        if any(len(part) < length for part, (_, length) in zip(parts, places, strict=True)):
            raise DecodeError("the compressed pixels are cut short")
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _check(header: SliceHeader) -> None:
    if header.pixel_offset is None or header.rows <= 0 or header.columns <= 0:
        raise DecodeError("no pixel data")
    if header.rows * header.columns > MOST_PIXELS:
        raise DecodeError(f"{header.rows} x {header.columns} pixels are more than any scanner makes")
    if header.bits_allocated not in (8, 16, 32) or not 0 < header.bits_stored <= header.bits_allocated:
        raise DecodeError(f"{header.bits_allocated} bits allocated, {header.bits_stored} stored")


def _coded_format(header: SliceHeader, frame: CodedFrame) -> SampleFormat:
    """How to read decoded samples where the code stream's depth or sign is not the header's.

    Only JPEG 2000 states a sign. A sign bit can only be there where all bits of the header are: a stream of fewer bits
    holds values that are not negative. A stream that says signed under a header that says unsigned is taken by the
    header below 16 bits, where its values are then those of a scanner, and by its own word at 16 bits, where not.
    """
    bits = min(header.bits_stored, frame.precision)
    if frame.syntax == RLE:
        bits, signed = header.bits_stored, header.signed
    elif frame.signed:
        signed = header.signed or frame.precision >= 16
        bits = bits if header.signed else frame.precision
    else:
        signed = header.signed and frame.precision >= header.bits_stored
    return SampleFormat(bits, 0, signed, frame.syntax, frame.lossy)


def stored_values(samples: NDArray[np.integer[Any]], layout: SampleFormat) -> NDArray[np.int64]:
    """Stored values from samples: bits outside the value masked, sign extended."""
    values = (samples.astype(np.int64) >> layout.shift) & ((1 << layout.bits) - 1)
    if layout.signed:
        values -= (values >> (layout.bits - 1)) << layout.bits
    return values


def read_stored(header: SliceHeader) -> NDArray[np.int64]:
    """Stored values of one plane, (rows, columns); for a volume, `pipeline.pixels.decode` is many times faster.

    Raises
    ------
    DecodeError, OSError: as PixelFile does.
    """
    with PixelFile(header) as file:
        return stored_values(*file.samples(header))

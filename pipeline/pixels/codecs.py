"""One compressed frame decoded: which decoder for which code stream, and what is checked before it runs.

Every decoder is one of imagecodecs (OpenJPEG, OpenJPH, CharLS, libjpeg-turbo, liblj92, its own RLE); none is under
the GPL, and all let other threads run. The stream decides which one, not the header.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import DecodeError
from pipeline.headers.code_streams import RLE
from pipeline.pixels.coded_frames import CodedFrame, read_coded_frame

#: transfer syntaxes of uncompressed pixels, with their byte order
NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.1.98": "<",
    "1.2.840.10008.1.2.1.99": "<",
    "1.2.840.10008.1.2.2": ">",
}

#: transfer syntaxes whose pixels are not those that the scanner wrote, or need not be
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 93, 203)}

_JPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55)}
_JPEG_LOSSLESS = {f"1.2.840.10008.1.2.4.{number}" for number in (57, 70)}
_JPEG_LS = {f"1.2.840.10008.1.2.4.{number}" for number in (80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)}
_HTJ2K = {f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)}

Plane = NDArray[np.integer[Any]]
_Decoder = Callable[[bytes, NDArray[Any]], Any]


def _jpeg(stream: bytes, out: NDArray[Any]) -> Any:
    return imagecodecs.jpeg8_decode(stream, out=out)


def _lossless_jpeg(stream: bytes, out: NDArray[Any]) -> Any:
    try:
        return imagecodecs.ljpeg_decode(stream, out=out)
    except imagecodecs.LjpegError:
        # it refuses a torn stream, and now and then a sound one that is next to constant; the two other decoders fill
        # up what is missing in different ways, so they agree on sound streams only
        decoded, again = imagecodecs.jpegsof3_decode(stream), imagecodecs.jpeg8_decode(stream)
        if not np.array_equal(decoded, again):
            raise
        return decoded


_DECODERS: dict[str, _Decoder] = {
    **dict.fromkeys(_JPEG, _jpeg),
    **dict.fromkeys(_JPEG_LOSSLESS, _lossless_jpeg),
    **dict.fromkeys(_JPEG_LS, lambda stream, out: imagecodecs.jpegls_decode(stream, out=out)),
    **dict.fromkeys(_JPEG_2000, lambda stream, out: imagecodecs.jpeg2k_decode(stream, numthreads=1, out=out)),
    **dict.fromkeys(_HTJ2K, lambda stream, out: imagecodecs.htj2k_decode(stream, out=out)),
}


def is_supported(transfer_syntax: str) -> bool:
    """Whether pixels under the transfer syntax can be read."""
    return transfer_syntax in NATIVE or transfer_syntax in _DECODERS or transfer_syntax == RLE


def decode_frame(
    stream: bytes, rows: int, columns: int, bits_allocated: int, plane: Plane | None = None
) -> tuple[Plane, CodedFrame]:
    """Samples of one code stream, (rows, columns), as the decoder gives them, and what the stream says of itself.

    plane: memory of 16-bit samples, C-contiguous, that is written and returned where the samples have 16 bits.

    Raises
    ------
    DecodeError: the stream is torn, of no known kind, or of another size than the header's; nothing of the size
        that it claims was taken then.
    """
    frame = read_coded_frame(stream)
    if frame is None:
        return _run_lengths(stream, rows, columns, bits_allocated, plane)
    if (frame.rows, frame.columns) != (rows, columns):
        raise DecodeError(f"the compressed image has {frame.rows} x {frame.columns} pixels, not {rows} x {columns}")
    if frame.components != 1:
        raise DecodeError(f"the compressed image has {frame.components} components")
    # liblj92 knows no restarts and no point transform
    decoder = _jpeg if frame.syntax in _JPEG_LOSSLESS and frame.restarts_or_shift else _DECODERS.get(frame.syntax)
    if decoder is None or not 2 <= frame.precision <= 32:
        raise DecodeError("no decoder for the compressed image")
    kind = np.dtype(f"{'i' if frame.signed else 'u'}{1 if frame.precision <= 8 else 2 if frame.precision <= 16 else 4}")
    out = np.empty((rows, columns), kind) if plane is None or kind.itemsize != 2 else plane.view(kind)
    try:
        decoded = np.asarray(decoder(stream, out))
    except Exception:  # each codec has its own error class
        raise DecodeError("the compressed image cannot be decoded") from None
    if decoded.shape != (rows, columns) or decoded.dtype.kind not in "iu":
        raise DecodeError("the compressed image has another size than it says")
    return decoded, frame


def _run_lengths(
    stream: bytes, rows: int, columns: int, bits_allocated: int, plane: Plane | None
) -> tuple[Plane, CodedFrame]:
    """RLE of PS3.5 annex G: one segment for each byte of a sample, the most significant first."""
    width = bits_allocated // 8
    starts = np.frombuffer(bytes(stream[:64]), "<u4")
    if len(starts) < 16 or starts[0] != width or starts[1] != 64:
        raise DecodeError("the compressed image is of no known kind")
    kind = np.dtype(f"u{width}")
    out = np.empty((rows, columns), kind) if plane is None or width != 2 else plane.view(kind)
    flat = out.view(np.uint8).reshape(-1)
    try:
        imagecodecs.dicomrle_decode(stream, kind.newbyteorder("<"), out=flat)  # type: ignore[arg-type]
    except Exception:  # torn, or with padding bytes that its decoder does not expect
        _padded_run_lengths(stream, [*starts[1 : width + 1].tolist(), len(stream)], flat.reshape(-1, width))
    return out, CodedFrame(RLE, rows, columns, 1, bits_allocated, signed=False, lossy=False)


def _padded_run_lengths(stream: bytes, starts: list[int], samples: NDArray[np.uint8]) -> None:
    """Segments each taken to the byte that fills the plane; a segment of odd length is followed by a padding byte."""
    if any(one >= other for one, other in pairwise(starts)):
        raise DecodeError("the segments of the compressed image are out of order")
    width = samples.shape[1]
    for index, (start, end) in enumerate(pairwise(starts)):
        segment, position, count = memoryview(stream)[start:end], 0, 0
        parts: list[bytes] = []
        while count < len(samples):
            if position + 1 >= len(segment):
                raise DecodeError("the compressed image is cut short")
            control = segment[position]
            if control < 128:
                part = bytes(segment[position + 1 : position + 2 + control])
                position += 2 + control
            elif control > 128:
                part = bytes(segment[position + 1 : position + 2]) * (257 - control)
                position += 2
            else:
                part, position = b"", position + 1
            parts.append(part)
            count += len(part)
        if count != len(samples) or position > len(segment):
            raise DecodeError("a segment of the compressed image has another length than the plane")
        samples[:, width - 1 - index] = np.frombuffer(b"".join(parts), np.uint8)

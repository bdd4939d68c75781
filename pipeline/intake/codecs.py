"""Stored pixel values of one image plane, from native and compressed pixel data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder

from data_contracts.errors import DecodeError
from pipeline.intake.header_values import silence_pydicom
from pipeline.intake.headers import SliceHeader

NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.1.98": "<",
    "1.2.840.10008.1.2.1.99": "<",
    "1.2.840.10008.1.2.2": ">",
}
_DEFLATED = "1.2.840.10008.1.2.1.99"

#: transfer syntaxes whose pixels are not those that the scanner wrote
LOSSY = {
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 93, 203)),
    *(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109)),
}

_Decoder = Callable[[bytes, int], Any]


def _jpeg_lossless(data: bytes, _bits: int) -> Any:
    try:
        return imagecodecs.ljpeg_decode(data)
    except imagecodecs.LjpegError:
        return imagecodecs.jpegsof3_decode(data)


def _rle(data: bytes, bits: int) -> Any:
    return np.frombuffer(imagecodecs.dicomrle_decode(data, f"<u{bits // 8}"), f"<u{bits // 8}")


_DECODERS: dict[str, _Decoder] = {
    "1.2.840.10008.1.2.5": _rle,
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), lambda d, _b: imagecodecs.jpegls_decode(d)),
    **dict.fromkeys(("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"), _jpeg_lossless),
    **dict.fromkeys(
        (f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)),
        lambda d, _b: imagecodecs.jpeg2k_decode(d),
    ),
    **dict.fromkeys(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"), lambda d, _b: imagecodecs.jpeg_decode(d)),
}


def is_supported(transfer_syntax: str) -> bool:
    """Whether there is a decoder of our own or one of pydicom for the transfer syntax."""
    if transfer_syntax in NATIVE or transfer_syntax in _DECODERS:
        return True
    try:
        return bool(get_decoder(pydicom.uid.UID(transfer_syntax)).is_available)
    except NotImplementedError:
        return False


def read_stored(header: SliceHeader) -> NDArray[np.int32]:
    """Stored values of one plane, int32 (rows, columns): bits above BitsStored masked, sign extended.

    Raises
    ------
    DecodeError: pixels are missing, cut short or broken.
    """
    if header.pixel_offset is None or header.rows <= 0 or header.columns <= 0:
        raise DecodeError("no pixel data")
    if header.bits_allocated not in (8, 16, 32) or not 0 < header.bits_stored <= header.bits_allocated:
        raise DecodeError(f"{header.bits_allocated} bits allocated, {header.bits_stored} stored")
    bits = _read_native(header) if header.transfer_syntax in NATIVE else _read_encapsulated(header)
    return _stored_values(bits, header)


def _read_native(header: SliceHeader) -> NDArray[np.unsignedinteger[Any]]:
    width = header.bits_allocated // 8
    expected = header.rows * header.columns * width
    start = header.frame * expected
    if header.transfer_syntax == _DEFLATED:
        silence_pydicom()
        try:
            data = bytes(pydicom.dcmread(header.path, force=True)["PixelData"].value)[start : start + expected]
        except Exception:  # zlib, KeyError and all that pydicom raises on a torn stream
            raise DecodeError("the deflated data are broken") from None
    else:
        with header.path.open("rb") as stream:
            stream.seek((header.pixel_offset or 0) + start)
            data = stream.read(expected)
        if header.pixel_length != 0xFFFFFFFF and start + expected > header.pixel_length:
            raise DecodeError(f"{header.pixel_length} bytes of pixels for {start + expected}")
    if len(data) < expected:
        raise DecodeError(f"{expected - len(data)} of {expected} bytes of pixels are missing")
    order = NATIVE[header.transfer_syntax]
    return np.frombuffer(data, f"{order}u{width}").reshape(header.rows, header.columns)


def _read_encapsulated(header: SliceHeader) -> NDArray[np.unsignedinteger[Any]]:
    with header.path.open("rb") as stream:
        stream.seek(header.pixel_offset or 0)
        buffer = stream.read()
    fragments = _fragments(buffer)
    if header.n_frames == 1:
        data = b"".join(fragments)
    elif len(fragments) == header.n_frames:
        data = bytes(fragments[header.frame])
    else:
        return _by_pydicom(header)
    decoder = _DECODERS.get(header.transfer_syntax)
    if decoder is None:
        return _by_pydicom(header)
    try:
        decoded = np.asarray(decoder(data, header.bits_allocated))
    except Exception:  # each codec has its own error class; pydicom's decoders are the second opinion
        return _by_pydicom(header)
    if decoded.size != header.rows * header.columns or decoded.dtype.kind not in "iu":
        raise DecodeError(f"the compressed image has {decoded.size} pixels, the header {header.rows * header.columns}")
    return _as_bits(decoded.reshape(header.rows, header.columns))


def _fragments(buffer: bytes) -> list[memoryview]:
    """Fragments of encapsulated pixel data without the offset table; a cut one is an error, not a shorter one."""
    view, position, fragments = memoryview(buffer), 0, []
    while True:
        if position + 8 > len(buffer):
            raise DecodeError("the compressed pixels are cut short")
        tag, length = buffer[position : position + 4], int.from_bytes(buffer[position + 4 : position + 8], "little")
        position += 8
        if tag == b"\xfe\xff\xdd\xe0":
            break
        if tag != b"\xfe\xff\x00\xe0" or position + length > len(buffer):
            raise DecodeError("the compressed pixels are cut short")
        fragments.append(view[position : position + length])
        position += length
    if len(fragments) < 2:
        raise DecodeError("no pixel data")
    return fragments[1:]


def _by_pydicom(header: SliceHeader) -> NDArray[np.unsignedinteger[Any]]:
    silence_pydicom()
    try:
        decoder = get_decoder(pydicom.uid.UID(header.transfer_syntax))
        dataset = pydicom.dcmread(header.path, force=True)
        array, _ = decoder.as_array(dataset, index=header.frame, raw=True)
    except Exception:  # any decoder error means the same to us
        raise DecodeError("the compressed pixels cannot be decoded") from None
    if array.shape != (header.rows, header.columns) or array.dtype.kind not in "iu":
        raise DecodeError("the compressed image has another size than the header says")
    return _as_bits(array)


def _as_bits(array: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    return array.view(f"u{array.dtype.itemsize}")


def _stored_values(bits: NDArray[np.unsignedinteger[Any]], header: SliceHeader) -> NDArray[np.int32]:
    """Stored values from the bits of each sample (PS3.5 section 8.1.1)."""
    stored = header.bits_stored
    shift = header.high_bit + 1 - stored
    # compressed streams hold the value itself, low bits first
    if header.transfer_syntax not in NATIVE or not 0 <= shift <= header.bits_allocated - stored:
        shift = 0
    if stored == 16 and bits.dtype.itemsize == 2:
        native = bits if bits.dtype.isnative else bits.astype(np.uint16)
        return (native.view(np.int16) if header.signed else native).astype(np.int32)
    values = (bits.astype(np.int64) >> shift) & ((1 << stored) - 1)
    if header.signed:
        values -= (values >> (stored - 1)) << stored
    return values.astype(np.int32)

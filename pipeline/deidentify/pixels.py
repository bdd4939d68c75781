"""Pixels that give someone away: text blanked, graphics in the unused bits masked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.tag import Tag
from pydicom.uid import UID

from pipeline.deidentify.burned_in import Rectangle, blank
from pipeline.deidentify.writer import bytes_of

_PIXEL_DATA = Tag(0x7FE00010)
_EXPLICIT, _BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_NATIVE = ("1.2.840.10008.1.2", _EXPLICIT, "1.2.840.10008.1.2.1.99", _BIG)
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg_decode,
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
}
_FACTS = [0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011]
_FACTS += [0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00080008, 0x00080016, 0x00080070, 0x00081090, 0x00280301]


class PixelsError(ValueError):
    """The pixels cannot be decoded, so they cannot be cleaned. The message holds no value of the header."""


def facts_of(dataset: Dataset) -> Dataset:
    """The elements that describe the pixels, apart from the dataset, whose own elements stay the bytes of the file."""
    facts = Dataset({Tag(tag): dataset.get_item(tag) for tag in _FACTS if tag in dataset})
    implicit, little = dataset.original_encoding
    facts.set_original_encoding(implicit, little)
    return facts


def blank_pixels(dataset: Dataset, regions: Iterable[Rectangle]) -> None:
    """Blank rectangles in every frame, in place: native pixels stay in their encoding, compressed ones become native.

    Raises
    ------
    PixelsError: the pixels cannot be decoded.
    """
    facts = facts_of(dataset)
    samples = _decoded(dataset, facts)
    planes = samples if samples.ndim == 3 else np.moveaxis(samples, -1, 1)
    whole = planes.max() if str(facts.get("PhotometricInterpretation", "")) == "MONOCHROME1" else planes.min()
    blank(planes, regions, whole if samples.ndim == 3 else 0)
    _store(dataset, facts, samples)


def hide_unused_bits(dataset: Dataset) -> None:
    """Set the bits that hold no pixel to zero, or to the sign, where an overlay of the header may lie in them.

    Raises
    ------
    PixelsError: an overlay lies in compressed pixels that cannot be decoded.
    """
    if _PIXEL_DATA not in dataset or not _has_embedded_overlay(dataset):
        return
    facts = facts_of(dataset)
    samples = _decoded(dataset, facts)
    width = samples.dtype.itemsize * 8
    stored, high = _number(facts, "BitsStored", width), _number(facts, "HighBit", width - 1)
    low = high + 1 - stored
    if low < 0 or high >= width:
        raise PixelsError("bits that do not fit")
    shifted = samples << (width - 1 - high)
    signed = shifted.view(f"{samples.dtype.byteorder}i{samples.dtype.itemsize}") if _is_signed(facts) else shifted
    kept = (signed >> (width - stored)) << low
    _store(dataset, facts, kept.view(samples.dtype))


def _has_embedded_overlay(dataset: Dataset) -> bool:
    """Whether an overlay without data of its own says that it lies in bits of the pixels (retired, PS3.3-2004)."""
    tags = {int(tag) for tag in dataset.keys() if tag >> 16 & 0xFF01 == 0x6000}  # noqa: SIM118
    for group in {tag >> 16 << 16 for tag in tags}:
        if group | 0x3000 in tags:
            continue
        for low, least in ((0x0100, 2), (0x0102, 1)):  # OverlayBitsAllocated, OverlayBitPosition
            if group | low in tags:
                value = bytes_of(dataset.get_item(group | low), True)[:2]
                if max(int.from_bytes(value, "little"), int.from_bytes(value, "big")) >= least:
                    return True
    return False


def _number(facts: Dataset, keyword: str, default: int) -> int:
    try:
        return int(facts.get(keyword, default) or 0)
    except (TypeError, ValueError):
        raise PixelsError("sizes that are no numbers") from None


def _is_signed(facts: Dataset) -> bool:
    return _number(facts, "PixelRepresentation", 0) == 1


def _decoded(dataset: Dataset, facts: Dataset) -> NDArray[Any]:
    """Unsigned samples (frames, rows, columns[, samples]) that may be written to."""
    rows, columns, n_samples = (_number(facts, name, 0) for name in ("Rows", "Columns", "SamplesPerPixel"))
    n_frames, width = max(_number(facts, "NumberOfFrames", 1), 1), _number(facts, "BitsAllocated", 16)
    if width not in (8, 16, 32) or min(rows, columns) <= 0 or n_samples not in (0, 1, 3):
        raise PixelsError("sizes of no image")
    shape = (n_frames, rows, columns) if n_samples < 3 else (n_frames, rows, columns, 3)
    syntax = _syntax(dataset)
    element: Any = dataset.get_item(_PIXEL_DATA)
    value = bytes(element.value or b"")
    count = int(np.prod(shape))
    if syntax in _NATIVE:
        kind = np.dtype(f"{'>' if syntax == _BIG else '<'}u{width // 8}")
        if len(value) < count * kind.itemsize:
            raise PixelsError("pixels are missing")
        samples = np.frombuffer(value, kind, count).copy()
        if n_samples == 3 and _number(facts, "PlanarConfiguration", 0) == 1:
            return np.ascontiguousarray(np.moveaxis(samples.reshape(n_frames, 3, rows, columns), 1, -1))
        return samples.reshape(shape)
    decoder = _DECODERS.get(syntax)
    if decoder is None:
        return _by_pydicom(dataset, shape, width)
    try:
        frames = [np.asarray(decoder(frame)) for frame in generate_frames(value, number_of_frames=n_frames)]
        decoded = np.stack(frames)
    except Exception:  # each codec has its own error class
        raise PixelsError("the compressed pixels cannot be decoded") from None
    if decoded.shape != shape or decoded.dtype.kind not in "iu":
        raise PixelsError("the compressed image has another size than the header says")
    return decoded.astype(f"<u{width // 8}", casting="unsafe")


def _by_pydicom(dataset: Dataset, shape: tuple[int, ...], width: int) -> NDArray[Any]:
    try:
        array = np.asarray(dataset.pixel_array)
    except Exception:  # any decoder error means the same to us
        raise PixelsError("the compressed pixels cannot be decoded") from None
    if array.size != int(np.prod(shape)):
        raise PixelsError("the compressed image has another size than the header says")
    return array.reshape(shape).astype(f"<u{width // 8}", casting="unsafe")


def _syntax(dataset: Dataset) -> str:
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", ""))
    implicit, little = dataset.original_encoding
    return syntax or (_NATIVE[0] if implicit else _EXPLICIT if little in (True, None) else _BIG)


def _store(dataset: Dataset, facts: Dataset, samples: NDArray[Any]) -> None:
    """Put samples back: native ones in their byte order, decoded ones as explicit little endian."""
    if _syntax(dataset) not in _NATIVE:
        dataset.file_meta.TransferSyntaxUID = UID(_EXPLICIT)
        if samples.ndim == 4:
            dataset[Tag(0x00280004)] = DataElement(0x00280004, "CS", "RGB")
    if samples.ndim == 4 and 0x00280006 in facts:
        dataset[Tag(0x00280006)] = DataElement(0x00280006, "US", 0)
    content = samples.tobytes()
    content += b"\0" * (len(content) % 2)
    dataset[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OB" if samples.dtype.itemsize == 1 else "OW", content)

"""Single values out of a DICOM header, one that is missing or broken never stopping the others."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, cast

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pipeline.headers.elements import Element, Encoding

Vector = tuple[float, ...]

_CHARACTER_SET, _PIXEL_REPRESENTATION = 0x00080005, 0x00280103
#: values kept at most; a series has some forty
_MEMORY = 20_000


class Values(Protocol):
    """Values by keyword: a dataset, or elements that a walk found."""

    def get(self, keyword: str, /) -> Any: ...

    def __contains__(self, keyword: str, /) -> bool: ...


class RawValues:
    """Values of elements found by a walk, each converted by pydicom exactly as in a dataset that it read.

    memory: values converted before, by their bytes and all that decides on their meaning; shared by many headers.
    """

    def __init__(
        self, data: bytes, found: Mapping[int, Element], encoding: Encoding, memory: dict[tuple[Any, ...], Any]
    ) -> None:
        self._data, self._found, self._encoding, self._memory = data, found, encoding, memory
        self._context = (encoding, self._raw(_CHARACTER_SET), self._raw(_PIXEL_REPRESENTATION))

    def __contains__(self, keyword: str, /) -> bool:
        return _tag(keyword) in self._found

    def get(self, keyword: str, /) -> Any:
        """The value, None where the element is absent; raises what pydicom raises on a value that is broken."""
        element = self._found.get(_tag(keyword))
        if element is None:
            return None
        raw = self._data[element.value : element.value + element.length]
        key = (element.tag, element.vr, raw, self._context)
        if key not in self._memory:
            if len(self._memory) >= _MEMORY:
                self._memory.clear()
            self._memory[key] = self._converted(element.tag)
        return self._memory[key]

    def _raw(self, tag: int) -> bytes | None:
        element = self._found.get(tag)
        return None if element is None else self._data[element.value : element.value + element.length]

    def _converted(self, tag: int) -> Any:
        """The value by way of a dataset of this element and the two that decide on the meaning of others."""
        raws: dict[BaseTag, DataElement | RawDataElement] = {}
        for each in (_CHARACTER_SET, _PIXEL_REPRESENTATION, tag):
            if (element := self._found.get(each)) is not None:
                vr = element.vr.decode() or None
                value = self._raw(each) or cast("bytes | None", empty_value_for_VR(vr, raw=True))
                raws[BaseTag(each)] = RawDataElement(
                    BaseTag(each), vr, element.length, value, 0, self._encoding.implicit, self._encoding.little
                )
        return Dataset(raws)[BaseTag(tag)].value


_TAGS: dict[str, int] = {}


def _tag(keyword: str) -> int:
    if keyword not in _TAGS:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise KeyError(keyword)
        _TAGS[keyword] = tag
    return _TAGS[keyword]


def silence_pydicom() -> None:
    """Stop pydicom from printing header values in warnings and logs; they can be names."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?$")
    logger = logging.getLogger("pydicom")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False


def text_of(dataset: Values, keyword: str) -> str:
    """A value as one stripped string, "" where it is missing or broken."""
    try:
        value = dataset.get(keyword)
        if value is None:
            return ""
        return str(value).strip().strip("\0").strip()
    except Exception:  # a header can break any converter of pydicom; then the value is missing
        return ""


def texts_of(dataset: Values, keyword: str) -> tuple[str, ...]:
    """A multi-valued text, () where it is missing or broken."""
    try:
        value: Any = dataset.get(keyword)
        if value is None or value == "":
            return ()
        items = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        return tuple(str(item).strip() for item in items)
    except Exception:  # as above
        return ()


def numbers_of(dataset: Values, keyword: str, count: int) -> Vector | None:
    """Exactly `count` finite numbers, or None."""
    try:
        numbers = tuple(float(item.replace(",", ".")) for item in texts_of(dataset, keyword))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(math.isfinite(number) for number in numbers) else None


def number_of(dataset: Values, keyword: str) -> float | None:
    """One finite number, or None."""
    numbers = numbers_of(dataset, keyword, 1)
    return numbers[0] if numbers else None


def integer_of(dataset: Values, keyword: str, default: int) -> int:
    number = number_of(dataset, keyword)
    return default if number is None else int(number)


def padding_of(dataset: Values, keyword: str, signed: bool, bits_allocated: int) -> int | None:
    """PixelPaddingValue in the sign of the pixels: writers store -2000 as 63536 and the other way round."""
    number = number_of(dataset, keyword)
    if number is None or bits_allocated > 32:
        return None
    value = int(number) & ((1 << bits_allocated) - 1)
    return value - (1 << bits_allocated) if signed and value >> (bits_allocated - 1) else value

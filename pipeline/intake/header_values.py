"""Single values out of a DICOM header, one that is missing or broken never stopping the others."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import pydicom
from pydicom.dataset import Dataset

Vector = tuple[float, ...]


def silence_pydicom() -> None:
    """Stop pydicom from printing header values in warnings and logs; they can be names."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?$")
    logger = logging.getLogger("pydicom")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False


def text_of(dataset: Dataset, keyword: str) -> str:
    """A value as one stripped string, "" where it is missing or broken."""
    try:
        value = dataset.get(keyword)
        if value is None:
            return ""
        return str(value).strip().strip("\0").strip()
    except Exception:  # a header can break any converter of pydicom; then the value is missing
        return ""


def texts_of(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """A multi-valued text, () where it is missing or broken."""
    try:
        value: Any = dataset.get(keyword)
        if value is None or value == "":
            return ()
        items = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        return tuple(str(item).strip() for item in items)
    except Exception:  # as above
        return ()


def numbers_of(dataset: Dataset, keyword: str, count: int) -> Vector | None:
    """Exactly `count` finite numbers, or None."""
    try:
        numbers = tuple(float(item.replace(",", ".")) for item in texts_of(dataset, keyword))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(math.isfinite(number) for number in numbers) else None


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """One finite number, or None."""
    numbers = numbers_of(dataset, keyword, 1)
    return numbers[0] if numbers else None


def integer_of(dataset: Dataset, keyword: str, default: int) -> int:
    number = number_of(dataset, keyword)
    return default if number is None else int(number)


def padding_of(dataset: Dataset, keyword: str, signed: bool, bits_allocated: int) -> int | None:
    """PixelPaddingValue in the sign of the pixels: writers store -2000 as 63536 and the other way round."""
    number = number_of(dataset, keyword)
    if number is None or bits_allocated > 32:
        return None
    value = int(number) & ((1 << bits_allocated) - 1)
    return value - (1 << bits_allocated) if signed and value >> (bits_allocated - 1) else value

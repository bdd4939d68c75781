"""From samples to int16 HU (PS3.3 section C.11.1.1.2: stored value * slope + intercept), in the plane's own memory.

Slope 1 and a whole intercept, as nearly every scanner writes them, are one addition once the extremes show that no bit
needs masking; anything else on 8 or 16 bits is a table of all samples. Whole numbers stay exact; fractions are rounded
to the nearest HU, a half to the even one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.headers.slice_header import SliceHeader
from pipeline.pixels.pixel_file import SampleFormat, stored_values

_INT16 = np.iinfo(np.int16)
#: a whole slope or intercept beyond this is no whole number any more in a product
_WHOLE = float(2**31)


@dataclass(frozen=True, slots=True)
class Table:
    """For every sample taken as an unsigned number: hu, and whether its stored value is padding, or beyond int16."""

    hu: NDArray[np.int16]
    named: NDArray[np.bool_]
    clipped: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rescaled:
    """What is known of a plane that holds HU now.

    lowest: HU, padding included. clipped: voxels beyond int16 that are no padding.
    named: mask of the header's padding values, None where none is there.
    """

    lowest: int
    clipped: int
    named: NDArray[np.bool_] | None


#: tables of one volume by what they depend on
Tables = dict[tuple[object, ...], Table]


def rescale(
    samples: NDArray[np.integer[Any]],
    layout: SampleFormat,
    header: SliceHeader,
    hu: NDArray[np.int16],
    tables: Tables,
) -> Rescaled:
    """Write HU of `samples` (rows, columns) into `hu`, which may be the same memory."""
    slope, intercept = header.rescale_slope or 1.0, header.rescale_intercept or 0.0
    low, high = padding_range(header)
    if samples.dtype.itemsize == 2 and slope == 1.0 and intercept.is_integer() and abs(intercept) < _INT16.max:
        done = _added(samples, layout, int(intercept), low, high, hu)
        if done is not None:
            return done
    if samples.dtype.itemsize > 2:
        table = _table(stored_values(samples, layout), slope, intercept, low, high)
        hu[...] = table.hu
        return _facts(hu, table.named, table.clipped)
    key = (samples.dtype.itemsize, layout.bits, layout.shift, layout.signed, slope, intercept, low, high)
    if (table_of_all := tables.get(key)) is None:
        every = np.arange(1 << 8 * samples.dtype.itemsize)
        table_of_all = tables[key] = _table(stored_values(every, layout), slope, intercept, low, high)
    index = samples.view(f"u{samples.dtype.itemsize}")
    named, clipped = table_of_all.named, table_of_all.clipped
    named_here = named[index] if named.any() else None
    clipped_here = clipped[index] if clipped.any() else None
    hu[...] = table_of_all.hu[index]
    return _facts(hu, named_here, clipped_here)


def padding_range(header: SliceHeader) -> tuple[int, int]:
    """Lowest and highest stored value that the header calls padding; an empty range, high below low, where none is."""
    if header.padding_value is None:
        return 0, -1
    limit = header.padding_value if header.padding_limit is None else header.padding_limit
    return min(header.padding_value, limit), max(header.padding_value, limit)


def _added(
    samples: NDArray[np.integer[Any]],
    layout: SampleFormat,
    intercept: int,
    low: int,
    high: int,
    hu: NDArray[np.int16],
) -> Rescaled | None:
    """HU by one addition; None where bits must be masked first, or HU leave int16."""
    values = samples.view(np.int16 if layout.signed else np.uint16)
    bound = 1 << (layout.bits - 1 if layout.signed else layout.bits)
    lowest = int(values.min())
    # a pass over the plane is saved where no value can be too high
    highest_possible = bound - 1 if layout.bits == 16 else np.iinfo(values.dtype).max
    if highest_possible >= bound or highest_possible + intercept > _INT16.max:
        highest_possible = int(values.max())
    if layout.shift or lowest < (-bound if layout.signed else 0) or highest_possible >= bound:
        return None
    if lowest + intercept < _INT16.min or highest_possible + intercept > _INT16.max:
        return None
    # arithmetic modulo 2**16 is exact here: the result lies within int16
    np.add(samples.view(np.int16), np.int16(intercept), out=hu)
    return Rescaled(lowest + intercept, 0, _named(hu, intercept, lowest, highest_possible, low, high))


def already_added(header: SliceHeader, hu: NDArray[np.int16], lowest: int, highest: int) -> Rescaled | None:
    """What is known of a plane whose samples, from `lowest` to `highest`, the intercept was added to modulo 2**16.

    None where that was not enough: bits must be masked first, or HU leave int16.
    """
    intercept = int(header.rescale_intercept or 0.0)
    bound = 1 << (header.bits_stored - 1 if header.signed else header.bits_stored)
    if lowest < (-bound if header.signed else 0) or highest >= bound:
        return None
    if lowest + intercept < _INT16.min or highest + intercept > _INT16.max:
        return None
    return Rescaled(lowest + intercept, 0, _named(hu, intercept, lowest, highest, *padding_range(header)))


def _named(
    hu: NDArray[np.int16], intercept: int, lowest: int, highest: int, low: int, high: int
) -> NDArray[np.bool_] | None:
    """Where padding from stored value `low` to `high` lies in HU, among stored values from `lowest` to `highest`."""
    if low > highest or high < lowest or low > high:
        return None
    first, last = max(low, lowest) + intercept, min(high, highest) + intercept
    return hu == np.int16(first) if first == last else (hu >= np.int16(first)) & (hu <= np.int16(last))


def _table(stored: NDArray[np.int64], slope: float, intercept: float, low: int, high: int) -> Table:
    if slope.is_integer() and intercept.is_integer() and max(abs(slope), abs(intercept)) < _WHOLE:
        wide: NDArray[Any] = stored * int(slope) + int(intercept)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            wide = np.nan_to_num(np.rint(stored * slope + intercept), nan=_INT16.max)
    named = (stored >= low) & (stored <= high)
    clipped = ((wide < _INT16.min) | (wide > _INT16.max)) & ~named
    return Table(np.clip(wide, _INT16.min, _INT16.max).astype(np.int16), named, clipped)


def _facts(hu: NDArray[np.int16], named: NDArray[np.bool_] | None, clipped: NDArray[np.bool_] | None) -> Rescaled:
    count = 0 if clipped is None else int(np.count_nonzero(clipped))
    if named is not None and not named.any():
        named = None
    return Rescaled(int(hu.min()), count, named)

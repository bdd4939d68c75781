"""Two acquisitions or reconstructions under one series: what tells them apart, and whether to part them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import DecodeError
from pipeline.intake.codecs import read_stored
from pipeline.intake.geometry import SAME_PLACE_MM, heights_of
from pipeline.intake.headers import SliceHeader

Groups = list[list[SliceHeader]]
#: more values than this of one attribute are rotations or slices, not acquisitions
MOST_PARTS = 12
#: where one acquisition follows another, the picture changes by more than this, in usual changes between neighbours
_BREAK = 1.5
#: attributes whose values differ between reconstructions, never along one
_RECONSTRUCTION = ("kernel", "slice thickness", "tube voltage", "image type", "stack")

_TELLING: dict[str, Callable[[SliceHeader], Hashable]] = {
    "acquisition number": lambda header: header.acquisition[0],
    "temporal position": lambda header: header.acquisition[1],
    "stack": lambda header: header.acquisition[2:],
    "kernel": lambda header: header.kernel,
    "slice thickness": lambda header: (
        None if header.slice_thickness_mm is None else round(header.slice_thickness_mm, 2)
    ),
    "image type": lambda header: header.image_type,
    "tube voltage": lambda header: header.kvp,
    "acquisition time": lambda header: header.acquisition_time,
    "content time": lambda header: header.content_time,
}


@dataclass(frozen=True)
class Parting:
    """Slices in groups by what `told_by` says; each group in the order of the slices."""

    told_by: str
    groups: Groups


def by_attribute(slices: Sequence[SliceHeader]) -> list[Parting]:
    """Groupings of slices by each attribute that takes a few values among them."""
    found = []
    for name, key in _TELLING.items():
        groups = _grouped(slices, key)
        if 1 < len(groups) <= MOST_PARTS:
            found.append(Parting(name, groups))
    return found


def partings(slices: Sequence[SliceHeader]) -> Iterator[Parting]:
    """Every grouping worth trying where slices make no single volume, the most telling first.

    One attribute, several together, gaps in time, and last the order of the instance numbers, which is
    asked only where to cut, never how to sort.
    """
    single = by_attribute(slices)
    yield from single
    tried = [_shape(parting.groups) for parting in single]
    for size in (len(single), 2):
        for several in combinations(single, size) if size > 1 else ():
            keys = [_TELLING[parting.told_by] for parting in several]
            groups = _grouped(slices, lambda header, keys=keys: tuple(key(header) for key in keys))  # type: ignore[misc]
            if 1 < len(groups) <= MOST_PARTS and _shape(groups) not in tried:
                tried.append(_shape(groups))
                yield Parting(" and ".join(parting.told_by for parting in several), groups)
    deepest = _most_at_one_place(slices)
    for count in dict.fromkeys((deepest, 2, 3)):
        if count > 1:
            yield from by_time(slices, count)
    yield from _by_instance_number(slices)


def by_time(slices: Sequence[SliceHeader], count: int) -> Iterator[Parting]:
    """Slices cut at the longest pauses of their acquisition or content times into `count` groups."""
    for name, key in (("acquisition time", "acquisition_time"), ("content time", "content_time")):
        times = [_seconds(getattr(header, key)) for header in slices]
        if any(time is None for time in times):
            continue
        ordered = np.array(times, dtype=np.float64)
        order = np.argsort(ordered, kind="stable")
        pauses = np.diff(ordered[order])
        cuts = np.sort(np.argsort(-pauses, kind="stable")[: count - 1])
        if len(cuts) and pauses[cuts].min() > 0:
            numbers = np.empty(len(slices), dtype=np.int64)
            numbers[order] = np.searchsorted(cuts, np.arange(len(slices)), side="left")
            yield Parting(f"a pause in {name}", _numbered(slices, numbers))


def takes_turns(slices: Sequence[SliceHeader], groups: Groups) -> bool:
    """Whether groups come again after another along the normal: two stacks pushed into one another."""
    owner = {id(header): number for number, group in enumerate(groups) for header in group}
    numbers = [owner[id(header)] for header in slices]
    return 1 + sum(one != other for one, other in pairwise(numbers)) > len(groups)


def picture_goes_on(groups: Groups) -> bool:
    """Whether the picture changes no more where one group of slices follows another than between its neighbours.

    One scan of which the scanner numbered two halves goes on; a second scan starts elsewhere, or breathed.
    """
    stacked = sorted(groups, key=lambda group: float(heights_of([groups[0][0], group[0]])[1]))
    for below, above in pairwise(stacked):
        edge = [*below[-3:], *above[:3]]
        try:
            pictures = [_picture(header) for header in edge]
        except DecodeError:
            return True  # the volume is refused where it is decoded, and by its name
        change = [float(np.sqrt(np.mean((other - one) ** 2))) for one, other in pairwise(pictures)]
        at_edge = change.pop(len(below[-3:]) - 1)
        if at_edge > _BREAK * max(change) + 1:
            return False
    return True


def tells_reconstructions(name: str) -> bool:
    """Whether an attribute is one that two reconstructions differ in."""
    return name in _RECONSTRUCTION


def _grouped(slices: Sequence[SliceHeader], key: Callable[[SliceHeader], Hashable]) -> Groups:
    groups: dict[Hashable, list[SliceHeader]] = {}
    for header in slices:
        groups.setdefault(key(header), []).append(header)
    return list(groups.values())


def _numbered(slices: Sequence[SliceHeader], numbers: NDArray[np.int64]) -> Groups:
    return [
        [header for header, own in zip(slices, numbers, strict=True) if own == number] for number in np.unique(numbers)
    ]


def _shape(groups: Groups) -> frozenset[frozenset[int]]:
    return frozenset(frozenset(id(header) for header in group) for group in groups)


def _most_at_one_place(slices: Sequence[SliceHeader]) -> int:
    gaps = np.diff(heights_of(slices)) >= SAME_PLACE_MM
    return int(np.unique(np.concatenate(([0], np.cumsum(gaps))), return_counts=True)[1].max())


def _by_instance_number(slices: Sequence[SliceHeader]) -> Iterator[Parting]:
    """Slices cut where their heights, in the order of the instance numbers, jump back to a start."""
    numbers = [header.instance_number for header in slices]
    if None in numbers or len(set(numbers)) != len(numbers):
        return
    order = np.argsort(np.array(numbers))
    moves = np.diff(heights_of(slices)[order])
    usual = float(np.median(np.abs(moves)))
    cuts = np.flatnonzero(np.abs(moves) > 3 * usual)
    if 0 < len(cuts) < MOST_PARTS:
        groups = np.empty(len(slices), dtype=np.int64)
        groups[order] = np.searchsorted(cuts, np.arange(len(slices)), side="left")
        yield Parting("a new start of the instance numbers", _numbered(slices, groups))


def _seconds(text: str) -> float | None:
    """Seconds of a DICOM time HHMMSS.FFFFFF or date and time YYYYMMDDHHMMSS.FFFFFF; None where it is neither."""
    whole, _, fraction = text.partition(".")
    fraction = fraction[:6].split("+")[0].split("-")[0]
    digits = whole.replace(":", "")
    if (
        not digits.isascii()
        or not digits.isdigit()
        or len(digits) not in (6, 14)
        or (fraction and not fraction.isdigit())
    ):
        return None
    days = 0.0
    if len(digits) == 14:
        # only differences count: months of 31 days keep the order
        days = (int(digits[:4]) * 12 + int(digits[4:6])) * 31.0 + int(digits[6:8])
    clock = digits[-6:]
    return days * 86400 + int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:]) + float(f"0.{fraction or 0}")


def _picture(header: SliceHeader) -> NDArray[np.float32]:
    """Every second row and column of a slice in HU."""
    stored = read_stored(header)[::2, ::2].astype(np.float32)
    return stored * np.float32(header.rescale_slope or 1.0) + np.float32(header.rescale_intercept or 0.0)

"""Two acquisitions or reconstructions under one series: what tells them apart, and whether to part them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import DecodeError
from pipeline.headers.slice_header import SliceHeader
from pipeline.intake.geometry import SAME_PLACE_MM, heights_of, normal_of, positions_of
from pipeline.pixels.pixel_file import read_stored

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
    """Slices in groups by what `told_by` says; each group in the order of the slices.

    is_weak: the sign also changes along one acquisition, so it can tell stacks at the same heights apart, but
    never make two acquisitions of the two sides of a hole.
    """

    told_by: str
    groups: Groups
    is_weak: bool = False

    @property
    def is_reason(self) -> bool:
        """Whether the sign is a reason to part slices that make no single volume.

        Groups that follow each other in space need a sign that means an acquisition or a reconstruction, and a break
        at each border: where rotations are numbered, a hole elsewhere makes no acquisitions of them.
        """
        heights = _heights_of_groups(self.groups)
        heights.sort(key=lambda each: float(each[0]))
        gaps = [float(above[0] - below[-1]) for below, above in pairwise(heights)]
        if min(gaps) < SAME_PLACE_MM:
            return True
        steps = np.concatenate([np.diff(each) for each in heights])
        usual = float(np.median(steps)) if len(steps) else 0.0
        return not self.is_weak and all(abs(gap - usual) > 0.1 * usual for gap in gaps)


def by_attribute(slices: Sequence[SliceHeader]) -> list[Parting]:
    """Groupings of slices by each attribute that takes a few values among them."""
    found = []
    for name, key in _TELLING.items():
        groups = _grouped(slices, key)
        if 1 < len(groups) <= MOST_PARTS:
            found.append(Parting(name, groups, is_weak=name.endswith("time")))
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
                is_weak = any(parting.is_weak for parting in several)
                yield Parting(" and ".join(parting.told_by for parting in several), groups, is_weak)
    counts = dict.fromkeys((_most_at_one_place(slices), 2, 3))
    yield from by_time(slices, [count for count in counts if count > 1])
    yield from _by_instance_number(slices)


def by_time(slices: Sequence[SliceHeader], counts: Sequence[int]) -> Iterator[Parting]:
    """Slices cut at the longest pauses of their acquisition or content times, into each of `counts` groups.

    Nothing where the times only rise or only fall along the slices: then one scan went through them.
    """
    for name in ("acquisition_time", "content_time"):
        times = _seconds([getattr(header, name) for header in slices])
        if times is None or (steps := np.diff(times)).min() >= 0 or steps.max() <= 0:
            continue
        order = np.argsort(times, kind="stable")
        pauses = np.diff(times[order])
        longest = np.argsort(-pauses, kind="stable")
        for count in counts:
            cuts = np.sort(longest[: count - 1])
            if len(cuts) and pauses[cuts].min() > 0:
                numbers = np.empty(len(slices), dtype=np.int64)
                numbers[order] = np.searchsorted(cuts, np.arange(len(slices)), side="left")
                yield Parting(f"a pause in {name.replace('_', ' ')}", _numbered(slices, numbers), is_weak=True)


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
        except (DecodeError, OSError):
            return True  # the volume is refused where it is decoded, and by its name
        change = [float(np.sqrt(np.mean((other - one) ** 2))) for one, other in pairwise(pictures)]
        at_edge = change.pop(len(below[-3:]) - 1)
        if at_edge > _BREAK * max(change) + 1:
            return False
    return True


def tells_reconstructions(name: str) -> bool:
    """Whether an attribute is one that two reconstructions differ in."""
    return name in _RECONSTRUCTION


def _heights_of_groups(groups: Groups) -> list[NDArray[np.float64]]:
    """Heights of the slices of each group along one normal, in mm, rising."""
    normal = normal_of(groups[0][0])
    return [np.sort(positions_of(group) @ normal) for group in groups]


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
        yield Parting("a new start of the instance numbers", _numbered(slices, groups), is_weak=True)


def _seconds(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Seconds of DICOM times HHMMSS.FFFFFF or dates and times YYYYMMDDHHMMSS.FFFFFF; None where one is neither."""
    try:
        numbers = np.array([float(text.partition("+")[0].partition("-")[0]) for text in texts])
    except ValueError:
        return None
    if not np.isfinite(numbers).all():
        return None
    date, clock = np.divmod(numbers, 1e6)
    hours, rest = np.divmod(clock, 1e4)
    minutes, seconds = np.divmod(rest, 1e2)
    # only differences count: months of 31 days keep the order
    months, day = np.divmod(date, 100)
    year, month = np.divmod(months, 100)
    days = (year * 12 + month) * 31 + day
    return np.asarray(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def _picture(header: SliceHeader) -> NDArray[np.float32]:
    """Every second row and column of a slice in HU."""
    stored = read_stored(header)[::2, ::2].astype(np.float32)
    slope, intercept = header.rescale_slope or 1.0, header.rescale_intercept or 0.0
    return np.asarray(stored * np.float32(slope) + np.float32(intercept))

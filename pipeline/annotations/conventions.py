"""Which mistake would explain marks that lie outside their volume: another axis convention, unit or order.

The answer goes into the refusal for a person to judge. Nothing is ever moved by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from data_contracts.nodules import NoduleAnnotation
from data_contracts.series import SeriesRecord
from pipeline.annotations.series_index import affine_of, contains

Points = NDArray[np.float64]
#: of the marks outside, at least this share must lie inside by another convention for it to be named
_SHARE = 0.8


def _voxels(points: Points, record: SeriesRecord) -> Points:
    """Indices (k, j, i) as LPS mm."""
    affine = affine_of(record)
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


#: how the numbers may have been meant -> LPS mm
_CONVENTIONS: dict[str, Callable[[Points, SeriesRecord], Points]] = {
    "RAS instead of LPS (x and y with the other sign)": lambda points, record: points * (-1, -1, 1),
    "metres instead of mm": lambda points, record: points * 1000,
    "centimetres instead of mm": lambda points, record: points * 10,
    "RAS in metres": lambda points, record: points * (-1000, -1000, 1000),
    "RAS in centimetres": lambda points, record: points * (-10, -10, 10),
    "the order z, y, x": lambda points, record: points[:, ::-1],
    "the order x, z, y": lambda points, record: points[:, [0, 2, 1]],
    "voxel indices (column, row, slice)": lambda points, record: _voxels(points[:, ::-1], record),
    "voxel indices (slice, row, column)": lambda points, record: _voxels(points, record),
}


def explanations(
    inside: Sequence[NoduleAnnotation], outside: Sequence[tuple[NoduleAnnotation, SeriesRecord]]
) -> dict[int, str]:
    """For marks outside their series: what they may have been, by position in `outside`.

    Looked at by file, where more of its marks lie outside than inside; conventions that explain equally many are
    all named.
    """
    n_inside: dict[int, int] = defaultdict(int)
    for mark in inside:
        n_inside[mark.file_number] += 1
    by_file: dict[int, list[int]] = defaultdict(list)
    for position, (mark, _) in enumerate(outside):
        if mark.lps_mm is not None:
            by_file[mark.file_number].append(position)
    words: dict[int, str] = {}
    for number, positions in by_file.items():
        if len(positions) <= n_inside[number]:
            continue
        fits = {name: _fitting(move, outside, positions) for name, move in _CONVENTIONS.items()}
        most = max(len(found) for found in fits.values())
        if most < _SHARE * len(positions):
            continue
        names = [name for name, found in fits.items() if len(found) == most]
        for position in set().union(*(fits[name] for name in names)):
            own = [name for name in names if position in fits[name]]
            words[position] = f"it would lie inside if the numbers were {' or '.join(own)}"
    return words


def _fitting(
    move: Callable[[Points, SeriesRecord], Points],
    outside: Sequence[tuple[NoduleAnnotation, SeriesRecord]],
    positions: Sequence[int],
) -> set[int]:
    by_series: dict[str, list[int]] = defaultdict(list)
    for position in positions:
        by_series[outside[position][1].series_key].append(position)
    fitting: set[int] = set()
    for own in by_series.values():
        record = outside[own[0]][1]
        points = np.array([outside[position][0].lps_mm for position in own], dtype=np.float64)
        fitting |= set(np.array(own)[contains(record, move(points, record))].tolist())
    return fitting

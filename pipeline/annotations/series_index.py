"""The series of a workspace by every name that an annotation may use for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_contracts.nodules import NoduleAnnotation
from data_contracts.series import SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer


class SeriesIndex:
    """Finds series and slices by keyed digests, so that no identifier is needed in the workspace.

    A UID is found as the original, as the pseudonym that this program gives it, and as the original of a series
    that was ingested after its UIDs had been replaced.
    """

    def __init__(self, series: Sequence[SeriesRecord], pseudonymizer: Pseudonymizer) -> None:
        self._pseudonymizer = pseudonymizer
        self._by_name: dict[str, list[SeriesRecord]] = defaultdict(list)
        self._slices: dict[str, dict[str, int]] = {}
        self._known_keys: dict[str, list[str]] = {}
        for record in sorted(series, key=lambda record: record.series_key):
            self._by_name[record.series_key].append(record)
            self._by_name[record.series_uid_key].append(record)
            if record.frame_of_reference_key:
                self._by_name[f"frame {record.frame_of_reference_key}"].append(record)
            for uid_key in filter(None, dict.fromkeys(record.sop_uid_keys)):
                self._by_name[f"sop {uid_key}"].append(record)

    def find(self, mark: NoduleAnnotation) -> tuple[list[SeriesRecord], str]:
        """(the parts of the series that the mark belongs to, what is wrong with its names).

        The slice it names decides before the series it names, and both must agree; the frame of reference serves where
        neither is named and one series alone lies in it.
        """
        by_slice = self._first([f"sop {key}" for key in self._keys(mark.sop_instance_uid)])
        names = [mark.series_key, *self._keys(mark.series_instance_uid), mark.series_instance_uid]
        by_series = self._first([name for name in names if name])
        if by_slice and by_series:
            both = [record for record in by_slice if record in by_series]
            return both, "" if both else "its slice and its series are two series of the workspace"
        if by_slice or by_series or mark.series_instance_uid or mark.series_key or mark.sop_instance_uid:
            return by_slice or by_series, ""
        in_frame = self._first([f"frame {key}" for key in self._keys(mark.frame_of_reference_uid)])
        if len({record.series_uid_key for record in in_frame}) > 1:
            return [], "several series share its frame of reference, and it names none"
        return in_frame, "" if mark.frame_of_reference_uid else "it names no series"

    def slice_of(self, record: SeriesRecord, sop_instance_uid: str) -> int | None:
        """k of a slice in its volume; None where it is not there, or is one of several frames of one object."""
        if record.series_key not in self._slices:
            counts = Counter(record.sop_uid_keys)
            slices = {key: k for k, key in enumerate(record.sop_uid_keys) if counts[key] == 1}
            self._slices[record.series_key] = slices
        own = self._slices[record.series_key]
        return next((own[key] for key in self._keys(sop_instance_uid) if key in own), None)

    def _keys(self, uid: str) -> list[str]:
        if uid and uid not in self._known_keys:
            key, pseudonyms = self._pseudonymizer.uid_key, self._pseudonymizer
            keys = [key(uid), pseudonyms.key_of_pseudonym(uid), key(pseudonyms.pseudonymous_uid(uid))]
            self._known_keys[uid] = [name for name in keys if name]
        return self._known_keys.get(uid, [])

    def _first(self, names: list[str]) -> list[SeriesRecord]:
        return next((self._by_name[name] for name in names if name in self._by_name), [])


def affine_of(record: SeriesRecord) -> NDArray[np.float64]:
    """(4, 4): (k, j, i, 1) to LPS mm."""
    return np.array(record.affine_lps, dtype=np.float64)


def slice_affine_of(record: SeriesRecord) -> NDArray[np.float64]:
    """(4, 4): (slice, row, column, 1) of the images as they were sent to LPS mm, for what was drawn on them."""
    return np.array(record.slice_affine_lps or record.affine_lps, dtype=np.float64)


def contains(record: SeriesRecord, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the points, (n, 3) LPS mm, lie in a voxel of the volume."""
    affine = affine_of(record)
    kji = np.linalg.solve(affine[:3, :3], (np.atleast_2d(points_mm) - affine[:3, 3]).T).T
    return np.asarray(np.all((kji >= -0.5) & (kji <= np.array(record.shape_kji) - 0.5), axis=1))

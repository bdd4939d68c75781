"""What a second look at everything finds: sources and stored volumes that are not what they were noted as."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_contracts.errors import NoduleflowError
from data_contracts.series import Rejection, SeriesRecord
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.known_scan import KnownScan
from pipeline.intake.known_source import FileDigests, KnownSource


def discard_damaged(items: Iterable[SeriesRecord | Rejection], series_root: Path) -> list[str]:
    """Remove the stored series whose voxels are not those that were written; returns their keys."""
    records = [item for item in items if isinstance(item, SeriesRecord)]
    damaged = [record.series_key for record in records if not _is_whole(record, series_root)]
    for key in damaged:
        shutil.rmtree(series_root / key, ignore_errors=True)
    return damaged


def _is_whole(record: SeriesRecord, series_root: Path) -> bool:
    try:
        volume = read_nifti(series_root / record.series_key / Path(record.volume_path).name)
    except (NoduleflowError, OSError, ValueError, EOFError):
        return False
    return hashlib.sha256(volume.hu.data.cast("B")).hexdigest() == record.pixel_sha256


def told_otherwise(
    known: KnownSource,
    scan: KnownScan,
    outcomes: Mapping[str, Sequence[SeriesRecord | Rejection]],
    digests: FileDigests,
) -> list[str]:
    """What a scan of everything, and the ingest of all that it found, gave otherwise than what was known."""
    found = []
    changed = 0
    for file in scan.discovery.files:
        name, state = scan.names.get(file.file.relative, (b"", b""))
        entry = known.files.get(name)
        if entry is not None and entry.state == state and entry.facts != digests.facts(file):
            changed += 1
    if changed:
        found.append(f"{changed} files have another header, though size and time say that they did not change")
    for group in known.groups:
        if group.key not in outcomes:
            found.append(f"a series is gone from the source: {_told(item.series_key for item in group.series)}")
            continue
        items = outcomes[group.key]
        before = {item.series_key for item in group.series}
        now = {item.series_key for item in items if isinstance(item, SeriesRecord)}
        if before != now:
            found.append(f"a series has other pixels or another outcome: {_told(before)} was stored, now {_told(now)}")
        elif [row.reason for row in group.rejections] != [row.reason for row in items if isinstance(row, Rejection)]:
            found.append(f"a series is refused for another reason: {_told(before)}")
    return found


def _told(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"

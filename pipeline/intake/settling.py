"""Studies that are still arriving: a scan without them, so that nobody ingests the first half of one."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from pipeline.intake.discover import RawSeries, ReadFile, folder_key
from pipeline.intake.known_scan import KnownScan
from pipeline.intake.known_source import KnownSource


def without_arriving(scan: KnownScan, source: Path, settle_s: float) -> tuple[KnownScan, int]:
    """A scan without the studies to which something was added within the last `settle_s`, and how many these are.

    The time that counts is when a file was put where it is (its change of status on POSIX), because copies often
    keep the time of modification of their original. Series of such a study that were ingested before stand as they are.
    A file that cannot be read yet holds back the studies of its folder. What is held back is neither refused nor
    remembered: the next scan reads it again.

    Parameters
    ----------
    settle_s: seconds of quiet; 0 holds nothing back. A time in the future further away than that is a wrong clock, and
        holds nothing back either.
    """
    if settle_s <= 0:
        return scan, 0
    if scan.archive:
        return _whole(scan) if _is_recent(source, settle_s) else (scan, 0)
    recent = [done for done in scan.discovery.files if done.file.path is None or _is_recent(done.file.path, settle_s)]
    recent = [done for done in recent if done.file.path is not None]
    studies = {_study(done) for done in recent if done.group_key}
    folders = {folder_key(done.file.relative) for done in recent if not done.group_key}
    studies |= {
        _study(done)
        for done in scan.discovery.files
        if done.group_key and folders and folder_key(done.file.relative) in folders
    }
    held = [
        done
        for done in scan.discovery.files
        if (done.group_key and _study(done) in studies) or (not done.group_key and done in recent)
    ]
    if not held:
        return scan, 0
    groups = {done.group_key for done in held if done.group_key}
    gone = {id(done) for done in held}
    rejections = {id(rejection) for done in held for rejection in done.rejections}
    series: tuple[RawSeries, ...] = tuple(raw for raw in scan.discovery.series if raw.group_key not in groups)
    discovery = replace(
        scan.discovery,
        series=series,
        rejections=tuple(row for row in scan.discovery.rejections if id(row) not in rejections),
        files=tuple(done for done in scan.discovery.files if id(done) not in gone),
    )
    return replace(scan, discovery=discovery), len(studies) or 1


def _whole(scan: KnownScan) -> tuple[KnownScan, int]:
    """An archive that is still being written."""
    discovery = replace(scan.discovery, series=(), rejections=(), files=())
    return replace(scan, discovery=discovery, before=KnownSource(scan.before.context), standing=(), container=b""), 1


def _study(done: ReadFile) -> tuple[str, str]:
    """The study of a file that belongs to a series; without a Study Instance UID, its folder."""
    assert done.header is not None
    uid = done.header.study_instance_uid
    return (done.header.patient_id, uid) if uid else ("", folder_key(done.file.relative))


def _is_recent(path: Path, settle_s: float) -> bool:
    try:
        found = path.stat()
    except OSError:
        return True  # it is being renamed or was taken away
    age_s = time.time() - max(found.st_ctime, found.st_mtime)
    return -settle_s < age_s < settle_s

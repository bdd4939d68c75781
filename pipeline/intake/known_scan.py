"""A scan of a source that reads only what is new or changed since an earlier ingest, and the series that it touches."""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.archive import is_archive
from pipeline.intake.discover import Discovery, SourceScan, list_files
from pipeline.intake.known_source import FileDigests, KnownFile, KnownGroup, KnownSeries, KnownSource
from pipeline.intake.source_files import FileState, SourceFile

#: files whose headers are read again at every run, to see that the states of files can be trusted
SAMPLED_FILES = 16
#: outcomes that another run may mend without a change of any file
_PASSING = (ReasonCode.LOW_DISK_SPACE, ReasonCode.INTERNAL_ERROR, ReasonCode.UNREADABLE, ReasonCode.PIXEL_DECODE_FAILED)
#: a file may be written twice within the resolution of its time of change
_SETTLED_NS = 2_000_000_000
#: file id of a directory of a file-set (PS3.10 section 8.6)
_DIRECTORY_NAME = "dicomdir"


@dataclass(frozen=True)
class KnownScan:
    """What was read now, and what stands of before.

    discovery: its rejections are those of files that were read and of files that were not. standing: groups whose files
    were not read. distrusted: a sampled file was not what it was known as, so that everything was read.
    names: path below the source -> digests of the path and of the state. kept: the files that were not read.
    archive, container: the source is an archive, and its state (b"" where it changed a moment ago).
    """

    discovery: Discovery
    before: KnownSource = field(repr=False)
    standing: tuple[KnownGroup, ...] = ()
    distrusted: bool = False
    names: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    kept: Mapping[bytes, KnownFile] = field(default_factory=dict, repr=False)
    archive: bool = False
    container: bytes = b""
    listed_ns: int = 0


@dataclass
class _Comparison:
    """The files of a source beside what is known of them.

    fresh: unknown or changed. members: group -> its unchanged files. refused: unchanged files of no group. touched:
    groups of which a file changed or is gone, or whose stored series do not stand.
    """

    fresh: list[SourceFile] = field(default_factory=list)
    members: dict[int, list[SourceFile]] = field(default_factory=lambda: defaultdict(list))
    refused: list[SourceFile] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)


def scan_source(
    source: Path,
    pseudonymizer: Pseudonymizer,
    known: KnownSource,
    scratch: Path,
    series_root: Path,
    at_most: int | None = None,
) -> KnownScan | None:
    """Scan a source as `pipeline.intake.discover.discover` does, but for what is `known` and stands.

    series_root: where the stored series are. at_most: None comes back in place of a scan that reads more files, or
    any archive. Raises as `discover` does.
    """
    digests = FileDigests(pseudonymizer.secret)
    if source.is_file() and is_archive(source):
        return _scan_archive(source, pseudonymizer, known, scratch, series_root, digests, at_most)
    listed_ns = time.time_ns()
    files = list(list_files(source, scratch, with_state=True))
    names = _names(files, digests)
    comparison = _compare(files, names, known, series_root)
    if at_most is not None and (len(comparison.fresh) > at_most or comparison.touched):
        return None
    trusted = _sample_holds(comparison, files, names, known, pseudonymizer, digests)
    if not trusted:
        if at_most is not None:
            return None
        known = KnownSource(known.context)
        comparison = _compare(files, names, known, series_root)
    scan = SourceScan(pseudonymizer, files)
    touched = _read_touched(scan, comparison, known)
    standing = [number for number in comparison.members if number not in touched]
    kept = {names[file.relative][0] for file in comparison.refused}
    kept |= {names[file.relative][0] for number in standing for file in comparison.members[number]}
    found = scan.discovery()
    refused = [row for file in comparison.refused for row in _refusal(known, names[file.relative][0])]
    return KnownScan(
        replace(found, rejections=(*found.rejections, *refused)),
        known,
        tuple(known.groups[number] for number in standing),
        not trusted,
        names,
        {name: entry for name, entry in known.files.items() if name in kept},
        listed_ns=listed_ns,
    )


def _refusal(known: KnownSource, name: bytes) -> tuple[Rejection, ...]:
    return known.refusals[known.files[name].refusal]


def _names(files: Sequence[SourceFile], digests: FileDigests) -> dict[str, tuple[bytes, bytes]]:
    """Digests of each file's path and state; b"" for the state of what cannot be opened.

    What becomes of a DICOMDIR also depends on which files lie beside and below it.
    """
    ordered = sorted(file.relative for file in files)
    found = {}
    for file in files:
        state = b""
        if file.state is not None:
            folder, _, name = file.relative.rpartition("/")
            below = ""
            if name.casefold().startswith(_DIRECTORY_NAME):
                prefix = folder + "/" if folder else ""
                first = bisect_left(ordered, prefix)
                last = bisect_left(ordered, prefix[:-1] + "0") if prefix else len(ordered)
                below = "\n".join(ordered[first:last])
            state = digests.state(file.state, below)
        found[file.relative] = (digests.path(file.relative), state)
    return found


def _compare(
    files: Sequence[SourceFile], names: Mapping[str, tuple[bytes, bytes]], known: KnownSource, series_root: Path
) -> _Comparison:
    result = _Comparison()
    gone = dict(known.files)
    for file in files:
        name, state = names[file.relative]
        entry = gone.pop(name, None)
        if entry is None or not state or entry.state != state:
            result.fresh.append(file)
            if entry is not None:
                result.touched.add(entry.group)
        elif entry.group >= 0:
            result.members[entry.group].append(file)
        else:
            result.refused.append(file)
    result.touched |= {entry.group for entry in gone.values()}
    for number, group in enumerate(known.groups):
        if not all(series.stands(series_root) for series in group.series):
            result.touched.add(number)
    return result


def _sample_holds(
    comparison: _Comparison,
    files: Sequence[SourceFile],
    names: Mapping[str, tuple[bytes, bytes]],
    known: KnownSource,
    pseudonymizer: Pseudonymizer,
    digests: FileDigests,
) -> bool:
    """Whether a few random files, read again, still say what they said."""
    groups = [number for number in comparison.members if number not in comparison.touched]
    candidates = [
        random.choice(comparison.members[number]) for number in random.sample(groups, min(len(groups), SAMPLED_FILES))
    ]
    candidates += random.sample(comparison.refused, min(len(comparison.refused), SAMPLED_FILES // 4))
    if not candidates:
        return True
    scan = SourceScan(pseudonymizer, files)
    for file in candidates:
        scan.read(file)
    return all(
        digests.facts(done) == known.files[names[done.file.relative][0]].facts for done in scan.discovery().files
    )


def _read_touched(scan: SourceScan, comparison: _Comparison, known: KnownSource) -> set[int]:
    """Read what is fresh, and the unchanged files of every group that it touches; returns the touched groups."""
    touched = set(comparison.touched)
    numbers = {group.key: number for number, group in enumerate(known.groups)}
    for file in comparison.fresh:
        touched.add(numbers.get(scan.read(file), -1))
    for number, members in comparison.members.items():
        if scan.unreadable_beside(file.relative for file in members) != known.groups[number].unreadable_beside:
            touched.add(number)
    for number in sorted(touched & comparison.members.keys()):
        for file in comparison.members[number]:
            scan.read(file)
    return touched


def _scan_archive(
    source: Path,
    pseudonymizer: Pseudonymizer,
    known: KnownSource,
    scratch: Path,
    series_root: Path,
    digests: FileDigests,
    at_most: int | None,
) -> KnownScan | None:
    """An archive stands or is read as a whole; its beginning and end are looked at beside its state."""
    listed_ns = time.time_ns()
    state = FileState.of(source)
    container = digests.state(state, digests.content(source).hex())
    if known.container == container and all(s.stands(series_root) for group in known.groups for s in group.series):
        refused = tuple(row for rows in known.refusals for row in rows)
        return KnownScan(Discovery((), refused, 1), known, known.groups, archive=True, container=container)
    if at_most is not None:
        return None
    files = list(list_files(source, scratch))
    scan = SourceScan(pseudonymizer, files)
    for file in files:
        scan.read(file)
    settled = state.modified_ns < listed_ns - _SETTLED_NS
    found = scan.discovery()
    return KnownScan(found, KnownSource(known.context), archive=True, container=container if settled else b"")


def known_after(
    scan: KnownScan,
    outcomes: Mapping[str, Sequence[SeriesRecord | Rejection]],
    digests: FileDigests,
    series_root: Path,
    *,
    tables: bool,
) -> KnownSource:
    """What is known after an ingest, or in the middle of it.

    outcomes: by group key, of the series that were ingested so far. Groups and files with a passing outcome, and files
    that changed a moment before they were listed, stay unknown. tables: as in KnownSource.
    """
    fresh = _known_groups(scan, outcomes, series_root)
    if scan.archive:
        if not scan.container or len(fresh) < len(scan.discovery.series):
            return KnownSource(scan.before.context)
        groups = (*scan.standing, *fresh)
        return KnownSource(scan.before.context, {}, groups, (scan.discovery.rejections,), scan.container, tables)
    groups = (*scan.standing, *fresh)
    numbers = {group.key: number for number, group in enumerate(groups)}
    refusals: list[tuple[Rejection, ...]] = []
    files: dict[bytes, KnownFile] = {}

    def refusal_number(rows: tuple[Rejection, ...]) -> int:
        refusals.append(rows)
        return len(refusals) - 1

    for name, entry in scan.kept.items():
        if entry.group >= 0:
            files[name] = entry._replace(group=numbers[scan.before.groups[entry.group].key])
        else:
            files[name] = entry._replace(refusal=refusal_number(scan.before.refusals[entry.refusal]))
    for done in scan.discovery.files:
        name, state = scan.names.get(done.file.relative, (b"", b""))
        passing = done.names_missing or any(row.reason in _PASSING for row in done.rejections)
        if not state or passing or not _is_settled(done.file, scan.listed_ns):
            continue
        if done.group_key in numbers:
            files[name] = KnownFile(state, digests.facts(done), numbers[done.group_key], -1)
        elif not done.group_key:
            files[name] = KnownFile(state, digests.facts(done), -1, refusal_number(done.rejections))
    return KnownSource(scan.before.context, files, groups, tuple(refusals), b"", tables)


def _known_groups(
    scan: KnownScan, outcomes: Mapping[str, Sequence[SeriesRecord | Rejection]], series_root: Path
) -> list[KnownGroup]:
    """The ingested series whose outcome lasts as long as their files stay as they are."""
    beside = {raw.group_key: raw.unreadable_beside for raw in scan.discovery.series}
    unsettled = {file.group_key for file in scan.discovery.files if not _is_settled(file.file, scan.listed_ns)}
    groups = []
    for key, items in outcomes.items():
        refused = tuple(item for item in items if isinstance(item, Rejection))
        if key in unsettled or any(item.reason in _PASSING for item in refused):
            continue
        series = tuple(KnownSeries.of(item, series_root) for item in items if isinstance(item, SeriesRecord))
        groups.append(KnownGroup(key, beside[key], series, refused))
    return groups


def _is_settled(file: SourceFile, listed_ns: int) -> bool:
    return file.state is None or file.state.modified_ns < listed_ns - _SETTLED_NS

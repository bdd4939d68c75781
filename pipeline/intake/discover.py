"""What is in a source: every file read once to its header, grouped into series."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_contracts.errors import UsageError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.reader import HeaderReader, NotDicomError
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.values import silence_pydicom
from pipeline.intake.archive import is_archive
from pipeline.intake.file_sets import DIRECTORY_CLASS, folded, missing_files
from pipeline.intake.source_files import FileState, SourceFile, archive_members, folder_files


@dataclass(frozen=True)
class RawSeries:
    """Everything a source holds under one SeriesInstanceUID of one patient, not yet checked.

    slices: one entry a file. relative: the folder they share, below the source. Both are identity.
    unreadable_beside: how many files in the folders of its slices could be slices but cannot be read, or are named by
    a DICOMDIR and are not there.
    group_key: the same for the same series of the same source at every ingest.
    """

    series_uid_key: str
    slices: tuple[SliceHeader, ...] = field(repr=False)
    relative: str = field(repr=False)
    unreadable_beside: int = 0
    group_key: str = ""


@dataclass(frozen=True)
class ReadFile:
    """What became of one file that was read: the group that its header belongs to, or "" and why it was refused.

    header: its facts where it is DICOM. names_missing: it is a DICOMDIR that names files which are not there.
    """

    file: SourceFile
    group_key: str = ""
    rejections: tuple[Rejection, ...] = ()
    header: SliceHeader | None = field(default=None, repr=False)
    names_missing: bool = False


@dataclass(frozen=True)
class Discovery:
    """What was found. n_files counts every regular file, DICOM or not; files: what became of each that was read."""

    series: tuple[RawSeries, ...]
    rejections: tuple[Rejection, ...]
    n_files: int
    files: tuple[ReadFile, ...] = field(default=(), repr=False, compare=False)


def discover(source: Path, pseudonymizer: Pseudonymizer, params: IngestParams, scratch: Path) -> Discovery:
    """Read the headers of a folder, a single file or a .zip/.tar(.gz/.bz2/.xz) and group them into series.

    Names and extensions mean nothing; links to folders are not followed. Archives are unpacked below `scratch`, which
    the caller removes after the series are ingested. `params` is the policy of the ingest that follows.

    Raises
    ------
    UsageError: the source is not there.
    WorkspaceError: no room to unpack.
    """
    files = list(list_files(source, scratch))
    scan = SourceScan(pseudonymizer, files)
    for file in files:
        scan.read(file)
    return scan.discovery()


def list_files(source: Path, scratch: Path, *, with_state: bool = False) -> Iterable[SourceFile]:
    """Every file of a source; raises as `discover` does."""
    if not source.exists():
        raise UsageError("the source is not there", todo="Name a folder, a DICOM file, a .zip or a .tar archive.")
    if source.is_dir():
        return folder_files(source, with_state=with_state)
    if is_archive(source):
        return archive_members(source, scratch)
    return [SourceFile(source, source.name, state=FileState.of(source) if with_state else None)]


class SourceScan:
    """Reads files of one source one by one, and groups what they are.

    files: every file of the source, those that are not going to be read as well.
    """

    def __init__(self, pseudonymizer: Pseudonymizer, files: Sequence[SourceFile]) -> None:
        silence_pydicom()
        self._pseudonymizer = pseudonymizer
        self._n_files = sum(not file.folder for file in files)
        self._there = {folded(file.relative) for file in files if file.path is not None}
        self._reader = HeaderReader()
        self._groups: dict[tuple[str, str, str], list[SliceHeader]] = {}
        self._group_keys: dict[tuple[str, str, str], str] = {}
        self._files: list[ReadFile] = []
        #: folder -> files in it that could be slices and cannot be read
        self._unreadable: Counter[str] = Counter()

    def read(self, file: SourceFile) -> str:
        """Read one file; returns the key of the group that it belongs to, "" where it belongs to none."""
        done = self._read(file)
        self._files.append(done)
        return done.group_key

    def _read(self, file: SourceFile) -> ReadFile:
        if file.unsafe:
            return self._refused(file, ReasonCode.UNSAFE_ARCHIVE_MEMBER)
        if file.path is None:
            return self._refused(file, ReasonCode.UNREADABLE)
        try:
            header = self._reader.read(file.path, file.relative)
        except NotDicomError as error:
            return self._refused(file, ReasonCode.NESTED_ARCHIVE if error.packed else ReasonCode.NOT_DICOM)
        except Exception:  # pydicom raises almost anything on a torn or hostile file
            return self._refused(file, ReasonCode.UNREADABLE)
        if header is None:
            return self._refused(file, ReasonCode.NOT_DICOM)
        if header.sop_class_uid == DIRECTORY_CLASS:
            return self._directory(file, file.path, header)
        # files without a series UID are a series with their neighbours in the folder
        place = header.series_instance_uid or f"folder {PurePosixPath(header.relative).parent}"
        group = (header.patient_id, header.study_instance_uid, place)
        if group not in self._groups:
            self._groups[group] = []
            self._group_keys[group] = self._pseudonymizer.key("group", json.dumps(group))
        self._groups[group].append(header)
        return ReadFile(file, self._group_keys[group], header=header)

    def _refused(self, file: SourceFile, reason: ReasonCode) -> ReadFile:
        if reason is ReasonCode.UNREADABLE and not file.folder:
            self._unreadable[folder_key(file.relative)] += 1
        path = self._pseudonymizer.path(file.relative)
        return ReadFile(file, rejections=(Rejection(path=path, reason=reason, detail=file.problem),))

    def _directory(self, file: SourceFile, path: Path, header: SliceHeader) -> ReadFile:
        missing = missing_files(path, file.relative, self._there)
        self._unreadable.update(folder_key(name) for name in missing)
        itself = (ReasonCode.NOT_AN_IMAGE, "a DICOMDIR")
        absent = (ReasonCode.UNREADABLE, "named by a DICOMDIR, but not there")
        rejections = tuple(
            Rejection(path=self._pseudonymizer.path(name), reason=reason, detail=detail)
            for name, (reason, detail) in [(file.relative, itself), *((name, absent) for name in missing)]
        )
        return ReadFile(file, rejections=rejections, header=header, names_missing=bool(missing))

    def unreadable_beside(self, files: Iterable[str]) -> int:
        """How many files in the folders of these could be slices and cannot be read, as far as was read."""
        if not self._unreadable:
            return 0
        return sum(self._unreadable[folder] for folder in {folder_key(relative) for relative in files})

    def discovery(self) -> Discovery:
        """All that was read, in series."""
        series = tuple(self._series(headers, self._group_keys[group]) for group, headers in self._groups.items())
        rejections = tuple(rejection for file in self._files for rejection in file.rejections)
        return Discovery(series, rejections, self._n_files, tuple(self._files))

    def _series(self, headers: list[SliceHeader], group_key: str) -> RawSeries:
        ordered = sorted(headers, key=lambda header: (header.sop_instance_uid, header.relative))
        folders = {folder_of(header.relative) for header in ordered}
        return RawSeries(
            self._pseudonymizer.uid_key(ordered[0].series_instance_uid),
            tuple(ordered),
            ordered[0].relative if len(ordered) == 1 else os.path.commonpath(folders),
            self.unreadable_beside(header.relative for header in ordered),
            group_key,
        )


def folder_key(relative: str) -> str:
    """The folder as it compares between a medium and its copy on a disk."""
    return folder_of(relative).casefold()


def folder_of(relative: str) -> str:
    """The folder of a path below the source, "." for the source itself."""
    return relative.rpartition("/")[0] or "."

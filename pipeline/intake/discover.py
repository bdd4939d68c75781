"""What is in a source: every file read once to its header, grouped into series."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from data_contracts.errors import UsageError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.archive import is_archive, unpack
from pipeline.intake.header_reader import read_header
from pipeline.intake.header_values import silence_pydicom
from pipeline.intake.headers import SliceHeader

_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class RawSeries:
    """Everything a source holds under one SeriesInstanceUID of one patient, not yet checked.

    slices: one entry a file. relative: the folder they share, below the source. Both are identity.
    """

    series_uid_key: str
    slices: tuple[SliceHeader, ...] = field(repr=False)
    relative: str = field(repr=False)


@dataclass(frozen=True)
class Discovery:
    """What was found. n_files counts every regular file, DICOM or not."""

    series: tuple[RawSeries, ...]
    rejections: tuple[Rejection, ...]
    n_files: int


def discover(source: Path, pseudonymizer: Pseudonymizer, params: IngestParams, scratch: Path) -> Discovery:
    """Read the headers of a folder, a single file or a .zip/.tar(.gz/.bz2/.xz) and group them into series.

    Names and extensions mean nothing; links to folders are not followed. Archives are unpacked below `scratch`, which
    the caller removes after the series are ingested. `params` is the policy of the ingest that follows.

    Raises
    ------
    UsageError: the source is not there.
    DecodeError: the archive is torn, encrypted or a bomb.
    WorkspaceError: no room to unpack.
    """
    if not source.exists():
        raise UsageError("the source is not there", todo="Name a folder, a DICOM file, a .zip or a .tar archive.")
    silence_pydicom()
    rejections: list[Rejection] = []
    groups: dict[tuple[str, ...], list[SliceHeader]] = {}
    n_files = 0
    for path, relative, unsafe in _files(source, scratch):
        n_files += 1
        if path is None:
            rejections.append(_file_rejection(pseudonymizer, relative, ReasonCode.UNSAFE_ARCHIVE_MEMBER, unsafe))
            continue
        header, reason = _read(path, relative)
        if header is None:
            rejections.append(_file_rejection(pseudonymizer, relative, reason))
        elif header.sop_class_uid == _DIRECTORY_CLASS:
            rejections.append(_file_rejection(pseudonymizer, relative, ReasonCode.NOT_AN_IMAGE, "a DICOMDIR"))
        else:
            # files without a series UID are a series with their neighbours in the folder
            place = header.series_instance_uid or f"folder {PurePosixPath(relative).parent}"
            groups.setdefault((header.patient_id, header.study_instance_uid, place), []).append(header)
    series = tuple(_series(headers, pseudonymizer) for headers in groups.values())
    return Discovery(series, tuple(rejections), n_files)


def _series(headers: list[SliceHeader], pseudonymizer: Pseudonymizer) -> RawSeries:
    ordered = sorted(headers, key=lambda header: (header.sop_instance_uid, header.relative))
    folders = [PurePosixPath(header.relative).parent.as_posix() for header in ordered]
    shared = os.path.commonpath(folders)
    if len(ordered) == 1:
        shared = ordered[0].relative
    return RawSeries(pseudonymizer.uid_key(ordered[0].series_instance_uid), tuple(ordered), shared)


def _files(source: Path, scratch: Path) -> Iterator[tuple[Path | None, str, str]]:
    """(path, path relative to the source, why it is unsafe) of every regular file, in a fixed order."""
    if source.is_file():
        if not is_archive(source):
            yield source, source.name, ""
            return
        for member in unpack(source, scratch):
            yield member.path, member.name, member.unsafe
        return
    for folder, subfolders, names in os.walk(source):
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file():
                yield path, path.relative_to(source).as_posix(), ""


def _read(path: Path, relative: str) -> tuple[SliceHeader | None, ReasonCode]:
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return None, ReasonCode.UNREADABLE
    if head[128:] != b"DICM" and not _starts_like_a_dataset(head):
        return None, ReasonCode.NOT_DICOM
    try:
        header = read_header(path, relative)
    except Exception:  # pydicom raises almost anything on a torn or hostile file
        return None, ReasonCode.UNREADABLE
    return header, ReasonCode.NOT_DICOM


def _starts_like_a_dataset(head: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 0002 or 0008, in either byte order."""
    if len(head) < 12:
        return False
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group = int.from_bytes(head[:2], order)
        element = int.from_bytes(head[2:4], order)
        if group not in (0x0002, 0x0008) or element > 0x0100:
            continue
        length = int.from_bytes(head[4:8], order)
        if length <= 1024 or (head[4:6].isalpha() and head[4:6].isupper()):
            return True
    return False


def _file_rejection(pseudonymizer: Pseudonymizer, relative: str, reason: ReasonCode, detail: str = "") -> Rejection:
    return Rejection(path=pseudonymizer.path(relative), reason=reason, detail=detail)

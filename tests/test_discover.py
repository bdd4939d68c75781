"""Whatever a source holds is found, and nothing in it can do harm."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import socket
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_factory import slices_of, truth_of, write_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from data_contracts.errors import DecodeError, UsageError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake import archive
from pipeline.intake.archive import is_archive, unpack
from pipeline.intake.discover import Discovery, discover


def find(source: Path, scratch: Path, *, keep: bool = False) -> Discovery:
    return discover(source, Pseudonymizer(b"secret", keep), IngestParams(), scratch)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder / "Mueller" / "CT", slices_of(truth_of(), "P1")[:5])
    return folder


def test_a_source_that_is_not_there_is_a_usage_error_that_does_not_print_its_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find(tmp_path / "Mueller", tmp_path)
    assert "Mueller" not in caught.value.line()


def test_an_empty_folder_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert find(tmp_path / "in", tmp_path) == Discovery((), (), 0)


def test_a_single_file_is_a_series_of_one(series: Path, tmp_path: Path) -> None:
    found = find(next(series.rglob("*.dcm")), tmp_path)
    assert [len(raw.slices) for raw in found.series] == [1]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_holds_what_its_folder_holds(series: Path, tmp_path: Path, kind: str) -> None:
    packed = tmp_path / f"study.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
            for path in sorted(series.rglob("*.dcm")):
                out.write(path, path.relative_to(series))
    else:
        with tarfile.open(packed, f"w:{kind[4:]}") as out:
            out.add(series, ".")
    found = find(packed, tmp_path / "scratch", keep=True)
    assert [(raw.relative, len(raw.slices)) for raw in found.series] == [("Mueller/CT", 5)]
    assert found.rejections == ()
    assert not any("Mueller" in str(path) for path in (tmp_path / "scratch").rglob("*"))


def test_junk_is_listed_a_row_each_and_links_to_folders_are_not_followed(series: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").write_bytes(b"")
    (folder / "binary").write_bytes(os.urandom(4000))
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    found = find(folder, tmp_path)
    assert [item.reason for item in found.rejections] == [ReasonCode.NOT_DICOM] * 3
    assert found.series == ()
    assert all("notes" not in item.path for item in found.rejections)


def test_members_that_leave_the_folder_or_are_links_are_refused_one_by_one(series: Path, tmp_path: Path) -> None:
    packed, scratch = tmp_path / "evil.tar", tmp_path / "deep" / "scratch"
    good = next(series.rglob("*.dcm")).read_bytes()
    with tarfile.open(packed, "w") as out:
        for name in ("../../escaped.dcm", "/absolute.dcm", "fine/a.dcm"):
            info = tarfile.TarInfo(name)
            info.size = len(good)
            out.addfile(info, io.BytesIO(good))
        link = tarfile.TarInfo("link.dcm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        out.addfile(device)
    found = find(packed, scratch)
    assert [item.reason for item in found.rejections] == [ReasonCode.UNSAFE_ARCHIVE_MEMBER] * 4
    assert [len(raw.slices) for raw in found.series] == [1]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["000002", "evil.tar"]


def test_a_link_in_a_zip_is_not_made(tmp_path: Path) -> None:
    packed = tmp_path / "evil.zip"
    with zipfile.ZipFile(packed, "w") as out:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(info, "/etc/passwd")
        out.writestr("a\\..\\..\\b.dcm", "x")
    assert [member.path for member in unpack(packed, tmp_path / "scratch")] == [None, None]


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_RATIO_FROM_BYTES", 2**20)
    packed = tmp_path / "bomb.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("zeros", bytes(32 * 2**20))
    with pytest.raises(DecodeError):
        unpack(packed, tmp_path / "scratch")


def test_more_members_than_any_study_has_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 50)
    for kind in ("zip", "tar"):
        folder = tmp_path / "many"
        folder.mkdir(exist_ok=True)
        for number in range(60):
            (folder / str(number)).write_bytes(b"x")
        packed = Path(shutil.make_archive(str(tmp_path / kind), kind, folder))
        with pytest.raises(DecodeError, match="more than 50 members"):
            unpack(packed, tmp_path / f"scratch-{kind}")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_header_of_half_a_gigabyte_is_not_taken_into_memory(
    tmp_path: Path, kind: bytes, compress: Callable[[bytes], bytes]
) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 64 * 2**20
    packed = tmp_path / "evil.tar.gz"
    packed.write_bytes(compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size + 1024)))
    tracemalloc.start()
    try:
        assert not is_archive(packed)
        with pytest.raises(DecodeError):
            unpack(packed, tmp_path / "scratch")
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


def test_a_link_that_claims_to_be_large_is_not_unpacked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_RATIO_FROM_BYTES", 2**20)
    link, after = tarfile.TarInfo("folder"), tarfile.TarInfo("a.dcm")
    link.type, link.size, link.linkname = b"9", 32 * 2**20, "/etc"
    packed = tmp_path / "evil.tar.gz"
    packed.write_bytes(gzip.compress(link.tobuf() + bytes(link.size) + after.tobuf() + bytes(1024)))
    with pytest.raises(DecodeError, match="grows more than"):
        unpack(packed, tmp_path / "scratch")


def test_a_disk_without_room_for_the_archive_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_RESERVE_BYTES", 2**62)
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr("a", "content")
    with pytest.raises(WorkspaceError):
        unpack(packed, tmp_path / "scratch")


def test_a_torn_archive_is_one_refused_file_with_the_reason(series: Path, tmp_path: Path) -> None:
    packed = tmp_path / "torn.tar.gz"
    with tarfile.open(packed, "w:gz") as out:
        out.add(series, ".")
    packed.write_bytes(packed.read_bytes()[:-3000])
    found = find(packed, tmp_path / "scratch")
    assert not found.series
    assert [(item.reason, item.detail) for item in found.rejections] == [
        (ReasonCode.UNREADABLE, "the archive is torn or encrypted")
    ]


def test_dicomdir_file_sets_are_read_by_their_files(traps: Path, tmp_path: Path) -> None:
    found = find(traps / "pydicom_ct" / "dicomdirtests", tmp_path, keep=True)
    assert sorted(len(raw.slices) for raw in found.series) == [2, 4, 5, 50]
    assert all(item.reason in (ReasonCode.NOT_AN_IMAGE, ReasonCode.NOT_DICOM) for item in found.rejections)


def test_a_folder_is_full_of_traps_and_nothing_hangs_or_is_read_that_is_no_file(series: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep" / "er").mkdir(parents=True)
    good = next(series.rglob("*.dcm")).read_bytes()
    (folder / "deep" / "a").write_bytes(good)
    os.mkfifo(folder / "deep" / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "deep" / "door"))
    (folder / "deep" / "er" / "up").symlink_to(folder)
    (folder / "deep" / "round").symlink_to(folder / "deep" / "round")
    (folder / "deep" / "device").symlink_to("/dev/zero")
    (folder / "deep" / "nothing").symlink_to(folder / "gone")
    (folder / "elsewhere").symlink_to(folder / "deep" / "a")
    raw = os.fsencode(folder) + b"/M\xfcller"
    with open(raw, "wb") as stream:  # noqa: PTH123 - a name that is no text
        stream.write(good)
    found = find(folder, tmp_path)
    assert sorted(len(raw.slices) for raw in found.series) == [3]
    assert [item.reason for item in found.rejections] == [ReasonCode.UNREADABLE] * 2
    assert find(folder, tmp_path, keep=True).series[0].slices[0].relative
    assert all(item.path.encode() for item in find(folder, tmp_path, keep=True).rejections)


def test_a_file_that_vanishes_or_may_not_be_read_is_told_and_counted_beside_its_series(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(series / "Mueller" / "CT", folder)
    for name in ("gone.dcm", "locked.dcm"):
        shutil.copy(folder / "000.dcm", folder / name)
    opened = os.open

    def refuse(path: Path, *rest: int) -> int:
        if Path(path).name == "gone.dcm":
            Path(path).unlink()
        if Path(path).name == "locked.dcm":
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    found = find(folder, tmp_path)
    assert [item.reason for item in found.rejections] == [ReasonCode.UNREADABLE] * 2
    assert [(len(raw.slices), raw.unreadable_beside) for raw in found.series] == [(5, 2)]


def test_a_folder_that_may_not_be_opened_is_told(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(series / "Mueller", tmp_path / "in")
    (tmp_path / "in" / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find(tmp_path / "in", tmp_path, keep=True)
    assert [(item.path, item.reason, item.detail) for item in found.rejections] == [
        ("locked", ReasonCode.UNREADABLE, "the folder cannot be opened")
    ]
    assert [raw.unreadable_beside for raw in found.series] == [0]


def test_a_torn_file_is_counted_beside_the_series_of_its_folder_and_no_other(series: Path, tmp_path: Path) -> None:
    shutil.copytree(series / "Mueller" / "CT", tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", slices_of(truth_of(), "P2")[:4])
    content = (tmp_path / "in" / "a" / "000.dcm").read_bytes()
    (tmp_path / "in" / "a" / "torn.dcm").write_bytes(content[:300])
    (tmp_path / "in" / "b" / "notes.txt").write_text("no slice")
    found = find(tmp_path / "in", tmp_path)
    assert sorted((len(raw.slices), raw.unreadable_beside) for raw in found.series) == [(4, 0), (5, 1)]


def test_archives_inside_the_source_are_listed_and_not_opened(series: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for kind in ("zip", "tar", "gztar", "xztar"):
        shutil.make_archive(str(folder / f"study-{kind}"), kind, series)
    found = find(folder, tmp_path)
    assert [item.reason for item in found.rejections] == [ReasonCode.NESTED_ARCHIVE] * 4
    packed = Path(shutil.make_archive(str(tmp_path / "outer"), "tar", folder))
    assert [item.reason for item in find(packed, tmp_path / "scratch").rejections] == [ReasonCode.NESTED_ARCHIVE] * 4


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(series: Path, tmp_path: Path) -> None:
    inner = Path(shutil.make_archive(str(tmp_path / "inner"), "zip", series))
    with tarfile.open(tmp_path / "outer.tar", "w") as out:
        out.add(series, "a")
        out.add(inner, "z.zip")
    found = find(tmp_path / "outer.tar", tmp_path / "scratch")
    assert [len(raw.slices) for raw in found.series] == [5]
    assert [item.reason for item in found.rejections] == [ReasonCode.NESTED_ARCHIVE]


def file_set(folder: Path, names: list[list[str]]) -> None:
    """A DICOMDIR that names files."""
    directory, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.1.3.10", ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    directory.SOPClassUID, directory.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    directory.DirectoryRecordSequence = Sequence(records)
    directory.file_meta = meta
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)


def test_files_that_only_a_dicomdir_names_are_listed_and_counted(series: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "ct").mkdir(parents=True)
    for number in range(4):
        shutil.copy(series / "Mueller" / "CT" / f"00{number}.dcm", folder / "ct" / f"im00{number}")
    inside = [["CT", f"IM00{number}"] for number in range(6)]
    file_set(folder, [*inside, ["..", "..", "etc", "passwd"], ["/etc/passwd"], [""]])
    found = find(folder, tmp_path, keep=True)
    assert [(item.path, item.reason) for item in found.rejections] == [
        ("DICOMDIR", ReasonCode.NOT_AN_IMAGE),
        ("CT/IM004", ReasonCode.UNREADABLE),
        ("CT/IM005", ReasonCode.UNREADABLE),
    ]
    assert [(len(raw.slices), raw.unreadable_beside) for raw in found.series] == [(4, 2)]

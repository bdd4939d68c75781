"""A header read from the first bytes of a file says exactly what pydicom says, and costs a fraction of it."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_factory import compress, save, slices_of, truth_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.headers import reader as header_reader
from pipeline.headers.elements import EXPLICIT_LITTLE, OddHeaderError, ShortBufferError, walk
from pipeline.headers.odd import read_odd_header
from pipeline.headers.reader import HeaderReader, NotDicomError, read_header
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.values import silence_pydicom

CT = "1.2.840.10008.5.1.4.1.1.2"


def by_pydicom(path: Path, monkeypatch: pytest.MonkeyPatch) -> SliceHeader | None:
    """The header by way of pydicom alone, as every file's was read before there was a walk."""
    with monkeypatch.context() as patch:
        patch.setattr(HeaderReader, "_walked", lambda *_: (_ for _ in ()).throw(OddHeaderError()))
        return read_header(path, path.name)


def assert_same(fast: SliceHeader | None, slow: SliceHeader | None) -> None:
    assert (fast is None) == (slow is None)
    if fast is None or slow is None:
        return
    for item in fields(SliceHeader):
        mine, other = getattr(fast, item.name), getattr(slow, item.name)
        assert mine == other and type(mine) is type(other), item.name


@pytest.fixture
def walked_only(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that the exact walk gave up."""
    given_up: list[str] = []

    def note(file: Any) -> SliceHeader | None:
        given_up.append(file.path.name)
        return read_odd_header(file)

    monkeypatch.setattr(header_reader, "read_odd_header", note)
    return given_up


@pytest.mark.realdata
def test_every_real_header_reads_as_by_pydicom(
    traps: Path, lidc_0001_dicom: Path, kernel_pair_dicom: Path, monkeypatch: pytest.MonkeyPatch, walked_only: list[str]
) -> None:
    silence_pydicom()
    reader, n_headers = HeaderReader(), 0
    given_up: set[str] = set()
    for folder in (traps, lidc_0001_dicom, kernel_pair_dicom):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            walked_only.clear()
            try:
                fast = reader.read(path, path.name)
            except NotDicomError:
                continue
            given_up |= set(walked_only)
            assert_same(fast, by_pydicom(path, monkeypatch))
            n_headers += fast is not None
    assert n_headers > 500
    # functional groups, elements that were stored as unknown, a list of files
    assert "eCT_Supplemental.dcm" in given_up and len(given_up) < 6


def plain_dataset() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CT, "1.2.3.4", "CT"
    ds.PatientName, ds.PatientID = "Meier^A", "P1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    ds.ImageType, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 7
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [1.5, -2, 3], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [0.7, 0.7], 2, 1, -1024
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 8, 4, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelData = bytes(64)
    ds["PixelData"].VR = "OW"
    return ds


_TEXT = st.text(st.characters(codec="latin-1", exclude_characters="\\\0\x1b\r\n\f\t^="), max_size=12)
_NUMBER = st.floats(-5000, 5000).map(lambda value: f"{value:.5g}")
_VALUES = {
    "PatientName": _TEXT,
    "PatientID": _TEXT,
    "IssuerOfPatientID": _TEXT,
    "ConvolutionKernel": st.lists(_TEXT, max_size=3),
    "Manufacturer": _TEXT,
    "OtherPatientIDs": st.lists(_TEXT, max_size=3),
    "ContrastBolusAgent": _TEXT,
    "ImagePositionPatient": st.lists(_NUMBER, min_size=0, max_size=4),
    "ImageOrientationPatient": st.lists(_NUMBER, min_size=6, max_size=6),
    "PixelSpacing": st.lists(_NUMBER, min_size=1, max_size=3),
    "RescaleSlope": _NUMBER,
    "RescaleIntercept": _NUMBER,
    "Exposure": st.integers(-5, 99999).map(str),
    "InstanceNumber": st.integers(-5, 99999).map(str),
    "AcquisitionTime": st.sampled_from(["", "101112", "101112.123", "10:11:12"]),
    "AcquisitionDateTime": st.sampled_from(["", "20200102101112.1", "20200102101112+0100"]),
    "ContentTime": st.sampled_from(["", "235959.999999"]),
    "BitsStored": st.integers(1, 16),
    "PixelRepresentation": st.integers(0, 1),
    "PixelPaddingValue": st.integers(0, 32767),
    "BurnedInAnnotation": st.sampled_from(["YES", "NO", ""]),
    "SeriesInstanceUID": st.sampled_from(["1.2.3", "1.2.3.44", ""]),
    "SOPInstanceUID": st.integers(1, 10**9).map(lambda number: f"1.2.{number}"),
    "NumberOfFrames": st.sampled_from(["1", "", "2"]),
    "LossyImageCompressionRatio": st.lists(_NUMBER, max_size=2),
}
_CHARACTER_SETS = st.sampled_from([None, "", "ISO_IR 100", "ISO_IR 192", "ISO_IR 999", ["", "ISO 2022 IR 87"]])
_SYNTAXES = st.sampled_from(
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)


@st.composite
def headers(draw: st.DrawFn) -> tuple[list[bytes], str]:
    """Two slices of a series that differ in some values, with nested sequences and private elements between."""
    syntax, character_set = draw(_SYNTAXES), draw(_CHARACTER_SETS)
    words = st.lists(st.sampled_from(sorted(_VALUES)), max_size=10, unique=True)
    common = {word: draw(_VALUES[word]) for word in draw(words)}
    nested = draw(st.none() | st.tuples(st.booleans(), st.booleans(), st.binary(max_size=40)))
    files = []
    for _ in range(2):
        ds = plain_dataset()
        if character_set is not None:
            ds.SpecificCharacterSet = character_set
        for word, value in (common | {word: draw(_VALUES[word]) for word in draw(words)}).items():
            setattr(ds, word, value)
        # without PixelRepresentation no writer can encode PixelPaddingValue
        for word in draw(st.lists(st.sampled_from(sorted(_VALUES.keys() - {"PixelRepresentation"})), max_size=3)):
            if word in ds and draw(st.booleans()):
                ds[word].value = None
            elif word in ds:
                delattr(ds, word)
        if nested is not None:
            inner, outer = Dataset(), Dataset()
            inner.SeriesInstanceUID, inner.ImagePositionPatient = "9.9.9", [7, 8, 9]
            outer.ReferencedSeriesSequence, outer.PatientID = Sequence([inner]), "nested"
            outer.is_undefined_length_sequence_item = nested[0]
            ds.ReferencedStudySequence = Sequence([outer, outer])
            ds["ReferencedStudySequence"].is_undefined_length = nested[1]
            ds.add_new(0x00190010, "LO", "SOMEBODY")
            ds.add_new(0x00191001, "UN", nested[2].ljust(40))
        files.append(_file(ds, syntax))
    return files, syntax


def _file(ds: Dataset, syntax: str) -> bytes:
    stream = io.BytesIO()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.file_meta = meta
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(made=headers())
def test_any_header_reads_as_by_pydicom(
    made: tuple[list[bytes], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    silence_pydicom()
    (one, other), _ = made
    folder = tmp_path_factory.mktemp("made")
    reader = HeaderReader()
    with pytest.MonkeyPatch.context() as patch:
        # the same twice: the second time by what the first have in common
        for number, content in enumerate((one, other, one, other)):
            path = folder / str(number)
            path.write_bytes(content)
            assert_same(reader.read(path, path.name), by_pydicom(path, patch))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def redeclared(content: bytes, syntax: str) -> bytes:
    """The file with another transfer syntax in its meta information, of the same length."""
    place = content.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(content[place + 6 : place + 8], "little")
    padded = syntax.encode().ljust(length, b"\0")
    assert len(padded) == length
    return content[: place + 8] + padded + content[place + 8 + length :]


@pytest.mark.parametrize(
    ("true", "declared"),
    [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian),
        (ExplicitVRBigEndian, ExplicitVRLittleEndian),
        (ExplicitVRBigEndian, ImplicitVRLittleEndian),
        (JPEGLSLossless, "1.2.840.10008.1.2.4.90"),
        (JPEGLSLossless, ExplicitVRLittleEndian),
        (JPEG2000Lossless, RLELossless),
        (RLELossless, ExplicitVRLittleEndian),
    ],
)
def test_the_bytes_decide_which_transfer_syntax_a_file_has(tmp_path: Path, true: str, declared: str) -> None:
    ds = slices_of(truth_of(), "P1")[0]
    if true in (JPEGLSLossless, JPEG2000Lossless, RLELossless):
        compress(ds, true)
    save(ds, tmp_path / "a.dcm", true)
    sound = read_header(tmp_path / "a.dcm", "a")
    wrong = read_header(written(tmp_path / "b.dcm", redeclared((tmp_path / "a.dcm").read_bytes(), declared)), "a")
    assert sound is not None and wrong is not None
    assert (sound.transfer_syntax, sound.declared_syntax) == (true, "")
    assert (wrong.transfer_syntax, wrong.declared_syntax) == (true, declared)
    assert wrong.pixel_offset == sound.pixel_offset and wrong.position == sound.position


def test_native_pixels_under_a_compressed_syntax_are_native(tmp_path: Path) -> None:
    save(slices_of(truth_of(), "P1")[0], tmp_path / "a.dcm", "1.2.840.10008.1.2.1")
    content = (tmp_path / "a.dcm").read_bytes()
    place = content.index(b"\x02\x00\x10\x00UI")
    wrong = content[: place + 6] + b"\x16\0" + b"1.2.840.10008.1.2.4.80" + content[place + 8 + 20 :]
    header = read_header(written(tmp_path / "b.dcm", wrong), "b")
    assert header is not None
    assert (header.transfer_syntax, header.declared_syntax) == (ExplicitVRLittleEndian, JPEGLSLossless)


def test_items_of_no_known_code_stream_have_no_transfer_syntax(tmp_path: Path) -> None:
    ds = slices_of(truth_of(), "P1")[0]
    compress(ds, JPEGLSLossless)
    ds.PixelData = ds.PixelData.replace(b"\xff\xd8\xff\xf7", b"JUNK")
    ds["PixelData"].is_undefined_length = True
    save(ds, tmp_path / "a.dcm", JPEGLSLossless)
    wrong = redeclared((tmp_path / "a.dcm").read_bytes(), ExplicitVRLittleEndian)
    header = read_header(written(tmp_path / "b.dcm", wrong), "b")
    assert header is not None and header.transfer_syntax == ""


def outcome(path: Path) -> SliceHeader | str | None:
    try:
        return HeaderReader().read(path, path.name)
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_header_cut_anywhere_never_gives_pixels_and_belongs_to_its_series_as_soon_as_that_is_known(
    tmp_path: Path, syntax: str
) -> None:
    silence_pydicom()
    whole = _file(plain_dataset(), syntax)
    series = whole.index(b"1.2.3.2\0", 400)
    tag = b"\x7f\xe0\x00\x10" if syntax == ExplicitVRBigEndian else b"\xe0\x7f\x10\x00"
    pixels = whole.index(tag)
    for end in range(120, pixels, 3):
        found = outcome(written(tmp_path / "cut", whole[:end]))
        if isinstance(found, SliceHeader):
            assert found.pixel_offset is None
        if end >= series + 8:
            assert isinstance(found, SliceHeader), end
            assert (found.series_instance_uid, found.patient_id) == ("1.2.3.2", "P1")


def test_a_sequence_without_its_delimiter_leaves_a_broken_header_that_knows_its_series(tmp_path: Path) -> None:
    silence_pydicom()
    ds, item = plain_dataset(), Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    item.is_undefined_length_sequence_item = True
    ds.SourceImageSequence = Sequence([item])
    ds["SourceImageSequence"].is_undefined_length = True
    broken = _file(ds, ExplicitVRLittleEndian).replace(b"\xfe\xff\xdd\xe0\0\0\0\0", b"", 1)
    found = outcome(written(tmp_path / "a", broken))
    assert isinstance(found, SliceHeader)
    assert found.broken and found.pixel_offset is None
    assert (found.patient_id, found.series_instance_uid) == ("P1", "1.2.3.2")


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0x7FFFFFF0, 0xFFFFFFFF])
@pytest.mark.parametrize("tag", [b"\x09\x00\x01\x10", b"\x08\x00\x40\x11", b"\x20\x00\x0d\x00"])
def test_a_length_of_gigabytes_takes_no_memory(tmp_path: Path, length: int, tag: bytes) -> None:
    silence_pydicom()
    whole = _file(plain_dataset(), ExplicitVRLittleEndian)
    place = whole.index(b"\x10\x00\x10\x00PN")
    evil = whole[:place] + tag + b"OB\0\0" + length.to_bytes(4, "little") + whole[place:]
    path = written(tmp_path / "a", evil)
    outcome(path)
    tracemalloc.start()
    outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_deflated_header_that_is_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    silence_pydicom()
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    ds = plain_dataset()
    ds.add_new(0x00091001, "OB", bytes(60 << 20))
    write_dataset(stream, ds)
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(stream.getvalue()) + packer.flush()
    whole = _file(plain_dataset(), DeflatedExplicitVRLittleEndian)
    front = whole[: whole.index(b"1.2.840.10008.1.2.1.99") + 22]
    path = written(tmp_path / "a", front + packed)
    del stream, ds
    tracemalloc.start()
    found = outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not isinstance(found, SliceHeader) or found.pixel_offset is None
    assert peak < 50 << 20


def test_a_walk_ends_in_what_it_found_or_says_which_bytes_are_missing() -> None:
    dataset = _file(plain_dataset(), ExplicitVRLittleEndian)
    start = dataset.index(b"\x08\x00\x08\x00CS")
    found = walk(dataset, start, EXPLICIT_LITTLE, len(dataset))
    assert found[-1].tag == 0x7FE00010 and found[-1].length == 64
    assert [element.tag for element in found] == sorted(element.tag for element in found)
    with pytest.raises(ShortBufferError):
        walk(dataset[: start + 50], start, EXPLICIT_LITTLE, len(dataset))
    with pytest.raises(OddHeaderError):
        walk(dataset[: start + 50], start, EXPLICIT_LITTLE, start + 50)


def test_slices_of_a_series_are_read_in_a_few_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = slices_of(truth_of(), "P1")
    for number, ds in enumerate(datasets):
        save(ds, tmp_path / f"{number}.dcm")
    walked = []
    walked_as_before = HeaderReader._walked
    monkeypatch.setattr(
        HeaderReader, "_walked", lambda self, data, file: walked.append(file.path) or walked_as_before(self, data, file)
    )
    reader = HeaderReader()
    for number, ds in enumerate(datasets):
        header = reader.read(tmp_path / f"{number}.dcm", "")
        assert header is not None
        assert header.sop_instance_uid == ds.SOPInstanceUID
        assert header.position == pytest.approx([float(value) for value in ds.ImagePositionPatient], abs=0)
    assert len(walked) <= len(datasets) // 3


def test_two_series_that_lie_mixed_keep_their_own_facts(tmp_path: Path) -> None:
    reader = HeaderReader()
    one, two = plain_dataset(), plain_dataset()
    two.SeriesInstanceUID, two.PatientID, two.Rows = "1.2.3.9", "P2", 9
    for number in range(8):
        ds = (one, two)[number % 2]
        ds.SOPInstanceUID = f"1.2.3.4.{number}"
        header = reader.read(written(tmp_path / str(number), _file(ds, ExplicitVRLittleEndian)), "")
        assert header is not None
        told = (header.patient_id, header.series_instance_uid, header.rows, header.sop_instance_uid)
        assert told == (ds.PatientID, ds.SeriesInstanceUID, ds.Rows, ds.SOPInstanceUID)

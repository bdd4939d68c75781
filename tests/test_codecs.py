"""Every code stream gives the values that other decoders give, or a clear error; none is taken at its word."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import struct
import tracemalloc
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_factory import body_hu, compress, enhanced, save, slices_of, stored_of, truth_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data_contracts.errors import DecodeError
from data_contracts.params import IngestParams
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.multiframe import expand_frames
from pipeline.headers.slice_header import SliceHeader
from pipeline.intake.discover import discover
from pipeline.pixels.codecs import decode_frame, is_supported
from pipeline.pixels.coded_frames import read_coded_frame
from pipeline.pixels.pixel_file import PixelFile, read_stored, stored_values

ROWS, COLUMNS = 48, 40
PLANE = (body_hu(3)[1].astype(np.int32) + 1024).clip(0, 4095).astype(np.uint16)

ENCODED = {
    "jpeg-ls": lambda image: imagecodecs.jpegls_encode(image),
    "jpeg 2000": lambda image: imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, level=0),
    "jp2 box": lambda image: imagecodecs.jpeg2k_encode(image, codecformat="jp2", reversible=True, level=0),
    "htj2k": lambda image: imagecodecs.htj2k_encode(image, reversible=True),
    "lossless jpeg": lambda image: imagecodecs.ljpeg_encode(image),
    "lossless jpeg, predictor 6": lambda image: imagecodecs.jpeg8_encode(
        image, lossless=True, predictor=6, bitspersample=16
    ),
    "lossless jpeg, 12 bits": lambda image: imagecodecs.jpeg8_encode(
        image, lossless=True, predictor=1, bitspersample=12
    ),
    "rle": lambda image: rle(image),
}


def rle(image: np.ndarray) -> bytes:
    ds = slices_of(truth_of(body_hu(1)), "x")[0]
    ds.Rows, ds.Columns, ds.PixelData = *image.shape, image.astype("<u2").tobytes()
    compress(ds, RLELossless)
    return b"".join(list(generate_fragments(ds.PixelData))[1:])


def header_of(folder: Path) -> SliceHeader:
    (raw,) = discover(folder, Pseudonymizer(b"s"), IngestParams(), folder / "scratch").series
    return raw.slices[0]


def file_of(folder: Path, ds: Dataset, syntax: str) -> SliceHeader:
    save(ds, folder / "one.dcm", syntax)
    return header_of(folder)


def coded(stream: bytes, **values: object) -> Dataset:
    ds = slices_of(truth_of(body_hu(1)), "x")[0]
    ds.Rows, ds.Columns, ds.PixelRepresentation = ROWS, COLUMNS, 0
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    for word, value in values.items():
        setattr(ds, word, value)
    return ds


@pytest.mark.parametrize("kind", ENCODED)
def test_a_lossless_stream_gives_its_values_into_the_plane_that_is_offered(kind: str) -> None:
    plane = np.zeros((ROWS, COLUMNS), np.int16)
    decoded, frame = decode_frame(bytes(ENCODED[kind](PLANE)), ROWS, COLUMNS, 16, plane)
    assert np.array_equal(decoded, PLANE)
    assert not frame.lossy
    assert is_supported(frame.syntax)
    if "predictor" not in kind:
        assert np.shares_memory(decoded, plane)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([kind for kind in ENCODED if "12 bits" not in kind]),
    st.integers(1, 33),
    st.integers(1, 33),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 255, 4095, 65535]),
)
def test_any_16_bit_plane_survives_each_lossless_codec(kind: str, rows: int, columns: int, seed: int, top: int) -> None:
    image = np.random.default_rng(seed).integers(0, top + 1, (rows, columns)).astype(np.uint16)
    try:
        stream = bytes(ENCODED[kind](image))
    except Exception as error:  # an encoder that does not take so small a plane
        pytest.skip(str(error))
    assert np.array_equal(decode_frame(stream, rows, columns, 16)[0], image)


@pytest.mark.parametrize("kind", ENCODED)
def test_a_stream_that_is_cut_anywhere_is_an_error_and_never_a_plane(kind: str) -> None:
    stream = bytes(ENCODED[kind](PLANE))
    ends = [2, 3, 5, 17, len(stream) // 3, len(stream) // 2, len(stream) - 70]
    if kind == "rle":
        ends = ends[1:]  # its last run may stand in the last two bytes
    for end in ends:
        with pytest.raises(DecodeError):
            decode_frame(stream[:-end], ROWS, COLUMNS, 16)


@pytest.mark.parametrize("kind", ["jpeg-ls", "jpeg 2000", "htj2k", "lossless jpeg"])
def test_a_stream_without_its_middle_is_an_error_though_its_end_is_there(kind: str) -> None:
    stream = bytes(ENCODED[kind](PLANE))
    with pytest.raises(DecodeError):
        decode_frame(stream[: len(stream) // 2] + b"\xff\xd9", ROWS, COLUMNS, 16)


@pytest.mark.parametrize("kind", ENCODED)
def test_padding_behind_a_stream_is_no_error(kind: str) -> None:
    stream = bytes(ENCODED[kind](PLANE))
    assert np.array_equal(decode_frame(stream + b"\0", ROWS, COLUMNS, 16)[0], PLANE)


def test_each_segment_of_run_lengths_may_end_in_a_padding_byte() -> None:
    stream = rle(PLANE)
    starts = struct.unpack("<16I", stream[:64])
    high, low = stream[starts[1] : starts[2]], stream[starts[2] :]
    padded = struct.pack("<16I", 2, 64, 64 + len(high) + 1, *[0] * 13) + high + b"\0" + low + b"\0"
    assert np.array_equal(decode_frame(padded, ROWS, COLUMNS, 16)[0], PLANE)


@pytest.mark.parametrize("kind", [kind for kind in ENCODED if "rle" not in kind])
def test_a_stream_that_claims_another_size_takes_no_memory(kind: str) -> None:
    stream = bytearray(ENCODED[kind](PLANE))
    size = struct.pack(">HH", ROWS, COLUMNS)
    if kind in ("jpeg 2000", "htj2k", "jp2 box"):
        at = stream.index(b"\xff\x4f\xff\x51") + 8
        stream[at : at + 8] = struct.pack(">II", 60000, 60000)
        stream[at + 16 : at + 24] = struct.pack(">II", 60000, 60000)
    else:
        at = stream.index(size)
        stream[at : at + 4] = struct.pack(">HH", 60000, 60000)
    tracemalloc.start()
    with pytest.raises(DecodeError, match="60000 x 60000"):
        decode_frame(bytes(stream), ROWS, COLUMNS, 16)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize("stream", [b"", b"\xff\xd8\xff", b"\xff\x4f\xff\x51\0", bytes(200), b"\x02\0\0\0" * 40])
def test_what_is_no_code_stream_is_an_error(stream: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_frame(stream, ROWS, COLUMNS, 16)


def test_an_irreversible_stream_says_so_itself() -> None:
    near = bytes(imagecodecs.jpegls_encode(PLANE, level=2))
    wavelet = bytes(imagecodecs.jpeg2k_encode(PLANE, codecformat="j2k", reversible=False, level=60))
    extended = bytes(imagecodecs.jpeg8_encode(PLANE, level=95, bitspersample=12))
    for stream in (near, wavelet, extended):
        decoded, frame = decode_frame(stream, ROWS, COLUMNS, 16)
        assert frame.lossy
        assert np.abs(decoded.astype(int) - PLANE).max() < 400
    assert np.abs(decode_frame(near, ROWS, COLUMNS, 16)[0].astype(int) - PLANE).max() == 2


SIGNED = PLANE.astype(np.int32) - 2000


@pytest.mark.parametrize("bits", [13, 16])
@pytest.mark.parametrize("stream_is_signed", [False, True])
def test_the_sign_of_jpeg_2000_may_differ_from_the_headers(tmp_path: Path, bits: int, stream_is_signed: bool) -> None:
    """Two's complement in a stream that says unsigned, as pydicom's issue 1149 has it, and the right way."""
    pattern = (SIGNED & ((1 << bits) - 1)).astype(np.uint16)
    image = SIGNED.astype(np.int16) if stream_is_signed else pattern
    stream = bytes(imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, level=0, bitspersample=bits))
    ds = coded(stream, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, JPEG2000Lossless)), SIGNED)


def test_a_header_that_says_unsigned_of_negative_values_is_not_believed(tmp_path: Path) -> None:
    stream = bytes(imagecodecs.jpeg2k_encode(SIGNED.astype(np.int16), codecformat="j2k", reversible=True, level=0))
    ds = coded(stream, BitsStored=16, HighBit=15, PixelRepresentation=0)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, JPEG2000Lossless)), SIGNED)


@pytest.mark.parametrize(
    ("syntax", "kind"), [(JPEGLSLossless, "jpeg-ls"), (JPEGLosslessSV1, "lossless jpeg"), (RLELossless, "rle")]
)
def test_codecs_without_a_sign_take_it_from_the_header(tmp_path: Path, syntax: str, kind: str) -> None:
    pattern = (SIGNED & 0xFFFF).astype(np.uint16)
    ds = coded(bytes(ENCODED[kind](pattern)), PixelRepresentation=1)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, syntax)), SIGNED)


def test_fewer_bits_in_the_stream_than_in_the_header_are_no_negative_values(tmp_path: Path) -> None:
    image = (PLANE * 2).clip(0, 4095)
    assert image.max() > 2047
    stream = bytes(imagecodecs.jpeg8_encode(image, lossless=True, predictor=1, bitspersample=12))
    ds = coded(stream, BitsStored=16, PixelRepresentation=1)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, JPEGLosslessSV1)), image)


def test_bits_above_those_stored_are_masked_in_streams_too(tmp_path: Path) -> None:
    ds = coded(bytes(imagecodecs.jpegls_encode(PLANE | 0xC000)), BitsStored=12, HighBit=11)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, JPEGLSLossless)), PLANE)


def many_frames(frames: list[bytes], how: str) -> Dataset:
    """One enhanced object whose frames are `frames`, their fragments laid out in one of several ways."""
    ds = enhanced(truth_of(body_hu(len(frames))), "x", np.ones(len(frames)), np.full(len(frames), -1024.0), "HU")
    ds.PixelRepresentation = 0
    if how == "basic table, three fragments a frame":
        ds.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=True)
    elif how == "no table, three fragments a frame":
        ds.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=False)
    elif how == "no table":
        ds.PixelData = encapsulate(frames, has_bot=False)
    elif how == "wrong basic table":
        data = bytearray(encapsulate(frames, has_bot=True))
        data[12:16] = struct.pack("<I", 10)
        ds.PixelData = bytes(data)
    elif how == "extended table":
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


LAYOUTS = (
    "basic table, three fragments a frame",
    "no table, three fragments a frame",
    "no table",
    "wrong basic table",
    "extended table",
)


@pytest.mark.parametrize(("how", "kind"), itertools.product(LAYOUTS, ["jpeg-ls", "jpeg 2000", "rle"]))
def test_frames_are_found_with_and_without_offset_tables(tmp_path: Path, how: str, kind: str) -> None:
    if kind == "rle" and how == "no table, three fragments a frame":
        pytest.skip("nothing tells such frames apart")
    planes = (body_hu(5).astype(np.int32) + 1024).astype(np.uint16)
    syntax = {"jpeg-ls": JPEGLSLossless, "jpeg 2000": JPEG2000Lossless, "rle": RLELossless}[kind]
    header = file_of(tmp_path, many_frames([bytes(ENCODED[kind](plane)) for plane in planes], how), syntax)
    frames = expand_frames(header)
    assert len(frames) == 5
    with PixelFile(frames[0]) as file:
        for frame, plane in zip(reversed(frames), planes[::-1], strict=True):
            assert np.array_equal(stored_values(*file.samples(frame)), plane)


def test_frames_that_nothing_tells_apart_are_an_error(tmp_path: Path) -> None:
    planes = (body_hu(5).astype(np.int32) + 1024).astype(np.uint16)
    ds = many_frames([rle(plane) for plane in planes], "no table, three fragments a frame")
    with pytest.raises(DecodeError, match="15 fragments"):
        read_stored(expand_frames(file_of(tmp_path, ds, RLELossless))[0])


def test_several_fragments_of_a_single_frame_are_one_stream(tmp_path: Path) -> None:
    ds = coded(bytes(100))
    ds.PixelData = encapsulate([bytes(ENCODED["jpeg-ls"](PLANE))], fragments_per_frame=4, has_bot=False)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, JPEGLSLossless)), PLANE)


@pytest.mark.parametrize("declared", [RLELossless, JPEG2000Lossless, ExplicitVRLittleEndian])
def test_the_stream_decides_and_not_the_transfer_syntax_of_the_header(tmp_path: Path, declared: str) -> None:
    save(coded(bytes(ENCODED["jpeg-ls"](PLANE))), tmp_path / "one.dcm", JPEGLSLossless)
    content = (tmp_path / "one.dcm").read_bytes()
    right, wrong = JPEGLSLossless.encode(), declared.encode()
    size = len(right) + len(right) % 2
    (tmp_path / "one.dcm").write_bytes(content.replace(right.ljust(size, b"\0"), wrong.ljust(size, b"\0"), 1))
    header = header_of(tmp_path)
    with PixelFile(header) as file:
        samples, layout = file.samples(header)
    assert np.array_equal(stored_values(samples, layout), PLANE)
    assert layout.codec == JPEGLSLossless


@pytest.mark.parametrize("extra", [-2, ROWS * 2, COLUMNS * 2])
def test_native_pixels_of_another_matrix_than_the_headers_are_refused(tmp_path: Path, extra: int) -> None:
    ds = slices_of(truth_of(body_hu(1)), "x")[0]
    ds.PixelData = bytes(ds.PixelData)[:extra] if extra < 0 else bytes(ds.PixelData) + bytes(extra)
    with pytest.raises(DecodeError):
        read_stored(file_of(tmp_path, ds, ExplicitVRLittleEndian))


def test_a_few_bytes_behind_native_pixels_are_padding(tmp_path: Path) -> None:
    ds = slices_of(truth_of(body_hu(1)), "x")[0]
    stored = stored_of(ds)
    ds.PixelData = bytes(ds.PixelData) + bytes(8)
    assert np.array_equal(read_stored(file_of(tmp_path, ds, ExplicitVRLittleEndian)), stored)


def test_a_file_that_changes_after_its_header_was_read_is_an_error(tmp_path: Path) -> None:
    header = file_of(tmp_path, slices_of(truth_of(body_hu(1)), "x")[0], ExplicitVRLittleEndian)
    header.path.write_bytes(header.path.read_bytes() + b"\0\0")
    with pytest.raises(DecodeError, match="changed"):
        read_stored(header)


def test_no_decoder_is_under_the_gpl() -> None:
    names = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower() for d in importlib.metadata.distributions()}
    assert "pylibjpeg-libjpeg" not in names
    lock = (Path(__file__).parents[1] / "requirements.lock").read_text()
    assert "pylibjpeg-libjpeg" not in lock
    sources = "".join(path.read_text() for path in (Path(__file__).parents[1] / "pipeline").rglob("*.py"))
    assert "import libjpeg" not in sources


def test_the_transfer_syntaxes_of_a_real_slice_agree_with_simpleitk(traps: Path) -> None:
    """A real slice in 15 transfer syntaxes: lossless ones are exact, lossy ones as far off as for the peer."""
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    folder = traps / "ts_matrix_cornerstone"
    truth = pydicom.dcmread(next(folder.glob("*LittleEndianExplicit*"))).pixel_array
    lossless = 0
    for path in sorted(folder.glob("CTImage*")):
        header = next(
            item
            for raw in discover(path, Pseudonymizer(b"s"), IngestParams(), folder / "none").series
            for item in raw.slices
        )
        with PixelFile(header) as file:
            samples, layout = file.samples(header)
        mine = stored_values(samples, layout) * header.rescale_slope + header.rescale_intercept
        theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
        if layout.lossy or "JPEG2000TransferSyntax" in path.name:
            # two inverse cosine or wavelet transforms may round to neighbouring stored values
            assert np.abs(mine - theirs).max() <= 1.01 * abs(header.rescale_slope), path.name
        else:
            lossless += 1
            assert np.array_equal(stored_values(samples, layout), truth), path.name
            assert np.array_equal(mine, theirs), path.name
    assert lossless >= 9


@pytest.mark.parametrize("missing", [1, 3, 8, 9])
def test_a_file_cut_in_its_last_delimiter_is_torn(tmp_path: Path, missing: int) -> None:
    save(coded(bytes(ENCODED["jpeg-ls"](PLANE))), tmp_path / "one.dcm", JPEGLSLossless)
    content = (tmp_path / "one.dcm").read_bytes()
    (tmp_path / "one.dcm").write_bytes(content[:-missing])
    with pytest.raises(DecodeError, match="cut short"):
        read_stored(header_of(tmp_path))


def test_a_deflated_stream_must_reach_its_end(tmp_path: Path) -> None:
    save(slices_of(truth_of(body_hu(1)), "x")[0], tmp_path / "one.dcm", DeflatedExplicitVRLittleEndian)
    content = (tmp_path / "one.dcm").read_bytes()
    (tmp_path / "one.dcm").write_bytes(content[:-3])
    with pytest.raises(DecodeError):
        read_stored(header_of(tmp_path))


def test_what_pydicom_reads_of_other_files_is_read_alike(traps: Path) -> None:
    for name in ("CT1_J2KR", "CT2_J2KR"):
        path = traps / "ts_matrix_cornerstone" / name
        (raw,) = discover(path, Pseudonymizer(b"s"), IngestParams(), traps / "none").series
        theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
        header = raw.slices[0]
        assert np.array_equal(read_stored(header) * header.rescale_slope + header.rescale_intercept, theirs)


def test_the_facts_of_a_stream_are_those_it_was_made_with() -> None:
    frame = read_coded_frame(bytes(imagecodecs.jpeg2k_encode(PLANE.astype(np.int16), codecformat="j2k", level=0)))
    assert frame is not None
    assert (frame.rows, frame.columns, frame.components, frame.precision, frame.signed) == (ROWS, COLUMNS, 1, 16, True)
    assert read_coded_frame(rle(PLANE)) is None

"""Samples become HU exactly as the arithmetic of the standard says, whatever way is taken, and torn planes never do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import body_hu, compress, enhanced, save, slices_of, truth_of, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.multiframe import expand_frames
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal
from pipeline.intake.discover import discover
from pipeline.pixels import decode
from pipeline.pixels.decode import DecodedVolume, decode_volume
from pipeline.pixels.padding import find_padding, replace_padding
from pipeline.pixels.pixel_file import SampleFormat
from pipeline.pixels.rescale import rescale

PARAMS = IngestParams()


def headers_of(folder: Path) -> tuple[SliceHeader, ...]:
    (raw,) = discover(folder, Pseudonymizer(b"s"), PARAMS, folder / "scratch").series
    if raw.slices[0].n_frames > 1:
        return tuple(expand_frames(raw.slices[0]))
    return tuple(sorted(raw.slices, key=lambda header: header.position[2]))


@pytest.fixture(scope="module")
def a_header(tmp_path_factory: pytest.TempPathFactory) -> SliceHeader:
    folder = tmp_path_factory.mktemp("one")
    write_series(folder, slices_of(truth_of(body_hu(1)), "x"))
    return headers_of(folder)[0]


def volume_of(folder: Path, **params: object) -> DecodedVolume:
    decoded = decode_volume(headers_of(folder), IngestParams.from_mapping(dict(params)))
    assert isinstance(decoded, DecodedVolume), decoded.detail
    return decoded


slopes = st.sampled_from([1.0, 2.0, 0.5, 1.00048828, 2.0002442, 32.1216, -1.0, 1e-3, 10.0, 1e30])
intercepts = st.sampled_from([0.0, -1024.0, -1000.0, -1024.25, -8192.0, 31000.0, -4047.0, 0.5, -1e30])


@settings(deadline=None, max_examples=400)
@given(
    width=st.sampled_from([1, 2, 4]),
    data=st.data(),
    signed=st.booleans(),
    slope=slopes,
    intercept=intercepts,
    seed=st.integers(0, 2**32 - 1),
    padding=st.none() | st.integers(-40000, 70000),
)
def test_any_sample_becomes_the_hu_of_plain_arithmetic(
    a_header: SliceHeader,
    width: int,
    data: st.DataObject,
    signed: bool,
    slope: float,
    intercept: float,
    seed: int,
    padding: int | None,
) -> None:
    bits = data.draw(st.integers(1, 8 * width), "bits")
    shift = data.draw(st.integers(0, 8 * width - bits), "shift")
    random = np.random.default_rng(seed)
    top = data.draw(st.sampled_from([1, 200, 4095, 1 << 8 * width]), "top")
    samples = random.integers(0, min(top, 1 << 8 * width), (7, 9), dtype=np.uint64).astype(f"u{width}")
    header = replace(a_header, rescale_slope=slope, rescale_intercept=intercept, padding_value=padding)

    stored = [[(int(sample) >> shift) % 2**bits for sample in row] for row in samples]
    if signed:
        stored = [[value - 2**bits * (value >= 2 ** (bits - 1)) for value in row] for row in stored]
    wide = np.array([[np.rint(value * slope + intercept) for value in row] for row in stored])
    named = np.array(stored) == (padding if padding is not None else 2**40)
    expected = np.clip(wide, -32768, 32767).astype(np.int16)

    # 16-bit samples lie in the memory that becomes HU
    hu = np.zeros((7, 9), np.int16)
    if width == 2:
        hu[...] = samples.view(np.int16)
        samples = hu.view(np.uint16)
    result = rescale(samples, SampleFormat(bits, shift, signed, ""), header, hu, {})
    assert np.array_equal(hu, expected)
    assert result.lowest == expected.min()
    assert result.clipped == np.count_nonzero(((wide < -32768) | (wide > 32767)) & ~named)
    assert np.array_equal(named, np.zeros_like(named) if result.named is None else result.named)


def test_whole_numbers_stay_exact_where_floats_would_not(a_header: SliceHeader) -> None:
    header = replace(a_header, rescale_slope=1.0, rescale_intercept=-(2.0**24) - 1)
    samples = np.full((2, 2), 2**24 + 8, np.uint32)
    hu = np.zeros((2, 2), np.int16)
    rescale(samples, SampleFormat(32, 0, False, ""), header, hu, {})
    assert np.all(hu == 7)


def test_a_named_value_that_could_be_air_is_padding_only_where_it_touches_the_rim() -> None:
    hu = np.full((20, 20), 40, np.int16)
    hu[:4] = -1024
    hu[10:12, 10:12] = -1024
    mask = find_padding(hu, -1024, hu == -1024)
    assert mask is not None
    assert mask[:4].all()
    assert not mask[10:12].any()
    assert find_padding(hu[4:], -1024, hu[4:] == -1024) is None


def test_padding_below_every_tissue_is_padding_anywhere_and_counts_what_changed() -> None:
    hu = np.full((20, 20), 40, np.int16)
    hu[5, 5], hu[0, 0], hu[1, 1] = -2000, -3024, -1024
    mask = find_padding(hu, -3024, None)
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[0, 0], [5, 5]]
    assert replace_padding(hu, mask, -1024) == 2
    assert np.count_nonzero(hu == -1024) == 3


@pytest.mark.parametrize("value", [-2000, -3024])
def test_a_circle_of_padding_becomes_the_stated_value_and_one_plane_of_a_mask(tmp_path: Path, value: int) -> None:
    truth = truth_of()
    j, i = np.indices(truth.hu.shape[1:])
    corner = (j - 24) ** 2 + (i - 20) ** 2 > 26**2
    truth.hu[:, corner] = value
    write_series(tmp_path, slices_of(truth, "x"))
    decoded = volume_of(tmp_path)
    assert decoded.padding is not None
    assert len(decoded.padding.planes) == 1
    assert np.array_equal(decoded.padding.to_array(), np.broadcast_to(corner, truth.hu.shape))
    assert np.all(decoded.hu[:, corner] == PARAMS.padding_hu)
    assert np.array_equal(decoded.hu[:, ~corner], truth.hu[:, ~corner])
    assert decoded.padding_voxels == 24 * np.count_nonzero(corner)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless]
)
def test_a_series_is_its_truth_in_every_storage(tmp_path: Path, syntax: str) -> None:
    truth = truth_of()
    datasets = slices_of(truth, "x")
    if syntax == JPEGLSLossless:
        for ds in datasets:
            compress(ds, syntax)
    write_series(tmp_path, datasets, syntax)
    decoded = volume_of(tmp_path)
    assert np.array_equal(decoded.hu, truth.hu)
    assert decoded.codecs == (syntax,)
    assert (decoded.padding, decoded.notes, decoded.lossy_slices, decoded.clipped) == (None, (), (), 0)


@pytest.mark.parametrize("bits", [8, 32])
def test_samples_of_8_and_of_32_bits_are_read(tmp_path: Path, bits: int) -> None:
    truth = truth_of()
    datasets = slices_of(truth, "x")
    for ds, plane in zip(datasets, truth.hu, strict=True):
        stored = (plane.astype(np.int64) + 1024) // (16 if bits == 8 else 1)
        ds.BitsAllocated = ds.BitsStored = bits
        ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope = bits - 1, 0, 16 if bits == 8 else 1
        ds.PixelData = stored.clip(0, 255 if bits == 8 else None).astype(f"<u{bits // 8}").tobytes()
    write_series(tmp_path, datasets)
    hu = volume_of(tmp_path).hu
    assert np.array_equal(hu, (truth.hu.astype(int) + 1024) // 16 * 16 - 1024 if bits == 8 else truth.hu)


def test_a_multi_frame_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_of()
    save(enhanced(truth, "x", np.ones(24), np.full(24, -1024.0), "HU"), tmp_path / "one.dcm")
    opened: list[Path] = []

    class Counted(decode.PixelFile):
        def __init__(self, header: SliceHeader) -> None:
            opened.append(header.path)
            super().__init__(header)

    headers = headers_of(tmp_path)
    monkeypatch.setattr(decode, "PixelFile", Counted)
    decoded = decode_volume(headers, PARAMS)
    assert isinstance(decoded, DecodedVolume)
    assert np.array_equal(decoded.hu, truth.hu)
    assert len(opened) == 1


def test_the_slice_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    datasets = slices_of(truth_of(), "x")
    for ds in datasets:
        compress(ds, JPEGLSLossless)
    datasets[13].PixelData = (
        datasets[13].PixelData[:60] + bytes(len(datasets[13].PixelData) - 68) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    write_series(tmp_path, datasets, JPEGLSLossless)
    headers = headers_of(tmp_path)
    outcome = decode_volume(headers, PARAMS)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is ReasonCode.PIXEL_DECODE_FAILED
    assert outcome.slices == (headers[13],)


def test_a_matrix_that_no_scanner_has_takes_no_memory(tmp_path: Path) -> None:
    write_series(tmp_path, slices_of(truth_of(), "x"))
    headers = [replace(header, rows=60000, columns=60000) for header in headers_of(tmp_path)]
    outcome = decode_volume(headers, PARAMS)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is ReasonCode.PIXEL_DECODE_FAILED
    assert "60000 x 60000" in outcome.detail


def test_slices_of_different_matrices_are_never_one_volume(tmp_path: Path) -> None:
    write_series(tmp_path, slices_of(truth_of(), "x"))
    headers = list(headers_of(tmp_path))
    headers[5] = replace(headers[5], rows=40, columns=48)
    outcome = decode_volume(headers, PARAMS)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is ReasonCode.MIXED_MATRIX

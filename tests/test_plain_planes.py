"""The short way of plain planes gives what the ordinary way gives, and leaves to it whatever is not plain."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import N, set_stored, slices_of, stored_of, truth_of, write_series
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal
from pipeline.intake.check import Part, make_parts
from pipeline.intake.discover import discover
from pipeline.intake.triage import triage
from pipeline.pixels import plain_planes
from pipeline.pixels.decode import DecodedVolume, decode_volume
from pipeline.pixels.volume_memory import VolumeMemory

PARAMS = IngestParams()


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    plain_planes.load_kernel()


def headers(folder: Path) -> tuple[SliceHeader, ...]:
    (raw,) = discover(folder, Pseudonymizer(b"s"), PARAMS, folder / "none").series
    (part,) = make_parts(triage(raw.slices, PARAMS)[0], PARAMS)
    assert isinstance(part, Part)
    return part.slices


def both_ways(slices: tuple[SliceHeader, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[DecodedVolume, DecodedVolume]:
    short = decode_volume(slices, PARAMS)
    with monkeypatch.context() as patch:
        patch.setattr(plain_planes._LOADER, "kernel", None)
        ordinary = decode_volume(slices, PARAMS)
    assert isinstance(short, DecodedVolume)
    assert isinstance(ordinary, DecodedVolume)
    return short, ordinary


def as_twelve_bits(ds: Dataset) -> None:
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    set_stored(ds, stored_of(ds).clip(0, 4095))


def with_overlay_bits(ds: Dataset) -> None:
    as_twelve_bits(ds)
    set_stored(ds, stored_of(ds) | 0x4000)


def with_padding(ds: Dataset) -> None:
    stored = stored_of(ds)
    stored[:6, :9] = -2000
    ds.add_new(0x00280120, "SS", -2000)
    set_stored(ds, stored)


def with_own_intercept(ds: Dataset) -> None:
    number = int(ds.InstanceNumber)
    ds.RescaleIntercept = -1024 + number
    set_stored(ds, stored_of(ds) - number)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
@pytest.mark.parametrize("change", [None, as_twelve_bits, with_overlay_bits, with_padding, with_own_intercept])
def test_both_ways_give_the_same_volume(change, syntax, tmp_path, monkeypatch):
    truth = truth_of()
    datasets = slices_of(truth, "p")
    for ds in datasets:
        if change is not None:
            change(ds)
    write_series(tmp_path, datasets, *([] if syntax is None else [syntax]))
    short, ordinary = both_ways(headers(tmp_path), monkeypatch)
    assert np.array_equal(short.hu, ordinary.hu)
    assert (short.padding_voxels, short.clipped, short.codecs) == (
        ordinary.padding_voxels,
        ordinary.clipped,
        ordinary.codecs,
    )
    assert (short.padding is None) == (ordinary.padding is None)
    if change in (None, with_own_intercept):
        assert np.array_equal(short.hu, truth.hu)


def test_what_is_not_plain_is_left_to_the_ordinary_way(tmp_path):
    write_series(tmp_path, slices_of(truth_of(), "p"), ExplicitVRBigEndian)
    slices = headers(tmp_path)
    hu = np.full((N, slices[0].rows, slices[0].columns), 77, np.int16)
    read = plain_planes.read_plain(slices, hu, hu.copy(), (1, 1), lambda each, items: [each(item) for item in items], 1)
    assert read == {}
    assert (hu == 77).all()


@pytest.mark.parametrize("damage", ["cut", "replaced", "gone"])
def test_a_file_that_changed_since_its_header_was_read_is_refused(damage, tmp_path):
    write_series(tmp_path, slices_of(truth_of(), "p"))
    slices = headers(tmp_path)
    victim = slices[5].path
    if damage == "cut":
        os.truncate(victim, victim.stat().st_size - 40)
    elif damage == "replaced":
        content = bytearray(victim.read_bytes())
        content[-8:] = b"\1" * 8
        victim.write_bytes(content)
        os.utime(victim, ns=(1, 1))
    else:
        victim.unlink()
    refused = decode_volume(slices, PARAMS)
    assert isinstance(refused, Refusal)
    assert refused.reason is ReasonCode.PIXEL_DECODE_FAILED
    assert refused.slices == (slices[5],)


def test_a_volume_takes_the_memory_of_the_one_before_and_nothing_of_it_shines_through(tmp_path):
    memory = VolumeMemory()
    for name, n in (("long", 24), ("short", 9)):
        truth = truth_of()
        truth.hu, truth.ipp = truth.hu[:n] + (n == 9) * 3, truth.ipp[:n]
        write_series(tmp_path / name, slices_of(truth, name))
        volume = decode_volume(headers(tmp_path / name), PARAMS, memory)
        assert isinstance(volume, DecodedVolume)
        assert np.array_equal(volume.hu, truth.hu)
        assert np.shares_memory(volume.hu, memory.array((1, 1, 1)))

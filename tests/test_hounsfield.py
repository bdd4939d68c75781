"""HU are judged by where air and tissue peak: another scale is refused by the slices concerned, a patient never is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import body_hu

from data_contracts.reasons import ReasonCode
from pipeline.headers.verdict import Note, Refusal
from pipeline.pixels.hounsfield import PADDED, judge_hounsfield


@dataclass(frozen=True)
class Rescale:
    """As much of a header as is asked for, and the slice's number."""

    number: int
    rescale_slope: float = 1.0
    rescale_intercept: float = -1024.0


def judged(hu: np.ndarray, rescales: list[Rescale] | None = None) -> Refusal | tuple[Note, ...]:
    slices = rescales or [Rescale(number) for number in range(len(hu))]
    return judge_hounsfield(np.clip(np.rint(hu), -32768, 32767).astype(np.int16), slices)  # type: ignore[arg-type]


def refused(hu: np.ndarray, rescales: list[Rescale] | None = None) -> list[int]:
    """Numbers of the slices that a refusal names."""
    outcome = judged(hu, rescales)
    assert isinstance(outcome, Refusal), outcome
    assert outcome.reason is ReasonCode.IMPLAUSIBLE_HU
    return [header.number for header in outcome.slices]  # type: ignore[attr-defined]


def chest() -> np.ndarray:
    return body_hu(30, 64, 64).astype(float)


def noise(sigma: float, shape: tuple[int, int, int] = (30, 64, 64), seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, shape)


def water_phantom() -> np.ndarray:
    """A cylinder of water in air."""
    _, j, i = np.indices((30, 64, 64))
    return np.where((j - 32) ** 2 + (i - 32) ** 2 < 20**2, 0.0, -1000.0) + noise(8)


def head() -> np.ndarray:
    """Brain in a skull in air clipped at -1024."""
    _, j, i = np.indices((30, 64, 64))
    radius = np.hypot(j - 32, (i - 32) * 1.2)
    hu = np.full((30, 64, 64), -1024.0)
    hu[radius < 27] = 30
    hu[(radius < 27) & (radius > 24)] = 1200
    return np.where(hu == -1024, hu, hu + noise(10))


def with_metal() -> np.ndarray:
    hu = chest()
    hu[10:14, 30:36, 30:36] = 25000
    hu[10:14, 36:40, 20:50] = 3071
    return hu


def leaving_the_body() -> np.ndarray:
    hu = chest()
    hu[20:] = -1000
    return hu + noise(10)


def clipped_air_at_the_ends() -> np.ndarray:
    hu = chest()
    hu[:4] = hu[-4:] = -1024
    return hu


def padded_circle(value: int) -> np.ndarray:
    hu = chest()
    _, j, i = np.indices(hu.shape)
    hu[(j - 32) ** 2 + (i - 32) ** 2 > 31**2] = value
    return hu


VALID = {
    "a chest": chest,
    "a chest with the noise of a sharp kernel": lambda: chest() + noise(120),
    "a chest at low dose": lambda: (chest() + noise(200)).clip(-1024),
    "water in air": water_phantom,
    "a head": head,
    "metal": with_metal,
    "leaving the body": leaving_the_body,
    "air at the ends": clipped_air_at_the_ends,
    "padding at -2000": lambda: padded_circle(-2000),
    "padding at -3024": lambda: padded_circle(-3024),
    "named padding": lambda: padded_circle(PADDED),
    "nothing but lung": lambda: np.where(noise(1, seed=3) > 1.8, 20.0, -860.0) + noise(25),
    "nothing but soft tissue": lambda: 45 + noise(12),
    "fat, tissue and bone without air": lambda: np.repeat(
        np.random.default_rng(0).choice(
            [-100.0, 50.0, 60.0, 400.0, 1100.0], (30, 16, 16), p=[0.2, 0.3, 0.3, 0.15, 0.05]
        ),
        4,
        axis=2,
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_what_a_scanner_writes_is_not_refused(name: str) -> None:
    assert not isinstance(judged(VALID[name]()), Refusal), judged(VALID[name]())


@pytest.mark.parametrize("name", ["a chest", "a head", "water in air", "nothing but soft tissue", "metal"])
@pytest.mark.parametrize("shift", [1000, 1024])
def test_a_forgotten_intercept_is_refused(name: str, shift: int) -> None:
    assert len(refused(VALID[name]() + shift)) == 30


@pytest.mark.parametrize("name", ["a chest", "a chest with the noise of a sharp kernel", "padding at -2000"])
@pytest.mark.parametrize("shift", [-1000, -1024])
def test_an_intercept_that_was_added_twice_is_refused(name: str, shift: int) -> None:
    assert len(refused(VALID[name]() + shift)) >= 20


@pytest.mark.parametrize("slope", [10, 0.1, 2, 0.5])
def test_a_wrong_slope_is_refused(slope: float) -> None:
    assert len(refused((chest() + 1024) * slope - 1024)) == 30


def test_noise_and_constants_are_no_ct() -> None:
    random = np.random.default_rng(0)
    assert refused(random.uniform(-1024, 3071, (30, 64, 64)))
    assert refused(random.uniform(-1024, 1000, (30, 64, 64)))
    assert refused(np.full((30, 64, 64), 40.0))
    assert refused(np.full((30, 64, 64), float(PADDED)))


def test_tissue_at_an_odd_place_is_flagged() -> None:
    notes = judged(chest() + 300)
    assert isinstance(notes, tuple)
    assert [note.reason for note in notes] == [ReasonCode.HU_OFFSET_SUSPECTED]
    assert judged(chest()) == ()


@pytest.mark.parametrize("shift", [1000, -1000, 1024, -1024, 600])
@pytest.mark.parametrize("odd", [[0], [29], [11], [5, 6, 7, 8], [25, 26, 27, 28, 29], [3, 20]])
def test_slices_that_were_shifted_are_named(odd: list[int], shift: int) -> None:
    hu = chest()
    hu[odd] += shift
    assert refused(hu) == odd


@pytest.mark.parametrize("odd", [[0], [29], [11], list(range(12)), list(range(12, 30))])
def test_slices_whose_header_forgot_the_intercept_are_named(odd: list[int]) -> None:
    hu = VALID["nothing but lung"]()
    hu[odd] += 1024
    rescales = [Rescale(number, 1.0, 0.0 if number in odd else -1024.0) for number in range(30)]
    assert refused(hu, rescales) == odd


def test_a_slope_that_is_wrong_in_one_header_names_its_slice() -> None:
    hu = chest()
    hu[11] = (hu[11] + 1024) * 10 - 1024
    assert refused(hu, [Rescale(number, 10.0 if number == 11 else 1.0) for number in range(30)]) == [11]


def test_rescales_that_differ_by_design_are_no_jump() -> None:
    rescales = [Rescale(number, 1.0 + number % 3, -1024.0 + 10 * number) for number in range(30)]
    assert judged(chest(), rescales) == ()


@pytest.mark.realdata
def test_real_chests_pass_and_shifted_ones_do_not(lidc_0001_dicom: Path) -> None:
    import pydicom

    files = [pydicom.dcmread(path) for path in lidc_0001_dicom.rglob("*.dcm")]
    files.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = np.stack([ds.pixel_array[::12, ::12].astype(float) + float(ds.RescaleIntercept) for ds in files])
    assert judged(hu) == ()
    for shift in (1000, 1024, -1000, -1024):
        assert len(refused(hu + shift)) > 50
        for odd in (0, 60, len(hu) - 1):
            moved = hu.copy()
            moved[odd] += shift
            assert refused(moved) == [odd]

"""A stack holds the HU around a nodule at their places, for any grid, in a bounded size."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.errors import ContractError
from data_contracts.params import ReviewParams
from data_contracts.volume import CTVolume
from pipeline.review.planes import sample_hu
from pipeline.review.stack import MAX_BYTES, pack_stack, unpack_stack

PARAMS = ReviewParams()


def volume_of(hu: np.ndarray, directions: np.ndarray, spacing_kji_mm: tuple[float, float, float]) -> CTVolume:
    """`directions`: columns are the unit steps of k, j and i in the patient."""
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing_kji_mm)
    affine[:3, 3] = (31.0, -17.0, -240.0)
    return CTVolume(hu, affine)


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """HU with structure at a few voxels' scale, the same at any direction of the axes."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(-500, 300, [n // 6 + 2 for n in shape])
    fine = np.kron(coarse, np.ones((6, 6, 6)))[: shape[0], : shape[1], : shape[2]]
    return np.rint(fine + rng.normal(0, 15, shape)).astype(np.int16)


AXIAL = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)
GRIDS = {
    "as scanned": AXIAL,
    "feet first, mirrored": np.array([[0, 0, -1], [0, -1, 0], [-1, 0, 0]], dtype=float),
    "coronal": np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=float),
    "tilted": np.array([[0, 0, 1], [0.3, 1, 0], [0.954, 0, 0]], dtype=float),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_value_stands_at_its_place_in_the_patient(name):
    volume = volume_of(smooth((60, 90, 90)), GRIDS[name], (1.25, 0.8, 0.8))
    center = volume.to_lps_mm(np.array([28.0, 44.0, 47.0]))
    head, hu = unpack_stack(pack_stack(volume, center, 8.0, PARAMS))
    z, y, x = (np.arange(n) for n in head.shape)
    step, origin = np.array(head.spacing_mm), np.array(head.origin_lps_mm)
    index = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    expected = sample_hu(volume, origin + index * step)
    assert np.abs(hu - expected).max() <= head.step_hu
    assert np.allclose(head.center_lps_mm, center)
    assert np.abs(origin[:2] - center[:2]).max() <= 31 and head.field_mm == 60


def test_slices_across_the_patient_are_the_scanned_ones_and_carry_their_numbers():
    volume = volume_of(smooth((60, 90, 90)), GRIDS["feet first, mirrored"], (2.5, 0.7, 0.7))
    center = volume.to_lps_mm(np.array([20.2, 44.0, 47.0]))
    head, hu = unpack_stack(pack_stack(volume, center, 8.0, PARAMS))
    assert len(head.slice_numbers) == head.shape[0]
    assert np.all(np.diff(head.slice_numbers) == -1), "z grows to the head, where this series begins"
    middle = head.slice_numbers.index(21)
    columns = volume.to_kji(np.array(head.origin_lps_mm))[2] - np.arange(head.shape[2])
    row = volume.to_kji(np.array(head.origin_lps_mm))[1]
    assert np.array_equal(hu[middle, 0], volume.hu[20, round(row), columns.round().astype(int)])
    assert (
        unpack_stack(pack_stack(volume_of(volume.hu, GRIDS["tilted"], (2.5, 1, 1)), center, 8.0, PARAMS))[
            0
        ].slice_numbers
        == ()
    )


@pytest.mark.parametrize("extreme", [np.iinfo(np.int16).min, np.iinfo(np.int16).max])
def test_extremes_come_back_as_they_were(extreme):
    hu = np.full((8, 40, 40), -1024, dtype=np.int16)
    hu[::2, ::2, ::2] = extreme
    volume = volume_of(hu, AXIAL, (2.0, 0.7, 0.7))
    head, back = unpack_stack(pack_stack(volume, volume.to_lps_mm(np.array([4.0, 20.0, 20.0])), 5.0, PARAMS))
    assert head.step_hu == 1
    assert np.array_equal(back, hu)


@pytest.mark.parametrize("diameter_mm", [3.0, 60.0])
def test_thin_noisy_slices_of_a_small_and_of_a_huge_nodule_stay_small(diameter_mm):
    rng = np.random.default_rng(1)
    hu = rng.normal(-850, 90, (220, 220, 220)).astype(np.int16)
    volume = volume_of(hu, AXIAL, (0.625, 0.6, 0.6))
    packed = pack_stack(volume, volume.to_lps_mm(np.array([110.0, 110.0, 110.0])), diameter_mm, PARAMS)
    head, _ = unpack_stack(packed)
    assert len(packed) < 1.1 * MAX_BYTES
    reach = head.shape[0] * head.spacing_mm[2]
    assert reach >= diameter_mm + 10
    assert head.step_hu <= 16, "coarser than the noise"


def test_a_nodule_at_the_rim_and_one_outside_have_a_stack_too():
    volume = volume_of(smooth((30, 60, 60)), AXIAL, (2.0, 0.7, 0.7))
    head, _ = unpack_stack(pack_stack(volume, volume.to_lps_mm(np.array([0.0, 0.0, 59.0])), 6.0, PARAMS))
    assert head.slice_numbers[0] == 1 and head.shape[0] == 16
    far = volume.to_lps_mm(np.array([300.0, 30.0, 30.0]))
    _, hu = unpack_stack(pack_stack(volume, far, 6.0, PARAMS))
    assert (hu == -1024).all()


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00hello", b"\xff\xff\xff\xff{}", b"\x02\x00\x00\x00{}xx"])
def test_other_bytes_are_refused_with_a_word(content):
    with pytest.raises(ContractError):
        unpack_stack(content)

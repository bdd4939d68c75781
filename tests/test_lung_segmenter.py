"""A trained lung segmenter by name: loaded by digest, run on its own grid, doubted as the classical mask is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from safetensors.torch import save_file

from data_contracts.errors import WeightsDigestError, WeightsError
from data_contracts.records import sha256_file
from data_contracts.segmenter import SegmenterCard
from data_contracts.volume import CTVolume
from models.weights.lung_segmenter import CARD_FILE, WEIGHTS_FILE, load_lung_segmenter
from pipeline.imaging.grids import patient_grid
from pipeline.imaging.lungs import segment_lungs
from pipeline.imaging.resample import resample

ARGUMENTS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [8, 16], "strides": [2]}
GRID_MM = 5.0


def chest() -> CTVolume:
    """A body in a room, with two lungs of 2.6 l together, on 4 mm voxels."""
    affine = np.eye(4)
    affine[:3, :3] = 4.0 * np.eye(3)[::-1]
    affine[:3, 3] = (-170.0, -130.0, -120.0)
    volume = CTVolume(np.full((60, 66, 86), -1000, np.int16), affine)
    x, y, z = np.moveaxis(volume.to_lps_mm(np.moveaxis(np.indices(volume.shape_kji), 0, -1)), -1, 0)
    volume.hu[(x / 150) ** 2 + (y / 110) ** 2 < 1] = 40
    for middle in (-70, 70):
        volume.hu[((x - middle) / 45) ** 2 + (y / 75) ** 2 + (z / 92) ** 2 < 1] = -850
    return volume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network, taught on this very chest which air is lung."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    volume = chest()
    grid = resample(volume, GRID_MM)
    truth = torch.from_numpy((segment_lungs(volume).on_grid_of(grid)).astype(np.int64))[None]
    hu = torch.from_numpy(grid.hu.astype(np.float32))
    values = ((hu + 1000) / 1400).clamp(0, 1)[None, None]
    sides = [-size % 4 for size in grid.shape_kji]
    pads = [0, sides[2], 0, sides[1], 0, sides[0]]
    values, truth = torch.nn.functional.pad(values, pads), torch.nn.functional.pad(truth, pads)
    network = UNet(**ARGUMENTS)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(values), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    place = tmp_path_factory.mktemp("segmenters") / "taught"
    place.mkdir()
    save_file(network.state_dict(), place / WEIGHTS_FILE)
    card = SegmenterCard(
        name="taught",
        network="UNet",
        arguments=ARGUMENTS,
        weights_sha256=sha256_file(place / WEIGHTS_FILE),
        spacing_mm=GRID_MM,
        multiple_of=4,
        source="made by this test",
    )
    card.write(place / CARD_FILE)
    return place


def test_its_mask_has_sides_volumes_and_doubts_as_the_classical_one(folder):
    segmenter = load_lung_segmenter(folder)
    volume = chest()
    trained, classical = segment_lungs(volume, segmenter), segment_lungs(volume)
    assert np.allclose(trained.affine, patient_grid(volume, GRID_MM)[0])
    assert trained.volume_ml == pytest.approx(classical.volume_ml, rel=0.15)
    assert trained.implausible == ()
    assert trained.side_of(np.array([70.0, 0.0, 0.0])) == "left"
    assert trained.side_of(np.array([-70.0, 0.0, 0.0])) == "right"


def test_a_mask_that_cannot_be_lungs_is_doubted_whoever_made_it(folder):
    empty = CTVolume(np.full((30, 40, 40), 40, np.int16), chest().affine)
    assert segment_lungs(empty, load_lung_segmenter(folder)).implausible


def test_other_weights_than_the_card_names_are_not_loaded(folder, tmp_path):
    for file in (CARD_FILE, WEIGHTS_FILE):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    (tmp_path / WEIGHTS_FILE).write_bytes(b"x" + (folder / WEIGHTS_FILE).read_bytes()[1:])
    with pytest.raises(WeightsDigestError):
        load_lung_segmenter(tmp_path)


def test_a_segmenter_that_is_not_at_hand_is_named_with_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match="classical"):
        load_lung_segmenter(tmp_path / "unheard-of")


def test_tensors_of_another_network_are_refused_in_one_line(folder, tmp_path):
    (tmp_path / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes())
    card = SegmenterCard.read(folder / CARD_FILE)
    card.model_copy(update={"arguments": {**ARGUMENTS, "channels": [4, 8]}}).write(tmp_path / CARD_FILE)
    with pytest.raises(WeightsError, match="do not fit"):
        load_lung_segmenter(tmp_path)

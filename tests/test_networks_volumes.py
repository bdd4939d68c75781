"""A patch as a volume: from its voxels through augmentation, a fit, a folder and a served program."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from narrow_fit import stage
from torch.nn import functional

from data_contracts.errors import UsageError
from data_contracts.model_card import LUNG_WINDOW, Calibration, InputSpec, ModelCard
from data_contracts.params import TrainParams
from data_contracts.patches import DatasetCard, Shard
from models.augmentation.augment import augment, draw_variant
from models.augmentation.orbit import orbit
from models.checkpoint import save_network
from models.export import ServingModule
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import fit_classifier
from models.networks.backbones import Backbone, build_backbone
from models.networks.inflate import as_volumetric, inflated
from models.networks.inputs import as_batch, input_spec, plane_count, to_images
from models.networks.joined import build_backbones, join_networks
from models.networks.network import NetworkPlan, build_network
from models.predict import Predictor, predict_logits
from models.weights.zoo import calibrate_batchnorm

CALIBRATION = Calibration(
    bias=0.1, image_weight=1, size_weight=2, image_only_bias=-0.3, image_only_weight=1.7, size_only_bias=0,
    size_only_weight=1,
)  # fmt: skip


def spec(volumetric: str = "i3d", shape: tuple[int, ...] = (16, 16, 16), unit: str = "grey", **more) -> InputSpec:
    return InputSpec(
        kind="3d", patch_shape=shape, value_unit=unit, spacing_mm=1.0, input_size_px=16, volumetric=volumetric, **more
    )


def card(kind: str = "3d", shape: tuple[int, ...] = (16, 16, 16)) -> DatasetCard:
    shards = (Shard(file="patches-000.npy", n_patches=1, sha256="0"),)
    return DatasetCard(dataset_id="d", kind=kind, patch_shape=shape, dtype="int16", value_unit="HU", shards=shards)


def balls(n: int, seed: int) -> LabelledPatches:
    """Noise, with a ball in every second patch that is bright off its central planes only."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    z, y, x = np.abs(np.mgrid[:16, :16, :16] - 8)
    ball = (np.sqrt(z**2 + y**2 + x**2) < 7) & (np.minimum(np.minimum(z, y), x) > 0)
    patches = rng.normal(90, 25, (n, 16, 16, 16)) + labels[:, None, None, None] * ball * 90
    return LabelledPatches(patches.clip(0, 255).astype(np.uint8), labels.astype(float))


def narrow(volumetric: str, patches: np.ndarray) -> Backbone:
    widths = (3, 8, 16, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone("narrow", [stage(*pair) for pair in pairwise(widths)], widths[-1]).eval()
    backbone = as_volumetric(backbone, volumetric)
    calibrate_batchnorm(backbone, as_batch(to_images(patches[:16], spec(volumetric))))
    return backbone


def recipe(**changes) -> TrainParams:
    base = {"weights": "none", "input_size_px": 32, "epochs": 8, "batch_size": 8, "head": "linear", "dropout": 0.0}
    return TrainParams.from_mapping({**base, "augmentations": 2, "lr_head": 1e-2, "lr_backbone": 3e-3, **changes})


def test_the_windows_of_a_volume_are_its_channels():
    volumes = np.random.default_rng(0).integers(-1200, 600, (2, 16, 16, 16)).astype(np.int16)
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    images = to_images(volumes, spec(unit="HU", **plain))
    assert images.shape == (2, 1, 3, 16, 16, 16) and plane_count(spec()) == 1
    low = LUNG_WINDOW.center_hu - LUNG_WINDOW.width_hu / 2
    np.testing.assert_allclose(images[:, 0, 0], np.clip((volumes - low) / LUNG_WINDOW.width_hu, 0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(10, 12, 14), (16, 9, 12)])
def test_a_small_volume_is_enlarged_as_torch_does_it(shape):
    volumes = np.random.default_rng(0).integers(0, 255, (2, *shape)).astype(np.uint8)
    images = to_images(volumes, spec(shape=shape, mean=(0.0,) * 3, std=(1.0,) * 3))
    wanted = torch.from_numpy(volumes / 255).float()[:, None]
    expected = functional.interpolate(wanted, (16, 16, 16), mode="trilinear", align_corners=False)
    for channel in range(3):
        torch.testing.assert_close(images[:, 0, channel], expected[:, 0], rtol=1e-4, atol=1e-4)


def test_a_large_volume_is_filtered_along_every_axis_before_it_is_sampled():
    for axis in range(3):
        stripes = np.moveaxis(np.broadcast_to(np.arange(32) % 2 * 255, (32, 32, 32)), -1, axis)[None].astype(np.uint8)
        images = to_images(stripes, spec(shape=(32, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3))
        assert float(images[..., 3:-3, 3:-3, 3:-3].std()) < 0.05


def test_parameters_and_dataset_decide_how_a_patch_enters():
    assert input_spec(card(), recipe()).volumetric == "planes"
    assert input_spec(card(), recipe(volumetric="acs")).volumetric == "acs"
    native = input_spec(card(), recipe(backbone="medicalnet_resnet10", windows=["mediastinum", "lung", "bone"]))
    assert native.volumetric == "native" and len(native.windows) == len(native.mean) == len(native.std) == 1
    assert to_images(np.zeros((2, 16, 16, 16), dtype=np.int16), native).shape == (2, 1, 1, 32, 32, 32)
    assert native.windows[0].center_hu == 40


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"volumetric": "i3d"}, "2.5d", "no volumes.*kind=3d"),
        ({"backbone": "medicalnet_resnet10"}, "2d", "no volumes.*kind=3d"),
        ({"backbone": "medicalnet_resnet10", "volumetric": "acs"}, "3d", "takes volumes as they are"),
    ],
)
def test_volumes_of_what_has_none_are_refused_in_one_line(changes, kind, message):
    with pytest.raises(UsageError, match=message) as refusal:
        input_spec(card(kind, (3, 16, 16)), recipe(**changes))
    assert "\n" not in refusal.value.line()


def test_an_old_card_reads_as_planes():
    old = {name: value for name, value in spec("planes").model_dump(mode="json").items() if name != "volumetric"}
    assert InputSpec.model_validate(old).volumetric == "planes"


def test_the_warp_of_a_volume_is_that_of_grid_sample():
    images = torch.randn(3, 1, 2, 9, 11, 13)
    draws = draw_variant(3, 1, seed=5, variant=1, axes=3)
    grid = functional.affine_grid(draws.warp[:, 0], [3, 2, 9, 11, 13], align_corners=False)
    warped = functional.grid_sample(images[:, 0], grid, mode="bilinear", padding_mode="border", align_corners=False)
    expected = warped * draws.contrast.reshape(-1, 1, 1, 1, 1) + draws.brightness.reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(augment(images, draws)[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_volumes_turn_and_flip_about_every_axis():
    draws = draw_variant(500, 1, seed=0, variant=1, axes=3)
    main = draws.warp[:, 0, :, :3].round()
    assert len({tuple(matrix.flatten().tolist()) for matrix in main}) == 48
    assert 0.4 < float((torch.linalg.det(draws.warp[:, 0, :, :3]) < 0).float().mean()) < 0.6
    scales = torch.linalg.det(draws.warp[:, 0, :, :3]).abs() ** (1 / 3)
    assert float(scales.min()) > 0.9 and float(scales.max()) < 1.11


def test_an_augmented_volume_does_not_depend_on_the_batch_it_travels_in():
    images = torch.randn(5, 1, 3, 8, 8, 8)
    draws = draw_variant(5, 1, seed=4, variant=2, axes=3)
    part = torch.tensor([4, 1])
    torch.testing.assert_close(augment(images[part], draws.rows(part), 0.1), augment(images, draws, 0.1)[part])


def test_the_eight_views_of_a_volume_are_different_and_see_both_ends_of_its_depth():
    volume = torch.arange(27.0).reshape(1, 1, 1, 3, 3, 3)
    views = orbit(volume, 8)
    assert torch.equal(views[0], volume)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    assert torch.equal(views[4], volume.flip(-3))


# A linear probe on few random features by ACS reaches no more than 0.86 here, so it says nothing.
@pytest.mark.parametrize(("volumetric", "unfreeze"), [("i3d", 0), ("i3d", 1), ("i3d", 3), ("acs", 1), ("acs", 3)])
def test_a_fit_on_volumes_learns_what_no_central_plane_shows(volumetric, unfreeze):
    data = FitData(balls(40, 0), balls(20, 1))
    result = fit_classifier(data, recipe(unfreeze=unfreeze), spec(volumetric), narrow(volumetric, data.train.patches))
    assert max(record.validation_auc for record in result.history) > 0.9
    logits = predict_logits(result.network, data.validation.patches, spec(volumetric))
    assert logits[data.validation.labels == 1].mean() > logits[data.validation.labels == 0].mean()


def saved(folder, name: str, volumetric: str, unit: str = "HU"):
    backbone = as_volumetric(build_backbone(name, seed=0), volumetric)
    network = build_network(backbone, NetworkPlan("linear"), seed=1)
    channels = backbone.channels
    used = spec(volumetric, unit=unit, views=2, mean=(0.5,) * channels, std=(0.25,) * channels)
    used = used.model_copy(update={"windows": used.windows[:channels], "input_size_px": 32})
    ModelCard(
        name="test", run_id="r", backbone=name, weights="none", weights_sha256="", pretrained=False, head="linear",
        input=used, calibration=CALIBRATION, checkpoint_sha256=save_network(folder, network), dataset_id="d",
    ).write(folder / "model_card.json")  # fmt: skip
    return network, used


@pytest.mark.parametrize(
    ("name", "volumetric"),
    [
        ("small_cnn", "i3d"),
        ("small_cnn", "acs"),
        pytest.param("medicalnet_resnet18", "native", marks=pytest.mark.slow),
    ],
)
def test_a_network_of_volumes_is_saved_loaded_and_served(tmp_path, name, volumetric):
    network, used = saved(tmp_path, name, volumetric)
    volumes = np.random.default_rng(0).integers(-1000, 400, (3, 16, 16, 16)).astype(np.int16)
    expected = predict_logits(network, volumes, used)
    np.testing.assert_allclose(Predictor.load(tmp_path).logits(volumes), expected, atol=1e-5)
    assert len(set(expected)) == 3
    serving = ServingModule(network, used, CALIBRATION)
    program = serving.export().module()
    for batch in (1, 3):
        traced = program(torch.from_numpy(volumes[:batch]).float())
        np.testing.assert_allclose(traced[:, 0].detach().numpy(), expected[:batch], rtol=1e-3, atol=1e-3)


def test_the_card_decides_whether_a_network_sees_planes_or_a_volume(tmp_path):
    saved(tmp_path, "small_cnn", "acs")
    text = (tmp_path / "model_card.json").read_text()
    (tmp_path / "model_card.json").write_text(text.replace('"volumetric": "acs"', '"volumetric": "planes"'))
    volumes = np.zeros((1, 16, 16, 16), dtype=np.int16)
    assert Predictor.load(tmp_path).network.backbone.axes == 2
    assert Predictor.load(tmp_path).logits(volumes).shape == (1,)


def test_inflating_twice_is_refused_by_its_layers():
    with pytest.raises(UsageError, match="takes volumes as they are"):
        as_volumetric(inflated(build_backbone("small_cnn", seed=0), "i3d"), "planes")


def test_networks_of_volumes_are_joined_and_built_again_from_their_card():
    networks = [
        build_network(inflated(build_backbone("small_cnn", seed=seed), "i3d"), NetworkPlan("linear"), seed=seed)
        for seed in (0, 1)
    ]
    joined = join_networks(networks, NetworkPlan("linear"))
    again = build_network(as_volumetric(build_backbones("small_cnn", 2, seed=5), "i3d"), NetworkPlan("linear"), seed=5)
    again.load_state_dict(joined.state_dict())
    volumes = torch.randn(2, 1, 3, 16, 16, 16)
    with torch.no_grad():
        expected = torch.stack([network(volumes) for network in networks]).mean(dim=0)
        torch.testing.assert_close(joined(volumes), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again(volumes), expected, rtol=1e-4, atol=1e-5)

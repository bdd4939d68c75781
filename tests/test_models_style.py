"""Style: the measured kernel acts where it should, the noise has the measured grain, and a seed says it all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.measure_kernels import kernel_pair, lung_patches, lung_places, rings_of, spectrum, transfer

from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from models.augmentation.style import (
    RING,
    SHARP_INDEX,
    SHARPENING,
    SOFT_INDEX,
    SOFT_NOISE,
    Style,
    StyleDraws,
    plane_weights,
    restyle,
    sharpness_index,
)
from models.fitting.batches import Batches
from models.fitting.data import FitData, LabelledPatches
from models.fitting.frozen_prefix import PatchInputs

AXIAL = ((1.0, 1.0),)
N = 64
SPACING_MM = 0.65


def spec(kind: str = "2d", shape: tuple[int, ...] = (3, N, N), unit: str = "HU") -> InputSpec:
    return InputSpec(kind=kind, patch_shape=shape, value_unit=unit, spacing_mm=SPACING_MM, input_size_px=32)


def styles(n: int, strength: float = 0.0, noise: float = 0.0) -> StyleDraws:
    keys = torch.arange(2 * n).reshape(n, 2)
    return StyleDraws(torch.full((n,), strength), torch.full((n,), noise), keys)


def wave(cycles: int, axis: int) -> np.ndarray:
    """A plane (1, 1, N, N) whose only frequency is cycles / (N * spacing), along rows (0) or columns (1)."""
    ramp = 100 * np.cos(2 * np.pi * cycles * np.arange(N) / N)
    plane = ramp[:, None] + np.zeros(N) if axis == 0 else ramp[None] + np.zeros((N, 1))
    return plane.astype(np.float32)[None, None]


def middle(values: torch.Tensor) -> np.ndarray:
    return values.numpy()[..., 12:-12, 12:-12]


def noisy_patches(n: int = 6, shape: tuple[int, ...] = (3, N, N), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-500, 120, (n, *shape)).astype(np.int16)


def test_strength_zero_without_noise_is_the_patch_itself():
    patches = noisy_patches()
    np.testing.assert_allclose(restyle(patches, styles(6), AXIAL, SPACING_MM).numpy(), patches, atol=0.01)


@pytest.mark.parametrize("strength", [1.0, 0.4, -1.0])
def test_a_wave_grows_by_the_measured_factor_of_its_frequency(strength):
    cycles = 16
    plane = wave(cycles, axis=1)
    frequency = cycles / (N * SPACING_MM)
    factor = np.interp(frequency, np.arange(len(SHARPENING)) * RING, SHARPENING) ** strength
    made = restyle(plane, styles(1, strength), AXIAL, SPACING_MM)
    assert middle(made).std() / plane[..., 12:-12, 12:-12].std() == pytest.approx(factor, rel=0.05)


def test_a_coronal_plane_is_sharpened_along_its_columns_and_not_along_the_body():
    weights = plane_weights(spec("2.5d"))
    for axis, expected in ((0, 1.0), (1, 2.0)):
        planes = np.repeat(wave(16, axis), 3, axis=1)
        made = middle(restyle(planes, styles(1, 1.0), weights, SPACING_MM))
        grown = made.std(axis=(0, 2, 3)) / planes[0, 0, 12:-12, 12:-12].std()
        assert grown[0] > 2.0
        assert (grown[1:] == pytest.approx(1.0, abs=0.02)) if expected == 1.0 else (grown[1:] > expected).all()


def test_the_mean_of_a_patch_stays_and_so_does_what_lies_far_beyond_a_nodule():
    plane = np.full((1, 1, N, N), -850, dtype=np.int16)
    plane[..., 24:40, 24:40] = 40
    for strength in (1.0, -1.0):
        made = restyle(plane, styles(1, strength), AXIAL, SPACING_MM).numpy()
        assert made.mean() == pytest.approx(plane.mean(), abs=4)
        assert np.abs(made[..., :6, :6] + 850).max() < 8
    edge = restyle(plane, styles(1, 1.0), AXIAL, SPACING_MM).numpy()
    assert edge.max() > 100, "a sharp kernel overshoots at an edge"


def test_noise_has_the_measured_grain_and_strength():
    still = np.zeros((200, 1, N, N), dtype=np.int16)
    made = restyle(still, styles(200, noise=1.0), AXIAL, SPACING_MM).numpy()[:, 0].astype(np.float64)
    power = np.mean([np.abs(spectrum(plane, SPACING_MM)) ** 2 for plane in made], axis=0)
    for ring, mask in enumerate(rings_of(N, SPACING_MM)):
        if 2 <= ring <= 14:
            assert power[mask].mean() == pytest.approx(SOFT_NOISE[ring], rel=0.15), ring
    twice = restyle(still, styles(200, noise=2.0), AXIAL, SPACING_MM).numpy()
    assert twice.std() == pytest.approx(2 * made.std(), rel=0.01)


def test_noise_is_as_strong_in_every_plane_and_another_in_each():
    made = restyle(
        np.zeros((100, 9, N, N), np.int16), styles(100, noise=1.0), plane_weights(spec("2.5d", (9, N, N))), 0.65
    )
    planes = made.numpy().transpose(1, 0, 2, 3).reshape(9, -1)
    assert planes.std(axis=1) == pytest.approx(planes[0].std(), rel=0.03)
    assert np.abs(np.corrcoef(planes) - np.eye(9)).max() < 0.02


def test_a_style_follows_from_the_seed_and_not_from_the_batch():
    patches = noisy_patches(8)
    one, again, other = (Style(patches, spec(), seed=seed) for seed in (0, 0, 1))
    draws = one.draws(2)
    assert torch.equal(draws.strength, again.draws(2).strength)
    assert not torch.equal(draws.strength, one.draws(3).strength)
    assert not torch.equal(draws.strength, other.draws(2).strength)
    whole = one.apply(patches, draws)
    rows = torch.tensor([5, 2])
    torch.testing.assert_close(again.apply(patches[rows.numpy()], again.draws(2).rows(rows)), whole[rows])
    assert whole.min() >= -1024 and whole.max() <= 3071


def test_styles_reach_from_soft_to_sharp_wherever_the_patches_are():
    sharp = noisy_patches(200, (1, 32, 32))
    soft = restyle(sharp, styles(200, -1.0), AXIAL, SPACING_MM).numpy()
    for patches in (sharp, soft):
        style = Style(patches, spec(shape=(1, 32, 32)), seed=0)
        ends = style.draws(1).strength + style.position
        assert 0 <= ends.min() < 0.05 and 0.95 < ends.max() <= 1
    assert Style(sharp, spec(shape=(1, 32, 32)), seed=0).position == 1.0


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("2d", (3, N, N)), ("2.5d", (3, N, N)), ("2.5d", (9, N, N)), ("3d", (24, 32, 32)), ("2d", (N, N))],
)
def test_patches_of_every_kind_keep_their_shape(kind, shape):
    patches = noisy_patches(3, shape)
    style = Style(patches, spec(kind, shape), seed=0)
    made = style.apply(patches, style.draws(1))
    assert made.shape == patches.shape and bool(torch.isfinite(made).all())
    assert float((made - torch.from_numpy(patches)).abs().max()) > 1


def test_grey_patches_change_kernel_but_get_no_noise():
    flat = np.full((4, 3, N, N), 90, dtype=np.uint8)
    style = Style(flat, spec(unit="grey"), seed=0)
    torch.testing.assert_close(style.apply(flat, style.draws(1)), torch.full((4, 3, N, N), 90.0), atol=0.5, rtol=0)
    noisy = np.random.default_rng(0).integers(0, 256, (4, 3, N, N), dtype=np.uint8)
    made = Style(noisy, spec(unit="grey"), seed=0)
    values = made.apply(noisy, made.draws(1))
    assert float(values.min()) >= 0 and float(values.max()) <= 255


def test_a_fit_with_style_sees_other_variants_and_the_same_patches():
    patches = noisy_patches(6)
    styled, plain = (
        PatchInputs(patches, spec(), None, pooled=False, variants=2, seed=0, styled=on) for on in (True, False)
    )
    index = torch.arange(6)
    torch.testing.assert_close(styled.plain().batch(index), plain.plain().batch(index))
    first, second = (inputs.epoch(1, torch.Generator()).batch(index) for inputs in (styled, plain))
    assert first.shape == second.shape and float((first - second).abs().max()) > 0.05


def test_a_fit_with_style_has_variants_even_where_none_were_asked_for():
    patches = noisy_patches(8)
    labelled = LabelledPatches(patches, np.array([0, 1] * 4, dtype=float))
    frozen = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    seen = {}
    wanted = {"plain": {}, "style=true": {"style": True}, "adaptation=style": {"adaptation": ("style",)}}
    for name, settings in wanted.items():
        params = TrainParams(**settings, augmentations=1, unfreeze=0, batch_size=8)
        batches = Batches(FitData(labelled, labelled), labelled, spec(), frozen, params)
        epochs = [batches._source.epoch(epoch, torch.Generator().manual_seed(epoch)) for epoch in range(3)]
        values = [epoch.batch(torch.arange(8)) for epoch in epochs]
        seen[name] = all(torch.equal(values[0], value) for value in values[1:])
    assert seen == {"plain": True, "style=true": False, "adaptation=style": False}


def test_style_in_an_ordinary_training_is_the_style_of_the_adaptation():
    patches = noisy_patches(8)
    labelled = LabelledPatches(patches, np.array([0, 1] * 4, dtype=float))
    seen = {}
    for name, settings in {"plain": {}, "both": {"style": True}, "alone": {"adaptation": ("style",)}}.items():
        params = TrainParams(**settings, unfreeze=5, batch_size=8)
        batches = Batches(FitData(labelled, labelled), labelled, spec(), None, params)
        seen[name] = batches._source.epoch(0, torch.Generator()).batch(torch.arange(8))
    torch.testing.assert_close(seen["both"], seen["alone"])
    assert float((seen["both"] - seen["plain"]).abs().max()) > 0.05


def test_with_style_both_sites_of_an_adaptation_are_augmented_alike():
    patches, target = noisy_patches(8), noisy_patches(8, seed=1)
    labelled = LabelledPatches(patches, np.array([0, 1] * 4, dtype=float))
    seen = {}
    for style in (False, True):
        params = TrainParams(style=style, adaptation=("coral",), unfreeze=5, batch_size=8)
        batches = Batches(FitData(labelled, labelled, target=target), labelled, spec(), None, params)
        assert batches._target is not None
        seen[style] = batches._target.epoch(0, torch.Generator()).batch(torch.arange(8))
    assert float((seen[True] - seen[False]).abs().max()) > 0.05


@pytest.fixture(scope="module")
def pair(kernel_pair_dicom: Path, tmp_path_factory: pytest.TempPathFactory):
    return kernel_pair(kernel_pair_dicom, tmp_path_factory.mktemp("kernels"))


@pytest.mark.realdata
def test_the_figures_are_those_of_the_two_reconstructions(pair):
    soft, sharp = np.asarray(pair["B40f"].hu), np.asarray(pair["B70f"].hu)
    ratio, coherence, _ = transfer(soft, sharp, float(np.linalg.norm(pair["B40f"].affine[:3, 2])))
    assert pytest.approx(ratio, abs=0.002) == SHARPENING
    assert coherence.min() > 0.95


@pytest.mark.realdata
def test_a_soft_patch_at_full_strength_looks_as_the_sharp_kernel_made_it_and_the_other_way_round(pair):
    places = lung_places(pair["B40f"], n=48, seed=7)
    soft, sharp = (lung_patches(pair[kernel], places) for kernel in ("B40f", "B70f"))
    assert sharpness_index(soft, 0.75) == pytest.approx(SOFT_INDEX, abs=0.5)
    assert sharpness_index(sharp, 0.75) == pytest.approx(SHARP_INDEX, abs=0.5)
    masks = rings_of(soft.shape[1], 0.75)[2:13]

    def log_spectrum(patches: np.ndarray) -> np.ndarray:
        power = np.mean([np.abs(spectrum(plane.astype(np.float64), 0.75)) ** 2 for plane in patches], axis=0)
        return np.log([power[mask].mean() for mask in masks])

    for start, aim, strength in ((soft, sharp, 1.0), (sharp, soft, -1.0)):
        made = restyle(start[:, None], styles(len(start), strength), AXIAL, 0.75).numpy()[:, 0]
        before = np.abs(log_spectrum(start) - log_spectrum(aim)).mean()
        after = np.abs(log_spectrum(made) - log_spectrum(aim)).mean()
        assert after < 0.15 * before
        inside = np.s_[:, 12:-12, 12:-12]
        error, distance = np.abs(made - aim)[inside].mean(), np.abs(start.astype(float) - aim)[inside].mean()
        assert error < 0.35 * distance, "voxel by voxel, too: both kernels saw the same raw data"

"""The readers' outlines as a further target: it lies where the picture lies, is learned, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, fresh_backbone, params, weights_of
from torch import nn
from two_sites import NARROW, make_workspace

from data_contracts.errors import UsageError
from data_contracts.params import TrainParams
from flows.datasets.labelled import masks_of, patches_of
from flows.datasets.training_cohort import TrainingCohort
from flows.learning.train_checks import check_run
from flows.presets import train_params
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import _Fit, fit_classifier
from models.fitting.frozen_prefix import PatchInputs
from models.fitting.mask_head import mask_targets
from models.networks.inputs import to_common_spacing
from pipeline.cohort.patch_reader import PatchReader


def outlined(n: int, seed: int) -> LabelledPatches:
    """Noise with a bright disc somewhere, larger in every second patch; two of three readers also drew its rim."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    y, x = np.mgrid[:32, :32]
    centre = rng.uniform(10, 22, (n, 2, 1, 1))
    away = np.hypot(y - centre[:, 0], x - centre[:, 1]) - (4 + 2 * labels)[:, None, None]
    patches = rng.normal(60, 15, (n, 32, 32)) + 150 * (away < 0)
    masks = np.where(away < 0, 255, np.where(away < 1, 170, 0))
    greys = patches.clip(0, 255).astype(np.uint8)[:, None]
    return LabelledPatches(greys, labels.astype(float), masks=masks.astype(np.uint8)[:, None])


@pytest.fixture(scope="module")
def data() -> FitData:
    return FitData(outlined(48, 0), outlined(20, 1))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory):
    """(workspace, id of a dataset with outlines, id of the same crops without)."""
    place, with_votes = make_workspace(tmp_path_factory.mktemp("outlined"), votes="votes")
    _, without = make_workspace(place.root.parent)
    return place, with_votes, without


@pytest.mark.parametrize("prefix", [None, nn.Sequential(nn.Identity())], ids=["every epoch anew", "kept variants"])
def test_the_target_moves_with_the_picture(data: FitData, prefix: nn.Sequential | None) -> None:
    masks = data.train.masks
    assert masks is not None
    options = {"pooled": False, "variants": 4, "seed": 3, "noise_std": 0.0}
    # The picture is the mask itself, so that every pixel of one must be found in the other.
    inputs = PatchInputs(masks, SPEC, prefix, masks=masks, **options).epoch(2, torch.Generator().manual_seed(0))
    index = torch.tensor([5, 40, 1, 17, 30])
    images, targets = inputs.batch(index)[:, :1], inputs.masks(index)
    assert targets is not None and targets.shape == (5, 1, 32, 32)
    moved = 0
    for image, target, row in zip(images, targets, index, strict=True):
        assert float(torch.corrcoef(torch.stack([image.flatten(), target.flatten()]))[0, 1]) > 0.999
        moved += not torch.allclose(target, mask_targets(masks[[int(row)]], 32)[0], atol=0.05)
    assert moved >= 3


def test_a_network_with_a_mask_head_learns_where_the_nodule_is(data: FitData) -> None:
    chosen = params(unfreeze=5, epochs=25, lr_head=1e-2, lr_backbone=3e-3, mask_weight=1.0)
    fit = _Fit(
        FitData(data.train, data.validation.rows(np.zeros(20, bool))), chosen, SPEC, fresh_backbone(data), None, 0
    )
    result = fit.run(None)
    losses = [record.figures["mask_loss"] for record in result.history]
    assert losses[-1] < 0.7 * losses[0]
    unseen = outlined(30, 7)
    fit.learner.eval()
    inputs = PatchInputs(unseen.patches, SPEC, None, pooled=False, variants=1, seed=0).plain()
    with torch.no_grad():
        _, logits = fit.learner.source_features(inputs.batch(torch.arange(30)))
    assert logits is not None
    shares, inside = logits.sigmoid().numpy(), unseen.masks == 255
    energy = np.array(
        [share[within].mean() / share[~within].mean() for share, within in zip(shares, inside, strict=True)]
    )
    assert (energy > 2).mean() > 0.9


def test_a_fit_with_masks_that_was_killed_ends_with_the_same_weights(data: FitData, tmp_path: Path) -> None:
    chosen = params(unfreeze=5, epochs=3, mask_weight=2.0)
    expected = weights_of(fit_classifier(data, chosen, SPEC, fresh_backbone(data)))

    def kill(record) -> None:
        if record.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_classifier(data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path, on_epoch=kill)
    again = fit_classifier(data, chosen, SPEC, fresh_backbone(data), state_dir=tmp_path)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(again).items())
    plain = weights_of(fit_classifier(data, params(unfreeze=5, epochs=3), SPEC, fresh_backbone(data)))
    assert plain.keys() == expected.keys(), "the network that is kept has no part that predicts masks"
    assert not torch.equal(plain["head.logit.weight"], expected["head.logit.weight"])


def test_joined_batches_with_masks_make_the_steps_of_one_large_batch(data: FitData) -> None:
    half = np.array(data.train.masks)
    half[::3] = 0  # nobody outlined these
    used = replace(data, train=replace(data.train, masks=half))
    common = {"unfreeze": 5, "epochs": 2, "mask_weight": 1.0, "dropout": 0.0, "optimizer": "sgd", "lr_head": 1e-2}
    one, other = (
        weights_of(fit_classifier(used, params(**common, **sizes), SPEC, fresh_backbone(used)))
        for sizes in ({"batch_size": 16}, {"batch_size": 8, "accumulate": 2})
    )
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


def test_patches_that_nobody_outlined_teach_no_mask(data: FitData) -> None:
    nothing = replace(data, train=replace(data.train, masks=np.zeros_like(data.train.masks)))
    common = {"unfreeze": 5, "epochs": 2}
    with_weight = weights_of(fit_classifier(nothing, params(**common, mask_weight=1.0), SPEC, fresh_backbone(data)))
    without = weights_of(fit_classifier(data, params(**common), SPEC, fresh_backbone(data)))
    assert all(torch.equal(value, with_weight[name]) for name, value in without.items())


def test_masks_lie_on_the_grid_of_the_patches(workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    place, dataset_id, _ = workspace
    reader = PatchReader(place.datasets_root / dataset_id)
    rows = reader.index.head(6).assign(pixel_spacing_mm=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    chosen = TrainParams(common_spacing_mm=0.6)
    seen = to_common_spacing(reader.load_masks(list(rows["patch_id"])), rows["pixel_spacing_mm"].to_numpy(), 0.6)
    masks, patches = masks_of(reader, rows, chosen), patches_of(reader, rows, chosen)
    assert np.array_equal(masks, seen) and not np.array_equal(masks, reader.load_masks(list(rows["patch_id"])))
    bright = patches.mean(axis=(2, 3), where=masks > 127) - patches.mean(axis=(2, 3), where=masks < 127)
    assert (bright > 40).all()


def test_a_mask_target_without_outlines_or_without_a_learning_stage_is_one_clear_line(workspace) -> None:
    place, with_votes, without = workspace
    wanted = train_params("finetune", {**NARROW, "mask_weight": 1.0})
    check_run(TrainingCohort(place.datasets_root / with_votes, wanted), wanted)
    with pytest.raises(UsageError, match="no outlines of readers") as refused:
        check_run(TrainingCohort(place.datasets_root / without, wanted), wanted)
    assert "import-npz --votes" in refused.value.todo and "\n" not in str(refused.value)
    probe = wanted.model_copy(update={"unfreeze": 0})
    with pytest.raises(UsageError, match="none learns"):
        check_run(TrainingCohort(place.datasets_root / with_votes, probe), probe)


def test_a_fit_is_refused_masks_that_nobody_gave(data: FitData) -> None:
    bare = replace(data, train=replace(data.train, masks=None))
    with pytest.raises(UsageError, match="no outlines of readers"):
        fit_classifier(bare, params(mask_weight=1.0), SPEC, fresh_backbone(data))


def test_a_run_without_masks_keeps_the_id_that_it_had_before_there_were_any() -> None:
    assert "mask_weight" not in TrainParams().model_dump(mode="json")
    assert TrainParams(mask_weight=1.0).model_dump(mode="json")["mask_weight"] == 1.0
    assert TrainParams().digest() == TrainParams(mask_weight=0.0).digest() != TrainParams(mask_weight=1.0).digest()

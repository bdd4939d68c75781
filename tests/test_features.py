"""A feature table holds every patch once, is finished after a kill, and is never computed for a second time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from data_contracts.features import FEATURE_TABLE, POOLED, FeatureCard, pooled_matrix
from data_contracts.manifest import Split
from data_contracts.params import FeatureParams, TrainParams
from flows.datasets import feature_parts, features
from flows.datasets.feature_parts import FeatureParts
from flows.datasets.features import FeatureRun, feature_params, feature_table
from flows.workspace import Workspace
from models.engines.open_engine import OpenedEngine
from models.engines.plan import EnginePlan
from models.engines.torch_engine import TorchEngine
from models.networks.backbones import build_backbone
from models.weights.zoo import calibrate_batchnorm
from pipeline.cohort.dataset import assemble_dataset

N_PATCHES = 40


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "workspace").create()


def dataset(workspace: Workspace, first: int = 0, count: int = N_PATCHES, name: str = "one"):
    """Patches of three planes; the patch n has the same bytes in every dataset."""
    patches = np.stack(
        [
            np.random.default_rng(n).integers(-1000, 400, (3, 32, 32)).astype(np.int16)
            for n in range(first, first + count)
        ]
    )
    ids = [f"{name}-{n:03d}" for n in range(count)]
    index = pd.DataFrame(
        {
            "patch_id": ids,
            "nodule_id": ids,
            "series_key": ids,
            "patient_key": ids,
            "site": "A",
            "split": Split.TRAIN.value,
        }
        | {"label": 0, "label_soft": 0.2, "n_readers": 3, "diameter_mm": 9.0, "padded": False}
    )
    card = assemble_dataset(
        workspace.datasets_root, [patches], index, kind="2.5d", value_unit="HU", inputs={}, parameters={}, name=name
    )
    return workspace.datasets_root / card.dataset_id


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    if not path.exists():
        network = build_backbone("resnet18", seed=5)
        calibrate_batchnorm(network, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


@pytest.fixture
def params(weights) -> FeatureParams:
    return FeatureParams(backbone="resnet18", weights=str(weights), input_size_px=32, engine="torch", precision="fp32")


def make(workspace: Workspace, folder, params: FeatureParams) -> FeatureRun:
    return feature_table.fn(workspace, folder, params)


def test_a_table_has_a_row_a_plane_and_their_mean(workspace, params):
    folder = dataset(workspace)
    run = make(workspace, folder, params)
    table = FEATURE_TABLE.read(run.path)
    assert len(table) == N_PATCHES * 4 and run.computed == N_PATCHES and run.reused == 0
    one = table[table["patch_id"] == "one-007"].set_index("plane")["vector"]
    np.testing.assert_allclose(one[POOLED], np.mean([one[plane] for plane in range(3)], axis=0), rtol=1e-5)
    assert pooled_matrix(table, ["one-003", "one-001"]).shape == (2, 512)
    card = FeatureCard.read(run.path.with_suffix(".json"))
    assert card == run.card and card.engine == "torch" and card.precision == "fp32" and "asked for" in card.why
    assert "torch-fp32" in run.path.name and run.path.name.startswith(folder.name)
    assert not run.path.with_suffix(".parts").exists()


def test_the_second_time_nothing_is_computed(workspace, params, capsys, monkeypatch):
    folder = dataset(workspace)
    first = make(workspace, folder, params)
    before = first.path.read_bytes()
    monkeypatch.setattr(features, "open_engine", None)
    again = make(workspace, folder, params)
    assert again.computed == 0 and again.card == first.card and again.path.read_bytes() == before
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"weights": "none"}, {"input_size_px": 40}, {"precision": "bf16"}, {"windows": ("lung", "lung", "bone")}]
)
def test_other_weights_or_parameters_make_another_table(workspace, params, change):
    folder = dataset(workspace, count=4)
    first = make(workspace, folder, params)
    other = make(workspace, folder, params.model_copy(update=change))
    assert other.path != first.path and other.computed == 4 and first.path.exists()


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(workspace, params, tmp_path, monkeypatch):
    untouched = make(Workspace(tmp_path / "other").create(), dataset(Workspace(tmp_path / "other")), params)
    folder = dataset(workspace)
    monkeypatch.setattr(features, "_PART_EVERY_S", 0.0)
    append = FeatureParts.append

    def killed(self: FeatureParts, vectors: feature_parts.Vectors) -> None:
        if len(list(self.folder.glob("part-*"))) == 2:
            self.folder.joinpath("part-00009.parquet").write_bytes(b"PAR1 torn")  # by a disk that lied
            raise KilledError
        append(self, vectors)

    monkeypatch.setattr(FeatureParts, "append", killed)
    with pytest.raises(Exception, match="KilledError"):
        make(workspace, folder, params)
    assert not list(workspace.features_root.glob("*.parquet"))
    monkeypatch.setattr(FeatureParts, "append", append)
    run = make(workspace, folder, params)
    assert 0 < run.reused < N_PATCHES and run.computed == N_PATCHES - run.reused
    assert run.path.read_bytes() == untouched.path.read_bytes()


def test_a_patch_that_another_dataset_has_is_taken_from_its_table(workspace, params):
    first = make(workspace, dataset(workspace), params)
    second = make(workspace, dataset(workspace, first=30, count=20, name="two"), params)
    assert (second.reused, second.computed) == (10, 10)
    same = [f"one-{n:03d}" for n in range(30, 40)], [f"two-{n:03d}" for n in range(10)]
    one, two = (
        pooled_matrix(FEATURE_TABLE.read(run.path), ids) for run, ids in zip((first, second), same, strict=True)
    )
    np.testing.assert_array_equal(one, two)


def test_where_the_plan_cannot_be_kept_the_table_has_the_name_of_what_was_used(workspace, params, monkeypatch, capsys):
    def replaced(backbone, plan: EnginePlan, sample, *, cache):
        engine = TorchEngine(backbone)
        return OpenedEngine(engine, plan.instead("it gave a cosine of 0.9", precision="fp32"), 1.0, 0.1)

    monkeypatch.setattr(features, "open_engine", replaced)
    folder = dataset(workspace, count=4)
    run = make(workspace, folder, params.model_copy(update={"precision": "bf16"}))
    assert "torch-fp32" in run.path.name and run.card.precision == "fp32"
    assert "it gave a cosine of 0.9" in capsys.readouterr().err
    again = make(workspace, folder, params.model_copy(update={"precision": "bf16"}))
    assert again.path == run.path and again.computed == 0


def test_a_training_reads_features_of_its_own_precision():
    wanted = feature_params(TrainParams(unfreeze=0, augmentations=1, precision="auto", input_size_px=64))
    assert wanted is not None and wanted.precision == "auto" and wanted.input_size_px == 64
    assert feature_params(TrainParams(unfreeze=0, augmentations=1)).precision == "fp32"


def test_a_training_that_restyles_its_patches_reads_no_table():
    assert feature_params(TrainParams(unfreeze=0, augmentations=1, style=True)) is None

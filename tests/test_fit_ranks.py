"""Several processes fit one network: each takes its share of a batch, and the weights are those of one process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, fresh_backbone, narrow_data, params, weights_of
from safetensors.torch import load_file, save_file

from models.fitting.fit import fit_classifier
from models.fitting.ranks import Ranks
from models.fitting.state import EpochRecord

#: 47 source patches in batches of 16: neither the batches nor the last one of them divide by two
CASES = {
    "last stage": {"unfreeze": 1, "epochs": 3},
    "all stages, statistics learned": {"unfreeze": 5, "epochs": 3, "batchnorm": "adaptive"},
    "dann": {"unfreeze": 5, "epochs": 3, "batchnorm": "adaptive", "adaptation": "dann"},
    "two networks that teach each other": {"unfreeze": 1, "epochs": 2, "adaptation": "mutual"},
    "accumulated, attention over planes": {"unfreeze": 2, "epochs": 2, "accumulate": 2, "pooling": "attention"},
    "readers' outlines as masks": {"unfreeze": 3, "epochs": 2, "batchnorm": "adaptive", "mask_weight": 1.0},
    "head on frozen features": {"unfreeze": 0, "epochs": 3},
}


def odd_data():
    data = narrow_data()
    train = data.train.rows(torch.arange(47).numpy())
    # Discs are outlined, what has no disc is outlined by nobody.
    outlined = replace(
        train, masks=np.where(train.patches > 160, train.labels[:, None, None, None] * 255, 0).astype("u1")
    )
    return type(data)(outlined, data.validation, target=data.target)


def fit_every_case(folder: Path) -> dict[str, list[EpochRecord]]:
    """Weights of every case as NAME.safetensors of this rank, and their history."""
    histories = {}
    for name, changes in CASES.items():
        data = odd_data()
        state = folder / f"state of {name}"
        result = fit_classifier(data, params(**changes), SPEC, fresh_backbone(data), state_dir=state)
        save_file(weights_of(result), folder / f"{name}-{Ranks.current().rank}.safetensors")
        histories[name] = list(result.history)
    return histories


def run_as(rank: int, size: int, folder: Path) -> None:
    """What each of the two processes does."""
    store = torch.distributed.FileStore(str(folder / "store"), size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        fit_every_case(folder)
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def fitted_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, __file__, str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-2000:]
    return folder


@pytest.fixture(scope="module")
def fitted_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    fit_every_case(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_weights_of_one(fitted_by_one: Path, fitted_by_two: Path, case: str) -> None:
    alone = load_file(fitted_by_one / f"{case}-0.safetensors")
    together = load_file(fitted_by_two / f"{case}-0.safetensors")
    start = fresh_backbone(odd_data()).state_dict()
    moved = max(float((alone[f"backbone.{name}"] - value).abs().max()) for name, value in start.items())
    for name, value in alone.items():
        assert torch.allclose(together[name].float(), value.float(), atol=2e-5, rtol=1e-4), name
    assert moved > 1e-4 or CASES[case]["unfreeze"] == 0, "the fit has changed nothing, so nothing was compared"


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_bits(fitted_by_two: Path, case: str) -> None:
    first, second = (load_file(fitted_by_two / f"{case}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_one_process_goes_on_from_the_state_that_two_have_written(fitted_by_two: Path) -> None:
    seen: list[EpochRecord] = []
    data = odd_data()
    result = fit_classifier(
        data,
        params(**CASES["last stage"]),
        SPEC,
        fresh_backbone(data),
        state_dir=fitted_by_two / "state of last stage",
        on_epoch=seen.append,
    )
    assert seen == []
    finished = load_file(fitted_by_two / "last stage-0.safetensors")
    assert all(torch.equal(value, finished[name]) for name, value in weights_of(result).items())


def test_rows_are_shared_out_whole_and_in_order() -> None:
    for n in range(7):
        rows = [list(range(n))[Ranks(rank, 3).share(n)] for rank in range(3)]
        assert list(chain(*rows)) == list(range(n))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


if __name__ == "__main__":
    run_as(int(sys.argv[2]), 2, Path(sys.argv[1]))

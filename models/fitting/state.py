"""The state of a fit after an epoch, so that a killed fit goes on with the same result.

Tensors are safetensors files named after their epoch; state.json, written last and by rename, says
which of them count and what their sha256 is. Whatever it does not name is a leftover and is removed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from data_contracts.records import sha256_file, write_bytes_atomic

_JSON = "state.json"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: losses, validation figures, learning rate.

    adaptation_loss: None without one. figures: of the adaptation, such as domain_accuracy (0.5: the discriminator is
    fooled), and mask_loss where masks are a target.
    """

    epoch: int
    train_loss: float
    classification_loss: float
    adaptation_loss: float | None
    validation_loss: float | None
    validation_auc: float | None
    learning_rate: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class FitState:
    """Everything a fit needs to go on after `history`."""

    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    learner: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's running averages and counters as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put `optimizer_tensors` back."""
    body = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    body["state"] = state
    optimizer.load_state_dict(body)


def save_state(directory: Path, digest: str, state: FitState) -> None:
    """Write the state of the fit `digest`; the one before stays valid until the new one is whole."""
    epoch = state.history[-1].epoch
    files = {"now": f"now-{epoch:04d}.safetensors", "best": f"best-{state.best_epoch or 0:04d}.safetensors"}
    now = {f"learner.{name}": value for name, value in state.learner.items()}
    now.update({f"optimizer.{name}": value for name, value in state.optimizer.items()})
    write_bytes_atomic(directory / files["now"], save({name: value.contiguous() for name, value in now.items()}))
    if not (directory / files["best"]).is_file() or state.best_epoch == epoch:
        best = {name: value.contiguous() for name, value in state.best.items()}
        write_bytes_atomic(directory / files["best"], save(best))
    body = {
        "digest": digest,
        "files": files,
        "sha256": {part: sha256_file(directory / name) for part, name in files.items()},
        "best_epoch": state.best_epoch,
        "history": [vars(record) for record in state.history],
    }
    write_bytes_atomic(directory / _JSON, json.dumps(body, indent=1).encode())
    for leftover in directory.glob("*.safetensors"):
        if leftover.name not in files.values():
            leftover.unlink(missing_ok=True)


def load_state(directory: Path, digest: str) -> FitState | None:
    """The saved state of the fit `digest`; None where there is none, it is torn, or it belongs to another fit."""
    try:
        body = json.loads((directory / _JSON).read_bytes())
        if body["digest"] != digest:
            return None
        now, best = (_checked(directory / body["files"][part], body["sha256"][part]) for part in ("now", "best"))
        history = [EpochRecord(**record) for record in body["history"]]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    except Exception as error:
        # safetensors raises an error type of its own that derives from Exception alone.
        if type(error).__name__ == "SafetensorError":
            return None
        raise
    return FitState(history, body["best_epoch"], _under(now, "learner."), _under(now, "optimizer."), best)


def _checked(path: Path, sha256: str) -> dict[str, Tensor]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path.name} is not what was written")
    return load(content)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

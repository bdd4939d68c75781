"""A network's tensors as checkpoint.safetensors; loaded only where the card's digest fits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from safetensors.torch import load, save

from data_contracts.errors import UsageError, WeightsDigestError, WeightsError
from data_contracts.model_card import ModelCard
from data_contracts.records import sha256_file, write_bytes_atomic
from models.networks.inflate import as_volumetric
from models.networks.joined import build_backbones
from models.networks.network import HeadKind, NetworkPlan, NoduleNetwork, build_network

CHECKPOINT_FILE = "checkpoint.safetensors"


def save_network(directory: Path, network: NoduleNetwork) -> str:
    """Write checkpoint.safetensors, whole or not at all; returns its sha256. The same weights give the same bytes."""
    path = directory / CHECKPOINT_FILE
    write_bytes_atomic(path, save({name: value.contiguous() for name, value in network.state_dict().items()}))
    return sha256_file(path)


def load_network(directory: Path, card: ModelCard) -> NoduleNetwork:
    """The network of a card.

    Raises
    ------
    WeightsDigestError: the file has another sha256 than the card says; nothing of it is loaded.
    WeightsError: no file, an unknown backbone or head, or tensors of other names or shapes.
    """
    path = directory / CHECKPOINT_FILE
    if not path.is_file():
        raise WeightsError("no checkpoint beside the model card", where=CHECKPOINT_FILE)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.checkpoint_sha256:
        raise WeightsDigestError(
            f"the checkpoint has sha256 {digest[:12]}..., its card says {card.checkpoint_sha256[:12]}...",
            where=path.name,
            todo="Restore the folder from its source; nothing was loaded.",
        )
    try:
        backbone = as_volumetric(build_backbones(card.backbone, card.members, seed=0), card.input.volumetric)
        network = build_network(backbone, NetworkPlan(cast(HeadKind, card.head), card.pooling, card.concepts), seed=0)
    except UsageError as error:
        raise WeightsError(error.what, where="model card", todo=error.todo) from None
    try:
        state = load(content)
        network.load_state_dict(state)
    except Exception:
        raise WeightsError(
            f"the checkpoint does not hold the tensors of {card.backbone} with a {card.head} head",
            where=CHECKPOINT_FILE,
            todo="Train again, or restore the folder from its source.",
        ) from None
    return network.eval()


def restore_network(directory: Path, network: NoduleNetwork, sha256: str) -> None:
    """Fill `network` with the tensors that `save_network` wrote; raises WeightsDigestError where they have changed."""
    path = directory / CHECKPOINT_FILE
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsDigestError(
            "the weights of a fitted network are not what was written",
            where=f"{directory.name}/{CHECKPOINT_FILE}",
            todo="Remove that folder of the run and train again; nothing was loaded.",
        )
    network.load_state_dict(load(content))

"""Weights for a backbone: torchvision's, a local file (MedicalNet's too), or none; never one in place of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data_contracts.errors import WeightsDigestError, WeightsError
from data_contracts.records import sha256_file
from models.networks.backbones import Backbone
from models.weights.download import torchvision_file

NO_WEIGHTS = "none"
AUTO = "auto"
#: wrappers in which others save a state, and prefixes they put before its names
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "backbone.", "model.", "encoder.")
_CLASSIFIERS = ("fc.", "classifier.", "head.")


@dataclass(frozen=True)
class WeightsInfo:
    """Where the numbers came from. source: "none", torchvision's name of them, or the file's name."""

    source: str
    sha256: str
    pretrained: bool


def load_weights(backbone: Backbone, weights: str | Path, sha256: str = "") -> WeightsInfo:
    """Load weights into `backbone` in place.

    Parameters
    ----------
    weights: "auto" (torchvision's default, from torch hub's cache or a download), "none" (the random
        numbers stay), or a local .safetensors, .pt or .pth file.
    sha256: digest that the file must have; empty accepts any and returns it.

    Raises
    ------
    WeightsDigestError: the file has another digest.
    WeightsError: no such file, not readable without pickle, not weights of this backbone, or none published for it.
    """
    if str(weights) == NO_WEIGHTS:
        return WeightsInfo(NO_WEIGHTS, "", pretrained=False)
    if str(weights) == AUTO:
        source, path = torchvision_file(backbone.name)
    else:
        path = Path(weights)
        source = path.name
        if not path.is_file():
            raise WeightsError("no weights file", where=path.name, todo="Give a .safetensors, .pt or .pth file.")
    digest = sha256_file(path)
    if sha256 and digest != sha256.lower():
        raise WeightsDigestError(
            f"weights have sha256 {digest[:12]}..., expected {sha256[:12]}...",
            where=path.name,
            todo="Get the file again, or name the digest it should have.",
        )
    state = _matched(backbone, read_state(path), path.name)
    backbone.load_state_dict(state)
    return WeightsInfo(source, digest, pretrained=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file, in its order; an unnamed list gets its positions as names. Nothing is unpickled."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            "weights cannot be read as plain tensors", where=path.name, todo="Give a .safetensors or a state_dict .pt."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if isinstance(loaded, list | tuple):
        loaded = {str(position): value for position, value in enumerate(loaded)}
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError("weights file holds no state of tensors", where=path.name)
    return dict(loaded)


def _matched(backbone: Backbone, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The state under this backbone's names: matched by torchvision's names, or by order and shape."""
    wanted = backbone.state_dict()
    found = _by_name(backbone, wanted, state)
    if found is None:
        found = _by_order(wanted, state)
    if found is None:
        raise WeightsError(f"weights do not belong to {backbone.name}", where=where, todo="Check --set backbone=.")
    bad = next((name for name, value in found.items() if not bool(torch.isfinite(value).all())), None)
    if bad is not None:
        raise WeightsError(f"weights hold a number that is not finite ({bad})", where=where)
    return found


def _by_name(backbone: Backbone, wanted: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    stripped = {_strip(name): value for name, value in state.items()}
    for own in (state, {name.removeprefix("backbone."): value for name, value in state.items()}):
        if all(name in own and own[name].shape == value.shape for name, value in wanted.items()):
            return {name: own[name] for name in wanted}
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, value in wanted.items():
        ours = next(prefix for prefix in backbone.torchvision_names if name.startswith(f"{prefix}."))
        theirs = backbone.torchvision_names[ours] + name[len(ours) :]
        given = stripped.get(theirs)
        if given is None and name.endswith("num_batches_tracked"):
            # Files written before torch 0.4.1 do not count batches.
            given = value
        if given is None or given.shape != value.shape:
            return None
        used.add(theirs)
        found[name] = given
    # A deeper network of the same family holds all that a shallower one asks for, and more blocks.
    rooms = {theirs.partition(".")[0] for theirs in used}
    more = [name for name in stripped if name not in used and name.partition(".")[0] in rooms]
    return None if any(not name.endswith("num_batches_tracked") for name in more) else found


def _by_order(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    given = [value for name, value in state.items() if not name.startswith(_CLASSIFIERS)]
    if len(given) != len(wanted):
        return None
    if any(one.shape != other.shape for one, other in zip(given, wanted.values(), strict=True)):
        return None
    return dict(zip(wanted, given, strict=True))


def _strip(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def calibrate_batchnorm(backbone: Backbone, images: Tensor) -> None:
    """Set the running statistics of every BatchNorm from one batch of images (N, C, [D,] H, W).

    Random weights leave mean 0 and variance 1 in them, so activations shrink or grow from stage to
    stage and features say nothing; a network trained elsewhere must not be calibrated.
    """
    layers = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    backbone.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        backbone(images)
    backbone.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum

"""torchvision's published weights as a local file: torch hub's cache, or one download that gives up soon."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import torch

from data_contracts.errors import WeightsDigestError, WeightsError
from data_contracts.records import atomic_path, sha256_file
from models.networks.bodies import is_torchvision_classifier
from models.networks.medicalnet import MEDICALNETS, PREFIX

#: Seconds to the first byte; a firewall that drops packets must not hold a run for minutes.
CONNECT_TIMEOUT_S = 6.0
_CHUNK_BYTES = 1 << 20


def torchvision_file(name: str) -> tuple[str, Path]:
    """(torchvision's name of the weights, local file) of a backbone's default ImageNet weights.

    Raises
    ------
    WeightsDigestError: the file that is cached is another one than its name says.
    WeightsError: nobody publishes them, or not cached and not to be had, with the ways to supply them.
    """
    from torchvision import models

    if name in MEDICALNETS:
        raise WeightsError(
            f"weights of {name} are never downloaded",
            todo=f"Get resnet_{name.removeprefix(PREFIX)}_23dataset.pth (or resnet_{name.removeprefix(PREFIX)}.pth) of "
            "MedicalNet (github.com/Tencent/MedicalNet) and give it with --weights FILE, or start from random numbers "
            "with --set weights=none.",
        )
    if not is_torchvision_classifier(name):
        raise WeightsError(
            f"nobody publishes weights of {name}",
            todo="Start from random numbers with --set weights=none, or give a local file with --weights FILE.",
        )

    choices = models.get_model_weights(name)
    entry = choices["IMAGENET1K_V2"] if "IMAGENET1K_V2" in choices.__members__ else choices["DEFAULT"]
    url = str(entry.url)
    file_name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not path.is_file():
        _download(url, path, name)
    elif not sha256_file(path).startswith(_digest_in(path)):
        raise WeightsDigestError(
            "cached weights have another digest than their name says",
            where=path.name,
            todo="Remove the file from torch hub's cache; it is fetched again.",
        )
    return f"torchvision {type(entry).__name__}.{entry.name}", path


def _download(url: str, path: Path, backbone: str) -> None:
    outcome: list[object] = []

    def connect() -> None:
        try:
            outcome.append(urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S))
        except Exception as error:
            outcome.append(error)

    # A name server that does not answer ignores the socket's timeout, so the wait has its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    stream = outcome[0] if outcome else TimeoutError()
    if isinstance(stream, BaseException):
        raise _unavailable(backbone, type(stream).__name__)
    digest = hashlib.sha256()
    try:
        with stream, atomic_path(path) as temporary, temporary.open("wb") as file:  # type: ignore[attr-defined]
            while chunk := stream.read(_CHUNK_BYTES):  # type: ignore[attr-defined]
                digest.update(chunk)
                file.write(chunk)
            if not digest.hexdigest().startswith(_digest_in(path)):
                raise WeightsDigestError("downloaded weights have another digest than their name says", where=path.name)
    except OSError as error:
        raise _unavailable(backbone, type(error).__name__) from None


def _digest_in(path: Path) -> str:
    """The first figures of the sha256 of published weights, which end their file's name."""
    return path.stem.rsplit("-", 1)[-1]


def _unavailable(backbone: str, reason: str) -> WeightsError:
    return WeightsError(
        f"ImageNet weights of {backbone} are neither cached nor reachable ({reason})",
        todo="Three ways: connect to the internet once; give a local file with --weights FILE; "
        "or go on with random weights, which is then written everywhere, by --set weights=none.",
    )

"""`torchrun ... -m flows train` starts the same command on every rank: the first does it, the others help in its fits.

Only the first rank writes files, speaks to Prefect and MLflow and prints the answer. The others wait for its word
which network to fit next, fit it with it, and end when it has ended. A rank that dies takes the others with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from data_contracts.errors import NoduleflowError

#: the others wait this long for the first, which extracts features and evaluates between fits; a dead rank is noticed
#: at once by its closed connection
_PATIENCE = timedelta(days=2)


def rank() -> int:
    """This process's rank as torchrun tells it; 0 alone."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes torchrun has started; 1 alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group() -> Iterator[None]:
    """The ranks' process group (gloo) for the duration of a block; nothing where this process is alone."""
    if size() == 1:
        yield
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise NoduleflowError(
            "the ranks do not find each other",
            where=type(error).__name__,
            todo="Start them with torchrun; MASTER_ADDR must be reachable.",
        ) from None
    try:
        yield
        if rank() == 0:
            announce({})
    finally:
        dist.destroy_process_group()


def announce(message: dict[str, Any]) -> None:
    """Tell the other ranks what is done next; an empty message ends them."""
    if size() > 1:
        _broadcast(json.dumps(message).encode())


def help_first(act: Callable[[dict[str, Any]], None]) -> None:
    """Do what the first rank announces until it has ended."""
    while message := json.loads(_broadcast(b"")):
        act(message)


def _broadcast(content: bytes) -> bytes:
    import torch
    import torch.distributed as dist

    length = torch.tensor([len(content)])
    dist.broadcast(length, 0)
    body = torch.frombuffer(bytearray(content.ljust(int(length), b" ")), dtype=torch.uint8)
    dist.broadcast(body, 0)
    return bytes(body.numpy())

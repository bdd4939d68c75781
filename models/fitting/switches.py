"""What a fit sets in torch for its duration and puts back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_contracts.errors import NoduleflowError


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads inside the block (0: as it is)."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside the block torch refuses operations whose result is not the same every time.

    Raises
    ------
    NoduleflowError: an operation of the fit has no such form; it is named.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None and "CUBLAS_WORKSPACE_CONFIG" not in str(error):
            raise
        raise NoduleflowError(
            "an operation of this fit does not give the same result every time",
            where=found.group(1) if found else "cuBLAS without CUBLAS_WORKSPACE_CONFIG=:4096:8",
            todo="Choose another backbone or pooling, or set deterministic=false.",
        ) from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

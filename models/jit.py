"""Compilation of the few kernels that tensors' own operations are too slow for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
#: Sums may be fused, but neither reordered nor freed from NaN: the same code gives the same bytes.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def jit(kernel: _Kernel) -> _Kernel:
    """`kernel` as machine code that runs beside other Python threads.

    The code is kept beside the module, else in the user's cache folder (`NUMBA_CACHE_DIR` names another), where several
    processes may write it at once; an installation that may write nowhere compiles anew in each process.
    """
    try:
        return cast(_Kernel, numba.njit(cache=True, **_OPTIONS)(kernel))
    except RuntimeError:  # numba found no place for its cache
        return cast(_Kernel, numba.njit(**_OPTIONS)(kernel))


def inlined(kernel: _Kernel) -> _Kernel:
    """A part of kernels that becomes part of their loops."""
    return cast(_Kernel, numba.njit(inline="always")(kernel))

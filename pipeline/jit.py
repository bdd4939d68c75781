"""Compilation of the few numerical kernels: run without the interpreter's lock, kept on disk where there is a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def jit(kernel: _Kernel) -> _Kernel:
    """`kernel` as machine code that runs beside other Python threads.

    The code is kept beside the module, else in the user's cache folder (`NUMBA_CACHE_DIR` names another), where several
    processes may write it at once; an installation that may write nowhere compiles anew in each process.
    """
    try:
        return cast(_Kernel, numba.njit(nogil=True, cache=True, error_model="numpy")(kernel))
    except RuntimeError:  # numba found no place for its cache
        return cast(_Kernel, numba.njit(nogil=True, error_model="numpy")(kernel))

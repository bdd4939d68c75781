"""Compilation of the few numerical kernels: without the interpreter's lock, kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def jit(kernel: _Kernel) -> _Kernel:
    """`kernel` as machine code that runs beside other Python threads.

    The code is kept beside the module, else in the user's cache folder (`NUMBA_CACHE_DIR` names another), where several
    processes may write it at once; an installation that may write nowhere compiles anew in each process.
    """
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(kernel)  # type: ignore[no-any-return]
    except RuntimeError:  # numba found no place for its cache
        return numba.njit(nogil=True, error_model="numpy")(kernel)  # type: ignore[no-any-return]

"""Memory of large tensors kept by the process between uses, where the C library is glibc.

By default glibc asks the system for every large block and gives it back at once, so each activation of a network is
fresh memory whose pages are zeroed at first touch: a million page faults for one pass of 32 images through ResNet50.
`mallopt(3)` lets freed blocks stay. It is called where work in torch begins, never at import.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 2**31 - 1  # the most that mallopt's int can say
_MAPPED_FROM_BYTES = 2**30


@cache
def keep_heap() -> bool:
    """Keep freed blocks below 1 GiB for the rest of this process; False where the C library is not glibc."""
    library = _glibc()
    if library is None:
        return False
    mapped = library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
    return bool(mapped and library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def give_back() -> None:
    """Return what is free to the system, after a long piece of work; what follows may be another's."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library

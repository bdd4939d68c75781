"""Reading the arrays of an .npz file from a stranger: never a pickle, never a traceback."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import UsageError


def array_names(path: Path) -> frozenset[str]:
    """Names of the arrays in the file; raises UsageError where it is missing or no .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except FileNotFoundError:
        raise UsageError("no such file", where=path.name) from None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UsageError(
            "not an .npz file, or it was cut short", where=path.name, todo="Fetch it again and compare its checksum."
        ) from error


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[np.generic]]:
    """These arrays of the file.

    Raises
    ------
    UsageError: the file is missing or torn, an array is not in it, or is a pickle of Python objects.
    """
    there = array_names(path)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in names:
        if name not in there:
            raise UsageError(
                f"no array {name!r}", where=path.name, todo=f"There: {', '.join(sorted(there)) or 'none'}."
            )
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays[name] = archive[name]
        except ValueError as error:
            raise UsageError(
                f"array {name!r} holds Python objects, or is no array; pickles are not opened",
                where=path.name,
                todo="Save it as numbers (uint8).",
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, MemoryError) as error:
            raise UsageError(
                f"array {name!r} cannot be read", where=path.name, todo="Fetch the file again and compare its checksum."
            ) from error
    return arrays

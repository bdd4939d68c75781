"""Whether something new can be written at a place, asked before the work that would fill it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from data_contracts.errors import UsageError


def check_place(path: Path) -> None:
    """Try the folder that `path`, or the first of its folders that is missing, would be made in; nothing is left there.

    A folder that holds something is not tried.

    Raises
    ------
    UsageError: a file stands where a folder is needed, the name is too long, or nothing may be written there.
    """
    try:
        if path.is_dir() and any(path.iterdir()):
            return  # whether that is what was to be written is for the caller to say
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise UsageError(
                f"{above.name} is no folder, so nothing can be written in it",
                where=str(path),
                todo="Name another place.",
            )
        Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=above)).rmdir()
    except OSError as error:
        reason = f" ({error.strerror})" if error.strerror else ""
        raise UsageError(f"nothing can be written there{reason}", where=str(path), todo="Name another place.") from None

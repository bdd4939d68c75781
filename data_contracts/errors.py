"""The error tree. Libraries raise; only the command line turns an error into an exit status.

NoduleflowError                 1  something failed
|-- UsageError                  2  wrong command line, configuration or file layout
|   |-- UnknownParameterError   2  a key that no parameter class has
|   `-- WeightsError            2  weights cannot be had, or are not what they claim to be
|       `-- WeightsDigestError  2  sha256 differs from the one expected
|-- NothingUsableError          3  nothing in the input could be used
|-- AnnotationError             3  an annotation file that cannot be read or matched
|-- ContractError               1  a record or table breaks its contract
|   `-- SchemaVersionError      1  written by a version this one does not know
|-- GeometryError               1  a grid that cannot hold the data
|-- DecodeError                 1  pixels or header that cannot be read
|-- LeakError                   1  one patient in two splits
|-- GateRefusedError            4  a promotion gate said no
|   `-- StaleExpectationError   4  the champion is not the version the caller expected
|-- ExchangeError               1  a server that does not answer, refuses, or answers not as DICOM says
|-- RegistryError               1  the registry is not as the last promotion or rollback left it
`-- WorkspaceError              1  the workspace cannot be written, locked or understood
"""

from __future__ import annotations

import errno
import re
from typing import ClassVar


class NoduleflowError(Exception):
    """One clear line: what happened, where, and what to do about it.

    Parameters
    ----------
    what: what went wrong, without a full stop.
    where: file, table, series key or option concerned; never a patient's identifier.
    todo: what the reader can do now.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        self.what = what
        self.where = where
        self.todo = todo
        super().__init__(self.line())

    def line(self) -> str:
        """The message on one line, safe for a log."""
        text = self.what
        if self.where:
            text = f"{text}: {self.where}"
        if self.todo:
            text = f"{text}. {self.todo}"
        return " ".join(text.split())

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.todo))


def _rebuild(kind: type[NoduleflowError], what: str, where: str, todo: str) -> NoduleflowError:
    return kind(what, where=where, todo=todo)


class UsageError(NoduleflowError):
    exit_status = 2


class UnknownParameterError(UsageError):
    pass


class WeightsError(UsageError):
    pass


class WeightsDigestError(WeightsError):
    pass


class NothingUsableError(NoduleflowError):
    exit_status = 3


class AnnotationError(NoduleflowError):
    exit_status = 3


class ContractError(NoduleflowError):
    pass


class SchemaVersionError(ContractError):
    pass


class GeometryError(NoduleflowError):
    pass


class DecodeError(NoduleflowError):
    pass


class LeakError(NoduleflowError):
    pass


class GateRefusedError(NoduleflowError):
    exit_status = 4


class StaleExpectationError(GateRefusedError):
    pass


class WorkspaceError(NoduleflowError):
    pass


class ExchangeError(NoduleflowError):
    pass


class RegistryError(NoduleflowError):
    pass


#: what numpy says, with no number of an error, of a file that took only a part of an array
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
#: what sqlite says of a file that is none of its own, or no longer whole
_DAMAGED = ("database disk image is malformed", "file is not a database")


def is_full_disk(error: Exception) -> bool:
    """Whether writing a file failed for want of room on the disk or in the quota."""
    if not isinstance(error, OSError):
        return False
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or (
        error.errno is None and _CUT_SHORT.fullmatch(str(error)) is not None
    )


def storage_error(error: Exception) -> WorkspaceError | None:
    """What a full or read-only disk, or a damaged database, means in one line; None for any other trouble."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if is_full_disk(error) or "database or disk is full" in text:
        return WorkspaceError("the disk is full", todo="Make room and give the same command again: it goes on.")
    if number == errno.EROFS or "attempt to write a readonly database" in text:
        return WorkspaceError(
            "the disk cannot be written (Read-only file system)", todo="Mend it and give the same command again."
        )
    if found := [words for words in _DAMAGED if words in text]:
        return damaged_database("mlflow.db or another database of the workspace", found[0])
    return None


def damaged_database(where: str, reason: str) -> WorkspaceError:
    """A database file that cannot be read any more."""
    return WorkspaceError(
        f"a database is damaged ({reason})",
        where=where,
        todo="`noduleflow doctor` says which; restore it from a backup with `noduleflow restore`.",
    )

"""From the settings to a working copy, once a process, and back to the bucket at its end."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.errors import UsageError
from data_contracts.records import write_bytes_atomic
from flows.progress import say
from flows.remote.address import MARK
from flows.workspace import Workspace

if TYPE_CHECKING:
    from flows.remote.working_copy import WorkingCopy
    from flows.settings import Settings

_KEY_CHECK = "key-check"


def bucket_of(workspace: Workspace) -> str:
    """The URL of the bucket that this folder is a working copy of; "" for a workspace of its own."""
    try:
        return (workspace.root / MARK / "url").read_text()
    except OSError:
        return ""


def open_bucket(settings: Settings) -> WorkingCopy:
    """The working copy of the settings' bucket, made where it is not there.

    Raises
    ------
    UsageError: a key is not given from outside, or is not the one of this bucket, or s3fs is not installed.
    ExchangeError: the server does not answer, or refuses.
    """
    if settings.secret is None or settings.audit_key is None:
        raise UsageError(
            "a workspace in a bucket takes its keys from outside, so that every machine has the same",
            where=settings.workspace_url,
            todo="Set NODULEFLOW_SECRET and NODULEFLOW_AUDIT_KEY, or their _FILE.",
        )
    workspace = Workspace(settings.workspace).create()
    mark = workspace.root / MARK / "url"
    if bucket_of(workspace) != settings.workspace_url:
        write_bytes_atomic(mark, settings.workspace_url.encode())
        workspace.root.chmod(0o700)
    return _connected(workspace, settings.secret.get_secret_value())


def fetched(workspace: Workspace, *paths: Path) -> None:
    """See to it that files or whole folders of a workspace are here, wherever it has them."""
    if not bucket_of(workspace) or all(path.is_file() for path in paths):
        return
    from flows.settings import configured_secret

    names = [path.relative_to(workspace.root).as_posix() for path in paths]
    _connected(workspace, configured_secret() or "").fetch(names)


@contextmanager
def shared_through_bucket(settings: Settings) -> Iterator[None]:
    """Bring the working copy up to date before, and hand on what was done after, whatever came of it."""
    if not settings.workspace_url:
        yield
        return
    copy = open_bucket(settings)
    copy.bring_in()
    try:
        yield
    finally:
        if number := copy.hand_on():
            say(f"{number} files are handed on to {settings.workspace_url}")


def needs_server(workspace: Workspace, what: str, setting: str) -> None:
    """Refuse an embedded server for a workspace in a bucket; raises UsageError."""
    if url := bucket_of(workspace):
        raise UsageError(
            f"the database of {what} cannot lie in a bucket",
            where=url,
            todo=f"Start a server of {what} and name it in {setting}.",
        )


def _connected(workspace: Workspace, secret: str) -> WorkingCopy:
    from flows.registry.keys import workspace_id
    from flows.remote.store import ChangedError, Store
    from flows.remote.working_copy import WorkingCopy

    store = Store(bucket_of(workspace))
    check = hmac.new(secret.encode(), b"noduleflow bucket", hashlib.sha256).hexdigest()
    file = workspace.root / MARK / _KEY_CHECK
    if not file.is_file() or file.read_text() != check:
        write_bytes_atomic(file, check.encode())
        try:
            store.put(_KEY_CHECK, file, expect=None)
        except ChangedError:
            if store.read(_KEY_CHECK).decode() != check:
                file.unlink()
                raise UsageError(
                    "this bucket's workspace was made with another secret",
                    where=store.url,
                    todo="Give this machine the NODULEFLOW_SECRET of the others.",
                ) from None
    return WorkingCopy(workspace, store, workspace_id(workspace))

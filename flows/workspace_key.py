"""Which secret a workspace was made with: a keyed fingerprint beside it, and no second secret once it holds studies.

Another secret would name every patient anew, and one person would stand on both sides of a split.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.records import atomic_path
from flows.workspace_paths import WorkspacePaths

_WORD = b"noduleflow workspace"
_SETTING = "NODULEFLOW_SECRET"


def fingerprint(secret: bytes) -> str:
    """What tells a secret from another one, and nobody what it is."""
    return hmac.new(secret, _WORD, hashlib.sha256).hexdigest()


def is_taken_up(paths: WorkspacePaths, secret: bytes) -> bool:
    """Whether the workspace keeps the fingerprint of this secret."""
    return hmac.compare_digest(_kept(paths), fingerprint(secret))


def key_fault(paths: WorkspacePaths, secret: bytes | None) -> UsageError | None:
    """What is wrong with a secret for the studies that are there, None where nothing is.

    secret: None where there is none any more. A workspace of an earlier program has no fingerprint: its sealed
    identities tell as much.
    """
    if not _holds_studies(paths):
        return None
    if secret is None:
        return UsageError(
            "the key of the pseudonyms is gone, and series were named with it",
            where=str(paths.secret_file),
            todo=f"Restore secret.key from the backup, or set {_SETTING} again if it was set.",
        )
    kept = _kept(paths)
    if hmac.compare_digest(kept, fingerprint(secret)) if kept else _opens(paths, secret):
        return None
    return UsageError(
        "the studies of this workspace were named with another secret",
        where=str(paths.root),
        todo=f"Restore secret.key from the backup, or set {_SETTING} to what it was; unset it if it was not set.",
    )


def take_up(paths: WorkspacePaths, secret: bytes) -> None:
    """Keep the fingerprint of a secret that is about to be used; raises UsageError where another one named studies."""
    if is_taken_up(paths, secret):
        return
    if fault := key_fault(paths, secret):
        raise fault
    _write(paths.secret_check_file, fingerprint(secret))


def refuse_other_secret(paths: WorkspacePaths, given: str | None) -> None:
    """Ask, before anything is done, whether the secret is the one that named the studies that are there; reads only.

    given: what is set; the workspace's own file counts where nothing is. Where neither is there, nothing is refused:
    what can do without says what is missing.

    Raises
    ------
    UsageError: the studies were named with another secret.
    """
    secret = given.encode() if given else own_secret(paths)
    if secret is not None and (fault := key_fault(paths, secret)):
        raise fault


def own_secret(paths: WorkspacePaths, *, make: bool = False) -> bytes | None:
    """The secret of the workspace's own file; None where there is none and none is made."""
    file = paths.secret_file
    if not file.exists():
        if not make:
            return None
        _write(file, secrets.token_hex(32))
    return file.read_text().strip().encode()


def _write(file: Path, text: str) -> None:
    with atomic_path(file, mode=0o600) as temporary:
        temporary.write_text(text + "\n")


def _kept(paths: WorkspacePaths) -> str:
    try:
        return paths.secret_check_file.read_text().strip()
    except FileNotFoundError:
        return ""


def _holds_studies(paths: WorkspacePaths) -> bool:
    return any(_sealed(paths)) or any(paths.series_root.glob("[!.]*"))


def _sealed(paths: WorkspacePaths) -> list[str]:
    """Keys of the studies whose identity is sealed."""
    return sorted(file.stem for file in paths.identity_root.glob("[!.]*.sealed"))


def _opens(paths: WorkspacePaths, secret: bytes) -> bool:
    """Whether a secret opens one of the sealed identities; also where none is sealed, which tells nothing."""
    from pipeline.deidentify.vault import Vault

    keys = _sealed(paths)
    vault = Vault(paths.identity_root, secret)

    def opens(key: str) -> bool:
        try:
            vault.open(key)
        except UsageError:
            return False
        return True

    return not keys or any(map(opens, keys))

"""The key that audit lines, states and sign-offs are signed with, so that nobody without it can make them anew."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
from pathlib import Path
from typing import Any

from data_contracts.errors import RegistryError
from data_contracts.records import Record, atomic_path
from flows.settings import shared_registry_secrets
from flows.workspace import Workspace

_KEY_FILE = "audit.key"


def registry_root(workspace: Workspace) -> Path:
    """Where the key and the anchor of the audit are."""
    return workspace.root / "registry"


def audit_key(workspace: Workspace) -> bytes:
    """The key of the settings, or this workspace's own file (mode 600), made once.

    Raises
    ------
    RegistryError: the file is empty.
    """
    if (given := shared_registry_secrets()[0]) is not None:
        return given.encode()
    path = registry_root(workspace) / _KEY_FILE
    if not path.exists():
        with workspace.lock("audit-key"):
            if not path.exists():
                with atomic_path(path, mode=0o600) as temporary:
                    temporary.write_text(secrets.token_hex(32) + "\n")
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    key = path.read_text().strip().encode()
    if not key:
        raise RegistryError("the audit key is empty", where=f"registry/{_KEY_FILE}", todo="Restore it from a backup.")
    return key


def has_key(workspace: Workspace) -> bool:
    """Whether this workspace has signed anything yet, or could have."""
    return shared_registry_secrets()[0] is not None or (registry_root(workspace) / _KEY_FILE).exists()


def workspace_id(workspace: Workspace) -> str:
    """Short name of a workspace in the shared registry: of its own key, or of machine and folder under a shared one."""
    key = audit_key(workspace)
    own = "" if shared_registry_secrets()[0] is None else f"{socket.gethostname()}\n{workspace.root}"
    return hmac.new(key, f"workspace\n{own}".encode(), hashlib.sha256).hexdigest()[:12]


def sign(key: bytes, purpose: str, *parts: str) -> str:
    """HMAC-SHA256 of some text for one purpose; what was signed for another one does not fit."""
    return hmac.new(key, "\n".join((purpose, *parts)).encode(), hashlib.sha256).hexdigest()


def sign_record(key: bytes, purpose: str, record: Record) -> str:
    """HMAC-SHA256 of a record without its own `mac`."""
    return sign(key, purpose, canonical(record.model_dump(mode="json", exclude={"mac"})))


def canonical(value: Any) -> str:
    """One JSON text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def same(one: str, other: str) -> bool:
    """Compare two signatures in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())

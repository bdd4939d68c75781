"""Work that leaves this process: what a worker must share with it, and parameters that only the key opens.

A worker reads the workspace and its key for itself: neither key nor header is sent through a cluster. What a task
needs of headers lies sealed in scratch/ of the workspace for as long as the flow runs (AES-256-GCM, a key derived from
the secret by HKDF-SHA256).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.errors import UsageError
from data_contracts.records import atomic_path
from flows.running.plan import configured_plan
from flows.settings import Settings, apply_to_work, configured_secret
from flows.workspace import Workspace
from flows.workspace_key import own_secret

_NONCE_BYTES = 12


@dataclass(frozen=True)
class Terms:
    """What a worker must have in common with the flow: the folder `desk` proves that both see the same workspace.

    key: digest of the secret, by which nobody finds it. mlflow: digest of the address of the MLflow server.
    """

    root: str
    desk: str
    program: str
    key: str
    mlflow: str

    def enter(self) -> Workspace:
        """Take the worker's own settings and return the workspace; raises UsageError where something is not shared."""
        from flows.log_filter import install

        install()
        settings = Settings()
        apply_to_work(settings)
        workspace = Workspace(Path(self.root))
        if not (workspace.scratch_root / self.desk).is_dir():
            raise UsageError(
                "a worker does not see the workspace",
                where=self.root,
                todo="Put it on a file system that every worker has at the same path.",
            )
        given = configured_secret()
        secret = given.encode() if given else own_secret(workspace)
        mine = _program(), _key_digest(secret or b""), _mlflow_digest()
        for own, asked, what, todo in (
            (mine[0], self.program, "runs another version of noduleflow", "Install the same one on every machine."),
            (mine[1], self.key, "has another key", "Give it the same NODULEFLOW_SECRET, or none."),
            (mine[2], self.mlflow, "uses another MLflow", "Give it the same NODULEFLOW_MLFLOW_TRACKING_URI."),
        ):
            if own != asked:
                raise UsageError(f"a worker {what}", todo=todo)
        return workspace

    def seal(self, name: str, content: Any) -> None:
        """Put JSON-able content on the desk, so that only holders of the key can read it."""
        workspace = Workspace(Path(self.root))
        nonce = os.urandom(_NONCE_BYTES)
        body = zlib.compress(json.dumps(content).encode(), 1)
        sealed = nonce + _cipher(workspace).encrypt(nonce, body, name.encode())
        with atomic_path(workspace.scratch_root / self.desk / name, mode=0o600) as temporary:
            temporary.write_bytes(sealed)

    def unseal(self, name: str) -> Any:
        """What `seal` put there; `enter` comes first."""
        workspace = Workspace(Path(self.root))
        sealed = (workspace.scratch_root / self.desk / name).read_bytes()
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return json.loads(zlib.decompress(_cipher(workspace).decrypt(nonce, body, name.encode())))


_one = threading.Lock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the right to a piece of work that takes every core of this process and draws with state it shares.

    By a function, because a task that travels takes the names that it uses with it, and a lock does not travel.
    """
    with _one:
        yield


@contextmanager
def terms_of(workspace: Workspace) -> Iterator[Terms | None]:
    """The terms of a flow whose tasks run in other processes; None where they run in this one."""
    if not configured_plan().elsewhere:
        yield None
        return
    # Named as the scratch of an ingest, which is cleared after a kill.
    desk = f"ingest-{os.getpid()}-desk-{secrets.token_hex(8)}"
    folder = workspace.scratch_root / desk
    folder.mkdir(parents=True)
    try:
        yield Terms(
            str(workspace.root), desk, _program(), _key_digest(workspace.secret(configured_secret())), _mlflow_digest()
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program() -> str:
    from pipeline.intake.known_source import program_digest

    return program_digest()


def _mlflow_digest() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or Settings().mlflow_tracking_uri
    # mlflow exports the sqlite of the workspace too, which every worker has with the workspace
    return "" if not uri or uri.startswith("sqlite:") else hashlib.sha256(uri.encode()).hexdigest()[:16]


def _derived(secret: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"noduleflow " + purpose).derive(secret)


def _key_digest(secret: bytes) -> str:
    return _derived(secret, b"terms 1").hex()[:16]


def _cipher(workspace: Workspace) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derived(workspace.secret(configured_secret()), b"desk 1"))

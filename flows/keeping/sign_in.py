"""Whether MLflow's server lets us in, now and once its users are those of the backup."""

from __future__ import annotations

import os
from pathlib import Path

from data_contracts.errors import UsageError, WorkspaceError
from flows.keeping import databases

_TIMEOUT_S = 10.0
_TODO = (
    "Put mlflow-admin-password back as it was where the backup was made, start MLflow anew on an empty database, "
    "and run this again; nothing was changed."
)


def check_sign_in(tracking_uri: str, dump: Path | None) -> None:
    """Ask the server, and compare our password with the one in the dump, which will be asked for afterwards.

    Raises
    ------
    UsageError: the password is not that of the server, or not that of the backup.
    WorkspaceError: the server does not answer.
    """
    import httpx

    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    address = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        auth = (user, password) if user and password else None
        status = httpx.get(address, params={"max_results": 1}, auth=auth, timeout=_TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        raise WorkspaceError(
            f"the MLflow server does not answer ({type(error).__name__})",
            where=tracking_uri,
            todo="Start it: its artifacts are restored through it. Nothing was changed.",
        ) from None
    if status in (401, 403):
        raise UsageError(
            f"the MLflow server refuses NODULEFLOW_MLFLOW_USER with its password (HTTP {status})",
            where=tracking_uri,
            todo=_TODO,
        )
    kept = databases.dumped_rows(dump, "users") if dump is not None else []
    hashes = [row["password_hash"] for row in kept if row.get("username") == user and row.get("password_hash")]
    if not hashes:
        return
    from werkzeug.security import check_password_hash

    if not check_password_hash(hashes[0], password):
        raise UsageError(
            f"the backup's MLflow has another password for {user} than NODULEFLOW_MLFLOW_PASSWORD", todo=_TODO
        )

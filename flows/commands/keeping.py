"""backup and restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session

_WITHOUT_SERVERS = typer.Option(
    "--without-servers", help="Leave databases and artifacts of MLflow and Prefect servers to other means."
)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the backup.")],
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Without volumes, datasets, features and inbox.")
    ] = False,
    without_servers: Annotated[bool, _WITHOUT_SERVERS] = False,
) -> None:
    """Copy everything a site has, with its databases and keys, while work goes on."""
    from data_contracts.errors import UsageError

    if (url := session.settings().workspace_url) and not tables_only:
        raise UsageError(
            "the workspace is in a bucket, and its volumes are not all here",
            where=url,
            todo="Back the bucket up as such (versioning, a copy), and the rest with --tables-only.",
        )
    settings, workspace = session.open()
    workspace.require()
    from flows.keeping.backup import back_up

    record, text = back_up(workspace, settings, folder, tables_only=tables_only, without_servers=without_servers)
    session.emit(record, text)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A backup.")],
    check: Annotated[bool, typer.Option("--check", help="Only compare it with its digests; write nothing.")] = False,
    without_servers: Annotated[bool, _WITHOUT_SERVERS] = False,
) -> None:
    """Make a workspace out of a backup, in an empty folder and unused databases."""
    from data_contracts.errors import UsageError

    if url := session.settings().workspace_url:
        raise UsageError(
            "a backup is restored into a folder",
            where=url,
            todo="Restore to a new folder with --workspace DIR, and copy that to an empty bucket.",
        )
    settings, workspace = session.open()
    from flows.keeping.restore import restore as put_back

    record, text = put_back(workspace, settings, folder, check_only=check, without_servers=without_servers)
    session.emit(record, text)

"""listen and push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import app, session
from flows.commands.data import SetOption

if TYPE_CHECKING:
    from data_contracts.params import IngestParams


@app.command()
def listen(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 11112,
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    aet: Annotated[str, typer.Option(help="Our AE title.")] = "NODULEFLOW",
    once_idle: Annotated[
        float, typer.Option("--once-idle", metavar="SECONDS", min=0, help="End when nothing came for so long.")
    ] = 0,
    ingest: Annotated[bool, typer.Option("--ingest", help="Ingest each study once it has settled.")] = False,
    site: Annotated[str, typer.Option(help="Name of the site the studies come from.")] = "site",
    keep_identity: Annotated[bool, typer.Option("--keep-identity", help="Keep direct identifiers in tables.")] = False,
    settings_: SetOption = None,
) -> None:
    """Receive DICOM (C-STORE) into the workspace's inbox, until it is ended."""
    from data_contracts.params import IngestParams
    from flows.intake.listening import listen as receive
    from flows.intake.listening import sole_ingest
    from flows.intake.peers import listener_params
    from flows.keeping.binding import check_binding
    from flows.presets import assignments

    params = IngestParams.from_mapping(assignments(settings_), where="--set")
    settings, workspace = session.open()
    peer = listener_params(bind, port, aet)
    check_binding(
        bind,
        authenticated=bool(peer.calling_hosts),
        server="the DICOM listener",
        todo="Name who may send in NODULEFLOW_DICOM_CALLING_HOSTS (addresses or networks; 0.0.0.0/0 is everybody).",
    )
    if not ingest:
        record = receive(workspace.create(), peer, settle_s=settings.settle_s, once_idle_s=once_idle, ingest=None)
        session.emit(record, _received(record))
        return
    with sole_ingest(workspace.create()), session.engine("flows.intake.inbox"):
        from flows.intake.inbox import inbox_flow
        from flows.intake.sources import PrivatePaths

        def ingest_claimed(folders: tuple[Path, ...]) -> dict[str, Any]:
            return inbox_flow(str(workspace.root), PrivatePaths(paths=folders), site, params, keep_identity)

        record = receive(workspace, peer, settle_s=settings.settle_s, once_idle_s=once_idle, ingest=ingest_claimed)
    session.emit(record, f"{_received(record)}; {record['accepted']} series accepted")


def _received(record: dict[str, Any]) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in record["outcomes"].items()) or "nothing"
    return f"received: {outcomes}; {record['waiting']} studies wait in the inbox"


@app.command()
def push(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE_OR_DIR...", help="DICOM files, or folders of them.")],
    dicomweb: Annotated[str, typer.Option(metavar="URL", help="Root of a DICOMweb service (STOW-RS).")] = "",
    dicom: Annotated[str, typer.Option(metavar="HOST:PORT", help="A DICOM node (C-STORE).")] = "",
    called: Annotated[str, typer.Option(metavar="AET", help="AE title of that node.")] = "",
    calling: Annotated[str, typer.Option(metavar="AET", help="Our AE title.")] = "NODULEFLOW",
) -> None:
    """Send DICOM files, as they are, to a PACS."""
    from flows.intake.sources import existing_sources

    found = existing_sources(tuple(sources))
    session.settings()
    checked_target("push", "--dicomweb", dicomweb, dicom, called, calling)
    with session.engine("flows.intake.pacs"):
        from flows.intake.pacs import PrivateTarget, push_flow

        target = PrivateTarget(url=dicomweb, node=dicom, called_aet=called, calling_aet=calling)
        record = push_flow(found, target)
    lines = [f"{record['stored']} of {record['files']} files stored"]
    lines += [f"file {item['file']}: {item['reason']}" for item in record["failed_files"]]
    session.emit(record, "\n".join(lines))
    if record["failed"]:
        raise typer.Exit(1)


def checked_target(command: str, option: str, url: str, node: str, called: str, calling: str) -> None:
    """A command stores to a DICOMweb service (`option`) or to a DICOM node; raises UsageError for what is neither."""
    from data_contracts.errors import UsageError
    from flows.intake.peers import dicom_node, dicomweb_server

    if bool(url) == bool(node):
        raise UsageError(f"{command} takes {option} or --dicom", todo=f"See `noduleflow {command} --help`.")
    if node and not called:
        raise UsageError(f"{command} --dicom takes the node's AE title", todo="Add --called AET.")
    if url:
        dicomweb_server(url)
    else:
        dicom_node(node, called, calling)


def check_origin(has_sources: bool, dicomweb: str, has_pull_options: bool, inbox: bool) -> None:
    """`ingest` takes sources, a server or the inbox; raises UsageError for none of them, or more than one."""
    from data_contracts.errors import UsageError

    n_origins = has_sources + bool(dicomweb) + inbox
    if n_origins == 0:
        raise UsageError("Missing argument 'SOURCE...'", todo="Name one, or give --dicomweb or --inbox.")
    if n_origins > 1:
        raise UsageError("ingest takes SOURCE..., --dicomweb or --inbox, one of them", todo="Run it once for each.")
    if has_pull_options and not dicomweb:
        raise UsageError("--study, --since, --limit and --keep-files need --dicomweb", todo="Add --dicomweb URL.")


def ingest_inbox(site: str, params: IngestParams, keep_identity: bool) -> None:
    """`ingest --inbox`: every study that has settled; all of them where nobody listens."""
    from flows.intake.listening import inbox_of, is_listening, sole_ingest

    settings, workspace = session.open()
    workspace.require()
    with sole_ingest(workspace):
        settle_s = settings.settle_s if is_listening(workspace) else 0.0
        claimed = tuple(inbox_of(workspace).claim_settled(settle_s))
        if not claimed:
            session.emit({"studies": 0}, "no study waits in the inbox")
            return
        with session.engine("flows.intake.inbox"):
            from flows.intake.inbox import inbox_flow
            from flows.intake.sources import PrivatePaths

            record = inbox_flow(str(workspace.root), PrivatePaths(paths=claimed), site, params, keep_identity)
    session.emit(record, _ingested(record))
    if not record["accepted"]:
        raise typer.Exit(1 if record["kept_for_another_attempt"] else 3)


def ingest_dicomweb(
    url: str,
    studies: tuple[str, ...],
    since: str,
    modality: str,
    limit: int,
    keep_files: bool,
    site: str,
    params: IngestParams,
    keep_identity: bool,
    settle_s: float,
) -> None:
    """`ingest --dicomweb`: named studies, or all since a moment."""
    from flows.intake.peers import dicomweb_server
    from flows.intake.pull_request import PrivatePull
    from flows.intake.pulling import Pull
    from pipeline.exchange.dicomweb import checked_study_uids, parse_moment

    request = PrivatePull(
        url=url,
        study_uids=checked_study_uids(studies),
        since=since if since in ("", "auto") else parse_moment(since),
        modality="" if modality.lower() == "any" else modality.upper(),
        limit=limit,
        keep_files=keep_files,
        settle_s=settle_s,
    )
    _, workspace = session.open()
    pull = Pull(workspace.create(), request, dicomweb_server(url), site, params, keep_identity)
    if (known := pull.nothing_new()) is not None:
        session.emit(known, f"nothing new ({known['series_known']} series were known)")
        return
    with session.engine("flows.intake.pull"):
        from flows.intake.pull import pull_flow

        record = pull_flow(str(workspace.root), request, site, params, keep_identity)
    counts = f"{record['instances_fetched']} instances of {record['series_fetched']} new series fetched"
    lines = [f"{counts} ({record['series_known']} series were known); {_ingested(record)}"]
    lines += [f"not whole: {gap}" for gap in record["incomplete"]]
    session.emit(record, "\n".join(lines))
    if record["incomplete"]:
        raise typer.Exit(1)


def _ingested(record: dict[str, Any]) -> str:
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "none"
    return f"{record['accepted']} series accepted ({record['new']} new), refused: {refused}"

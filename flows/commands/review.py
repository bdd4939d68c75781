"""review: reports of studies, and serving them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import app, session
from flows.commands.data import SetOption

if TYPE_CHECKING:
    from flows.settings import Settings
    from flows.workspace import Workspace


@app.command()
def review(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE...]", help="As in ingest, under its last policy; or a study_key."),
    ] = None,
    dicomweb: Annotated[str, typer.Option(metavar="URL", help="Take the study from this DICOMweb service.")] = "",
    study: Annotated[list[str] | None, typer.Option(metavar="UID", help="Of that service; may be repeated.")] = None,
    facts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is known of the patients, for the guidelines (TOML).")
    ] = None,
    site: Annotated[str, typer.Option(help="Name of the site the studies come from.")] = "review",
    version: Annotated[str, typer.Option(help="Version or alias to ask.")] = "champion",
    push: Annotated[str, typer.Option(metavar="URL", help="Store the results to a DICOMweb service (STOW-RS).")] = "",
    dicom: Annotated[str, typer.Option(metavar="HOST:PORT", help="Store them to a DICOM node (C-STORE).")] = "",
    called: Annotated[str, typer.Option(metavar="AET", help="AE title of that node.")] = "",
    calling: Annotated[str, typer.Option(metavar="AET", help="Our AE title.")] = "NODULEFLOW",
    pseudonymous: Annotated[
        bool, typer.Option("--pseudonymous", help="Store them under pseudonyms, even where the identity is known.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the reports in a browser and take the answers; SOURCE is a study_key.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 0,
    blind: Annotated[bool, typer.Option("--blind", help="Serve first readings without the model.")] = False,
    settings_: SetOption = None,
) -> None:
    """Write a report of every nodule of a study, as the champion sees it; push the results; or serve the reports."""
    if serve:
        others = {"--dicomweb": dicomweb, "--study": study, "--facts": facts, "--push": push, "--dicom": dicom}
        others |= {"--set": settings_, "--pseudonymous": pseudonymous}
        _serve(sources or [], host, port, blind, [name for name, value in others.items() if value])
        return
    from data_contracts.errors import UsageError
    from data_contracts.params import ReviewParams
    from flows.commands.pacs import checked_target
    from flows.presets import assignments
    from pipeline.exchange.dicomweb import checked_study_uids

    params = ReviewParams.from_mapping(assignments(settings_), where="--set")
    _check_source(sources or [], dicomweb, study or [])
    _opened()
    is_pushed = bool(push or dicom)
    if is_pushed:
        checked_target("review", "--push", push, dicom, called, calling)
        if not params.dicom:
            raise UsageError("nothing to store: dicom is off", todo="Leave --set dicom=false away.")
    with session.engine("flows.reviewing.review") as (settings, workspace):
        from flows.reviewing.patient_facts import keep_facts
        from flows.reviewing.review import review_flow
        from flows.reviewing.sources import pulled_study_keys, study_keys_of

        if dicomweb:
            keys = pulled_study_keys(workspace, dicomweb, checked_study_uids(tuple(study or ())), site)
        else:
            keys = study_keys_of(workspace, sources or [], site)
        if facts is not None:
            keep_facts(workspace, facts, keys)
        record = review_flow(str(workspace.root), keys, settings.model_name, version, params)
        if is_pushed:
            from flows.intake.pacs import PrivateTarget
            from flows.reviewing.results_push import push_results_flow

            target = PrivateTarget(url=push, node=dicom, called_aet=called, calling_aet=calling)
            record["push"] = push_results_flow(str(workspace.root), keys, target, pseudonymous)
    lines = [f"{item['n_findings']} findings: {item['report']}" for item in record["reports"]]
    lines.append(f"drift: {record['drift']['verdict']}" + "".join(f"; {why}" for why in record["drift"]["reasons"]))
    lines += [problem for item in record["reports"] for problem in item["problems"] if params.dicom]
    session.emit(record, "\n".join([*lines, *_pushed(record.get("push"))]))
    if is_pushed and record["push"]["failed"]:
        raise typer.Exit(1)


def _opened() -> tuple[Settings, Workspace]:
    """Settings and workspace, which is there and has the secret that its studies were named with; else UsageError."""
    from flows.settings import configured_secret
    from flows.workspace_key import refuse_other_secret

    settings, workspace = session.open()
    refuse_other_secret(workspace.require(), configured_secret())
    return settings, workspace


def _check_source(sources: list[str], dicomweb: str, studies: list[str]) -> None:
    """Either SOURCE... or studies of a DICOMweb service; raises UsageError."""
    from data_contracts.errors import UsageError

    if bool(sources) == bool(dicomweb):
        raise UsageError(
            "review takes SOURCE..., or --dicomweb URL with --study UID",
            todo="Name a folder, an archive, a study_key, or a study of a service.",
        )
    if bool(studies) != bool(dicomweb):
        raise UsageError("--study and --dicomweb belong together", todo="Give both, or neither.")


def _pushed(record: dict[str, Any] | None) -> list[str]:
    """What a push of results tells."""
    if record is None:
        return []
    lines = [f"{record['stored']} of {record['files']} objects stored"]
    for study in record["studies"]:
        what = "with its identity" if study["identity"] == "original" else "under pseudonymous UIDs"
        lines.append(f"study {study['study_key']} {what}: {study['why']}")
    return [*lines, *(f"{item['file']}: {item['reason']}" for item in record["failed_files"])]


def _serve(study_keys: list[str], host: str, port: int, is_blind: bool, others: list[str]) -> None:
    """Serve reports until we are told to end."""
    from data_contracts.errors import UsageError
    from flows.reviewing.serving_page import serve_pages

    if others:
        raise UsageError(f"--serve shows reports that are there; {others[0]} makes no sense with it")
    settings, workspace = _opened()
    record = serve_pages(workspace, settings, study_keys, host=host, port=port, is_blind=is_blind)
    session.emit(record, f"{record['stored']} files of answers stored")

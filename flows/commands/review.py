"""review and feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command()
def review(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="As in ingest, or a study_key.")],
    site: Annotated[str, typer.Option(help="Name of the site the studies come from.")] = "review",
    version: Annotated[str, typer.Option(help="Version or alias to ask.")] = "champion",
    push: Annotated[str, typer.Option(metavar="URL", help="Store the results to a DICOMweb service (STOW-RS).")] = "",
    dicom: Annotated[str, typer.Option(metavar="HOST:PORT", help="Store them to a DICOM node (C-STORE).")] = "",
    called: Annotated[str, typer.Option(metavar="AET", help="AE title of that node.")] = "",
    calling: Annotated[str, typer.Option(metavar="AET", help="Our AE title.")] = "NODULEFLOW",
    pseudonymous: Annotated[
        bool, typer.Option("--pseudonymous", help="Store them under pseudonyms, even where the identity is known.")
    ] = False,
    settings_: SetOption = None,
) -> None:
    """Write a report of every nodule of a study, as the champion sees it; store the results to a PACS."""
    from data_contracts.errors import UsageError
    from data_contracts.params import ReviewParams
    from flows.commands.pacs import checked_target
    from flows.presets import assignments

    params = ReviewParams.from_mapping(assignments(settings_), where="--set")
    session.open()[1].require()
    is_pushed = bool(push or dicom)
    if is_pushed:
        checked_target("review", "--push", push, dicom, called, calling)
        if not params.dicom:
            raise UsageError("nothing to store: dicom is off", todo="Leave --set dicom=false away.")
    with session.engine("flows.review") as (settings, workspace):
        from flows.review import review_flow, study_keys_of

        keys = study_keys_of(workspace, sources, site)
        record = review_flow(str(workspace.root), keys, settings.model_name, version, params)
        if is_pushed:
            from flows.pacs import PrivateTarget
            from flows.results_push import push_results_flow

            target = PrivateTarget(url=push, node=dicom, called_aet=called, calling_aet=calling)
            record["push"] = push_results_flow(str(workspace.root), keys, target, pseudonymous)
    lines = [f"{item['n_findings']} findings: {item['report']}" for item in record["reports"]]
    lines.append(f"drift: {record['drift']['verdict']}" + "".join(f"; {why}" for why in record["drift"]["reasons"]))
    lines += [problem for item in record["reports"] for problem in item["problems"] if params.dicom]
    session.emit(record, "\n".join([*lines, *_pushed(record.get("push"))]))
    if is_pushed and record["push"]["failed"]:
        raise typer.Exit(1)


def _pushed(record: dict[str, Any] | None) -> list[str]:
    """What a push of results tells."""
    if record is None:
        return []
    lines = [f"{record['stored']} of {record['files']} objects stored"]
    for study in record["studies"]:
        what = "with its identity" if study["identity"] == "original" else "under pseudonymous UIDs"
        lines.append(f"study {study['study_key']} {what}: {study['why']}")
    return [*lines, *(f"{item['file']}: {item['reason']}" for item in record["failed_files"])]


@app.command()
def feedback(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="feedback.json saved from a report.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the labels that all answers give to this CSV.")] = None,
) -> None:
    """Take in a reader's answers, or export the labels they give."""
    from data_contracts.errors import UsageError

    if file is None and export is None:
        raise UsageError("feedback takes a FILE, or --export", todo="See `noduleflow feedback --help`.")
    _, workspace = session.open()
    workspace.require()
    from flows.feedback import export_labels, take_in

    record: dict[str, object] = {}
    lines = []
    if file is not None:
        record |= take_in(workspace, file)
        lines.append(f"{record['answers']} answers of one reader kept in {record['stored']}")
    if export is not None:
        record |= export_labels(workspace, export)
        lines.append(f"{record['labels']} labels written to {export}")
    session.emit(record, "\n".join(lines))

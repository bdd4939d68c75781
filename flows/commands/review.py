"""review and feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command()
def review(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="As in ingest, or a study_key.")],
    site: Annotated[str, typer.Option(help="Name of the site the studies come from.")] = "review",
    version: Annotated[str, typer.Option(help="Version or alias to ask.")] = "champion",
    settings_: SetOption = None,
) -> None:
    """Write a report of every nodule of a study, as the champion sees it."""
    from data_contracts.params import ReviewParams
    from flows.presets import assignments

    params = ReviewParams.from_mapping(assignments(settings_), where="--set")
    session.open()[1].require()
    with session.engine("flows.review") as (settings, workspace):
        from flows.review import review_flow, study_keys_of

        keys = study_keys_of(workspace, sources, site)
        record = review_flow(str(workspace.root), keys, settings.model_name, version, params)
    lines = [f"{item['n_findings']} findings: {item['report']}" for item in record["reports"]]
    lines.append(f"drift: {record['drift']['verdict']}" + "".join(f"; {why}" for why in record["drift"]["reasons"]))
    session.emit(record, "\n".join(lines))


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

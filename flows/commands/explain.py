"""explain."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command()
def explain(
    version: Annotated[str, typer.Argument(help="Version number, or an alias such as champion.")],
    dataset: Annotated[
        str, typer.Option(help="Dataset whose held-out nodules are looked at; its own by default.")
    ] = "",
    weights: Annotated[str, typer.Option(help="File of the first weights, to train the version again.")] = "",
    settings_: SetOption = None,
) -> None:
    """Test whether the maps of a version may be shown in its reviews."""
    from data_contracts.params import ExplainParams
    from flows.presets import assignments

    params = ExplainParams.from_mapping(assignments(settings_), where="--set")
    session.open()[1].require()
    with session.engine("flows.versions.explanation") as (settings, workspace):
        from flows.versions.explanation import explain_flow, explanation_text

        record = explain_flow(str(workspace.root), version, dataset, settings.model_name, params, weights)
    session.emit(record, explanation_text(record))

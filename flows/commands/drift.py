"""drift."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command()
def drift(
    version: Annotated[str, typer.Option(help="Version or alias whose reviews are judged.")] = "champion",
    settings_: SetOption = None,
) -> None:
    """Whether the studies reviewed last still resemble those a version was judged on."""
    from data_contracts.params import DriftParams
    from flows.presets import assignments

    params = DriftParams.from_mapping(assignments(settings_), where="--set")
    settings, workspace = session.open()
    workspace.require()
    from flows.registry import Registry
    from flows.reviewing.drift import drift_report, text_of

    registry = Registry(workspace, settings.model_name)
    number = registry.resolve(version)
    report = drift_report(workspace, settings.model_name, number, registry.verified_folder(number)[0], params)
    session.emit(report.model_dump(mode="json"), text_of(report))

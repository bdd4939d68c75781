"""disclose: the model card of a version, and the file in which a site states what only it can."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import app, session


@app.command()
def disclose(
    version: Annotated[str, typer.Argument(help="Version number, or an alias such as champion.")] = "",
    template: Annotated[bool, typer.Option("--template", help="Write the file for the site's statements.")] = False,
) -> None:
    """Write the model card of a version: CHAI's applied model card, CLAIM 2024 and TRIPOD+AI answered."""
    from data_contracts.errors import UsageError

    if bool(version) == template:
        raise UsageError(
            "name a version, or ask for the --template", todo="For example: noduleflow disclose challenger."
        )
    settings, workspace = session.open()
    if template:
        workspace.create()
        from flows.versions.disclosure import write_template

        path = write_template(workspace)
        session.emit({"path": str(path)}, f"{path}: answer what you can, and train or disclose again")
        return
    workspace.require()
    from flows.versions.disclosure import disclose_version

    record = disclose_version(workspace, settings.model_name, version)
    lines = [f"{record['folder']}/disclosure.html"]
    if record["missing"]:
        lines.append("the run does not hold: " + "; ".join(record["missing"]))
    if record["not_stated"]:
        lines.append(f"not stated by the site ({len(record['not_stated'])}): " + ", ".join(record["not_stated"]))
    session.emit(record, "\n".join(lines))

"""promote, rollback, signoff, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Version number, or challenger.")],
    expect: Annotated[str, typer.Option(help="The champion as you last saw it; none where there is none.")],
    policy: Annotated[Path | None, typer.Option(help="TOML file with the gates' bounds.")] = None,
) -> None:
    """Make a version champion, if every gate holds."""
    settings, workspace = session.open()
    workspace.require()
    from flows.registry.policy import policy_in_force
    from flows.registry.promotion import promote as promote_version

    bounds = policy_in_force(settings, policy)
    decision = promote_version(workspace, settings, version, expect=expect, policy=bounds)
    gates = "\n".join(f"  held: {gate.gate}: {gate.detail}" for gate in decision.gates)
    text = f"version {decision.version} is champion (policy {bounds.name} {bounds.version})\n{gates}"
    session.emit(decision.model_dump(mode="json"), text.rstrip())


@app.command()
def rollback(
    expect: Annotated[str, typer.Option(help="The champion as you last saw it; whoever is, by default.")] = "",
) -> None:
    """Make the previous champion champion again, after it was loaded and scored its golden cases as it did."""
    settings, workspace = session.open()
    workspace.require()
    from flows.registry.promotion import rollback as roll_back

    record = roll_back(workspace, settings, expect=expect)
    session.emit(record, f"version {record['champion']} is champion again, {record['previous_champion']} stepped down")


@app.command()
def signoff(
    version: Annotated[str, typer.Argument(help="Version number, or challenger.")],
    name: Annotated[str, typer.Option(help="Who signs, by name.")],
    comment: Annotated[str, typer.Option(help="What was looked at.")] = "",
) -> None:
    """Sign a version off by name; a promotion policy may ask for it."""
    settings, workspace = session.open()
    workspace.require()
    from flows.registry.signoffs import sign_off

    signed = sign_off(workspace, settings, version, name=name, comment=comment)
    text = f"{signed.name} signed version {signed.version} off, as it is now ({signed.manifest_sha256[:12]})"
    session.emit(signed.model_dump(mode="json", exclude={"mac"}), text)


@app.command()
def audit(
    verify: Annotated[bool, typer.Option("--verify", help="Check every line, and the end against MLflow.")] = False,
) -> None:
    """Show or verify the record of promotions, rollbacks, sign-offs and refusals."""
    from data_contracts.errors import ContractError
    from data_contracts.spelling import shown
    from flows.registry.audit import read_audit

    settings, workspace = session.open()
    workspace.require()
    if verify:
        from flows.oncall.registry_view import probe_server
        from flows.registry.faults import audit_faults

        if settings.mlflow_tracking_uri.startswith("http"):
            probe_server(settings.mlflow_tracking_uri)
        if faults := audit_faults(workspace, settings):
            raise ContractError("the audit is broken: " + "; ".join(faults), where=str(workspace.audit_file))
    records = read_audit(workspace)
    lines = [
        f"{r.sequence:4d}  {shown(r.time_utc)}  {r.action:<16} {shown(r.subject):<6} {shown(r.actor)}" for r in records
    ]
    end = f"the chain of {len(records)} records holds" if verify else f"{len(records)} records"
    body = {"records": [record.model_dump(mode="json") for record in records], "verified": verify}
    session.emit(body, "\n".join([*lines, end]))

"""deidentify, reidentify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command()
def deidentify(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Folder, file, .zip or .tar(.gz/.xz).")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the de-identified files go.")],
    retain_device: Annotated[
        bool, typer.Option("--retain-device", help="Keep serial numbers, station names, calibration dates.")
    ] = False,
    retain_patient: Annotated[
        bool, typer.Option("--retain-patient", help="Keep sex, age (90 and more as 90), size and weight.")
    ] = False,
    drop_dates: Annotated[
        bool, typer.Option("--drop-dates", help="Remove dates instead of shifting them by patient.")
    ] = False,
    burned_in: Annotated[str, typer.Option(help="Text in the pixels: refuse, blank or flag.")] = "refuse",
    no_vault: Annotated[bool, typer.Option("--no-vault", help="Keep no way back.")] = False,
    settings_: SetOption = None,
) -> None:
    """De-identify DICOM to DICOM by the profile of PS3.15 Annex E, with the keys of the workspace."""
    from data_contracts.params import DeidentifyParams
    from flows.intake.sources import existing_sources
    from flows.presets import assignments

    flags = {
        "retain_device": retain_device,
        "retain_patient": retain_patient,
        "retain_dates": not drop_dates,
        "burned_in": burned_in,
    }
    params = DeidentifyParams.from_mapping({**flags, **assignments(settings_)}, where="options")
    found = existing_sources(tuple(sources))
    settings, workspace = session.open()
    workspace.create()
    from flows.intake.deidentify import deidentify_sources

    secret = workspace.secret(settings.secret.get_secret_value() if settings.secret else None)
    record = deidentify_sources(workspace, secret, found.paths, out, params, not no_vault)
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "none"
    there = record["already_there"]
    session.emit(record, f"{record['written']} files written to {out} ({there} were there already), refused: {refused}")


@app.command()
def reidentify(
    subject: Annotated[str, typer.Argument(metavar="STUDY_KEY|SERIES_KEY|FILE", help="A key, or a pseudonymous file.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write FILE with its true identity.")
    ] = None,
) -> None:
    """Print whose a study is, or give a pseudonymous DICOM file its identity back; needs the workspace's key."""
    from data_contracts.errors import UsageError

    settings, workspace = session.open()
    workspace.require()
    if settings.secret is None and not workspace.secret_file.is_file():
        raise UsageError(
            "there is no key in this workspace",
            where=str(workspace.secret_file),
            todo="Put the secret.key of the ingest there, or set NODULEFLOW_SECRET.",
        )
    from flows.intake.deidentify import reidentified

    secret = workspace.secret(settings.secret.get_secret_value() if settings.secret else None)
    record = reidentified(workspace, secret, subject, out)
    lines = [f"study {record['study_key']}: {record['study_instance_uid']}"]
    for key, patient in record["patients"].items():
        lines.append(f"patient {key}: {patient['patient_id']} {patient['patient_name']}".rstrip())
    lines += [f"accession {number}" for number in record["accession_numbers"]]
    lines += [f"series {key}: {uid}" for key, uid in record["series"].items()]
    lines.append(f"{record['n_instances']} instances; --json lists them")
    session.emit(record, "\n".join([*lines, *([f"written: {record['out']}"] if "out" in record else [])]))

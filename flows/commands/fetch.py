"""fetch lidc."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session

fetch_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Bring public studies with their licence.")
app.add_typer(fetch_app, name="fetch")


@fetch_app.callback()
def _fetch() -> None:
    """Bring public studies with their licence. Files are only read, and only when this command is run."""


@fetch_app.command()
def lidc(
    patients: Annotated[int, typer.Option(min=1, help="How many patients, the first by id.")],
    out: Annotated[Path, typer.Option(help="Folder to fill; run again to go on or to bring more.")] = Path("lidc-idri"),
    annotations: Annotated[
        bool, typer.Option("--annotations", help="With the readers' nodules as DICOM SEG and SR.")
    ] = False,
    bucket: Annotated[
        str, typer.Option(help="URL of the S3 endpoint or a folder; by default NODULEFLOW_PUBLIC_BUCKET_URL.")
    ] = "",
    exclude: Annotated[Path | None, typer.Option(help="File with patient ids to pass over, one a line.")] = None,
    index: Annotated[Path | None, typer.Option(help="Parquet index; by default that of idc-index.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read what is there already and check its MD5.")] = False,
) -> None:
    """Chest CT of LIDC-IDRI from the Imaging Data Commons (CC BY; about 130 MB a patient)."""
    from flows.intake.fetch import fetch_lidc

    settings = session.settings()
    record = fetch_lidc(
        out,
        patients,
        bucket or settings.public_bucket_url,
        annotations=annotations,
        exclude=exclude,
        index=index,
        verify=verify,
    )
    session.emit(
        record,
        f"{record['n_series']} series of {len(record['patients'])} patients in {out}:"
        f" {record['n_files']} files came, {record['n_there']} were there",
    )

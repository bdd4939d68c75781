"""ingest, annotate, features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one parameter; may be given again.")
]


@app.command()
def ingest(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Folder, file, .zip or .tar(.gz/.xz).")],
    site: Annotated[str, typer.Option(help="Name of the site the studies come from.")] = "site",
    keep_identity: Annotated[bool, typer.Option("--keep-identity", help="Keep direct identifiers in tables.")] = False,
    settings_: SetOption = None,
) -> None:
    """Discover, check, de-identify, decode and store CT series."""
    from data_contracts.params import IngestParams
    from flows.presets import assignments
    from flows.sources import existing_sources

    params = IngestParams.from_mapping(assignments(settings_), where="--set")
    found = existing_sources(tuple(sources))
    with session.engine("flows.ingest") as (_, workspace):
        from flows.ingest import ingest_flow

        record = ingest_flow(str(workspace.root), found, site, params, keep_identity)
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "none"
    session.emit(
        record,
        f"{record['accepted']} series accepted ({record['already_there']} were there already), refused: {refused}",
    )


@app.command()
def annotate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Annotation files or folders of one format.")],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="csv, luna16, lidc-xml, voc-xml, dicom-seg, dicom-sr (both may be mixed) or grand-challenge.",
        ),
    ],
    coordinates: Annotated[
        str,
        typer.Option(
            help="lps (the default), ras or voxel: the axes of csv; lps or ras of luna16 and grand-challenge."
        ),
    ] = "",
    series: Annotated[str, typer.Option(help="UID or key of the series, where grand-challenge files name none.")] = "",
    keep_identity: Annotated[bool, typer.Option("--keep-identity", help="Keep direct identifiers in tables.")] = False,
) -> None:
    """Match nodule annotations to the series of the workspace.

    Columns of csv: series_instance_uid or series_key or sop_instance_uid; x_mm, y_mm, z_mm in mm of the patient (LPS: x
    to the left, y to the back, z to the head), or k, j, i as voxel indices from 0 (slice, row, column); diameter_mm,
    which may be empty; optional coordinate_system, nodule, reader, label (1 malignant, 0 benign), malignancy and the
    other LIDC ratings. A row whose place is not in its volume is refused with its line, and nothing is guessed.
    """
    from flows.sources import existing_sources
    from pipeline.annotations.formats import check_format

    check_format(file_format, coordinates)
    found = existing_sources(tuple(files))
    session.open()[1].require()
    with session.engine("flows.annotation") as (_, workspace):
        from flows.annotation import annotate_flow

        record = annotate_flow(str(workspace.root), found, file_format, keep_identity, coordinates, series)
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "none"
    session.emit(
        record, f"{record['marks']} marks matched; {record['nodules']} nodules in the workspace; refused: {refused}"
    )


@app.command()
def features(
    dataset: Annotated[str, typer.Option(help="Dataset id or name; the newest by default.")] = "",
    weights: Annotated[str, typer.Option(help="auto, none, or a local file.")] = "auto",
    settings_: SetOption = None,
) -> None:
    """Compute the feature vectors of a dataset."""
    from data_contracts.params import FeatureParams
    from flows.presets import assignments

    params = FeatureParams.from_mapping({"weights": weights, **assignments(settings_)}, where="--set")
    session.open()[1].require().dataset(dataset)
    with session.engine("flows.features") as (_, workspace):
        from flows.features import features_flow

        record = features_flow(str(workspace.root), dataset, params)
    session.emit(record, f"{record['n_vectors']} vectors of {record['n_features']} in {record['table']}")

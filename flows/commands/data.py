"""ingest, annotate, features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session

ANNOTATION_FORMATS = ("csv", "luna16", "lidc-xml", "voc-xml")

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
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Annotation files of one format.")],
    file_format: Annotated[str, typer.Option("--format", help="csv, luna16, lidc-xml or voc-xml.")],
    keep_identity: Annotated[bool, typer.Option("--keep-identity", help="Keep direct identifiers in tables.")] = False,
) -> None:
    """Match nodule annotations to the series of the workspace."""
    from data_contracts.errors import UsageError
    from flows.sources import existing_sources

    if file_format not in ANNOTATION_FORMATS:
        raise UsageError(f"unknown annotation format {file_format!r}", todo=f"Known: {', '.join(ANNOTATION_FORMATS)}.")
    found = existing_sources(tuple(files))
    session.open()[1].require()
    with session.engine("flows.ingest") as (_, workspace):
        from flows.ingest import annotate_flow

        record = annotate_flow(str(workspace.root), found, file_format, keep_identity)
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

"""ingest, annotate, prepare, features, import-npz."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
def prepare(
    name: Annotated[str, typer.Option(help="A name for the dataset.")] = "",
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="2d, 2.5d or 3d; given again, each becomes a dataset.")
    ] = None,
    settings_: SetOption = None,
) -> None:
    """Cut patches around every annotated nodule into a dataset."""
    from data_contracts.params import LabelParams, PatchParams, SplitParams
    from flows.presets import assignments, distribute

    patch, split, label = distribute(assignments(settings_), (PatchParams, SplitParams, LabelParams), where="--set")
    chosen = tuple(PatchParams.from_mapping({"kind": kind}, where="--kind").kind for kind in dict.fromkeys(kinds or ()))
    session.open()[1].require()
    with session.engine("flows.prepare") as (_, workspace):
        from flows.prepare import prepare_flow

        record = prepare_flow(str(workspace.root), name, patch, split, label, chosen)
    session.emit(record, "\n".join(_dataset_line(dataset) for dataset in record["datasets"]))


def _dataset_line(dataset: dict[str, Any]) -> str:
    counts = ", ".join(f"{key} {value}" for key, value in dataset["counts"].items())
    return f"dataset {dataset['dataset_id']} ({dataset['kind']}): {dataset['n_patches']} patches ({counts})"


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


@app.command("import-npz")
def import_npz_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A MedMNIST-format .npz, or crops with --table.")],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    table: Annotated[Path | None, typer.Option(help="CSV with a row a crop.")] = None,
    settings_: SetOption = None,
) -> None:
    """Import ready-made crops as a dataset."""
    from data_contracts.params import LabelParams, SplitParams
    from flows.presets import assignments, distribute
    from flows.sources import existing_sources

    # Crops with a table are LIDC's: its published figures count nodules that at least three readers rated.
    readers = {} if table is None else {"min_readers": 3}
    split, label = distribute({**readers, **assignments(settings_)}, (SplitParams, LabelParams), where="--set")
    existing_sources((file,) if table is None else (file, table))
    _, workspace = session.open()
    workspace.create()
    from pipeline.cohort.importers import import_npz

    card = import_npz(file, name=name, table=table, datasets_root=workspace.datasets_root, split=split, label=label)
    n_patches = sum(shard.n_patches for shard in card.shards)
    counts = ", ".join(f"{key} {value}" for key, value in card.counts.items())
    record = {**card.model_dump(mode="json"), "n_patches": n_patches}
    session.emit(record, f"dataset {card.dataset_id} ({name}): {n_patches} patches ({counts})")

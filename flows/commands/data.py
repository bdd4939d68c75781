"""ingest, annotate, features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import app, session

if TYPE_CHECKING:
    from data_contracts.params import IngestParams
    from flows.intake.sources import PrivatePaths

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one parameter; may be given again.")
]


@app.command()
def ingest(
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="SOURCE...", help="Folder, file, .zip or .tar(.gz/.xz).")
    ] = None,
    dicomweb: Annotated[str, typer.Option(metavar="URL", help="Pull from this DICOMweb service instead.")] = "",
    study: Annotated[list[str] | None, typer.Option(metavar="UID", help="A study to pull; may be given again.")] = None,
    since: Annotated[str, typer.Option(help="Pull studies since a day, or auto: since the last pull.")] = "",
    modality: Annotated[str, typer.Option(help="Modality of the series to pull, or any.")] = "CT",
    limit: Annotated[int, typer.Option(min=0, help="Pull at most so many studies; 0 is all.")] = 0,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Keep what was pulled in scratch/.")] = False,
    inbox: Annotated[bool, typer.Option("--inbox", help="Ingest what `listen` has received.")] = False,
    site: Annotated[str, typer.Option(help="Name of the site the studies come from.")] = "site",
    keep_identity: Annotated[bool, typer.Option("--keep-identity", help="Keep direct identifiers in tables.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read known series again, too, and tell what is not as it was stored.")
    ] = False,
    settle: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Leave studies that grew within so long for another run.")
    ] = 0,
    settings_: SetOption = None,
) -> None:
    """Discover, check, de-identify, decode and store CT series."""
    from data_contracts.params import IngestParams
    from flows.commands.pacs import check_origin, ingest_dicomweb, ingest_inbox
    from flows.intake.sources import existing_sources
    from flows.presets import assignments

    params = IngestParams.from_mapping(assignments(settings_), where="--set")
    check_origin(bool(sources), dicomweb, bool(study or since or limit or keep_files), inbox)
    if dicomweb:
        named = tuple(study or ())
        ingest_dicomweb(dicomweb, named, since, modality, limit, keep_files, site, params, keep_identity, settle)
        return
    if inbox:
        ingest_inbox(site, params, keep_identity)
        return
    found = existing_sources(tuple(sources or ()))
    record = None if verify else _nothing_new(found, site, params, keep_identity)
    if record is None:
        with session.engine("flows.intake.ingest") as (_, workspace):
            from flows.intake.ingest import ingest_flow

            record = ingest_flow(str(workspace.root), found, site, params, keep_identity, verify, settle)
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "none"
    text = f"{record['accepted']} series accepted ({record['already_there']} were there already), refused: {refused}"
    if record.get("studies_arriving"):
        text += f", {record['studies_arriving']} studies are still arriving"
    session.emit(record, "\n".join([text, *record.get("differences", [])]))


def _nothing_new(sources: PrivatePaths, site: str, params: IngestParams, keep_identity: bool) -> dict[str, Any] | None:
    """The record of an ingest with nothing to do, which needs no server; None where there may be something."""
    _, workspace = session.open()
    if not workspace.known_root.is_dir():
        return None
    from flows.intake.known_sources import nothing_new

    return nothing_new(workspace, sources, site, params, keep_identity)


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
    from flows.intake.sources import existing_sources
    from pipeline.annotations.formats import check_format

    check_format(file_format, coordinates)
    found = existing_sources(tuple(files))
    session.open()[1].require()
    with session.engine("flows.intake.annotation") as (_, workspace):
        from flows.intake.annotation import annotate_flow

        record = annotate_flow(str(workspace.root), found, file_format, keep_identity, coordinates, series)
    refused = ", ".join(f"{count} {reason}" for reason, count in record["refused"].items()) or "none"
    session.emit(
        record, f"{record['marks']} marks matched; {record['nodules']} nodules in the workspace; refused: {refused}"
    )


@app.command()
def features(
    dataset: Annotated[str, typer.Option(help="Dataset id or name; the newest by default.")] = "",
    weights: Annotated[str, typer.Option(help="auto, none, or a local file.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto, openvino, compile, torch or int8.")] = "auto",
    settings_: SetOption = None,
) -> None:
    """Compute the feature vectors of a dataset."""
    from data_contracts.params import FeatureParams
    from flows.presets import assignments

    options = {"weights": weights, "device": device, "engine": engine}
    params = FeatureParams.from_mapping({**options, **assignments(settings_)}, where="--set")
    session.open()[1].require().dataset(dataset)
    with session.engine("flows.datasets.features") as (_, workspace):
        from flows.datasets.features import features_flow

        record = features_flow(str(workspace.root), dataset, params)
    session.emit(
        record,
        f"{record['n_vectors']} vectors of {record['n_features']} in {record['table']} "
        f"({record['engine']} in {record['precision']} on {record['device']}: {record['why']})",
    )

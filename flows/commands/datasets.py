"""prepare, import-npz, import-images, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


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
    with session.engine("flows.datasets.prepare") as (_, workspace):
        from flows.datasets.prepare import prepare_flow

        record = prepare_flow(str(workspace.root), name, patch, split, label, chosen)
    session.emit(record, "\n".join(_dataset_line(dataset) for dataset in record["datasets"]))


def _dataset_line(dataset: dict[str, Any]) -> str:
    counts = ", ".join(f"{key} {value}" for key, value in dataset["counts"].items())
    return f"dataset {dataset['dataset_id']} ({dataset['kind']}): {dataset['n_patches']} patches ({counts})"


@app.command("import-npz")
def import_npz_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A MedMNIST-format .npz, or crops with --table.")],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    table: Annotated[Path | None, typer.Option(help="CSV with a row a crop.")] = None,
    votes: Annotated[
        str, typer.Option(metavar="ARRAY", help="Array of how many readers outlined each pixel, for mask_weight.")
    ] = "",
    settings_: SetOption = None,
) -> None:
    """Import ready-made crops as a dataset."""
    from data_contracts.params import LabelParams, SplitParams
    from flows.intake.sources import existing_sources
    from flows.presets import assignments, distribute

    # Crops with a table are LIDC's: its published figures count nodules that at least three readers rated.
    readers = {} if table is None else {"min_readers": 3}
    split, label = distribute({**readers, **assignments(settings_)}, (SplitParams, LabelParams), where="--set")
    existing_sources((file,) if table is None else (file, table))
    _, workspace = session.open()
    workspace.create()
    from pipeline.cohort.importers import import_npz

    root = workspace.datasets_root
    card = import_npz(file, name=name, table=table, datasets_root=root, split=split, label=label, votes=votes)
    n_patches = sum(shard.n_patches for shard in card.shards)
    counts = ", ".join(f"{key} {value}" for key, value in card.counts.items())
    record = {**card.model_dump(mode="json"), "n_patches": n_patches}
    session.emit(record, f"dataset {card.dataset_id} ({name}): {n_patches} patches ({counts})")


@app.command("import-images")
def import_images_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="DIR/<class>/*.png, or DIR/train/<class>/*.png, ...")],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients", "--table", metavar="CSV", help="Columns file, patient; optional site, diameter_mm, ratings."
        ),
    ] = None,
    positive: Annotated[str, typer.Option(help="The class that is 1; malignant, or the last by alphabet.")] = "",
    keep_identity: Annotated[bool, typer.Option("--keep-identity", help="Keep paths in rejected.parquet.")] = False,
    settings_: SetOption = None,
) -> None:
    """Import class folders of PNG, JPEG or TIFF images as a dataset.

    Two class folders are taken. Folders train, val and test keep their split; without them it follows from the patient.
    Without --patients nobody can say whose an image is, and a split may leak: the dataset and every figure say so.
    """
    from data_contracts.params import ImageParams, SplitParams
    from flows.presets import assignments, distribute

    images, split = distribute(assignments(settings_), (ImageParams, SplitParams), where="--set")
    _, workspace = session.open()
    workspace.create()
    from flows.intake.images import import_folder

    record = import_folder(workspace, folder, name, patients, positive, keep_identity, images, split)
    counts = ", ".join(f"{key} {value}" for key, value in record["counts"].items())
    there = "" if record["made"] else " (was there already)"
    lines = [f"dataset {record['dataset_id']} ({name}){there}: {record['n_patches']} patches ({counts})"]
    lines += [f"{value} is the class folder {shown!r}" for value, shown in record["parameters"]["classes"].items()]
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    session.emit(record, "\n".join(lines))


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Option(metavar="PATH", help="The .npz file, or the folder, to write.")],
    what: Annotated[
        str, typer.Argument(metavar="[VERSION|DATASET]", help="A version or alias of the model, or a dataset.")
    ] = "",
    dataset: Annotated[
        str, typer.Option(help="Dataset id or name, the newest by default; of a version: compare on it.")
    ] = "",
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of a dataset: medmnist (a .npz, the default) or monai (a datalist). Of a version, with commas: "
            "safetensors, pt2, onnx, openvino-fp32 (these by default), openvino-bf16, openvino-int8, or all; "
            "or bundle (MONAI's).",
        ),
    ] = "",
    window: Annotated[str, typer.Option(help="HU window of the grey values, by name or as centre:width.")] = "lung",
    verify: Annotated[bool, typer.Option("--verify", help="Only check an exported version in PATH.")] = False,
) -> None:
    """Write a version of the model for other runtimes, or a dataset's labelled patches as others read them.

    Where a version and a dataset have the same name, the version is meant; --dataset NAME alone names the dataset.
    """
    from data_contracts.errors import UsageError
    from data_contracts.model_card import named_window
    from flows.commands.model import export_model, verify_model

    if verify:
        return verify_model(out)
    if what and export_model(what, out, file_format, dataset):
        return None
    if what and dataset:
        raise UsageError(f"no version {what!r}", todo="Name a version, or one dataset.")
    file_format, dataset = file_format or "medmnist", dataset or what
    if file_format not in ("medmnist", "monai"):
        raise UsageError(f"unknown format {file_format!r}", todo="Known: medmnist, monai.")
    folder = session.open()[1].require().dataset(dataset)
    from pipeline.cohort.exporters import export_datalist, export_npz
    from pipeline.cohort.patch_reader import PatchReader

    reader = PatchReader(folder)
    if file_format == "medmnist":
        counts = export_npz(reader, out, named_window(window))
    else:
        counts = export_datalist(reader, out)
    n_unlabelled = len(reader.index) - sum(counts.values())
    record = {"dataset_id": reader.card.dataset_id, "path": str(out), "counts": counts, "n_unlabelled": n_unlabelled}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    session.emit(
        record, f"dataset {reader.card.dataset_id} exported to {out}: {listed}; {n_unlabelled} without a label left out"
    )
    return None

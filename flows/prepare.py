"""Prepare: volumes and nodules in, a dataset of patches out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from data_contracts.errors import NothingUsableError
from data_contracts.manifest import Manifest
from data_contracts.params import LabelParams, Params, PatchParams, SplitParams
from data_contracts.patches import DatasetCard
from data_contracts.records import atomic_path, digest_of
from data_contracts.series import SeriesRecord
from flows.engine import step
from flows.progress import say, stage
from flows.workspace import Workspace
from pipeline.cohort.consensus import nodules_by_consensus, nodules_for_patches
from pipeline.cohort.dataset import (
    assemble_dataset,
    dataset_id_of,
    extract_series_patches,
    finished_dataset,
    patch_rows,
)
from pipeline.cohort.split import split_patients
from pipeline.imaging.nifti import read_nifti


@step("extract-patches")
def extract_part(
    workspace: Workspace, record: SeriesRecord, nodules: pd.DataFrame, params: PatchParams, parts: Path
) -> Path:
    """Cut the patches of one series once; they wait in a file, so a kill costs no series twice."""
    part = parts / f"{record.series_key}.npy"
    if not part.exists():
        volume = read_nifti(workspace.root / record.volume_path)
        patches, padded = extract_series_patches(volume, nodules, params)
        for file, array in ((_padded_file(part), padded), (part, patches)):
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
    return part


def _padded_file(part: Path) -> Path:
    return part.with_suffix(".padded.npy")


@step("assemble-dataset")
def assemble(
    workspace: Workspace,
    parts: dict[str, Path],
    groups: dict[str, pd.DataFrame],
    records: dict[str, SeriesRecord],
    manifest: Manifest,
    params: PatchParams,
    description: dict[str, Any],
) -> DatasetCard:
    """One dataset out of the parts of its series."""
    rows = []
    for key, part in parts.items():
        record, padded = records[key], np.load(_padded_file(part), allow_pickle=False)
        rows.append(
            patch_rows(groups[key], padded, patient_key=record.patient_key, site=record.site, manifest=manifest)
        )
    return assemble_dataset(
        workspace.datasets_root,
        list(parts.values()),
        pd.concat(rows, ignore_index=True),
        value_unit="HU",
        spacing_mm=params.spacing_mm,
        patches_per_shard=params.patches_per_shard,
        **description,
    )


@flow(name="prepare", task_runner=ThreadPoolTaskRunner(max_workers=max(2, os.cpu_count() or 2)), log_prints=False)
def prepare_flow(
    workspace_root: str, name: str, patch: PatchParams, split: SplitParams, label: LabelParams
) -> dict[str, Any]:
    """Patches around every annotated nodule of the workspace, as one dataset."""
    workspace = Workspace(Path(workspace_root)).require()
    records = {record.series_key: record for record in workspace.series_records()}
    nodules = workspace.nodules()
    nodules = nodules_for_patches(nodules_by_consensus(nodules[nodules["series_key"].isin(records)], label), patch)
    if nodules.empty:
        raise NothingUsableError(
            "no annotated nodule in the workspace", todo="Run `noduleflow annotate` on the studies' annotations first."
        )
    groups = {str(key): group.reset_index(drop=True) for key, group in nodules.groupby("series_key")}
    manifest = split_patients({records[key].patient_key for key in groups}, split)
    description: dict[str, Any] = {
        "name": name,
        "kind": patch.kind,
        "inputs": {
            **{key: _series_digest(records[key]) for key in groups},
            "nodules": digest_of(nodules.to_json(orient="records", double_precision=10)),
            "manifest": digest_of(manifest.model_dump(mode="json")),
        },
        "parameters": _dumped(patch=patch, split=split, label=label),
    }
    dataset_id = dataset_id_of(**description)
    card = finished_dataset(workspace.datasets_root, dataset_id)
    if card is not None:
        say(f"prepare: dataset {dataset_id} is there already; nothing to do")
    else:
        with workspace.lock(f"prepare-{dataset_id}"):
            parts_root = workspace.scratch_root / f"prepare-{dataset_id}"
            parts = _extract_all(workspace, groups, records, patch, parts_root)
            card = assemble(workspace, parts, groups, records, manifest, patch, description)
            shutil.rmtree(parts_root, ignore_errors=True)
    return {
        "dataset_id": card.dataset_id,
        "n_patches": sum(shard.n_patches for shard in card.shards),
        "counts": card.counts,
        "warnings": list(card.warnings),
    }


def _series_digest(record: SeriesRecord) -> str:
    """Everything of a series that its patches and their rows depend on."""
    return digest_of([record.pixel_sha256, record.affine_lps, record.site, record.patient_key])


def _dumped(**params: Params) -> dict[str, object]:
    return {name: value.model_dump(mode="json") for name, value in params.items()}


def _extract_all(
    workspace: Workspace,
    groups: dict[str, pd.DataFrame],
    records: dict[str, SeriesRecord],
    params: PatchParams,
    parts_root: Path,
) -> dict[str, Path]:
    with stage("prepare", len(groups)) as progress:
        futures = [
            extract_part.submit(workspace, records[key], group, params, parts_root) for key, group in groups.items()
        ]
        for future in as_completed(futures):
            progress.advance(f"series {future.result().stem}")
    return {key: parts_root / f"{key}.npy" for key in groups}

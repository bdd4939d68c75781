"""Prepare: volumes and nodules in, a dataset of patches out."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from data_contracts.errors import NothingUsableError
from data_contracts.manifest import Manifest, Split
from data_contracts.params import LabelParams, Params, PatchParams, SplitParams
from data_contracts.patch_kind import PatchKind
from data_contracts.patches import DatasetCard
from data_contracts.records import atomic_path, digest_of
from data_contracts.series import SeriesRecord
from flows.engine import step
from flows.progress import say, stage
from flows.settings import series_workers
from flows.workspace import Workspace
from pipeline.cohort.consensus import nodules_by_consensus, nodules_for_patches
from pipeline.cohort.dataset import (
    assemble_dataset,
    dataset_id_of,
    extract_series_patches,
    finished_dataset,
    patch_rows,
)
from pipeline.cohort.places import series_places
from pipeline.cohort.split import split_patients
from pipeline.imaging.nifti import read_nifti


class Cut(Params):
    """One of the datasets that are cut out of the same volumes, and where its parts wait."""

    params: PatchParams
    parts: Path


@step("extract-patches")
def extract_part(
    workspace: Workspace, record: SeriesRecord, nodules: pd.DataFrame, split: Split, cuts: tuple[Cut, ...]
) -> str:
    """Cut the patches of one series once; they wait in files, so a kill costs no series twice.

    The volume is opened once for all datasets and memory-mapped: patches read no more of it than they need.
    """
    missing = [cut for cut in cuts if not _part(cut, record.series_key).exists()]
    volume = read_nifti(workspace.root / record.volume_path) if missing else None
    for cut in missing:
        assert volume is not None
        places = series_places(volume, nodules, cut.params, split)
        patches, places["padded"] = extract_series_patches(volume, places, cut.params)
        part = _part(cut, record.series_key)
        with atomic_path(part.with_suffix(".parquet")) as temporary:
            places.to_parquet(temporary)
        with atomic_path(part) as temporary, temporary.open("wb") as stream:
            np.save(stream, patches, allow_pickle=False)
    return record.series_key


def _part(cut: Cut, series_key: str) -> Path:
    return cut.parts / f"{series_key}.npy"


@step("assemble-dataset")
def assemble(
    workspace: Workspace,
    cut: Cut,
    records: dict[str, SeriesRecord],
    manifest: Manifest,
    description: dict[str, Any],
) -> DatasetCard:
    """One dataset out of the parts of its series."""
    rows, parts = [], []
    for key, record in records.items():
        part = _part(cut, key)
        places = pd.read_parquet(part.with_suffix(".parquet"))
        padded = places.pop("padded").to_numpy(dtype=np.bool_)
        rows.append(patch_rows(places, padded, patient_key=record.patient_key, site=record.site, manifest=manifest))
        parts.append(part)
    return assemble_dataset(
        workspace.datasets_root,
        parts,
        pd.concat(rows, ignore_index=True),
        value_unit="HU",
        spacing_mm=cut.params.spacing_mm,
        patches_per_shard=cut.params.patches_per_shard,
        **description,
    )


@flow(name="prepare", task_runner=ThreadPoolTaskRunner(max_workers=series_workers()), log_prints=False)
def prepare_flow(
    workspace_root: str,
    name: str,
    patch: PatchParams,
    split: SplitParams,
    label: LabelParams,
    kinds: tuple[PatchKind, ...] = (),
) -> dict[str, Any]:
    """Patches around every annotated nodule of the workspace, as one dataset of each kind.

    kinds: several datasets out of one reading of the volumes; empty takes the kind of `patch`.
    """
    workspace = Workspace(Path(workspace_root)).require()
    records = {record.series_key: record for record in workspace.series_records()}
    nodules = workspace.nodules()
    nodules = nodules_for_patches(nodules_by_consensus(nodules[nodules["series_key"].isin(records)], label), patch)
    if nodules.empty:
        raise NothingUsableError(
            "no annotated nodule in the workspace", todo="Run `noduleflow annotate` on the studies' annotations first."
        )
    groups = {str(key): group.reset_index(drop=True) for key, group in nodules.groupby("series_key")}
    records = {key: records[key] for key in groups}
    manifest = split_patients({record.patient_key for record in records.values()}, split)
    inputs = {
        **{key: _series_digest(record) for key, record in records.items()},
        "nodules": digest_of(nodules.to_json(orient="records", double_precision=10)),
        "manifest": digest_of(manifest.model_dump(mode="json")),
    }
    descriptions: dict[str, dict[str, Any]] = {}
    cuts: dict[str, Cut] = {}
    for kind in kinds or (patch.kind,):
        params = patch.model_copy(update={"kind": kind})
        description = {
            "name": name,
            "kind": kind,
            "inputs": inputs,
            "parameters": _dumped(patch=params, split=split, label=label),
        }
        dataset_id = dataset_id_of(**description)
        descriptions[dataset_id] = description
        cuts[dataset_id] = Cut(params=params, parts=workspace.scratch_root / f"prepare-{dataset_id}")
    cards = {key: card for key in cuts if (card := finished_dataset(workspace.datasets_root, key)) is not None}
    for dataset_id in cards:
        say(f"prepare: dataset {dataset_id} is there already; nothing to do")
    missing = {dataset_id: cut for dataset_id, cut in cuts.items() if dataset_id not in cards}
    if missing:
        with ExitStack() as locks:
            for dataset_id in sorted(missing):
                locks.enter_context(workspace.lock(f"prepare-{dataset_id}"))
            _extract_all(workspace, groups, records, manifest, tuple(missing.values()))
            for dataset_id, cut in missing.items():
                cards[dataset_id] = assemble(workspace, cut, records, manifest, descriptions[dataset_id])
                shutil.rmtree(cut.parts, ignore_errors=True)
    summaries = [_summary(cards[dataset_id]) for dataset_id in cuts]
    return {**summaries[0], "datasets": summaries}


def _summary(card: DatasetCard) -> dict[str, Any]:
    return {
        "dataset_id": card.dataset_id,
        "kind": card.kind,
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
    manifest: Manifest,
    cuts: tuple[Cut, ...],
) -> None:
    with stage("prepare", len(groups)) as progress:
        futures = [
            extract_part.submit(workspace, records[key], group, manifest.patients[records[key].patient_key], cuts)
            for key, group in groups.items()
        ]
        for future in as_completed(futures):
            progress.advance(f"series {future.result()}")

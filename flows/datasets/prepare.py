"""Prepare: volumes and nodules in, a dataset of patches out."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from prefect import flow

from data_contracts.errors import NothingUsableError
from data_contracts.manifest import Manifest, Split
from data_contracts.params import LabelParams, Params, PatchParams, SplitParams
from data_contracts.patch_kind import PatchKind
from data_contracts.patches import DatasetCard
from data_contracts.records import atomic_path, digest_of
from data_contracts.series import SeriesRecord
from flows.engine import step
from flows.progress import say, stage
from flows.remote.opening import fetched
from flows.reviewing.reader_labels import refresh_labels
from flows.running.batches import batches
from flows.running.elsewhere import Terms, terms_of
from flows.running.opaque import Heard, Opaque
from flows.running.runners import ConfiguredRunner, completed
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


class ToCut(NamedTuple):
    """One series and its nodules."""

    series_key: str
    volume_path: str
    nodules: pd.DataFrame
    split: Split


@step("extract-patches")
def extract_parts(
    workspace: Workspace, terms: Terms | None, series: Opaque[tuple[ToCut, ...]], cuts: Opaque[tuple[Cut, ...]]
) -> list[str]:
    """Cut the patches of each series once; they wait in files, so a kill costs no series twice."""
    if terms is not None:
        terms.enter()
    for one in series.value:
        _extract_part(workspace, one, cuts.value)
        series.told(one.series_key)
    return [one.series_key for one in series.value]


def _extract_part(workspace: Workspace, one: ToCut, cuts: tuple[Cut, ...]) -> None:
    """The volume is opened once for all datasets and memory-mapped: patches read no more of it than they need."""
    missing = [cut for cut in cuts if not _part(cut, one.series_key).exists()]
    if missing:
        fetched(workspace, workspace.root / one.volume_path)
    volume = read_nifti(workspace.root / one.volume_path) if missing else None
    for cut in missing:
        assert volume is not None
        places = series_places(volume, one.nodules, cut.params, one.split)
        patches, places["padded"] = extract_series_patches(volume, places, cut.params)
        part = _part(cut, one.series_key)
        with atomic_path(part.with_suffix(".parquet")) as temporary:
            places.to_parquet(temporary)
        with atomic_path(part) as temporary, temporary.open("wb") as stream:
            np.save(stream, patches, allow_pickle=False)


def _part(cut: Cut, series_key: str) -> Path:
    return cut.parts / f"{series_key}.npy"


@step("assemble-dataset")
def assemble(
    workspace: Workspace,
    cut: Cut,
    records: Opaque[dict[str, SeriesRecord]],
    manifest: Opaque[Manifest],
    description: Opaque[dict[str, Any]],
) -> DatasetCard:
    """One dataset out of the parts of its series."""
    rows, parts = [], []
    for key, record in records.value.items():
        part = _part(cut, key)
        places = pd.read_parquet(part.with_suffix(".parquet"))
        padded = places.pop("padded").to_numpy(dtype=np.bool_)
        rows.append(
            patch_rows(places, padded, patient_key=record.patient_key, site=record.site, manifest=manifest.value)
        )
        parts.append(part)
    return assemble_dataset(
        workspace.datasets_root,
        parts,
        pd.concat(rows, ignore_index=True),
        value_unit="HU",
        spacing_mm=cut.params.spacing_mm,
        patches_per_shard=cut.params.patches_per_shard,
        **description.value,
    )


@flow(name="prepare", task_runner=ConfiguredRunner(), log_prints=False)
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
    answered = refresh_labels(workspace)
    if answered["answered"]:
        say(
            f"prepare: readers answered {answered['answered']} nodules: {answered['settled']} are settled, "
            f"{answered['rejected']} of them as no nodule; {answered['waiting']} wait and change nothing yet"
        )
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
                description = Opaque(descriptions[dataset_id])
                cards[dataset_id] = assemble(workspace, cut, Opaque(records), Opaque(manifest), description)
                shutil.rmtree(cut.parts, ignore_errors=True)
    summaries = [_summary(cards[dataset_id]) for dataset_id in cuts]
    return {**summaries[0], "datasets": summaries, "answers": answered}


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
    wanted = [
        ToCut(key, records[key].volume_path, group, manifest.patients[records[key].patient_key])
        for key, group in groups.items()
    ]
    with terms_of(workspace) as terms, stage("prepare", len(wanted)) as progress:
        heard = Heard(lambda key: progress.advance(f"series {key}"))
        futures = [
            extract_parts.submit(workspace, terms, Opaque(some, heard), Opaque(cuts)) for some in batches(wanted)
        ]
        for keys in completed(futures):
            for key in keys:
                heard(key)

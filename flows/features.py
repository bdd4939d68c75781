"""Features: a dataset in, the vectors that a frozen backbone makes of its patches out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from data_contracts.features import FEATURE_TABLE, POOLED, FeatureCard
from data_contracts.params import FeatureParams, TrainParams
from data_contracts.records import digest_of, sha256_file
from flows.backbone import calibration_rows, initial_backbone
from flows.engine import step
from flows.labelled import patches_of
from flows.progress import say, stage
from flows.workspace import Workspace
from models.inputs import input_spec
from models.predict import extract_features
from pipeline.cohort.dataset import PatchReader


def feature_params(params: TrainParams) -> FeatureParams | None:
    """The feature table a training can learn from; None where a stage learns or every epoch sees other patches."""
    if params.unfreeze > 0 or params.augmentations > 1 or params.adaptation != "none" or params.common_spacing_mm:
        return None
    return FeatureParams(**{name: getattr(params, name) for name in FeatureParams.model_fields})


@step("extract-features")
def feature_table(workspace: Workspace, dataset_dir: Path, params: FeatureParams) -> tuple[Path, FeatureCard]:
    """Write the feature table of a dataset once."""
    reader = PatchReader(dataset_dir)
    spec = input_spec(reader.card, TrainParams(input_size_px=params.input_size_px, windows=params.windows))
    sample = patches_of(reader, calibration_rows(reader.index), TrainParams())
    backbone, weights = initial_backbone(
        params.backbone, params.weights, params.weights_sha256, params.seed, sample, spec
    )
    identity = digest_of([weights.sha256, params.model_dump(mode="json", exclude={"weights"})], length=8)
    stem = Path(weights.source).stem.replace(" ", "_") if weights.pretrained else "none"
    path = workspace.features_root / f"{dataset_dir.name}-{params.backbone}-{stem}-{identity}.parquet"
    card = FeatureCard(
        dataset_id=dataset_dir.name,
        backbone=params.backbone,
        weights=weights.source,
        weights_sha256=weights.sha256,
        n_features=backbone.n_features,
        input_size_px=params.input_size_px,
        device="cpu",
    )
    if path.exists():
        say(f"features: {path.name} is there already; nothing to do")
        return path, card
    n_patches = len(reader.index)
    ids = list(reader.index["patch_id"])
    with stage("features", n_patches) as progress:

        def load(rows: slice) -> np.ndarray:
            patches = np.asarray(reader.load(ids[rows]))
            progress.advance(f"patch {rows.stop}", len(patches))
            return patches

        planes = extract_features(backbone, load, n_patches, spec)
    pooled = planes.mean(axis=1)
    rows = [(patch, plane, planes[n, plane]) for n, patch in enumerate(ids) for plane in range(planes.shape[1])]
    rows += [(patch, POOLED, pooled[n]) for n, patch in enumerate(ids)]
    FEATURE_TABLE.write(path, pd.DataFrame(rows, columns=["patch_id", "plane", "vector"]))
    card.write(path.with_suffix(".json"))
    return path, card


@flow(name="features", log_prints=False)
def features_flow(workspace_root: str, dataset: str, params: FeatureParams) -> dict[str, Any]:
    """Feature vectors of every patch of a dataset, per plane and pooled."""
    workspace = Workspace(Path(workspace_root)).require()
    path, card = feature_table(workspace, workspace.dataset(dataset), params)
    n_vectors = len(FEATURE_TABLE.read(path))
    return {"table": str(path), "n_vectors": n_vectors, "sha256": sha256_file(path), **card.model_dump(mode="json")}

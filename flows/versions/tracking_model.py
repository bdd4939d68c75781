"""The logged model of a run in MLflow: all files of the version, and what loads them anywhere as probabilities."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.model_card import ModelCard
from flows.versions.environment import installed
from flows.versions.version_files import SERVING_FILE, file_digests, shared_tree, version_files
from models import served

#: what serving needs; MLflow brings what else it needs itself
_REQUIRED = ("mlflow", "torch", "numpy", "pandas")


def log_model(mlflow_id: str, folder: Path, card: ModelCard, scratch_root: Path) -> str:
    """Log a version's files to a run of MLflow as a model that `mlflow.pyfunc` loads; returns its address.

    The program is logged once, in the bundle: `serving/` holds the same file.
    """
    import mlflow

    names = [name for name in version_files(folder) if name != SERVING_FILE]
    with shared_tree(folder, names, scratch_root) as tree:
        (tree / served.FILES).write_text(json.dumps(file_digests(tree, names), indent=1) + "\n")
        loader = _loader(tree.parent)
        with mlflow.start_run(run_id=mlflow_id), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logged = mlflow.pyfunc.log_model(
                name="model",
                loader_module=loader.stem,
                code_paths=[str(loader)],
                data_path=str(tree),
                signature=_signature(card),
                input_example=np.zeros((1, *card.input.patch_shape), dtype=np.float32),
                pip_requirements=[f"{name}=={installed()[name]}" for name in _REQUIRED],
                metadata={"run_id": card.run_id, "checkpoint_sha256": card.checkpoint_sha256},
            )
    return str(logged.model_uri)


def _loader(folder: Path) -> Path:
    """The loading module under a name that its content gives it: versions of different age load in one process."""
    source = Path(served.__file__)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    return Path(shutil.copyfile(source, folder / f"noduleflow_served_{digest}.py"))


def _signature(card: ModelCard) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *card.input.patch_shape))]),
        outputs=Schema([ColSpec("double", "probability")]),
        params=ParamSchema(
            [
                ParamSpec("diameter_mm", "double", default=[], shape=(-1,)),
                ParamSpec("with_logit", "boolean", default=False),
            ]
        ),
    )

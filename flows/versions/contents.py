"""What a version carries: its run folder, completed with the forms in which others run the network.

checkpoint.safetensors, model_card.json    to go on training, by this program
serving/model.pt2                          to serve: a traced program, any batch
bundle/                                    the same program as a MONAI bundle
evaluation.json, report.html, predictions.parquet, ...    what was found
dataset.json, environment.json             from what, and with what it was made
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_contracts.errors import WeightsError
from data_contracts.evaluation import SCORES, EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.records import write_bytes_atomic
from flows.versions.environment import installed
from flows.versions.version_files import BUNDLE, DATASET_FILE, SERVING_FILE, new_folder, share_file
from models.bundle import PROGRAM_FILE, bundle_files
from models.checkpoint import load_network
from models.export import ServingModule, save_program

#: how far the logit of the traced program may be from the network's, in units of the largest or 1
_TOLERANCE = 1e-3
_CHECKED_BATCHES = (1, 3)


def write_contents(folder: Path, dataset_dir: Path) -> None:
    """Complete the folder of a finished run with its served forms and the card of its dataset, each once.

    Raises
    ------
    WeightsError: the traced program does not give the logits of the network.
    """
    card = ModelCard.read(folder / "model_card.json")
    if not (folder / DATASET_FILE).exists():
        write_bytes_atomic(folder / DATASET_FILE, (dataset_dir / DATASET_FILE).read_bytes())
    if not (folder / SERVING_FILE).exists():
        serving = ServingModule(load_network(folder, card), card.input, card.calibration)
        with new_folder((folder / SERVING_FILE).parent) as made:
            save_program(serving.export(), made / Path(SERVING_FILE).name)
            _check(serving, made / Path(SERVING_FILE).name)
    if not (folder / BUNDLE).exists():
        write_bundle(folder, card, folder / BUNDLE)


def write_bundle(run_folder: Path, card: ModelCard, target: Path) -> None:
    """The MONAI bundle of a run whose served form is there, whole or not at all; the program is shared, not copied."""
    report = EvaluationReport.read(run_folder / "evaluation.json")
    packages = {name: installed()[name] for name in ("monai", "torch", "numpy", "nibabel")}
    texts = bundle_files(card, packages, _figures(report), program_version=installed()["noduleflow"])
    with new_folder(target) as made:
        for name, text in texts.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
        share_file(run_folder / SERVING_FILE, made / PROGRAM_FILE)


def _check(serving: ServingModule, program: Path) -> None:
    """Raises WeightsError where the program that was written does not answer as the network does."""
    traced = torch.export.load(program).module()
    low, high = (-1000, 400) if serving.spec.value_unit == "HU" else (0, 255)
    random = np.random.default_rng(0)
    with torch.inference_mode():
        for batch in _CHECKED_BATCHES:
            values = random.uniform(low, high, (batch, *serving.spec.patch_shape)).astype(np.float32)
            expected, given = serving(torch.from_numpy(values)), traced(torch.from_numpy(values))
            difference = float((expected - given).abs().max())
            if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
                raise WeightsError(
                    f"the traced program differs from the network by {difference:.2g} of a logit",
                    where=SERVING_FILE,
                    todo="It was not written. Please report the backbone and the versions of `noduleflow doctor`.",
                )


def _figures(report: EvaluationReport) -> dict[str, float]:
    """AUC of each score on all held-out nodules, by name."""
    found = {f"AUC, {name}": report.find(score) for score, name in SCORES.items()}
    return {name: row.auc.value for name, row in found.items() if row is not None and row.auc.value is not None}

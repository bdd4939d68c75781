"""What compression costs on real nodules: a student beside its teacher, and each exported form beside float32 of torch.

    python tests/benchmarks/bench_compression.py [--epochs 16] [--work DIR] [--threads 1] [--rounds 15]

LIDC crops with at least three readers, label mean malignancy above against below 3, a quarter of the patients held out.
Teacher: the preset lidc-crops-mobilenet. Students: the preset student, with the teacher and without. Speeds are taken
in turns in one process. Writes bench/compression.json; --work keeps what is done.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "benchmarks")]
DATA = REPOSITORY.parent / "shared" / "data"
TEACHER, TAUGHT, UNTAUGHT = "teacher", "student", "student-untaught"


def dataset_of(workspace: Any) -> str:
    """The crops as a dataset, a quarter of the patients for the test."""
    from data_contracts.params import LabelParams, SplitParams
    from pipeline.cohort.importers import import_npz

    crops = DATA / "lidc-nodules" / "crops_3x64x64_uint8.npz"
    return import_npz(
        crops,
        name="lidc-crops",
        table=crops.with_name("nodules.csv"),
        datasets_root=workspace.datasets_root,
        split=SplitParams(train=0.6, validation=0.15),
        label=LabelParams(min_readers=3),
    ).dataset_id


def fitted_run(workspace: Any, dataset_id: str, params: Any, run_id: str) -> Path:
    """The folder of a run with its checkpoint and card, fitted and calibrated as `train` does, without MLflow."""
    from dataclasses import replace

    from data_contracts.model_card import ModelCard
    from flows.datasets.backbone import calibration_rows, initial_backbone
    from flows.datasets.labelled import floats
    from flows.datasets.training_cohort import TrainingCohort
    from flows.learning.teaching import load_teacher
    from models.checkpoint import save_network
    from models.fitting.fit import fit_classifier
    from models.networks.inputs import input_spec
    from models.predict import predict_logits
    from pipeline.scoring.fusion import fit_calibration

    folder = workspace.runs_root / run_id
    if (folder / "model_card.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    cohort = TrainingCohort(workspace.datasets_root / dataset_id, params)
    spec = input_spec(cohort.reader.card, params)
    sample = cohort.patches(calibration_rows(cohort.index))
    backbone, weights = initial_backbone(
        params.backbone, params.weights, params.weights_sha256, params.seed, sample, spec
    )
    data = replace(cohort.fit_data(adapted=False), teacher=load_teacher(workspace.runs_root, params))
    result = fit_classifier(
        data,
        params,
        spec,
        backbone,
        state_dir=folder / "state",
        on_epoch=lambda epoch: print(run_id, epoch.epoch, epoch.validation_auc, file=sys.stderr, flush=True),
    )
    train, validation = cohort.train(), cohort.validation()
    calibration = fit_calibration(
        predict_logits(result.network, cohort.patches(validation), spec),
        *(floats(validation[column]) for column in ("diameter_mm", "label")),
        *(floats(train[column]) for column in ("diameter_mm", "label")),
    )
    ModelCard(
        name=params.preset,
        run_id=run_id,
        backbone=params.backbone,
        weights=weights.source,
        weights_sha256=weights.sha256,
        pretrained=weights.pretrained,
        head=params.head,
        pooling=params.pooling,
        concepts=cohort.concepts,
        input=spec,
        calibration=calibration,
        checkpoint_sha256=save_network(folder, result.network),
        dataset_id=dataset_id,
        training={"common_spacing_mm": params.common_spacing_mm},
    ).write(folder / "model_card.json")
    return folder


def test_table(workspace: Any, dataset_id: str, folder: Path, params: Any) -> Any:
    """Predictions of a run on the held-out patients."""
    from flows.datasets.training_cohort import TrainingCohort
    from flows.versions.evaluation import predictions_of
    from models.predict import Predictor

    cohort = TrainingCohort(workspace.datasets_root / dataset_id, params)
    predictor = Predictor.load(folder)
    logits = predictor.logits(cohort.patches(cohort.test()))
    return predictions_of(cohort.test(), logits, predictor.card.calibration)


def compared(work: str, ours: Any, theirs: Any, peer: str, **bound: float) -> dict[str, Any]:
    """A row: image-only AUC of `ours` minus that of `theirs`, paired patient bootstrap."""
    from paired import value_row

    from pipeline.scoring.compare import compare_paired

    found = compare_paired(ours, theirs, score="score_image")
    figure = found.difference_bootstrap
    row = value_row(
        f"{work}: image-only AUC {found.auc_a:.3f}, minus {peer} ({found.auc_b:.3f})",
        figure.value,
        "",
        n=found.n,
        interval=(figure.low, figure.high),
        **bound,
    )
    return {**row, "peer": peer, "n_patients": found.n_patients}


def speed_row(folders: dict[str, Path], rounds: int, batch: int) -> dict[str, Any]:
    """How many times as fast the student is as its teacher, both in float32 of torch with their own views."""
    import numpy as np
    from paired import ratio_row, take_turns

    from models.compression.runners import torch_run
    from models.export import ServingModule
    from models.predict import Predictor

    runs = {}
    for name in (TEACHER, TAUGHT):
        predictor = Predictor.load(folders[name])
        spec = predictor.card.input
        run = torch_run(ServingModule(predictor.network, spec, predictor.card.calibration))
        patches = np.random.default_rng(0).integers(0, 255, (batch, *spec.patch_shape)).astype(np.float32)
        runs[name] = lambda run=run, patches=patches: run(patches)
    seconds = take_turns(runs, rounds)
    return ratio_row(f"student, float32 of torch, batch {batch}", TEACHER, seconds, own=TAUGHT, of=TEACHER)


def form_rows(name: str, card: Any) -> list[dict[str, Any]]:
    """Size, speed and cost of every form of an export."""
    from paired import value_row

    rows = []
    for form in card.forms:
        rows.append(value_row(f"{name}, {form.form}: size", form.size_bytes / 1e6, "MB"))
        for speed in form.speed:
            row = value_row(
                f"{name}, {form.form}: speed, batch {speed.batch}",
                speed.ratio,
                "",
                n=speed.rounds,
                interval=(speed.low, speed.high),
            )
            rows.append({**row, "peer": "float32 of torch"})
        figure = form.auc_difference
        rows.append(
            value_row(
                f"{name}, {form.form}: image-only AUC minus float32",
                figure.value,
                "",
                n=figure.n,
                interval=(figure.low, figure.high),
            )
        )
    return rows


def measure(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit teacher and students, export teacher and taught student, compare."""
    import torch

    from data_contracts.export_card import EXPORT_FORMS
    from flows.learning.compression import export_run, export_text
    from flows.presets import train_params
    from flows.workspace import Workspace

    torch.set_num_threads(options.threads)
    workspace = Workspace(work).create()
    dataset_id = dataset_of(workspace)
    short = {"threads": options.threads, **({"epochs": options.epochs} if options.epochs else {})}
    weights = str(DATA / "weights" / "mobilenet_v2_imagenet_features.pt")
    todo = {
        TEACHER: train_params("lidc-crops-mobilenet", {**short, "weights": weights}),
        TAUGHT: train_params("student", {**short, "teacher": TEACHER}),
        UNTAUGHT: train_params("student", short),
    }
    folders, tables = {}, {}
    for name, params in todo.items():
        folders[name] = fitted_run(workspace, dataset_id, params, name)
        tables[name] = test_table(workspace, dataset_id, folders[name], params)
    rows = [
        compared("student", tables[TAUGHT], tables[TEACHER], TEACHER),
        compared("student", tables[TAUGHT], tables[UNTAUGHT], "the same without a teacher"),
        *(speed_row(folders, options.rounds, batch) for batch in (1, 16)),
    ]
    for name in (TEACHER, TAUGHT):
        out = work / f"export-{name}"
        forms = EXPORT_FORMS
        card, made = export_run(workspace, folders[name], (name, "1"), out, forms=forms, rounds=options.rounds)
        print(export_text(card, Path(out.name), made))
        rows += form_rows(name, card)
    return rows


def main() -> int:
    """Measure, print, write bench/compression.json."""
    from paired import publish

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=0, help="of every fit; those of the presets by default")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if not DATA.is_dir():
        print("real data is absent: there is no ../shared/data beside the repository", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-compression-") as scratch:
        rows = measure(options.work or Path(scratch), options)
    if options.epochs:
        print(f"{options.epochs} epochs in place of the presets': not the figures of the presets")
    publish("compression-short" if options.epochs else "compression", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What transfer learning gives on real nodules: the LIDC crops, patient-grouped cross-validation.

    python tests/benchmarks/bench_learning.py [--folds 5] [--quick] [--work DIR] [--workers 2] [--only NAME]
    python tests/benchmarks/bench_learning.py --ablation [--only NAME] [--work DIR]

Label: mean malignancy above against below 3 with at least three readers. Prints one row a score (size only, image
only, image + size) of each recipe and writes bench/learning.json. --work keeps each fold's predictions, so that an
interrupted run goes on where it was; --quick fits one fold for two epochs and shows only that everything runs.
--ablation prints what each part of the recipe gives on development patients (bench/learning-ablation.json).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet_features.pt"
PRETRAINED = "ImageNet"
RANDOM = "random"
BEST = "lidc-crops (five networks)"
OUTLINED = "lidc-crops with readers' outlines as mask target"
N_FOLDS = 5


def recipes(weights: Path, *, quick: bool) -> dict[str, Any]:
    """Parameters of each row: the presets of the repository, and the same from random numbers."""
    from flows.presets import train_params

    short = {"epochs": 2} if quick else {}
    common = {"backbone": "mobilenet_v2", "input_size_px": 64, "common_spacing_mm": 0.6, "threads": 1}
    from_file, from_nothing = {"weights": str(weights)}, {"weights": "none"}
    scratch = {**from_nothing, "batchnorm": "adaptive", "lr_backbone": 1e-3}
    small = {"backbone": "small_cnn", "unfreeze": 4, "epochs": 30, "patience": 30}
    # Rates of the preset sgd: what papers on transfer use, not tuned here.
    by_sgd = {"optimizer": "sgd", "schedule": "annealed", "lr_head": 1e-2, "lr_backbone": 1e-3}
    return {
        f"probe ({PRETRAINED})": train_params("probe", {**common, **from_file, **short}),
        f"probe ({RANDOM})": train_params("probe", {**common, **from_nothing, **short}),
        f"fine-tuned ({PRETRAINED})": train_params("lidc-crops-mobilenet", {"threads": 1, **from_file, **short}),
        f"fine-tuned ({RANDOM})": train_params("lidc-crops-mobilenet", {"threads": 1, **scratch, **short}),
        f"last stage fine-tuned ({PRETRAINED})": train_params(
            "lidc-crops-mobilenet", {"threads": 1, "unfreeze": 1, **from_file, **short}
        ),
        f"fine-tuned by SGD ({PRETRAINED})": train_params(
            "lidc-crops-mobilenet", {"threads": 1, **by_sgd, **from_file, **short}
        ),
        f"small CNN ({RANDOM})": train_params("lidc-crops-mobilenet", {"threads": 1, **scratch, **small, **short}),
        BEST: train_params("lidc-crops", {"threads": 1, **from_file, **short}),
        OUTLINED: train_params("lidc-crops", {"threads": 1, "mask_weight": 1.0, **from_file, **short}),
    }


def one_fold(dataset: Path, params: Any, fold: int, n_folds: int, work: Path) -> tuple[Path, float]:
    """Predictions of one fold as a file below `work`, and the seconds it took; an existing file is taken as it is."""
    import torch
    from pretraining import PHANTOM, SELF_SUPERVISED, first_weights

    from data_contracts.predictions import PREDICTION_TABLE
    from flows.learning.crossval import fold_predictions

    torch.set_num_threads(1)
    started = time.monotonic()
    name = f"{dataset.name}-{params.digest()}-{fold}-of-{n_folds}"
    path = work / f"{name}.parquet"
    if not path.exists():
        # What only changes what is made of fitted networks shares their fits.
        same_fit = params.model_copy(update={"blend_concepts": False, "fusion_balance": 0.0, "preset": ""})
        state = work / f"{dataset.name}-{same_fit.digest()}-{fold}-of-{n_folds}.state"
        if params.weights in (SELF_SUPERVISED, PHANTOM):
            made = first_weights(params.weights, dataset, params, WEIGHTS, fold, n_folds)
            params = params.model_copy(update={"weights": str(made)})
        table = fold_predictions(dataset, params, fold, n_folds=n_folds, state_dir=state)
        PREDICTION_TABLE.write(path, table)
    return path, time.monotonic() - started


def import_crops(work: Path, name: str = "lidc-crops", exclude: Sequence[str] = (), votes: str = "") -> Path:
    """The crops as a dataset below `work`, without some patients; with the readers' outlines out of `votes`."""
    from data_contracts.params import LabelParams, SplitParams
    from pipeline.cohort.importers import import_npz

    crops = DATA / "lidc-nodules" / "crops_3x64x64_uint8.npz"
    card = import_npz(
        crops,
        name=name,
        table=crops.with_name("nodules.csv"),
        datasets_root=work / "datasets",
        split=SplitParams(),
        label=LabelParams(min_readers=3),
        exclude_patients=exclude,
        votes=votes,
    )
    return work / "datasets" / card.dataset_id


def measure(
    dataset: Path, todo: dict[str, Any], work: Path, folds: range, n_folds: int, workers: int
) -> dict[str, Any]:
    """Out-of-fold predictions of every recipe."""
    from data_contracts.predictions import PREDICTION_TABLE
    from flows.learning.crossval import out_of_fold

    tables: dict[str, Any] = {}
    # Two processes of one thread each: faster than two threads on layers this small. Recipes that share their fits
    # must not be fitted at once, so the recipes come one after the other.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, params in todo.items():
            futures = [pool.submit(one_fold, dataset, params, fold, n_folds, work) for fold in folds]
            parts = []
            for fold, future in zip(folds, futures, strict=True):
                path, seconds = future.result()
                print(f"{name}: fold {fold} after {seconds:.0f} s", file=sys.stderr, flush=True)
                parts.append(PREDICTION_TABLE.read(path))
            tables[name] = out_of_fold(parts)
    return tables


def print_table(tables: dict[str, Any]) -> dict[str, Any]:
    """Print the figures of every score of every table, and return them by the row's label."""
    from data_contracts.params import EvaluateParams
    from pipeline.scoring.figures import score_figures

    width = max(map(len, tables)) + 15
    print(f"{'':{width}} {'AUC':21} {'size-matched AUC':21} {'Brier':21} {'ECE':21}")
    shown = [("size only", "", next(iter(tables.values())), "score_size")]
    for name, table in tables.items():
        shown += [(name, "image only", table, "score_image"), (name, "image + size", table, "score")]
    by_row: dict[str, Any] = {}
    for name, kind, table, score in shown:
        figures = score_figures(table, score, "all", EvaluateParams(), None)
        label = f"{name}, {kind}" if kind else name
        by_row[label] = figures
        parts = [figures.auc, figures.size_matched_auc, figures.brier, figures.ece]
        print(f"{label:{width}} " + " ".join(f"{part.text():21}" for part in parts), flush=True)
    return by_row


def report(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """Print the table and return the rows of bench/learning.json."""
    import torch

    from pipeline.scoring.compare import compare_paired

    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    rows: list[dict[str, Any]] = []

    def add(work: str, figure: Any, peer: str = "", **bound: float) -> None:
        interval = [figure.low, figure.high]
        rows.append(
            {"work": work, "peer": peer, "value": figure.value, **bound, "interval": interval, "n": figure.n}
            | {"machine": machine}
        )

    by_row = print_table(tables)
    size = by_row["size only"]
    if BEST in tables:
        fused, image = by_row[f"{BEST}, image + size"], by_row[f"{BEST}, image only"]
        add(f"{BEST}, image + size: AUC", fused.auc, "size only", at_least=size.auc.value + 0.03)
        add(f"{BEST}, image + size: size-matched AUC", fused.size_matched_auc, "size only", at_least=0.80)
        add(f"{BEST}, image + size: ECE", fused.ece, at_most=0.05)
        add(f"{BEST}, image only: AUC", image.auc, at_least=0.91)
    for label, figures in by_row.items():
        for name in ("auc", "size_matched_auc", "brier", "ece"):
            add(f"{label}: {name}", getattr(figures, name))
    tuned, probe, scratch = (
        f"fine-tuned ({PRETRAINED})",
        f"probe ({PRETRAINED})",
        f"fine-tuned ({RANDOM})",
    )
    as_size = next(iter(tables.values()))
    as_size = as_size.assign(score=as_size["score_size"])
    pairs = [(OUTLINED, BEST, "score"), (OUTLINED, BEST, "score_image")]
    pairs += [(BEST, tuned, "score"), (BEST, tuned, "score_image"), (tuned, probe, "score_image")]
    pairs += [
        (name, "one network", score)
        for name in tables
        for score in ("score_image", "score")
        if "one network" in tables and name != "one network"
    ]
    pairs += [(tuned, scratch, "score_image"), (tuned, "size only", "score"), (BEST, "size only", "score")]
    known = {**tables, "size only": as_size}
    for one, other, score in pairs:
        if one not in known or other not in known:
            continue
        paired = compare_paired(known[one], known[other], score=score)
        kind = "image only" if score == "score_image" else "image + size"
        p_value = "" if paired.p_value is None else f", paired DeLong p = {paired.p_value:.2g}"
        print(f"{one} minus {other}, {kind}: {paired.difference.text()}{p_value}")
        # What an ablation says has no bound: a part that gives nothing is a result.
        bound = {} if other == "one network" else {"at_least": 0.03 if other == "size only" else 0.0}
        add(f"{one}, {kind}: AUC minus", paired.difference, other, **bound)
    return rows


def main() -> int:
    """Measure, print, write bench/learning.json or bench/learning-ablation.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=N_FOLDS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument(
        "--only", default="", help="Rows whose name contains this, or one of several with commas between."
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not DATA.is_dir():
        print("real data is absent: there is no ../shared/data beside the repository", file=sys.stderr)
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-learning-") as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        rows = ablation(work, options) if options.ablation else judged(work, options)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    name = "learning-ablation" if options.ablation else "learning-quick" if options.quick else "learning"
    target = REPOSITORY / "bench" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def judged(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The table that judges: every patient, five folds; and what the readers' other ratings reach."""
    from learning_ablation import ratings_tables

    from pipeline.cohort.dataset import PatchReader

    folds = range(1 if options.quick else options.folds)
    todo = recipes(WEIGHTS, quick=options.quick)
    todo = {name: params for name, params in todo.items() if any(part in name for part in options.only.split(","))}
    tables = measured(lambda votes: import_crops(work, votes=votes), todo, work, folds, options)
    if options.quick:
        print("quick: one fold, two epochs; these are not the figures")
    else:
        tables |= ratings_tables(PatchReader(import_crops(work)).index, options.folds)
    return report(tables)


def ablation(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One change at a time, on development patients."""
    from learning_ablation import DEVELOPMENT_FOLDS, ablation_recipes, judged_patients

    from pipeline.cohort.dataset import PatchReader

    table = DATA / "lidc-nodules" / "nodules.csv"
    judges = judged_patients(PatchReader(import_crops(work)).index, table, N_FOLDS)
    options.folds = DEVELOPMENT_FOLDS
    folds = range(1 if options.quick else options.folds)
    todo = ablation_recipes(WEIGHTS, options.only)
    name = "lidc-crops-development"
    return report(measured(lambda votes: import_crops(work, name, judges, votes), todo, work, folds, options))


def measured(
    imported: Callable[[str], Path], todo: dict[str, Any], work: Path, folds: range, options: argparse.Namespace
) -> dict[str, Any]:
    """`measure` of recipes without a mask target, and of those with one on the crops with their outlines.

    The same crops in the same folds: patient keys and labels decide those. imported: array of outlines -> dataset.
    """
    outlined = {name: params for name, params in todo.items() if params.mask_weight > 0}
    plain = {name: params for name, params in todo.items() if name not in outlined}
    tables: dict[str, Any] = {}
    for votes, some in (("", plain), ("votes", outlined)):
        if some:
            tables |= measure(imported(votes), some, work, folds, options.folds, options.workers)
    return tables


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())

"""What transfer learning gives on real nodules: the LIDC crops, patient-grouped cross-validation.

    python tests/benchmarks/bench_learning.py [--folds 5] [--quick] [--work DIR] [--workers 2]

Label: mean malignancy above against below 3 with at least three readers. Prints one row a score (size only, image
only, image + size) of each recipe and writes bench/learning.json. --work keeps each fold's predictions, so that an
interrupted run goes on where it was; --quick fits one fold for two epochs and shows only that everything runs.
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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
PRETRAINED = "ImageNet"
RANDOM = "random"


def recipes(weights: Path, *, quick: bool) -> dict[str, Any]:
    """Parameters of each row: the presets of the repository, and the same from random numbers."""
    from flows.presets import train_params

    short = {"epochs": 2} if quick else {}
    common = {"backbone": "mobilenet_v2", "input_size_px": 64, "common_spacing_mm": 0.6, "threads": 1}
    from_file, from_nothing = {"weights": str(weights)}, {"weights": "none"}
    scratch = {**from_nothing, "batchnorm": "adaptive", "lr_backbone": 1e-3}
    return {
        f"probe ({PRETRAINED})": train_params("probe", {**common, **from_file, **short}),
        f"probe ({RANDOM})": train_params("probe", {**common, **from_nothing, **short}),
        f"fine-tuned ({PRETRAINED})": train_params("lidc-crops-mobilenet", {"threads": 1, **from_file, **short}),
        f"fine-tuned ({RANDOM})": train_params("lidc-crops-mobilenet", {"threads": 1, **scratch, **short}),
    }


def one_fold(dataset: Path, params: Any, fold: int, n_folds: int, work: Path) -> tuple[Path, float]:
    """Predictions of one fold as a file below `work`, and the seconds it took; an existing file is taken as it is."""
    import torch

    from data_contracts.predictions import PREDICTION_TABLE
    from flows.crossval import fold_predictions

    torch.set_num_threads(1)
    started = time.monotonic()
    name = f"{params.digest()}-{fold}-of-{n_folds}"
    path = work / f"{name}.parquet"
    if not path.exists():
        table = fold_predictions(dataset, params, fold, n_folds=n_folds, state_dir=work / f"{name}.state")
        PREDICTION_TABLE.write(path, table)
    return path, time.monotonic() - started


def measure(work: Path, *, n_folds: int, quick: bool, workers: int) -> dict[str, Any]:
    """Out-of-fold predictions of every recipe."""
    from data_contracts.params import LabelParams, SplitParams
    from data_contracts.predictions import PREDICTION_TABLE
    from flows.crossval import out_of_fold
    from pipeline.cohort.importers import import_npz

    crops = DATA / "lidc-nodules" / "crops_3x64x64_uint8.npz"
    card = import_npz(
        crops,
        name="lidc-crops",
        table=crops.with_name("nodules.csv"),
        datasets_root=work / "datasets",
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    folds = range(1 if quick else n_folds)
    todo = recipes(DATA / "weights" / "mobilenet_v2_imagenet_features.pt", quick=quick)
    tables: dict[str, Any] = {}
    # Two processes of one thread each: faster than two threads on layers this small.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        dataset = work / "datasets" / card.dataset_id
        running = {
            name: [pool.submit(one_fold, dataset, params, fold, n_folds, work) for fold in folds]
            for name, params in todo.items()
        }
        for name, futures in running.items():
            parts = []
            for fold, future in enumerate(futures):
                path, seconds = future.result()
                print(f"{name}: fold {fold} after {seconds:.0f} s", file=sys.stderr, flush=True)
                parts.append(PREDICTION_TABLE.read(path))
            tables[name] = out_of_fold(parts)
    return tables


def report(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """Print the table and return the rows of bench/learning.json."""
    import torch

    from data_contracts.params import EvaluateParams
    from pipeline.scoring.compare import compare_paired
    from pipeline.scoring.figures import score_figures

    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    rows: list[dict[str, Any]] = []

    def add(work: str, figure: Any, peer: str = "", **bound: float) -> None:
        interval = [figure.low, figure.high]
        rows.append(
            {"work": work, "peer": peer, "value": figure.value, **bound, "interval": interval, "n": figure.n}
            | {"machine": machine}
        )

    print(f"{'':34} {'AUC':21} {'size-matched AUC':21} {'Brier':21} {'ECE':21}")
    first = next(iter(tables.values()))
    shown = [("size only", "", first, "score_size")]
    for name, table in tables.items():
        shown += [(name, "image only", table, "score_image"), (name, "image + size", table, "score")]
    by_row: dict[str, Any] = {}
    for name, kind, table, score in shown:
        figures = score_figures(table, score, "all", EvaluateParams(), None)
        label = f"{name}, {kind}" if kind else name
        by_row[label] = figures
        parts = [figures.auc, figures.size_matched_auc, figures.brier, figures.ece]
        print(f"{label:34} " + " ".join(f"{part.text():21}" for part in parts))
    size = by_row["size only"]
    best = f"fine-tuned ({PRETRAINED})"
    fused, image = by_row[f"{best}, image + size"], by_row[f"{best}, image only"]
    probe = by_row[f"probe ({PRETRAINED}), image only"]
    add(f"{best}, image + size: AUC", fused.auc, "size only", at_least=size.auc.value + 0.03)
    add(f"{best}, image + size: size-matched AUC", fused.size_matched_auc, "size only", at_least=0.78)
    add(f"{best}, image + size: ECE", fused.ece, at_most=0.05)
    add(f"{best}, image only: AUC", image.auc, f"probe ({PRETRAINED})", at_least=probe.auc.value + 0.05)
    for label, figures in by_row.items():
        for name in ("auc", "size_matched_auc", "brier"):
            add(f"{label}: {name}", getattr(figures, name))
    for other, score in ((f"probe ({PRETRAINED})", "score_image"), (f"fine-tuned ({RANDOM})", "score_image")):
        paired = compare_paired(tables[best], tables[other], score=score)
        p_value = "" if paired.p_value is None else f", paired DeLong p = {paired.p_value:.2g}"
        print(f"{best} minus {other}, image only: {paired.difference.text()}{p_value}")
        add(f"{best}: image-only AUC minus", paired.difference, other, at_least=0.0)
    as_size = first.assign(score=first["score_size"])
    against_size = compare_paired(tables[best], as_size)
    print(f"{best}, image + size, minus size only: {against_size.difference.text()}", end="")
    print("" if against_size.p_value is None else f", paired DeLong p = {against_size.p_value:.2g}")
    add(f"{best}, image + size: AUC minus", against_size.difference, "size only", at_least=0.03)
    return rows


def main() -> int:
    """Measure, print, write bench/learning.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
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
        tables = measure(work, n_folds=options.folds, quick=options.quick, workers=options.workers)
    if options.quick:
        print("quick: one fold, two epochs; these are not the figures")
    rows = report(tables)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    target = REPOSITORY / "bench" / ("learning-quick.json" if options.quick else "learning.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())

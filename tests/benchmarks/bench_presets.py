"""What each preset that is not for the LIDC crops costs and scores on a cohort of phantoms, five folds by patient.

    python tests/benchmarks/bench_presets.py [--patients 90] [--folds 5] [--only NAME,...] [--work DIR]

Two sites of phantoms with the shapes of LIDC nodules go through ingest, annotate and prepare as the headings of the
presets say. A preset of a pretrained ResNet50 is scored with MobileNetV2 and its ImageNet weights, those at hand, and
what it costs is measured as it stands, on one fold, from random numbers. --work keeps cohort, datasets and folds.
Prints the table of docs/figures.md and writes bench/presets.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "benchmarks")]
WEIGHTS = REPOSITORY.parent / "shared" / "data" / "weights" / "mobilenet_v2_imagenet_features.pt"
FROM_IMAGENET: dict[str, Any] = {"backbone": "mobilenet_v2", "weights": str(WEIGHTS)}
FROM_NOTHING: dict[str, Any] = {"weights": "none"}
#: presets by the dataset that each is for, and what is set on top to score it
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "probe": ("planes", FROM_IMAGENET),
    "mlp-probe": ("planes", FROM_IMAGENET),
    "finetune": ("planes", FROM_IMAGENET),
    "multi-task": ("planes", FROM_IMAGENET),
    "sgd": ("planes", FROM_IMAGENET),
    "attention": ("nine-planes", FROM_IMAGENET),
    "scratch": ("planes", {}),
    "small-cnn": ("planes", {}),
    "3d-inflated": ("cubes", FROM_IMAGENET),
    "3d-acs": ("cubes", FROM_IMAGENET),
    "medicalnet": ("cubes", FROM_NOTHING),
}
#: runs from one site to the other: a preset and what is set on top. The presets finetune-METHOD differ in their method
#: alone, so one run with all of them fits the network of each, and source-only once.
TWO_SITES: dict[str, tuple[str, dict[str, str]]] = {
    "finetune-dann": ("finetune-dann", {}),
    "joint": ("joint", {}),
    "adaptations": ("finetune-dann", {"adaptation": "all"}),
}
DATASETS = {"planes": ("2.5d",), "nine-planes": ("2.5d", "--set", "planes=9"), "cubes": ("3d",)}
SEED = 7


def noduleflow(workspace: Path, *words: str) -> dict[str, Any]:
    """The record of a command; its messages go to standard error."""
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", *words]
    record: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return record


def make_datasets(work: Path, patients: int) -> Path:
    """A workspace with the phantoms' datasets, made once."""
    from data_contracts.params import PhantomParams
    from pipeline.cohort.phantom import generate_cohort

    cohort, workspace = work / "cohort", work / "workspace"
    generate_cohort(PhantomParams(seed=SEED, n_patients=patients), cohort)
    for site in ("site-a", "site-b"):
        noduleflow(workspace, "ingest", str(cohort / site), "--site", site)
    noduleflow(workspace, "annotate", str(cohort / "nodules.csv"), "--format", "csv")
    for name, (kind, *more) in DATASETS.items():
        noduleflow(workspace, "prepare", "--name", name, "--kind", kind, *more)
    return workspace


def dataset_folder(workspace: Path, name: str) -> Path:
    """The folder of a dataset by its name."""
    cards = [path for path in workspace.glob("datasets/*/dataset.json") if json.loads(path.read_text())["name"] == name]
    return cards[0].parent


def one_fold(dataset: Path, params: Any, fold: int, n_folds: int, path: Path) -> tuple[float, float]:
    """Write predictions of a fold as `path`; minutes of processor time and GB that this process has used."""
    import torch

    from data_contracts.predictions import PREDICTION_TABLE
    from flows.learning.crossval import fold_predictions

    torch.set_num_threads(1)
    PREDICTION_TABLE.write(path, fold_predictions(dataset, params, fold, n_folds=n_folds))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) / 60, used.ru_maxrss / 1e6


def measured_fold(dataset: Path, params: Any, fold: int, n_folds: int, work: Path) -> tuple[Path, float, float]:
    """The same in a process of its own; what was kept of an earlier call is taken as it is."""
    path = work / f"{dataset.name}-{params.digest()}-{fold}-of-{n_folds}.parquet"
    kept = path.with_suffix(".json")
    if not kept.exists():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            used = pool.submit(one_fold, dataset, params, fold, n_folds, path).result()
        kept.write_text(json.dumps(used))
    minutes, gigabytes = json.loads(kept.read_text())
    return path, minutes, gigabytes


def scored(preset: str, workspace: Path, n_folds: int, work: Path) -> list[dict[str, Any]]:
    """Rows of one preset: its scores, and what a fold costs with the backbone it names."""
    from data_contracts.params import EvaluateParams
    from data_contracts.predictions import PREDICTION_TABLE
    from flows.learning.crossval import out_of_fold
    from flows.presets import train_params
    from pipeline.scoring.figures import score_figures

    name, overrides = PRESETS[preset]
    dataset = dataset_folder(workspace, name)
    params = train_params(preset, {"threads": 1, **overrides})
    folds = [measured_fold(dataset, params, fold, n_folds, work) for fold in range(n_folds)]
    table = out_of_fold([PREDICTION_TABLE.read(path) for path, _, _ in folds])
    start = "ImageNet" if overrides is FROM_IMAGENET else "random"
    rows = []
    for score, kind in (("score_size", "size only"), ("score_image", "image only"), ("score", "image + size")):
        figures = score_figures(table, score, "all", EvaluateParams(), None)
        line = f"{preset}, {params.backbone} ({start}), {kind}"
        print(f"{line:60} AUC {figures.auc.text():22} size-matched {figures.size_matched_auc.text()}", flush=True)
        for figure in ("auc", "size_matched_auc"):
            found = getattr(figures, figure)
            interval = [found.low, found.high]
            rows.append({"work": f"{line}: {figure}", "value": found.value, "interval": interval, "n": found.n})
    own = train_params(preset, {"threads": 1, **FROM_NOTHING})
    _, minutes, gigabytes = measured_fold(dataset, own, 0, n_folds, work)
    line = f"{preset}, {own.backbone}: one fold, one thread"
    print(f"{line:60} {minutes:.1f} minutes of processor time, {gigabytes:.1f} GB", flush=True)
    rows.append({"work": line, "value": minutes, "unit": "minutes of processor time", "gigabytes": gigabytes, "n": 1})
    return rows


def two_sites(name: str, workspace: Path) -> list[dict[str, Any]]:
    """Rows of a run from one site to the other, by the command itself, and what source-only has there."""
    from data_contracts.evaluation import EvaluationReport

    preset, settings = TWO_SITES[name]
    settings = {"source_site": "site-a", "target_site": "site-b", "backbone": "mobilenet_v2", "threads": "1"} | settings
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words = ("--preset", preset, "--dataset", "planes", "--weights", str(WEIGHTS))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = noduleflow(workspace, "train", *words, *sets)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    print(f"{name}: {minutes:.1f} minutes of processor time, 0.2 where the run was there", flush=True)
    rows = [{"work": name, "value": minutes, "unit": "minutes of processor time", "record": record, "n": 1}]
    evaluation = EvaluationReport.read(Path(record["folder"]) / "evaluation.json")
    for network, figures in evaluation.alternatives.items():
        found = next(row for row in figures if (row.score, row.site) == ("score_image", "site-b")).auc
        print(f"{name}: {network}, image only, site-b: AUC {found.text()}, n {found.n}", flush=True)
        interval = [found.low, found.high]
        rows.append({"work": f"{name}: {network}", "value": found.value, "interval": interval, "n": found.n})
    print(f"{name}: kept {record['network']}", flush=True)
    for reason in evaluation.adaptation.reasons if evaluation.adaptation else ():
        print(f"{name}: {reason}", flush=True)
    return rows


def main() -> int:
    """Measure, print, write bench/presets.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=90)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", default="", help="Presets or runs of two sites, with commas; all by default.")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if not WEIGHTS.is_file():
        print("real data is absent: there is no ../shared/data beside the repository", file=sys.stderr)
        return 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-presets-") as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        workspace = make_datasets(work, options.patients)
        for preset in options.only.split(",") if options.only else [*PRESETS, *TWO_SITES]:
            if preset in TWO_SITES:
                rows += two_sites(preset, workspace)
            else:
                rows += scored(preset, workspace, options.folds, work)
    target = REPOSITORY / "bench" / "presets.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

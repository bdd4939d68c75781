"""Are planted faults caught? A leaked patient, flipped labels and a drifted kernel, and how often clean data alarms.

    python tests/benchmarks/bench_surveillance.py [--trials 20] [--clean 100] [--only leak,flips,kernel]

Prints a table and writes bench/surveillance.json. Needs the crops in ../shared/data and, for the kernels, the ImageNet
weights of MobileNetV2 beside them. tests/benchmarks/surveillance.py says what is planted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
_SEED = 20
_MOST_FALSE = 0.05
_NODULES = 500

Trial = Callable[[np.random.Generator], bool]


def count(trial: Trial, n: int, stream: int) -> int:
    """In how many of n trials something was found; each has numbers of its own."""
    return sum(trial(np.random.default_rng([_SEED, stream, number])) for number in range(n))


def row(work: str, hits: int, n: int, *, planted: bool, bound: float | None = None) -> dict[str, Any]:
    """A row of bench/surveillance.json, with the exact interval of a share (Clopper-Pearson)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(method="exact")
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    found = {"work": work, "peer": "planted" if planted else "clean", "value": hits / n, "n": n, "machine": machine}
    found["interval"] = [float(interval.low), float(interval.high)]
    if bound is not None:
        found["at_least" if planted else "at_most"] = bound
    return found


def leaks(trials: int, clean: int) -> list[dict[str, Any]]:
    """A training patient among the test patients under another key; noise in grey values of 0 to 255."""
    from surveillance import leak_trial, lidc_nodules

    nodules = lidc_nodules(SHARED)

    def planted(noise: float) -> Trial:
        return lambda rng: all(leak_trial(nodules, rng, noise))

    rows = [
        row(
            f"patient leak, cut again, noise {noise:g}", count(planted(noise), trials, 1 + number), trials, planted=True
        )
        for number, noise in enumerate((0.0, 5.0, 10.0))
    ]
    rows[0]["at_least"] = rows[1]["at_least"] = 1.0
    alarms = count(lambda rng: leak_trial(nodules, rng, None)[0], clean, 9)
    return [*rows, row("patient leak: false alarms", alarms, clean, planted=False, bound=_MOST_FALSE)]


def flips(trials: int, clean: int) -> list[dict[str, Any]]:
    """Flipped labels; an alert counts, and where a batch is known it must be the one that is named."""
    from surveillance import FLIPS, flip_trial, lidc_nodules

    nodules = lidc_nodules(SHARED)
    named = {"batch": "import 0", "tenth of a batch": "A"}

    def caught(kind: str, ratings: bool) -> Trial:
        def trial(rng: np.random.Generator) -> bool:
            audit = flip_trial(nodules, rng, kind, ratings=ratings)
            blamed = {batch.level for batch in audit.batches if batch.verdict in ("watch", "alert")}
            return audit.verdict == "alert" and (kind not in named or named[kind] in blamed)

        return trial

    rows = []
    for ratings in (True, False):
        known = "" if ratings else ", without the readers' other ratings"
        for number, kind in enumerate(FLIPS):
            is_planted = kind != "clean"
            n = trials if is_planted else clean
            hits = count(caught(kind, ratings), n, 20 + 10 * ratings + number)
            work = f"flipped labels, {kind}{known}" if is_planted else f"flipped labels: false alarms{known}"
            bound = (1.0 if is_planted else _MOST_FALSE) if ratings or kind in ("batch", "clean") else None
            rows.append(row(work, hits, n, planted=is_planted, bound=bound))
    return rows


def kernels(trials: int, clean: int, weights: Path) -> list[dict[str, Any]]:
    """A window of 30 patients by another kernel than that of the reference of 200; noise of the scanner is the same."""
    from adaptation_scenarios import HOME, Scanner
    from surveillance import kernel_trial

    abroad = {kernel: Scanner(kernel, HOME.noise_hu, HOME.thickness_mm) for kernel in ("medium", "sharp")}
    home, again, *others = (
        table_of(scanner, weights, number) for number, scanner in enumerate((HOME, HOME, *abroad.values()))
    )
    rows = [
        row(
            f"drifted kernel, soft to {kernel}",
            count(lambda rng, table=table: kernel_trial(home, table, rng) == "alert", trials, 40 + number),
            trials,
            planted=True,
            bound=1.0,
        )
        for number, (kernel, table) in enumerate(zip(abroad, others, strict=True))
    ]
    for verdict in ("alert", "watch"):
        alarms = count(lambda rng, verdict=verdict: kernel_trial(home, again, rng) == verdict, clean, 49)
        bound = _MOST_FALSE if verdict == "alert" else None
        rows.append(row(f"drifted kernel: false {verdict}", alarms, clean, planted=False, bound=bound))
    return rows


def table_of(scanner: Any, weights: Path, seed: int) -> pd.DataFrame:
    """The phantom's nodules as a scanner shows them, with embeddings by MobileNetV2 and the figures of their noise."""
    import torch
    from adaptation_scenarios import PATCH_SHAPE, PIXEL_MM, draw_objects, scan
    from surveillance import seen

    from data_contracts.model_card import InputSpec
    from models.networks.backbones import build_backbone
    from models.networks.inputs import to_images
    from models.weights.zoo import load_weights
    from pipeline.imaging.noise import noise_of_patches

    torch.set_num_threads(1)
    objects, rng = draw_objects(REPOSITORY / "bench" / "cache", limit=_NODULES), np.random.default_rng([_SEED, seed])
    patches = np.stack([scan(hu, scanner, rng) for hu in objects.hu])
    backbone = build_backbone("mobilenet_v2", seed=0)
    load_weights(backbone, str(weights), "")
    backbone.eval()
    spec = InputSpec(kind="2.5d", patch_shape=PATCH_SHAPE, value_unit="HU", spacing_mm=PIXEL_MM, input_size_px=64)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(patches), 64):
            images = to_images(patches[start : start + 64], spec)
            vectors = backbone(images.flatten(0, 1))
            parts.append(vectors.reshape(len(images), -1, vectors.shape[-1]).mean(dim=1).numpy())
    noise, fine = noise_of_patches(patches, "2.5d", PIXEL_MM)
    return seen(objects.patients, np.concatenate(parts), noise, fine)


def main() -> int:
    """Run the trials, print the table, write bench/surveillance.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--only", default="leak,flips,kernel")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet_features.pt")
    options = parser.parse_args()
    works = {
        "leak": lambda: leaks(options.trials, options.clean),
        "flips": lambda: flips(options.trials, options.clean),
        "kernel": lambda: kernels(options.trials, options.clean, options.weights),
    }
    rows: list[dict[str, Any]] = []
    print("| what | caught | of | 95 % interval | bound |\n|---|---|---|---|---|", flush=True)
    for name in options.only.split(","):
        started = time.monotonic()
        for one in works[name]():
            rows.append(one)
            bound = (
                f">= {one['at_least']:g}" if "at_least" in one else f"<= {one['at_most']:g}" if "at_most" in one else ""
            )
            low, high = one["interval"]
            hits = round(one["value"] * one["n"])
            print(f"| {one['work']} | {hits} | {one['n']} | {low:.2f} to {high:.2f} | {bound} |", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    target = REPOSITORY / "bench" / "surveillance.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())

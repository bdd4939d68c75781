"""Features, fine-tuning and augmentation beside eager torch and MONAI, and beside what the processor can do at most.

    python tests/benchmarks/bench_features.py [--rounds 6] [--only features,steps] [--compile]

Prints a table and writes bench/features.json. Every variant of a network has a process of its own, because the
allocator of a process cannot be put back; the processes take turns, so that load falls on all alike. ResNet50 has
random weights with BatchNorm statistics of its inputs (time does not depend on them); cosines and AUC are those of
MobileNetV2 with ImageNet weights on real nodules. Bars for bf16 hold on processors that multiply it in hardware;
elsewhere the rows are printed without a bar, and `auto` takes float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from features_workers import GFLOP_AN_IMAGE, Worker  # noqa: E402
from paired import Row, publish, ratio_row, take_turns, value_row  # noqa: E402

PEER = "eager fp32, default allocator"


def limit_rows(rounds: int) -> tuple[list[Row], dict[str, float]]:
    """What this processor does at most: GFLOP/s of matrix products and of a large convolution, GB/s of a copy."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    runs: dict[str, tuple[Callable[[], object], float]] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        layer = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(dtype).to(memory_format=torch.channels_last)
        image = torch.randn(32, 256, 14, 14).to(dtype).contiguous(memory_format=torch.channels_last)
        matrix = torch.randn(2048, 2048).to(dtype)
        runs[f"matrix product {name}"] = (lambda matrix=matrix: matrix @ matrix, 2 * 2048**3 / 1e9)
        work = 2 * 9 * 256 * 256 * 14 * 14 * 32 / 1e9
        runs[f"convolution {name}"] = (lambda layer=layer, image=image: layer(image), work)
    source = torch.zeros(64 << 18)
    target = torch.empty_like(source)
    runs["copy"] = (lambda: target.copy_(source), 2 * source.numel() * 4 / 1e9)
    with torch.inference_mode():
        seconds = take_turns({name: run for name, (run, _) in runs.items()}, rounds)
    rates = {name: work / min(seconds[name]) for name, (_, work) in runs.items()}
    rows = [
        value_row(f"limit: {name}", rate, "GB/s" if name == "copy" else "GFLOP/s", n=rounds)
        for name, rate in rates.items()
    ]
    return rows, rates


def in_turns(variants: list[str], rounds: int, *options: str) -> dict[str, Worker]:
    """Workers that have run `rounds` times, in turns."""
    # Started one after the other: each needs the processor to open its engine.
    workers = {name: Worker(name, *options).ready() for name in variants}
    for _ in range(rounds):
        for worker in workers.values():
            worker.run()
    for worker in workers.values():
        worker.end()
    return workers


def worker_row(work: str, peer: str, own: Worker, other: Worker, **more: Any) -> Row:
    """How many times faster `own` is than `other`, by the wall and by the processor's clock."""
    seconds = {"own": own.wall_s, "other": other.wall_s}
    row = ratio_row(work, peer, seconds, own="own", of="other", **more)
    row["ratio_of_processor_time"] = round(min(other.cpu_s) / min(own.cpu_s), 2)
    return row


def feature_rows(rounds: int, *, compiled: bool) -> list[Row]:
    """ResNet50 at 224 x 224, batches of 32."""
    from models.engines.processor import has_bf16_units, has_openvino

    bf16 = has_bf16_units()
    variants = ["eager", "eager, heap kept", "auto", "torch"]
    variants += ["int8"] if has_openvino() else []
    variants += ["compile"] if compiled else []
    limits, rates = limit_rows(rounds)
    workers = in_turns(variants, rounds)
    more_limits, again = limit_rows(rounds)
    rows = [max(pair, key=lambda row: row["value"]) for pair in zip(limits, more_limits, strict=True)]
    limit = {name: max(rates[name], again[name]) for name in rates}
    work = "ResNet50 224x224 features, batch 32"
    for name in variants[2:]:
        plan = workers[name].facts["plan"]
        bar = 9.0 if bf16 and name == "auto" else None
        rows.append(worker_row(f"{work}: {name}", PEER, workers[name], workers["eager"], at_least=bar, plan=plan))
    rate = 32 / min(workers["auto"].wall_s)
    precision = workers["auto"].facts["precision"]
    rows.append(value_row(f"{work}: auto", rate, "images/s", n=rounds, precision=precision))
    share = rate * GFLOP_AN_IMAGE / limit[f"convolution {precision}"]
    bar_share = {"at_least": 0.75} if bf16 else {}
    rows.append(value_row(f"{work}: share of the {precision} convolution limit", share, "", n=rounds, **bar_share))
    for name in variants[2:]:
        facts = workers[name].facts
        rows.append(value_row(f"{work}: first call, {name}", facts["first_call_s"], "s"))
        if facts["cosine"] is not None:
            rows.append(value_row(f"{work}: smallest cosine to fp32, {name} (random weights)", facts["cosine"], ""))
    kept = worker_row("heap kept, eager fp32 features", PEER, workers["eager, heap kept"], workers["eager"])
    kept["page_faults"] = [workers["eager, heap kept"].facts["faults"], workers["eager"].facts["faults"]]
    return [*rows, kept]


def step_rows(rounds: int) -> list[Row]:
    """A step of fine-tuning ResNet50 at 128 x 128, batches of 16, with every stage or the last one learning."""
    from models.engines.processor import has_bf16_units

    variants = ["step-all-eager", "step-all-fp32", "step-all-bf16", "step-last-eager", "step-last-cached"]
    workers = in_turns(variants, rounds, "--size", "128", "--batch", "16")
    all_stages, last = workers["step-all-eager"], workers["step-last-eager"]
    bar = 1.8 if has_bf16_units() else None
    rows = [
        worker_row("fine-tuning step, every stage: bf16", PEER, workers["step-all-bf16"], all_stages, at_least=bar),
        worker_row("fine-tuning step, every stage: fp32, channels last", PEER, workers["step-all-fp32"], all_stages),
        worker_row(
            "fine-tuning step, last stage: fp32 on what frozen stages gave",
            f"{PEER}, frozen stages in each step",
            workers["step-last-cached"],
            last,
            at_least=1.8,
        ),
    ]
    rate = 16 / min(workers["step-last-cached"].wall_s)
    return [*rows, value_row("fine-tuning, last stage, cached: samples", rate, "samples/s", n=rounds), head_row(rounds)]


def head_row(rounds: int) -> Row:
    """Samples a second where nothing but the head learns, on features that were computed before."""
    import torch

    from data_contracts.params import TrainParams
    from models.fitting.learner import Learner
    from models.fitting.losses import Batch, batch_losses
    from models.fitting.optimizer import build_optimizer
    from models.networks.backbones import build_backbone
    from models.networks.network import NetworkPlan, build_network

    params, n = TrainParams(unfreeze=0), 256
    network = build_network(build_backbone("resnet50", seed=0), NetworkPlan("mlp", dropout=0.5), seed=0)
    learner = Learner(network, params, n_planes=1, n_patches=n)
    optimizer = build_optimizer(learner, params)
    batch = Batch(torch.rand(n, 2048), torch.arange(n) % 2 * 1.0, torch.ones(n))

    def epoch() -> None:
        for _ in range(20):
            losses = batch_losses(learner, batch, params, 0.0)
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            optimizer.step()

    seconds = take_turns({"head": epoch}, rounds)["head"]
    return value_row("training on cached features, batch 256", 20 * n / min(seconds), "samples/s", n=rounds)


def augmentation_rows(rounds: int) -> list[Row]:
    """32 volumes of 64^3, and the 3 planes of 96 x 96 of 32 patches, turned, zoomed, flipped and made noisy."""
    return [
        *one_augmentation("32 volumes of 64^3", (32, 1, 64, 64, 64), rounds),
        *one_augmentation("96 planes of 96x96", (96, 1, 96, 96), rounds),
    ]


def one_augmentation(name: str, shape: tuple[int, ...], rounds: int) -> list[Row]:
    """A batch beside MONAI's transforms of each of its images."""
    import torch
    from monai import transforms

    from models.augmentation.batch import AugmentRanges, augment_batch

    ranges = AugmentRanges(noise_std=20.0)
    images = np.random.default_rng(0).normal(-500, 300, shape).astype(np.float32)
    tensors = [torch.from_numpy(image) for image in images]
    axes = len(shape) - 2
    turns = {f"range_{axis}": ranges.rotation_rad for axis in ("xyz" if axes == 3 else "x")}
    theirs = transforms.Compose(
        [
            transforms.RandRotate(**turns, prob=1.0, padding_mode="border"),
            transforms.RandZoom(prob=1.0, min_zoom=ranges.zoom[0], max_zoom=ranges.zoom[1]),
            *[transforms.RandFlip(prob=0.5, spatial_axis=axis) for axis in range(axes)],
            transforms.RandGaussianNoise(prob=1.0, std=ranges.noise_std),
        ]
    ).set_random_state(0)
    memory = np.zeros_like(images)
    draws = iter(range(10**9))
    variants = {
        "noduleflow": lambda: augment_batch(images, ranges, seed=0, draw=next(draws), out=memory),
        "fresh": lambda: augment_batch(images, ranges, seed=0, draw=next(draws)),
        "MONAI": lambda: [theirs(tensor) for tensor in tensors],
        "copy": lambda: np.copyto(memory, images),
    }
    seconds = take_turns(variants, rounds)
    peer, work = "MONAI RandRotate, RandZoom, RandFlip, RandGaussianNoise", f"augmentation of {name}"
    times = min(seconds["noduleflow"]) / min(seconds["copy"])
    return [
        ratio_row(f"{work}, memory reused", peer, seconds, own="noduleflow", of="MONAI", at_least=8.0),
        ratio_row(f"{work}, fresh memory", peer, seconds, own="fresh", of="MONAI"),
        value_row(f"{work}: times as long as copying them", times, "", n=rounds),
    ]


def number_rows(*, training: bool) -> list[Row]:
    """Cosines and AUC on real nodules, of features or after training in bf16; none where the real data is absent."""
    import features_auc

    if not features_auc.DATA.is_dir():
        print("cosines and AUC: there is no ../shared/data beside the repository", file=sys.stderr)
        return []
    return features_auc.fine_tuning_rows() if training else features_auc.numerical_rows()


def main() -> int:
    """Measure, print, write bench/features.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", default="features,steps,augmentation,numbers,training")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, whose first call takes a minute")
    options = parser.parse_args()
    parts: dict[str, Callable[[], list[Row]]] = {
        "features": lambda: feature_rows(options.rounds, compiled=options.compile),
        "steps": lambda: step_rows(options.rounds),
        "augmentation": lambda: augmentation_rows(options.rounds),
        "numbers": lambda: number_rows(training=False),
        "training": lambda: number_rows(training=True),
    }
    chosen = options.only.split(",")
    rows: list[Row] = []
    for name in chosen:
        started_s = time.monotonic()
        rows += parts[name]()
        print(
            f"{name}: {time.monotonic() - started_s:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True
        )
    publish("features" if len(chosen) == len(parts) else f"features-{'-'.join(chosen)}", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

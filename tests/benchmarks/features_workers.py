"""One variant of feature extraction or of a training step in a process of its own, which runs when it is told to.

    python tests/benchmarks/features_workers.py VARIANT [--size 224] [--batch 32]

The allocator of a process cannot be put back to what it was, so peers with the default one need their own. Each line
on standard input runs the variant once; the answer is a JSON line with its wall and processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

#: multiplications and additions of ResNet50 without its classifier for one image of 224 x 224
GFLOP_AN_IMAGE = 8.178
CACHE = REPOSITORY / "bench" / "cache"


class Worker:
    """The variant's process, seen from the benchmark."""

    def __init__(self, variant: str, *options: str) -> None:
        command = [sys.executable, str(Path(__file__)), variant, *options]
        self.name = variant
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts: dict[str, Any] = {}
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []

    def ready(self) -> Worker:
        """Wait until it has done its first run."""
        self.facts = self._answer()
        return self

    def run(self) -> None:
        """One timed run."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        took = self._answer()
        self.wall_s.append(took["wall_s"])
        self.cpu_s.append(took["cpu_s"])
        self.facts["faults"] = took["faults"]

    def end(self) -> None:
        """Close its input, which ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the variant {self.name} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def network(size_px: int) -> Any:
    """ResNet50 with random weights and BatchNorm statistics of smooth images (no ImageNet weights are at hand)."""
    import torch

    from models.networks.backbones import build_backbone
    from models.weights.zoo import calibrate_batchnorm

    backbone = build_backbone("resnet50", seed=0)
    calibrate_batchnorm(backbone, smooth_images(8, size_px))
    torch.manual_seed(0)
    return backbone


def smooth_images(n: int, size_px: int) -> Any:
    """Images (n, 3, S, S) of blobs of several sizes."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    sizes = (4, 12, 40)
    parts = [torch.randn(n, 3, size, size, generator=generator) for size in sizes]
    enlarged = [functional.interpolate(part, size=(size_px, size_px), mode="bicubic") for part in parts]
    return torch.stack(enlarged).sum(dim=0)


def extraction(variant: str, size_px: int, batch: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """A pass of `batch` images, and what opening the engine told."""
    import torch

    backbone, images = network(size_px), smooth_images(batch, size_px)
    if variant.startswith("eager"):
        # As anyone would call it: default layout, default allocator.
        plain = backbone.to(memory_format=torch.contiguous_format)
        if variant == "eager, heap kept":
            from models.engines.heap import keep_heap

            keep_heap()

        def eager() -> object:
            with torch.inference_mode():
                return plain(images)

        return eager, {}
    from models.engines.open_engine import open_engine
    from models.engines.plan import plan_engine

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE / "inductor"))
    wish, _, precision = variant.partition(" ")
    opened = open_engine(backbone, plan_engine("cpu", wish, precision or "auto"), images, cache=CACHE / "openvino")
    facts = {"plan": opened.plan.line(), "precision": opened.plan.precision, "cosine": opened.cosine}
    parts = torch.split(images, opened.engine.images_a_pass)
    return lambda: list(opened.engine.stream(parts)), {**facts, "first_call_s": opened.first_call_s}


def training_step(variant: str, size_px: int, batch: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """One step of fine-tuning on `batch` images.

    step-all-*: every stage learns. step-last-*: the last one; `eager` computes the frozen stages in every step, as a
    plain training loop does, `cached` reads what they gave.
    """
    import torch

    from data_contracts.params import TrainParams
    from models.engines.heap import keep_heap
    from models.fitting.learner import Learner
    from models.fitting.losses import Batch, batch_losses
    from models.fitting.optimizer import build_optimizer
    from models.networks.network import NetworkPlan, build_network

    _, stages, mode = variant.split("-")
    if mode != "eager":
        keep_heap()
    backbone, images = network(size_px), smooth_images(batch, size_px)
    if mode == "eager":
        backbone = backbone.to(memory_format=torch.contiguous_format)
    else:
        images = images.contiguous(memory_format=torch.channels_last)
    params = TrainParams(unfreeze=5 if stages == "all" else 1)
    prefix, _ = backbone.split(params.unfreeze)
    prefix.requires_grad_(False)
    built = build_network(backbone, NetworkPlan("mlp", dropout=0.5), seed=0)
    learner = Learner(built, params, n_planes=1, n_patches=batch)
    learner.bf16 = mode == "bf16"
    learner.train()
    optimizer = build_optimizer(learner, params)
    targets = torch.arange(batch) % 2 * 1.0
    with torch.no_grad():
        cached = prefix(images) if mode != "eager" else None

    def step() -> None:
        if cached is None:
            with torch.no_grad():
                inputs = prefix(images)
        else:
            inputs = cached
        losses = batch_losses(learner, Batch(inputs, targets, torch.ones(batch)), params, 0.0)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()

    return step, {}


def main() -> None:
    """Run once for each line on standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    make = training_step if options.variant.startswith("step-") else extraction
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    run, facts = make(options.variant, options.size, options.batch)
    run()
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF)
        started_s, cpu_started_s = time.perf_counter(), time.process_time()
        run()
        took = {"wall_s": time.perf_counter() - started_s, "cpu_s": time.process_time() - cpu_started_s}
        took["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()

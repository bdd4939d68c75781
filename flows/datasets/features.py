"""Features: a dataset in, the vectors that a frozen backbone makes of its patches out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prefect import flow

from data_contracts.features import FEATURE_TABLE, FeatureCard
from data_contracts.model_card import InputSpec
from data_contracts.params import FeatureParams, TrainParams
from data_contracts.records import digest_of, sha256_file
from flows.datasets.backbone import calibration_rows, initial_backbone
from flows.datasets.feature_parts import FeatureParts, Vectors, patch_sha256
from flows.datasets.labelled import patches_of
from flows.engine import step
from flows.progress import say, stage
from flows.remote.opening import fetched
from flows.running.batches import batches
from flows.running.elsewhere import Terms, terms_of
from flows.running.opaque import Opaque
from flows.running.runners import ConfiguredRunner, completed
from flows.workspace import Workspace
from models.augmentation.style import variant_count
from models.engines.heap import give_back
from models.engines.open_engine import OpenedEngine, open_engine
from models.engines.plan import EnginePlan, plan_engine
from models.networks.backbones import Backbone, is_volumetric, state_digest
from models.networks.inputs import input_spec, to_images
from models.predict import stream_features
from models.weights.zoo import WeightsInfo
from pipeline.cohort.dataset import PatchReader

#: The most work that a kill costs.
_PART_EVERY_S = 15.0
#: First patches of a dataset, whose images show whether an engine agrees with float32.
_SAMPLE_PATCHES = 32
#: Parts of a table that workers share, and the fewest patches of one.
_TASKS, _ROWS_OF_A_TASK = 32, 64
#: Raised by one whenever the same patches, weights and parameters would give other vectors.
_FORMAT = 2


class FeatureRun(NamedTuple):
    """A finished table and what making it took: patches computed and taken from before, and the first call's cost."""

    path: Path
    card: FeatureCard
    computed: int
    reused: int
    first_call_s: float


def feature_params(params: TrainParams) -> FeatureParams | None:
    """The feature table a training can learn from; None where a stage learns or every epoch sees other patches."""
    changing = params.unfreeze > 0 or variant_count(params) > 1 or params.common_spacing_mm > 0
    volumes = params.volumetric != "planes" or is_volumetric(params.backbone)
    if changing or volumes or params.adaptation or params.pooling != "mean":
        return None
    shared = FeatureParams.model_fields.keys() & TrainParams.model_fields.keys()
    return FeatureParams(**{name: getattr(params, name) for name in shared})


@step("extract-features")
def feature_table(workspace: Workspace, dataset_dir: Path, params: FeatureParams) -> FeatureRun:
    """Write the feature table of a dataset; vectors that are there already, in it or of other datasets, are kept."""
    fetched(workspace, dataset_dir, workspace.features_root)
    job = FeatureJob(workspace, dataset_dir, params)
    plan = plan_engine(params.device, params.engine, params.precision)
    with workspace.lock(f"features-{job.path(plan).stem}"):
        if job.path(plan).exists():
            say(f"features: {job.path(plan).name} is there already; nothing to do")
            return FeatureRun(job.path(plan), FeatureCard.read(_card_path(job.path(plan))), 0, len(job.ids), 0.0)
        return job.run(plan)


class FeatureJob:
    """One dataset, one network, one set of parameters."""

    def __init__(self, workspace: Workspace, dataset_dir: Path, params: FeatureParams) -> None:
        self.workspace = workspace
        self.dataset_dir = dataset_dir
        self.params = params
        self.reader = PatchReader(dataset_dir)
        self.ids = list(self.reader.index["patch_id"])
        self.spec: InputSpec = input_spec(
            self.reader.card, TrainParams(input_size_px=params.input_size_px, windows=params.windows)
        )
        sample = patches_of(self.reader, calibration_rows(self.reader.index), TrainParams())
        made: tuple[Backbone, WeightsInfo] = initial_backbone(
            params.backbone, params.weights, params.weights_sha256, params.seed, sample, self.spec
        )
        self.backbone, self.weights = made
        self._state = state_digest(self.backbone)
        self._opened: OpenedEngine | None = None

    def path(self, plan: EnginePlan) -> Path:
        """Where the table of this dataset by this plan stands."""
        stem = Path(self.weights.source).stem.replace(" ", "_") if self.weights.pretrained else "none"
        name = f"{self.dataset_dir.name}-{self.params.backbone}-{stem}-{plan.name}-{self._identity(plan)}"
        return self.workspace.features_root / f"{name}.parquet"

    def _identity(self, plan: EnginePlan) -> str:
        """Digest of everything but the patches that the vectors depend on."""
        spec = self.spec.model_dump(mode="json", exclude={"views", "spacing_mm"})
        # The scales of int8 come from this dataset's patches.
        scales = self.dataset_dir.name if plan.precision == "int8" else ""
        return digest_of([_FORMAT, self.params.backbone, self._state, plan.name, spec, scales], length=8)

    def run(self, planned: EnginePlan) -> FeatureRun:
        """Compute what is missing."""
        opened = self._open(planned)
        path = self.path(opened.plan)
        card = self._card(opened)
        if path.exists():  # the plan could not be kept, and the table by its replacement is there
            say(f"features: {path.name} is there already; nothing to do")
            return FeatureRun(path, FeatureCard.read(_card_path(path)), 0, len(self.ids), opened.first_call_s)
        parts = FeatureParts(path, sorted(path.parent.glob(f"*-{self._identity(opened.plan)}.parquet")))
        digests = [patch_sha256(patch) for patch in self._patches()]
        vectors = parts.known(set(digests))
        # Patches with the same bytes are computed once.
        missing = list({digest: row for row, digest in enumerate(digests) if digest not in vectors}.values())
        reused = sum(digest in vectors for digest in digests)
        if reused:
            say(f"features: {reused} of {len(digests)} patches were computed before")
        for part in self._computed(opened, digests, missing):
            parts.append(part)
            vectors |= part
        card.write(_card_path(path))  # before the table, whose presence says that all is there
        parts.finish(zip(self.ids, digests, strict=True), vectors)
        give_back()
        return FeatureRun(path, card, len(missing), reused, opened.first_call_s)

    def _open(self, planned: EnginePlan) -> OpenedEngine:
        cache = self.workspace.root / "cache"
        # Read by torch's compiler, whose own place may be on a read-only disk or be shared with strangers.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
        sample = to_images(self.reader.load(self.ids[:_SAMPLE_PATCHES]), self.spec).flatten(0, 1)
        opened = open_engine(self.backbone, planned, sample, cache=cache / "openvino")
        say(f"features: {opened.plan.line()}; the first call took {opened.first_call_s:.1f} s")
        return opened

    def write_part(self, planned: EnginePlan, rows: Sequence[int], number: int) -> int:
        """Compute the vectors of some rows that are not there yet, as a part of this number; how many were computed."""
        if self._opened is None:
            self._opened = self._open(planned)
        path = self.path(self._opened.plan)
        if path.exists():
            return 0
        parts = FeatureParts(path, sorted(path.parent.glob(f"*-{self._identity(self._opened.plan)}.parquet")))
        digests = {row: patch_sha256(self.reader.load([self.ids[row]])[0]) for row in rows}
        known = parts.known(set(digests.values()))
        missing = list({digest: row for row, digest in digests.items() if digest not in known}.values())
        vectors: Vectors = {}
        for part in self._computed(self._opened, digests, missing):
            vectors |= part
        if vectors:
            parts.append(vectors, number)
        return len(vectors)

    def next_part(self, planned: EnginePlan) -> int:
        """Number of the first part that is not there yet."""
        return FeatureParts(self.path(planned)).next_number()

    def _patches(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.ids), 256):
            yield from self.reader.load(self.ids[start : start + 256])

    def _computed(
        self, opened: OpenedEngine, digests: Sequence[str] | Mapping[int, str], missing: list[int]
    ) -> Iterator[Vectors]:
        """Vectors of the missing patches, in parts of some seconds."""
        ids = [self.ids[row] for row in missing]
        part: Vectors = {}
        begun_s = time.monotonic()
        with stage("features", len(ids)) as progress:
            done = 0
            for planes in stream_features(opened.engine, lambda rows: self.reader.load(ids[rows]), len(ids), self.spec):
                part |= {digests[row]: vectors for row, vectors in zip(missing[done:], planes, strict=False)}
                done += len(planes)
                progress.advance(f"patch {done}", len(planes))
                if time.monotonic() - begun_s >= _PART_EVERY_S:
                    yield part
                    part, begun_s = {}, time.monotonic()
        if part:
            yield part

    def _card(self, opened: OpenedEngine) -> FeatureCard:
        return FeatureCard(
            dataset_id=self.dataset_dir.name,
            backbone=self.params.backbone,
            weights=self.weights.source,
            weights_sha256=self.weights.sha256,
            n_features=self.backbone.n_features,
            input_size_px=self.params.input_size_px,
            device=opened.plan.device,
            engine=opened.plan.engine,
            precision=opened.plan.precision,
            why=opened.plan.why,
            cosine_to_fp32=opened.cosine,
        )


def _card_path(table: Path) -> Path:
    return table.with_suffix(".json")


@step("extract-feature-part")
def feature_part(
    terms: Terms, dataset_dir: Path, params: FeatureParams, rows: Opaque[tuple[int, ...]], number: int
) -> int:
    from flows.datasets.feature_worker import computed_part

    return computed_part(terms.enter(), dataset_dir, params, rows.value, number)


def _spread(workspace: Workspace, terms: Terms, dataset_dir: Path, params: FeatureParams) -> None:
    """Have workers compute the parts of a table; what they leave undone, or do otherwise, is done here after them."""
    job = FeatureJob(workspace, dataset_dir, params)
    plan = plan_engine(params.device, params.engine, params.precision)
    if job.path(plan).exists():
        return
    first = job.next_part(plan)
    size = max(math.ceil(len(job.ids) / _TASKS), _ROWS_OF_A_TASK)
    futures = [
        feature_part.submit(terms, dataset_dir, params, Opaque(rows), first + number)
        for number, rows in enumerate(batches(range(len(job.ids)), size=size))
    ]
    say(f"features: {sum(completed(futures))} patches were computed by workers")


@flow(name="features", task_runner=ConfiguredRunner(one_at_a_time=True), log_prints=False)
def features_flow(workspace_root: str, dataset: str, params: FeatureParams) -> dict[str, Any]:
    """Feature vectors of every patch of a dataset, per plane and pooled."""
    workspace = Workspace(Path(workspace_root)).require()
    dataset_dir = workspace.dataset(dataset)
    with terms_of(workspace) as terms:
        if terms is not None:
            _spread(workspace, terms, dataset_dir, params)
    run = feature_table(workspace, dataset_dir, params)
    facts = {"computed": run.computed, "reused": run.reused, "first_call_s": round(run.first_call_s, 2)}
    n_vectors = len(FEATURE_TABLE.read(run.path))
    body = run.card.model_dump(mode="json")
    return {"table": str(run.path), "n_vectors": n_vectors, "sha256": sha256_file(run.path), **facts, **body}

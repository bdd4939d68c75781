"""The demo: a two-site phantom cohort as DICOM, and the main job on it."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from data_contracts.errors import UsageError, WeightsError
from data_contracts.params import PatchParams, PhantomParams, SplitParams
from data_contracts.promotion import PromotionPolicy
from data_contracts.records import atomic_path
from flows.nightly import run_plan
from flows.nightly_config import AnnotationPlan, RunPlan, SourcePlan
from flows.progress import say, stage
from flows.registry import CHAMPION, Registry
from flows.settings import Settings
from flows.workspace import Workspace
from models.backbones import build_backbone
from models.zoo import load_weights
from pipeline.cohort.phantom import generate_cohort

BACKBONE = "resnet50"
#: On some sixty nodules in ten bins even a perfectly calibrated score shows an ECE of about 0.13 by chance.
DEMO_POLICY = PromotionPolicy(name="demo", max_ece=0.3)
NO_WEIGHTS = """
!!! NO PRETRAINED WEIGHTS: torchvision's ImageNet weights cannot be had here.
!!! The demo goes on with weights = "none": the backbone starts from random numbers, and report and MLflow say so.
!!! Its figures show that the line works, not what transfer learning gives. For that: --weights FILE.
"""


def run_demo(
    workspace: Workspace, settings: Settings, *, fast: bool, weights: str, seed: int
) -> tuple[dict[str, Any], str]:
    """Make the cohort beside the workspace, run every stage, and say what to open; again, it goes on where it was."""
    started = time.monotonic()
    cohort = workspace.root.with_name(f"{workspace.root.name}-cohort")
    _fix_secret(workspace, seed)
    usable = usable_weights(weights)
    phantom = phantom_params(fast=fast, seed=seed)
    with stage("phantom", phantom.n_patients) as progress:
        generate_cohort(phantom, cohort, on_patient=lambda index: progress.advance(f"patient {index + 1}"))
    plan = RunPlan(
        sources=(
            SourcePlan(path=cohort / "site-a", site="site-a"),
            SourcePlan(path=cohort / "site-b", site="site-b"),
        ),
        annotations=(AnnotationPlan(files=(cohort / "nodules.csv",), format="csv"),),
        patches=PatchParams(spacing_mm=1.0 if fast else 0.75),
        split=SplitParams(train=0.4, validation=0.2),
        policy=DEMO_POLICY,
        presets=("probe", "finetune-dann-fast" if fast else "finetune-dann"),
        train=train_overrides(fast=fast, weights=usable),
    )
    record, summary = run_plan(workspace, settings, plan)
    record |= {"weights": usable, "elapsed_s": round(time.monotonic() - started, 1), "cohort": str(cohort)}
    text = [summary, *_what_to_open(workspace, settings, record)]
    if usable == "none":
        text.insert(0, NO_WEIGHTS)
    return record, "\n".join(text)


def phantom_params(*, fast: bool, seed: int) -> PhantomParams:
    """The demo's cohort; `fast` is coarser, with as many nodules a patient."""
    if not fast:
        return PhantomParams(seed=seed, n_patients=60)
    return PhantomParams(seed=seed, n_patients=40, matrix=192, spacing_a_mm=2.0, spacing_b_mm=4.0)


def train_overrides(*, fast: bool, weights: str) -> dict[str, Any]:
    """What the demo sets on top of the presets."""
    overrides: dict[str, Any] = {"weights": weights, "source_site": "site-a", "target_site": "site-b"}
    if fast:
        overrides["input_size_px"] = 64
    return overrides


def usable_weights(weights: str) -> str:
    """The weights asked for, or "none", loudly, where torchvision's cannot be had; a named file never falls back."""
    if weights != "auto":
        return weights
    try:
        load_weights(build_backbone(BACKBONE, seed=0), "auto")
    except WeightsError:
        say(NO_WEIGHTS)
        return "none"
    return "auto"


def _fix_secret(workspace: Workspace, seed: int) -> None:
    """Phantoms are nobody: a known key makes the demo's splits, and so its figures, the same everywhere."""
    secret = hashlib.sha256(f"noduleflow demo {seed}".encode()).hexdigest() + "\n"
    with workspace.lock("secret"):
        if workspace.secret_file.exists() and workspace.secret_file.read_text() == secret:
            return
        if workspace.secret_file.exists() or workspace.series_root.exists():
            raise UsageError(
                "the workspace holds other studies, and phantoms must not mix with them",
                where=str(workspace.root),
                todo="Name an empty one: noduleflow --workspace DIR demo.",
            )
        with atomic_path(workspace.secret_file, mode=0o600) as temporary:
            temporary.write_text(secret)


def _what_to_open(workspace: Workspace, settings: Settings, record: dict[str, Any]) -> list[str]:
    programs = Path(sys.executable).parent
    champion = Registry(workspace, settings.model_name).alias(CHAMPION)
    mlflow = [str(programs / "mlflow"), "ui", "--backend-store-uri", f"sqlite:///{workspace.mlflow_database}"]
    lines = ["", f"done in {record['elapsed_s']:.0f} s. Open:"]
    for report in record["reviews"]:
        asked = f"champion version {champion}" if champion else "the challenger: there is no champion"
        lines.append(f"  report   {report['report']}  ({report['n_findings']} nodules, as seen by {asked})")
    lines.append(f"  MLflow   {shlex.join(mlflow)}  then http://127.0.0.1:5000")
    home = shlex.quote(str(workspace.prefect_home))
    start = f"PREFECT_HOME={home} {shlex.quote(str(programs / 'prefect'))} server start"
    lines.append(f"  Prefect  {start}  then http://127.0.0.1:4200/runs")
    return lines

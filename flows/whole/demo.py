"""The demo: a two-site phantom cohort as DICOM, and the main job on it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from data_contracts.errors import WeightsError
from data_contracts.params import PatchParams
from data_contracts.promotion import PromotionPolicy
from flows.progress import say
from flows.registry import CHAMPION, Registry
from flows.settings import Settings, configured_secret
from flows.whole.cohort import cohort_folder
from flows.whole.demo_split import demo_split
from flows.whole.nightly import run_plan
from flows.whole.nightly_config import AnnotationPlan, RunPlan, SourcePlan
from flows.workspace import Workspace
from models.networks.backbones import build_backbone
from models.weights.zoo import load_weights
from pipeline.deidentify.pseudonyms import Pseudonymizer

BACKBONE = "resnet50"
#: On some sixty nodules in ten bins even a perfectly calibrated score shows an ECE of about 0.13 by chance.
DEMO_POLICY = PromotionPolicy(name="demo", max_ece=0.3)
NO_WEIGHTS = """
!!! NO PRETRAINED WEIGHTS: torchvision's ImageNet weights cannot be had here.
!!! The demo goes on with weights = "none": the backbone starts from random numbers, and report and MLflow say so.
!!! Its figures show that the line works, not what transfer learning gives. For that: --weights FILE.
"""


def run_demo(
    workspace: Workspace, settings: Settings, *, fast: bool, weights: str, started_s: float
) -> tuple[dict[str, Any], str]:
    """Run every stage on the cohort that make_phantoms made, and say what to open; again, it goes on where it was.

    started_s: time.monotonic() when the command began.
    """
    cohort = cohort_folder(workspace)
    usable = usable_weights(weights)
    plan = RunPlan(
        sources=(
            SourcePlan(path=cohort / "site-a", site="site-a"),
            SourcePlan(path=cohort / "site-b", site="site-b"),
        ),
        annotations=(AnnotationPlan(files=(cohort / "nodules.csv",), format="csv"),),
        patches=PatchParams(spacing_mm=1.0 if fast else 0.75),
        split=demo_split(cohort, Pseudonymizer(workspace.secret(configured_secret()))),
        policy=DEMO_POLICY,
        presets=("probe", "finetune-dann-fast" if fast else "finetune-dann-demo"),
        train=train_overrides(fast=fast, weights=usable),
    )
    record, summary = run_plan(workspace, settings, plan)
    record |= {"weights": usable, "elapsed_s": round(time.monotonic() - started_s, 1), "cohort": str(cohort)}
    text = [summary, *_what_to_open(workspace, settings, record)]
    if usable == "none":
        text.insert(0, NO_WEIGHTS)
    return record, "\n".join(text)


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


def _what_to_open(workspace: Workspace, settings: Settings, record: dict[str, Any]) -> list[str]:
    programs = Path(sys.executable).parent
    champion = Registry(workspace, settings.model_name).alias(CHAMPION)
    mlflow = [str(programs / "mlflow"), "ui", "--backend-store-uri", workspace.mlflow_database_uri]
    lines = ["", f"done in {record['elapsed_s']:.0f} s. Open:"]
    for report in record["reviews"]:
        asked = f"champion version {champion}" if champion else "the challenger: there is no champion"
        lines.append(f"  report   {report['report']}  ({report['n_findings']} nodules, as seen by {asked})")
    # Started by hand these two would phone home: the variables that this process has set are not theirs.
    if settings.mlflow_tracking_uri:
        lines.append(f"  MLflow   {settings.mlflow_tracking_uri}")
    else:
        lines.append(f"  MLflow   MLFLOW_DISABLE_TELEMETRY=true {shlex.join(mlflow)}  then http://127.0.0.1:5000")
    if settings.prefect_api_url:
        return [*lines, f"  Prefect  {settings.prefect_api_url.removesuffix('/api')}/runs"]
    home = shlex.quote(str(workspace.prefect_home))
    quiet = "DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false"
    start = f"{quiet} PREFECT_HOME={home} {shlex.quote(str(programs / 'prefect'))} server start"
    lines.append(f"  Prefect  {start}  then http://127.0.0.1:4200/runs")
    return lines

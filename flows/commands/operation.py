"""demo, run, serve, status, doctor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import app, session

if TYPE_CHECKING:
    from flows.workspace import Workspace


@app.command()
def demo(
    fast: Annotated[bool, typer.Option("--fast", help="A coarser cohort, shorter training.")] = False,
    weights: Annotated[str, typer.Option(help="Local file with ResNet50 weights; auto asks torchvision.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the phantom cohort.")] = 0,
) -> None:
    """Make a two-site phantom cohort as DICOM and run the main job on it."""
    started = time.monotonic()

    def make_cohort(workspace: Workspace) -> None:
        from flows.cohort import make_phantoms

        make_phantoms(workspace, fast=fast, seed=seed)

    with session.engine("flows.demo", make_cohort) as (settings, workspace):
        from flows.demo import run_demo

        record, text = run_demo(workspace, settings, fast=fast, weights=weights, started_s=started)
    session.emit(record, text)


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="TOML file: sources, annotations, presets and policy.")],
) -> None:
    """Every stage in order, resumable."""
    from flows.nightly_config import read_config

    plan = read_config(config)
    with session.engine("flows.nightly") as (settings, workspace):
        from flows.nightly import run_plan

        record, text = run_plan(workspace, settings, plan)
    session.emit(record, text)


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="TOML file as for run, with a `cron` line.")],
) -> None:
    """Run a configuration on its schedule in this process, until it is ended."""
    from data_contracts.errors import UsageError
    from flows.nightly_config import read_config

    plan = read_config(config)
    if not plan.cron:
        raise UsageError("the configuration has no schedule", where=config.name, todo='Add e.g. cron = "0 2 * * *".')
    with session.engine("flows.nightly"):
        from flows.nightly import serve_plan

        serve_plan(config, plan)


@app.command()
def status() -> None:
    """What the workspace holds and what is stuck."""
    settings, workspace = session.open()
    workspace.require()
    from flows.status import describe

    record, text = describe(workspace, settings)
    session.emit(record, text)


@app.command()
def doctor() -> None:
    """Check the installation: versions, servers, weights, disk, egress."""
    settings, workspace = session.open()
    from flows.doctor import examine

    record, text = examine(workspace, settings)
    session.emit(record, text)
    if not record["healthy"]:
        raise typer.Exit(1)

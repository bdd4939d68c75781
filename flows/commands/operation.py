"""demo, run, serve, deploy, status, doctor."""

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
        from flows.whole.cohort import make_phantoms

        make_phantoms(workspace, fast=fast, seed=seed)

    with session.engine("flows.whole.demo", make_cohort) as (settings, workspace):
        from flows.whole.demo import run_demo

        record, text = run_demo(workspace, settings, fast=fast, weights=weights, started_s=started)
    session.emit(record, text)


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="TOML file: sources, annotations, presets and policy.")],
) -> None:
    """Every stage in order, resumable."""
    from flows.whole.nightly_config import read_config

    plan = read_config(config)
    with session.engine("flows.whole.nightly") as (settings, workspace):
        from flows.whole.nightly import run_plan

        record, text = run_plan(workspace, settings, plan)
    session.emit(record, text)


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="TOML file as for run, with a table [schedule] or a `cron` line.")],
) -> None:
    """Run the jobs of a configuration at their times in this process, until it is ended."""
    import os

    from flows.scheduled.deployments import schedule_of
    from flows.whole.nightly_config import read_config

    plan = read_config(config)
    schedule_of(plan)
    os.environ["NODULEFLOW_CONFIG"] = str(config.resolve())
    with session.engine("flows.scheduled.jobs", by_the_clock=True) as (settings, workspace):
        from flows.scheduled.serving import serve_plan

        os.environ["NODULEFLOW_WORKSPACE"] = str(workspace.root)
        serve_plan(settings, plan)


@app.command()
def deploy(
    config: Annotated[Path, typer.Option(help="TOML file as for serve, at the path where the worker sees it.")],
    pool: Annotated[str, typer.Option(help="Work pool; made where it is missing.")] = "noduleflow",
    pool_type: Annotated[str, typer.Option("--type", help="process, docker or kubernetes.")] = "process",
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Base job template (JSON) of a pool that is made now.")
    ] = None,
    image: Annotated[str, typer.Option(help="Container image of the jobs, for docker and kubernetes.")] = "",
) -> None:
    """Register the jobs of a configuration on a Prefect server, for its workers."""
    from data_contracts.errors import UsageError
    from flows.scheduled.deployments import schedule_of
    from flows.whole.nightly_config import read_config

    plan = read_config(config)
    schedule_of(plan)
    settings = session.settings()
    if not settings.prefect_api_url:
        raise UsageError(
            "deploy needs a Prefect server that stays",
            todo="Set NODULEFLOW_PREFECT_API_URL, or use `noduleflow serve`, which brings its own.",
        )
    from flows.running.prefect_reached import check_prefect

    check_prefect(settings.prefect_api_url)
    from flows.scheduled.deploying import deploy_plan

    record = deploy_plan(
        settings, config.resolve(), plan, pool=pool, pool_type=pool_type, template=template, image=image
    )
    lines = [f"work pool {record['pool']}"]
    lines += [f"{job}: {line['cron']} ({line['timezone']})" for job, line in record["deployments"].items()]
    lines += [f"{job}: taken off, the plan has no time for it" for job in record["withdrawn"]]
    lines += [f"automation {name}" for name in record["automations"]]
    session.emit(record, "\n".join(lines))


@app.command()
def status() -> None:
    """What ran, what is stuck, what was refused and what waits for a person, in ten lines."""
    settings, workspace = session.open()
    workspace.require()
    from flows.status import describe

    record, text = describe(workspace, settings)
    session.emit(record, text)


@app.command()
def doctor(
    mend: Annotated[
        bool, typer.Option("--mend", help="First put the registry back as its last move left it, audited.")
    ] = False,
) -> None:
    """Check the installation and the site, each fault with its mend."""
    settings, workspace = session.open()
    from flows.doctor import examine

    mended = None
    if mend:
        from flows.registry.mend import mend as mend_registry

        mended = mend_registry(workspace.require(), settings)
    record, text = examine(workspace, settings)
    if mended is not None:
        record["mended"] = mended
        done = "; ".join(mended["faults"]) or "nothing was wrong with the registry"
        if mended.get("left"):
            done = f"{done}; left: {'; '.join(mended['left'])}"
        text = f"mended   registry  {done}; champion: {mended['champion'] or 'none'}\n{text}"
    session.emit(record, text)
    if not record["healthy"]:
        raise typer.Exit(1)

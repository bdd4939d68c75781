"""train, evaluate, compare; of export what concerns a version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="Name of a preset, or a TOML file.")] = "",
    dataset: Annotated[str, typer.Option(help="Dataset id or name; the newest by default.")] = "",
    weights: Annotated[str, typer.Option(help="auto, none, a local file or a version; overrides the preset.")] = "",
    settings_: SetOption = None,
    reproduce: Annotated[
        str, typer.Option(metavar="VERSION", help="Train a registered version again and compare every figure.")
    ] = "",
) -> None:
    """Fit, evaluate, log to MLflow and register as challenger.

    With --reproduce nothing is registered: everything is as it was for VERSION, weights of a file are named again with
    --weights, and the exit status is 0 where every figure is the same within 1e-6.

    Several processes share a fit: torchrun --nproc-per-node 2 -m flows train ...
    """
    from data_contracts.errors import UsageError
    from flows.presets import assignments, train_params

    if reproduce:
        if preset or dataset or settings_:
            raise UsageError(
                "a version is reproduced as it was trained",
                where="--reproduce",
                todo="Leave out --preset, --dataset and --set; --weights may name the file of its first weights.",
            )
        return _reproduce(reproduce, weights)
    if not preset:
        raise UsageError("train needs a preset", todo="Add --preset NAME, or --reproduce VERSION.")

    overrides = assignments(settings_)
    dataset = str(overrides.pop("dataset", dataset))
    if weights:
        overrides["weights"] = weights
    params = train_params(preset, overrides)
    from flows.learning import ranks

    shared = session.open()[1].require()
    folder = shared.dataset(dataset)
    with ranks.process_group():
        if ranks.rank() > 0:
            from flows.learning.network_fits import help_to_fit

            return ranks.help_first(lambda message: help_to_fit(shared, params, message))
        with session.engine("flows.learning.training") as (settings, workspace):
            from flows.learning.training import train_flow
            from flows.whole.summary import figures_text

            record = train_flow(str(workspace.root), folder.name, params, settings.model_name)
            text = figures_text(Path(record["folder"]))
    session.emit(record, f"{text}\nrun {record['run_id']} is version {record['version']}, now challenger")
    return None


def _reproduce(version: str, weights: str) -> None:
    """`train --reproduce`: exit status 1 where a figure is not the registered one."""
    from flows.learning import ranks

    settings, shared = session.open()
    model_name, shared = settings.model_name, shared.require()
    with ranks.process_group():
        if ranks.rank() > 0:
            from flows.learning.reproduction import help_to_reproduce

            return help_to_reproduce(shared, model_name, version, weights)
        with session.engine("flows.learning.reproduction") as (_, workspace):
            from data_contracts.reproduction import Reproduction
            from flows.learning.reproduction import reproduce_flow, reproduction_text, verdict

            result = Reproduction.model_validate(reproduce_flow(str(workspace.root), version, model_name, weights))
    session.emit(result.model_dump(mode="json"), reproduction_text(result))
    if not result.same:
        print(f"noduleflow: {verdict(result)}", file=sys.stderr)
        raise typer.Exit(1)
    return None


@app.command()
def evaluate(
    version: Annotated[str, typer.Argument(help="Version number, or an alias such as champion.")],
    dataset: Annotated[str, typer.Option(help="Another dataset, all patients unseen in training.")] = "",
) -> None:
    """Figures of a registered version on held-out patients."""
    session.open()[1].require()
    with session.engine("flows.versions.evaluation") as (settings, workspace):
        from flows.versions.evaluation import evaluate_flow
        from flows.whole.summary import figures_text

        record = evaluate_flow(str(workspace.root), version, dataset, settings.model_name)
        text = figures_text(Path(record["folder"]))
    session.emit(record, text)


@app.command()
def compare(
    version_a: Annotated[str, typer.Argument(metavar="A", help="Version or alias.")],
    version_b: Annotated[str, typer.Argument(metavar="B", help="Version or alias.")],
) -> None:
    """Compare two versions on the same held-out nodules."""
    settings, workspace = session.open()
    workspace.require()
    from flows.versions.evaluation import compare_versions
    from flows.whole.summary import comparison_text

    record = compare_versions(workspace, settings.model_name, version_a, version_b)
    session.emit(record, comparison_text(record))


def export_model(name: str, out: Path, forms: str, dataset: str) -> bool:
    """`export VERSION`: whether `name` is a version; then it is written to `out`."""
    settings, workspace = session.open()
    workspace.require()
    from flows.learning.compression import export_forms, export_text, export_version, version_named

    version = version_named(workspace, settings.model_name, name)
    if version is None:
        return False
    from flows.versions.bundling import BUNDLE_FORM, export_bundle

    if forms == BUNDLE_FORM:
        made = export_bundle(workspace, settings.model_name, version, out)
        what = "exported to" if made else "is there already, whole, in"
        session.emit(
            {"made": made, "path": str(out), "version": version, "format": forms},
            f"the MONAI bundle of version {version} {what} {out}; {out}/docs/README.md says how it is run",
        )
        return True
    card, made = export_version(
        workspace, settings.model_name, version, out, forms=export_forms(forms), dataset=dataset
    )
    session.emit({"made": made, "path": str(out), **card.model_dump(mode="json")}, export_text(card, out, made))
    return True


def verify_model(out: Path) -> None:
    """`export --verify`: raises where an exported version is not what was written."""
    from models.compression.package import read_export

    session.settings()
    card = read_export(out)
    forms = ", ".join(form.form for form in card.forms)
    session.emit(
        {"whole": True, "path": str(out), "version": card.version, "digest": card.digest},
        f"{out} is whole: version {card.version} of {card.model_name} as {forms}",
    )

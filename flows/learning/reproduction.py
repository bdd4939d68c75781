"""`train --reproduce VERSION`: a registered version trained once more, and whether its figures come out again.

The repetition has a workspace of its own below `scratch`, with the dataset of the version in it and nothing that the
first training computed. The version, its run and the registry are read and never written. A repetition that was killed
goes on where it was; one that came to its end leaves nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from data_contracts.errors import ContractError, UsageError, WeightsError
from data_contracts.model_card import ModelCard
from data_contracts.params import TrainParams
from data_contracts.predictions import PREDICTION_TABLE
from data_contracts.records import digest_of
from data_contracts.reproduction import TOLERANCE, ChangedFact, ReproducedFigure, Reproduction
from flows.datasets.retraining import training_params
from flows.datasets.training_cohort import TrainingCohort
from flows.learning import ranks
from flows.learning.network_fits import help_to_fit
from flows.learning.training import TRAINING_VERSION, fit_run
from flows.progress import say
from flows.registry import Registry
from flows.versions.environment import ENVIRONMENT_FILE, environment
from flows.workspace import Workspace
from models.fitting.switches import threads
from models.networks.backbones import build_backbone
from models.weights.zoo import WeightsInfo, load_weights
from pipeline.scoring.repetition import compare_figures, named_figures, prediction_figures

_ROUNDING = "sums may be rounded otherwise"
#: facts of environment.json that may change a figure, and what to do; in the order in which they are told
_EFFECTS = {
    "git_commit": "another program; `git checkout` the commit of then",
    "git_dirty": "the commit alone does not say what was run",
    "code_sha256": "another program",
    "lock_sha256": "other packages; install requirements.lock of the commit of then",
    "lock_differs": "packages that are not those of the lock",
    "ranks": f"{_ROUNDING}; start as many processes with torchrun",
    "processor_capability": f"another processor; {_ROUNDING}",
    "processor_flags": f"another processor; {_ROUNDING}",
    "machine": f"another processor; {_ROUNDING}",
    "device": _ROUNDING,
    "python": "another Python",
}
#: what a line of the answer joins
_PARTS = ("value", "low", "high", "n", "n_positive")


@dataclass(frozen=True)
class Plan:
    """What is repeated, with what, and what is not as it was.

    threads: of the first training, which the repetition uses again; 0 where nobody recorded them.
    """

    registered: Path
    card: ModelCard
    params: TrainParams
    weights: WeightsInfo
    dataset_dir: Path
    threads: int
    changed: tuple[ChangedFact, ...]
    scratch: Path


def plan_reproduction(workspace: Workspace, model_name: str, version: str, weights: str = "") -> Plan:
    """Check that a repetition can mean anything; nothing is written.

    weights: file of the first weights, where they came from one.

    Raises
    ------
    WeightsDigestError: the version is not what was registered, or the weights are not those it started from.
    WeightsError: the first weights cannot be had.
    ContractError: the dataset is not the one it learned from.
    UsageError: no such version; the dataset or the teacher is gone.
    """
    registered, card = Registry(workspace, model_name).verified_folder(version)
    params = training_params(card, weights)
    dataset_dir = workspace.datasets_root / card.dataset_id
    if not (dataset_dir / "dataset.json").is_file():
        raise UsageError(
            "the dataset of the version is gone", where=card.dataset_id, todo="Restore it, or make it again as then."
        )
    cohort = TrainingCohort(dataset_dir, params)
    cohort.check()
    if cohort.digest() != card.training.get("dataset_sha256"):
        raise ContractError(
            "the dataset is not the one that the version learned from",
            where=card.dataset_id,
            todo="Restore it from a backup: other patches cannot give the same figures.",
        )
    if params.teacher and not (workspace.runs_root / params.teacher / "model_card.json").is_file():
        raise UsageError("the run that taught the version is gone", where=params.teacher, todo="Restore its folder.")
    try:
        info = load_weights(build_backbone(params.backbone, seed=params.seed), params.weights, params.weights_sha256)
    except WeightsError as error:
        raise type(error)(
            f"the first weights of the version ({card.weights}): {error.what}",
            where=error.where,
            todo="Name their file with --weights.",
        ) from None
    noted = registered / ENVIRONMENT_FILE
    then, now = json.loads(noted.read_text()) if noted.is_file() else {}, environment()
    recorded = int(then.get("threads", 0))
    key = [card.run_id, now["code_sha256"], now["lock_sha256"], now["lock_differs"], recorded]
    return Plan(
        registered=registered,
        card=card,
        params=params,
        weights=info,
        dataset_dir=dataset_dir,
        threads=recorded,
        changed=(*_changed_training(card, params), *_changed_environment(then, now)),
        scratch=workspace.scratch_root / f"reproduce-{card.run_id}-{digest_of(key, length=8)}",
    )


def _changed_training(card: ModelCard, params: TrainParams) -> Iterator[ChangedFact]:
    version = card.training.get("training_version")
    if version is not None and version != TRAINING_VERSION:
        yield ChangedFact(
            what="training_version", then=str(version), now=str(TRAINING_VERSION), effect="training does other things"
        )
    kept_elsewhere = {"backbone", "weights", "weights_sha256"}
    for name, value in params.model_dump(mode="json", exclude=kept_elsewhere).items():
        if name not in card.training:
            yield ChangedFact(what=f"parameter {name}", then="unknown", now=str(value), effect="it did not exist then")


def _changed_environment(then: dict[str, Any], now: dict[str, Any]) -> Iterator[ChangedFact]:
    packages = [name for name in {**then, **now} if name.startswith("version_")]
    effects = {**_EFFECTS, **dict.fromkeys(packages, "another version of a package")}
    for name, effect in effects.items():
        before, after = (str(facts.get(name, "unknown")) for facts in (then, now))
        if before != after or (name == "git_dirty" and before == "yes"):
            yield ChangedFact(what=name, then=before, now=after, effect=effect)
    if str(then.get("threads", "unknown")) != str(now["threads"]):
        effect = "the number of then is used again" if then.get("threads") else _ROUNDING
        yield ChangedFact(
            what="threads", then=str(then.get("threads", "unknown")), now=str(now["threads"]), effect=effect
        )


def tell_changes(changed: tuple[ChangedFact, ...]) -> None:
    """One line on standard error for everything that is not as it was."""
    for fact in changed:
        say(f"beware: {fact.what} was {fact.then or 'empty'}, is {fact.now or 'empty'}: {fact.effect}")


def scratch_workspace(plan: Plan) -> Workspace:
    """The workspace of the repetition: made where it is not there yet, with the dataset and the teacher of the run."""
    scratch = Workspace(plan.scratch).create()
    _point(scratch.datasets_root / plan.dataset_dir.name, plan.dataset_dir)
    first = Workspace(plan.dataset_dir.parent.parent)
    for file in (first.series_table, first.nodule_table):  # facts of the held-out nodules
        if file.is_file():
            _point(scratch.root / file.name, file)
    if plan.params.teacher:
        _point(scratch.runs_root / plan.params.teacher, plan.registered.parent / plan.params.teacher)
    return scratch


def _point(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(target.resolve(), target_is_directory=True)


@contextmanager
def _without_older(plan: Plan) -> Iterator[None]:
    """Remove what repetitions of another program left of this run, and this one when it has come to its end."""
    for older in plan.scratch.parent.glob(f"reproduce-{plan.card.run_id}-*"):
        if older != plan.scratch:
            shutil.rmtree(older, ignore_errors=True)
    yield
    shutil.rmtree(plan.scratch, ignore_errors=True)


@flow(name="reproduce", log_prints=False)
def reproduce_flow(workspace_root: str, version: str, model_name: str, weights: str = "") -> dict[str, Any]:
    """Train a registered version once more and compare every figure; see `plan_reproduction` for what is refused."""
    workspace = Workspace(Path(workspace_root))
    number = Registry(workspace, model_name).resolve(version)
    plan = plan_reproduction(workspace, model_name, number, weights)
    tell_changes(plan.changed)
    run_id = plan.card.run_id
    with workspace.lock(f"reproduce-{run_id}"), _without_older(plan), threads(plan.threads):
        scratch = scratch_workspace(plan)
        repeated = scratch.runs_root / run_id
        if not (repeated / "model_card.json").exists():
            fit_run(scratch, run_id, plan.dataset_dir.name, plan.params, plan.weights)
        result = compare_runs(plan, repeated, model_name, number)
    return result.model_dump(mode="json")


def help_to_reproduce(workspace: Workspace, model_name: str, version: str, weights: str) -> None:
    """What the other ranks of `torchrun ... train --reproduce` do: their part of every fit."""
    plan = plan_reproduction(workspace, model_name, version, weights)
    with threads(plan.threads):
        ranks.help_first(lambda message: help_to_fit(scratch_workspace(plan), plan.params, message))


def compare_runs(plan: Plan, repeated: Path, model_name: str, version: str) -> Reproduction:
    """The registered run and the repeated one, figure by figure."""
    cards = [plan.card, ModelCard.read(repeated / "model_card.json")]
    folders = [plan.registered, repeated]
    named = [
        named_figures(*(json.loads((folder / name).read_text()) for name in ("evaluation.json", "model_card.json")))
        for folder in folders
    ]
    tables = [PREDICTION_TABLE.read(folder / "predictions.parquet") for folder in folders]
    then, now = ({**one, **more} for one, more in zip(named, prediction_figures(*tables), strict=True))
    figures, missing, new = compare_figures(then, now, TOLERANCE)
    return Reproduction(
        model_name=model_name,
        version=version,
        run_id=plan.card.run_id,
        changed=plan.changed,
        figures=figures,
        missing=missing,
        new=new,
        same=not missing and all(figure.same for figure in figures),
        same_checkpoint=cards[0].checkpoint_sha256 == cards[1].checkpoint_sha256,
        checkpoint_sha256_then=cards[0].checkpoint_sha256,
        checkpoint_sha256_now=cards[1].checkpoint_sha256,
    )


def reproduction_text(result: Reproduction) -> str:
    """A line a figure with its interval and n, then the verdict."""
    parts: dict[str, list[ReproducedFigure]] = {}
    for figure in result.figures:
        parent, _, last = figure.name.rpartition("/")
        parts.setdefault(parent if last in _PARTS else figure.name, []).append(figure)
    lines = [f"{_word(figures):8} {name}: {'; '.join(map(_both, figures))}" for name, figures in parts.items()]
    lines += [f"{'MISSING':8} {name}" for name in result.missing]
    if result.new:
        lines.append(f"not in the registered report: {len(result.new)} numbers that this program computes")
    weights = "the same, byte for byte" if result.same_checkpoint else "not the same bytes"
    return "\n".join([*lines, f"the weights are {weights}", verdict(result)])


def _word(figures: list[ReproducedFigure]) -> str:
    return "same" if all(figure.same for figure in figures) else "DIFFERS"


def _both(figure: ReproducedFigure) -> str:
    part = figure.name.rpartition("/")[2]
    label = f"{part} " if part in _PARTS and part != "value" else ""
    then, now = ("none" if value is None else f"{value:.9g}" for value in (figure.then, figure.now))
    return f"{label}{then}" if then == now and figure.same else f"{label}{then} then, {now} now"


def verdict(result: Reproduction) -> str:
    """In one line, whether the version came out again; the numbers that did not are named."""
    wrong = [*result.missing, *(figure.name for figure in result.figures if not figure.same)]
    whose = f"version {result.version} of {result.model_name}"
    if not wrong:
        return f"{whose} is reproduced: {len(result.figures)} numbers within {result.tolerance:g}"
    shown = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
    return f"{whose} is not reproduced: {len(wrong)} of {len(result.figures)} numbers differ ({shown})"

"""What the gates are asked about a version: its files, verified first, and what people said of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.promotion import GateResult, PromotionPolicy
from data_contracts.versions import Named, VersionManifest
from flows.registry.signoffs import counted, sign_offs
from flows.workspace import Workspace

if TYPE_CHECKING:
    from data_contracts.disclosure import Disclosure
    from flows.registry.versions import Registry
    from pipeline.review.answers.overrides import Overrides

_Question = tuple[Named, Named | None, str, tuple[str, ...], "Overrides | None", tuple[str, ...]]
#: answers about the same bytes under the same policy, while this process lives
_answers: dict[_Question, tuple[GateResult, ...]] = {}


def judge(
    registry: Registry, named: Named, champion: Named | None, policy: PromotionPolicy
) -> tuple[tuple[GateResult, ...], Path, VersionManifest]:
    """Every gate's answer about a version, beside its verified folder and manifest.

    Raises
    ------
    WeightsDigestError: a file of the version, or of the champion it is compared with, is not what was registered.
    """
    folder, manifest = registry.verified(named, fetch=True)
    champion_folder = registry.verified(champion)[0] if champion is not None else None
    signed = counted(
        sign_offs(registry, named.version, named.manifest_sha256) if policy.signoffs else [],
        policy,
        manifest.trained_by,
    )
    overrides = _overrides(registry.workspace, named.version)
    open_statements = _not_stated(registry.workspace, folder) if policy.require_statements else ()
    names = tuple(one.name for one in signed)
    question = (named, champion, policy.digest(), names, overrides, open_statements)
    if not named.manifest_sha256 or question not in _answers:
        _answers[question] = _asked(
            registry.workspace, folder, champion_folder, policy, names, overrides, open_statements, named
        )
    return _answers[question], folder, manifest


def _asked(
    workspace: Workspace,
    folder: Path,
    champion_folder: Path | None,
    policy: PromotionPolicy,
    signed: tuple[str, ...],
    overrides: Overrides | None,
    open_statements: tuple[str, ...],
    named: Named,
) -> tuple[GateResult, ...]:
    from data_contracts.evaluation import EvaluationReport
    from data_contracts.model_card import ModelCard
    from data_contracts.predictions import PREDICTION_TABLE
    from flows.registry.evidence import fitted_patients
    from pipeline.scoring.gates import Evidence, promotion_gates

    card = ModelCard.read(folder / "model_card.json")
    disclosure = _disclosure(folder)
    if disclosure is not None and policy.require_statements:
        disclosure = disclosure.model_copy(update={"not_stated": open_statements})
    network = card.training.get("network")
    return promotion_gates(
        EvaluationReport.read(folder / "evaluation.json"),
        PREDICTION_TABLE.read(folder / "predictions.parquet"),
        PREDICTION_TABLE.read(champion_folder / "predictions.parquet") if champion_folder else None,
        policy,
        fitted_patients=fitted_patients(workspace, folder, card),
        evidence=Evidence(
            disclosure=disclosure,
            network=str(network) if network else None,
            sealed=bool(named.manifest_sha256),
            signed=signed,
            overrides=(overrides.overridden, overrides.answered) if overrides is not None else (0, 0),
            override_rate=overrides.rate if overrides is not None else None,
        ),
    )


def _disclosure(folder: Path) -> Disclosure | None:
    from data_contracts.disclosure import Disclosure

    path = folder / "disclosure.json"
    return Disclosure.read(path) if path.is_file() else None


def _not_stated(workspace: Workspace, folder: Path) -> tuple[str, ...]:
    """What the site has left open until today; it may have stated more since the version was registered."""
    from flows.versions.disclosure import disclosure_of

    return tuple(disclosure_of(workspace, folder).not_stated)


def overridden(workspace: Workspace, version: str) -> tuple[int, int]:
    """(findings that readers rejected or corrected, findings they answered) in reports of a version."""
    found = _overrides(workspace, version)
    return (found.overridden, found.answered) if found is not None else (0, 0)


def _overrides(workspace: Workspace, version: str) -> Overrides | None:
    """How often readers overrode a version; None where none answered a report of it."""
    from flows.reviewing.answers import answers_of, feedback_params
    from pipeline.review.answers.overrides import overrides_by_version

    return overrides_by_version(answers_of(workspace).opinions(), feedback_params()).get(version)

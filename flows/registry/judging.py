"""What the gates are asked about a version: its files, verified first, and what people said of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.errors import ContractError
from data_contracts.promotion import GateResult, PromotionPolicy
from data_contracts.versions import Named, VersionManifest
from flows.registry.signoffs import counted, sign_offs
from flows.workspace import Workspace

if TYPE_CHECKING:
    from data_contracts.disclosure import Disclosure
    from flows.registry.versions import Registry

_Question = tuple[Named, Named | None, str, tuple[str, ...], tuple[int, int], tuple[str, ...]]
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
    overrides = overridden(registry.workspace, named.version) if policy.max_override_rate is not None else (0, 0)
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
    overrides: tuple[int, int],
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
            overrides=overrides,
        ),
    )


def _disclosure(folder: Path) -> Disclosure | None:
    from data_contracts.disclosure import Disclosure

    path = folder / "disclosure.json"
    return Disclosure.read(path) if path.is_file() else None


def _not_stated(workspace: Workspace, folder: Path) -> tuple[str, ...]:
    """What the site has left open until today; it may have stated more since the version was registered."""
    from flows.disclosure import disclosure_of

    return tuple(disclosure_of(workspace, folder).not_stated)


def overridden(workspace: Workspace, version: str) -> tuple[int, int]:
    """(findings that readers rejected or corrected, findings they answered) in reports of a version.

    A reader's last answers to a report count.
    """
    from data_contracts.review import ReaderFeedback

    last: dict[tuple[str, str], ReaderFeedback] = {}
    for file in sorted(workspace.reviews_root.glob("*/answers/*.json")):
        try:
            feedback = ReaderFeedback.read(file)
        except ContractError:
            continue
        key = (feedback.study_key, feedback.reader)
        if feedback.model_version == version and (key not in last or last[key].time_utc < feedback.time_utc):
            last[key] = feedback
    answers = [answer.answer for feedback in last.values() for answer in feedback.answers]
    return sum(answer != "accept" for answer in answers), len(answers)

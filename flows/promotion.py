"""Promotion and rollback: gates, compare-and-set under a lock, and an audit of what was meant and done."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import GateRefusedError, StaleExpectationError, UsageError
from data_contracts.evaluation import EvaluationReport
from data_contracts.manifest import Split
from data_contracts.params import Params
from data_contracts.predictions import PREDICTION_TABLE
from data_contracts.promotion import GateResult, PromotionDecision, PromotionPolicy
from flows.audit import append_audit, read_audit
from flows.registry import CHAMPION, PREVIOUS, Registry
from flows.settings import Settings, actor_name
from flows.workspace import Workspace

#: what `--expect` says when there is no champion yet
NO_CHAMPION = "none"


def read_policy(path: Path | None) -> PromotionPolicy:
    """The policy of a TOML file, or the default one; raises UsageError naming the key that is wrong."""
    import tomllib

    if path is None:
        return PromotionPolicy()
    try:
        values = tomllib.loads(path.read_text())
    except OSError:
        raise UsageError("the policy file cannot be read", where=str(path)) from None
    except ValueError as error:
        raise UsageError(f"the policy file is not TOML ({error})", where=path.name) from None
    return PolicyFile.from_mapping(values, where=path.name).policy()


class PolicyFile(Params, PromotionPolicy):
    """A policy as parameters, so that an unknown key is refused by name."""

    def policy(self) -> PromotionPolicy:
        return PromotionPolicy(**self.model_dump())


def promote(
    workspace: Workspace, settings: Settings, version: str, *, expect: str, policy: PromotionPolicy
) -> PromotionDecision:
    """Make a version champion if every gate holds and the champion is still the one the caller expects.

    Parameters
    ----------
    expect: the champion's version as the caller last saw it; "none" where there is none.

    Raises
    ------
    StaleExpectationError: somebody else changed the champion meanwhile.
    GateRefusedError: a gate said no; the refusal and its figures are in the audit.
    """
    registry = Registry(workspace, settings.model_name)
    actor = actor_name(settings)
    with workspace.lock("promotion"):
        reconcile(workspace, registry, actor)
        number = registry.resolve(version)
        champion = registry.alias(CHAMPION)
        if (champion or NO_CHAMPION) != expect:
            detail = {"expected": expect, "found": champion or NO_CHAMPION}
            append_audit(workspace, actor=actor, action="promote_refused", subject=number, detail=detail)
            raise StaleExpectationError(
                f"the champion is {champion or NO_CHAMPION}, not {expect}",
                where=settings.model_name,
                todo="Look at it, then promote again with the right --expect.",
            )
        if champion == number:
            return _decision(settings, number, champion, promoted=True, gates=(), policy=policy)
        gates = _gates(registry, number, champion, policy)
        decision = _decision(
            settings, number, champion, promoted=all(g.passed for g in gates), gates=gates, policy=policy
        )
        figures = decision.model_dump(mode="json", exclude={"model_name", "version"})
        if not decision.promoted:
            append_audit(workspace, actor=actor, action="promote_refused", subject=number, detail=figures)
            failed = "; ".join(f"{gate.gate}: {gate.detail}" for gate in decision.failed())
            raise GateRefusedError(f"version {number} is not promoted: {failed}", where=settings.model_name)
        append_audit(workspace, actor=actor, action="promote_intent", subject=number, detail=figures)
        _move_champion(registry, number, champion)
        append_audit(workspace, actor=actor, action="promote_done", subject=number, detail={"champion": number})
    return decision


def rollback(workspace: Workspace, settings: Settings) -> dict[str, str]:
    """Make previous_champion champion again, after its files were verified and it answered once."""
    registry = Registry(workspace, settings.model_name)
    actor = actor_name(settings)
    with workspace.lock("promotion"):
        reconcile(workspace, registry, actor)
        champion, previous = registry.alias(CHAMPION), registry.alias(PREVIOUS)
        if champion is None or previous is None:
            raise UsageError("there is no previous champion to go back to", where=settings.model_name)
        _smoke_test(registry, previous)
        detail = {"champion_before": champion}
        append_audit(workspace, actor=actor, action="rollback_intent", subject=previous, detail=detail)
        _move_champion(registry, previous, champion)
        append_audit(workspace, actor=actor, action="rollback_done", subject=previous, detail={"champion": previous})
    return {"champion": previous, "previous_champion": champion}


def reconcile(workspace: Workspace, registry: Registry, actor: str) -> None:
    """Finish what a kill between intent and done left: the aliases are set as the intent says."""
    records = [record for record in read_audit(workspace) if record.action != "promote_refused"]
    if not records or not records[-1].action.endswith("_intent"):
        return
    intent = records[-1]
    before = intent.detail.get("champion_before")
    if registry.alias(CHAMPION) != intent.subject:
        _move_champion(registry, intent.subject, str(before) if before else None)
    done = intent.action.replace("_intent", "_done")
    detail = {"champion": intent.subject, "reconciled": True}
    append_audit(workspace, actor=actor, action=done, subject=intent.subject, detail=detail)


def _move_champion(registry: Registry, version: str, champion: str | None) -> None:
    if champion is not None and champion != version:
        registry.set_alias(PREVIOUS, champion)
    registry.set_alias(CHAMPION, version)


def _decision(
    settings: Settings,
    version: str,
    champion: str | None,
    *,
    promoted: bool,
    gates: tuple[GateResult, ...],
    policy: PromotionPolicy,
) -> PromotionDecision:
    return PromotionDecision(
        model_name=settings.model_name,
        version=version,
        champion_before=champion,
        promoted=promoted,
        gates=gates,
        policy=policy,
    )


def _gates(registry: Registry, version: str, champion: str | None, policy: PromotionPolicy) -> tuple[GateResult, ...]:
    from pipeline.scoring.gates import promotion_gates

    folder, card = registry.verified_folder(version)
    report = EvaluationReport.read(folder / "evaluation.json")
    predictions = PREDICTION_TABLE.read(folder / "predictions.parquet")
    before = None
    if champion is not None:
        before = PREDICTION_TABLE.read(registry.verified_folder(champion)[0] / "predictions.parquet")
    fitted = _fitted_patients(registry.workspace.datasets_root / card.dataset_id)
    return promotion_gates(report, predictions, before, policy, fitted_patients=fitted)


def _fitted_patients(dataset_dir: Path) -> set[str]:
    """Patients that training or validation saw; none where the dataset was deleted since."""
    from pipeline.cohort.dataset import PatchReader

    if not (dataset_dir / "dataset.json").exists():
        return set()
    index = PatchReader(dataset_dir).index
    return set(index.loc[index["split"] != Split.TEST.value, "patient_key"])


def _smoke_test(registry: Registry, version: str) -> None:
    """Load the version and ask it once; raises before any alias moves."""
    import numpy as np

    from models.predict import Predictor

    folder, card = registry.verified_folder(version)
    logits = Predictor.load(folder).logits(np.zeros((2, *card.input.patch_shape), dtype=np.int16))
    if logits.shape != (2,) or not np.isfinite(logits).all():
        raise GateRefusedError(f"version {version} gives no finite score", where=f"runs/{folder.name}")

"""What a promotion asks, what was answered, and the line it leaves in the audit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_contracts.records import Record, digest_of


class PromotionPolicy(Record):
    """Gates a version must pass to become champion. A bound of None is not asked.

    name, version: stand in the audit beside every decision, with a digest of all bounds.
    min_auc, min_auc_minus_size: of image + size, and of it minus the AUC of the diameter alone.
    min_size_matched_auc: AUC among pairs of nodules of like diameter.
    max_auc_drop_vs_champion: the lower end of the 95 % interval of the AUC minus the champion's, on the same patients,
        must not be further below zero.
    max_ece, min_calibration_slope, max_calibration_slope: of the probabilities on held-out nodules.
    min_subgroup_auc: of every subgroup with at least `subgroup_min_nodules` nodules and both classes.
    max_adaptation_loss: how far the AUC of an adapted network may lie below that of source-only on the same nodules.
    require_pretrained: refuse a network whose backbone started from random weights.
    require_card: refuse a version whose disclosure is not there or leaves something unanswered that the program knows.
    require_statements: what the site itself must have stated in it, by the keys of [disclosure], or ["all"].
    refuse_severe_warnings: refuse where the labels look swapped, or a figure cannot be trusted.
    max_override_rate: share of the version's findings that readers rejected or corrected; asked from
        `override_min_answers` answers on.
    signoffs: how many people of different names must have signed the version off; signer_is_not_trainer: by
        name and by account, none of them may be who trained it.
    """

    name: str = Field("default", min_length=1, max_length=64)
    version: int = Field(1, ge=1)
    min_auc: float = 0.6
    min_auc_minus_size: float = -0.05
    min_size_matched_auc: float | None = None
    max_auc_drop_vs_champion: float = 0.02
    max_ece: float = 0.2
    min_calibration_slope: float | None = None
    max_calibration_slope: float | None = None
    min_test_nodules: int = 20
    min_subgroup_auc: float | None = 0.5
    subgroup_min_nodules: int = Field(30, ge=2)
    max_adaptation_loss: float | None = 0.02
    require_pretrained: bool = False
    require_card: bool = True
    require_statements: tuple[str, ...] = ()
    refuse_severe_warnings: bool = True
    max_override_rate: float | None = Field(None, ge=0, le=1)
    override_min_answers: int = Field(20, ge=1)
    signoffs: int = Field(0, ge=0, le=20)
    signer_is_not_trainer: bool = False

    def digest(self) -> str:
        """Short digest of every bound: two policies of one name and version that differ can be told apart."""
        return digest_of(self.model_dump(mode="json"))


class GateResult(Record):
    """One gate: its figure, its bound, and whether it held."""

    gate: str
    passed: bool
    figure: float | None
    bound: float | None
    detail: str = ""


class PromotionDecision(Record):
    """The answer to one promotion request."""

    model_name: str
    version: str
    champion_before: str | None
    promoted: bool
    gates: tuple[GateResult, ...]
    policy: PromotionPolicy

    def failed(self) -> tuple[GateResult, ...]:
        """The gates that refused."""
        return tuple(gate for gate in self.gates if not gate.passed)


class AuditRecord(Record):
    """One line of audit.jsonl; `digest` covers every other field and the digest of the line before.

    mac: HMAC of the digest with the workspace's audit key, so that a chain made anew without the key is told from ours.
    """

    sequence: int
    time_utc: str
    actor: str
    action: Literal[
        "promote_intent",
        "promote_done",
        "promote_refused",
        "rollback_intent",
        "rollback_done",
        "rollback_refused",
        "mend_intent",
        "mend_done",
        "move_abandoned",
        "signoff",
        "policy",
    ]
    subject: str
    detail: dict[str, object] = {}
    previous: str
    digest: str
    mac: str = ""

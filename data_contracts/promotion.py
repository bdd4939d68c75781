"""What a promotion asks, what was answered, and the line it leaves in the audit."""

from __future__ import annotations

from typing import Literal

from data_contracts.records import Record


class PromotionPolicy(Record):
    """Gates a version must pass to become champion. Differences are champion-relative AUC on the same patients.

    require_pretrained: refuse a network whose backbone started from random weights.
    """

    name: str = "default"
    version: int = 1
    min_auc: float = 0.6
    min_auc_minus_size: float = -0.05
    max_auc_drop_vs_champion: float = 0.02
    max_ece: float = 0.2
    min_test_nodules: int = 20
    require_pretrained: bool = False


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
    """One line of audit.jsonl; `digest` covers every other field and the digest of the line before."""

    sequence: int
    time_utc: str
    actor: str
    action: Literal["promote_intent", "promote_done", "promote_refused", "rollback_intent", "rollback_done", "policy"]
    subject: str
    detail: dict[str, object] = {}
    previous: str
    digest: str

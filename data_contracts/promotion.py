"""What a promotion asks, what was answered, and the line it leaves in the audit."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from data_contracts.records import Record, digest_of
from data_contracts.site_statements import OPTIONAL_QUESTIONS, SITE_QUESTIONS


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

    # a bound that is NaN would refuse or pass by chance of the comparison, and true would pass for 1
    model_config = ConfigDict(allow_inf_nan=False)

    name: str = Field("default", min_length=1, max_length=64)
    version: int = Field(1, ge=1, strict=True)
    min_auc: float = Field(0.6, ge=0, le=1, strict=True)
    min_auc_minus_size: float = Field(-0.05, ge=-1, le=1, strict=True)
    min_size_matched_auc: float | None = Field(None, ge=0, le=1, strict=True)
    max_auc_drop_vs_champion: float = Field(0.02, ge=-1, le=1, strict=True)
    max_ece: float = Field(0.2, ge=0, le=1, strict=True)
    min_calibration_slope: float | None = Field(None, strict=True)
    max_calibration_slope: float | None = Field(None, strict=True)
    min_test_nodules: int = Field(20, ge=0, strict=True)
    min_subgroup_auc: float | None = Field(0.5, ge=0, le=1, strict=True)
    subgroup_min_nodules: int = Field(30, ge=2, strict=True)
    max_adaptation_loss: float | None = Field(0.02, ge=-1, le=1, strict=True)
    require_pretrained: bool = Field(False, strict=True)
    require_card: bool = Field(True, strict=True)
    require_statements: tuple[str, ...] = ()
    refuse_severe_warnings: bool = Field(True, strict=True)
    max_override_rate: float | None = Field(None, ge=0, le=1, strict=True)
    override_min_answers: int = Field(20, ge=1, strict=True)
    signoffs: int = Field(0, ge=0, le=20, strict=True)
    signer_is_not_trainer: bool = Field(False, strict=True)

    @field_validator("require_statements")
    @classmethod
    def _are_questions(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        """A key that nobody is asked is never left open: its gate would pass for ever."""
        for key in keys:
            if key in OPTIONAL_QUESTIONS:
                raise ValueError(f"{key!r} is optional in [disclosure], so it cannot be required")
            if key != "all" and key not in SITE_QUESTIONS:
                raise ValueError(f"{key[:60]!r} is no key of [disclosure]{_nearest(key)}")
        return keys

    @model_validator(mode="after")
    def _slopes_are_in_order(self) -> Self:
        low, high = self.min_calibration_slope, self.max_calibration_slope
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_calibration_slope {low:g} is above max_calibration_slope {high:g}")
        return self

    def digest(self) -> str:
        """Short digest of every bound: two policies of one name and version that differ can be told apart."""
        return digest_of(self.model_dump(mode="json"))


def _nearest(key: str) -> str:
    near = get_close_matches(key, [*SITE_QUESTIONS, "all"], n=1)
    return f"; {near[0]!r} is one" if near else ' nor "all"'


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

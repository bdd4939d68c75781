"""Parameters of what is watched: reviewed studies against the reference of a version."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from data_contracts.params.base import Params

#: of all checks together the smallest p-value is that many times 1 / (permutations + 1)
_MOST_CHECKS = 11


class DriftParams(Params):
    """When reviewed nodules count as other ones than those a version was judged on.

    A check raises its alarm only where the figure passes its bound and chance is ruled out at the level.

    window_studies: how many of the last reviewed studies are looked at.
    window_days: and no older ones than this.
    min_nodules, min_patients: with fewer there is no verdict.
    psi_watch, psi_alert: population stability index of an acquisition feature, less what chance alone gives.
    mmd_watch, mmd_alert: squared maximum mean discrepancy of the embeddings, between 0 and 2.
    prevalence_watch, prevalence_alert: change of the mean predicted probability.
    level_watch, level_alert: probability that any of the checks passes by chance, over all checks together.
    permutations: of patients, for every check.
    """

    window_studies: int = Field(100, ge=1)
    window_days: int = Field(180, ge=1)
    min_nodules: int = Field(30, ge=4)
    min_patients: int = Field(20, ge=4)
    psi_watch: float = Field(0.1, gt=0)
    psi_alert: float = Field(0.2, gt=0)
    mmd_watch: float = Field(0.005, ge=0)
    mmd_alert: float = Field(0.01, ge=0)
    prevalence_watch: float = Field(0.05, gt=0, lt=1)
    prevalence_alert: float = Field(0.10, gt=0, lt=1)
    level_watch: float = Field(0.05, gt=0, lt=0.5)
    level_alert: float = Field(0.01, gt=0, lt=0.5)
    permutations: int = Field(4999, ge=99, le=99_999)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("psi", "mmd", "prevalence"):
            if getattr(self, f"{name}_alert") < getattr(self, f"{name}_watch"):
                raise ValueError(f"{name}_alert is below {name}_watch")
        if self.level_alert > self.level_watch:
            raise ValueError("level_alert is above level_watch")
        least = math.ceil(_MOST_CHECKS / self.level_alert)
        if self.permutations < least:
            raise ValueError(f"an alert at level {self.level_alert:g} needs at least {least} permutations")
        return self

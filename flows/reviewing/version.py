"""The version that a review asks: its network, its held-out nodules, and what follows from both for a new nodule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_contracts.drift import REFERENCE_TABLE
from data_contracts.errors import UsageError
from data_contracts.evaluation import SCORES, EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.params import PatchParams, ReviewParams
from flows.registry import Registry
from flows.registry.keys import audit_key
from flows.reviewing.drift import REFERENCE_FILE
from flows.reviewing.review_maps import MapVerdict, map_verdict
from flows.workspace import Workspace
from models.predict import Predictor
from pipeline.scoring.calibration_interval import CalibrationInterval
from pipeline.scoring.conformal import conformal_calls
from pipeline.scoring.familiarity import Familiarity


@dataclass(frozen=True, eq=False)
class ReviewingVersion:
    """A version, verified against its seal. familiarity, interval: from its held-out nodules, which may be none."""

    model_name: str
    number: str
    folder: Path
    card: ModelCard
    predictor: Predictor
    maps: MapVerdict
    report: EvaluationReport
    familiarity: Familiarity
    interval: CalibrationInterval

    @classmethod
    def load(cls, workspace: Workspace, model_name: str, version: str, params: ReviewParams) -> ReviewingVersion:
        """Load what `version`, a number or an alias, is made of; raises what `Registry.verified_folder` raises."""
        registry = Registry(workspace, model_name)
        number = registry.resolve(version)
        folder, card = registry.verified_folder(number)
        path = folder / REFERENCE_FILE
        reference = REFERENCE_TABLE.read(path) if path.is_file() else REFERENCE_TABLE.empty()
        return cls(
            model_name=model_name,
            number=number,
            folder=folder,
            card=card,
            predictor=Predictor.load(folder),
            maps=map_verdict(folder, card, number, params, audit_key(workspace)),
            report=EvaluationReport.read(folder / "evaluation.json"),
            familiarity=Familiarity.of(reference),
            interval=CalibrationInterval.of(reference),
        )

    @property
    def patch_params(self) -> PatchParams:
        """How to cut the patches it was trained on; raises UsageError for one trained on imported crops."""
        spec = self.card.input
        if spec.value_unit != "HU" or spec.spacing_mm is None:
            raise UsageError(
                "this version was trained on imported crops without HU and cannot review a CT study",
                where=self.card.name,
                todo="Name a version trained on a dataset of `noduleflow prepare`.",
            )
        size_mm = spec.patch_shape[-1] * spec.spacing_mm
        planes = 9 if spec.kind == "2.5d" and spec.patch_shape[0] == 9 else 3
        return PatchParams(kind=spec.kind, planes=planes, size_mm=size_mm, spacing_mm=spec.spacing_mm)

    def calls(self, scores: NDArray[np.float64]) -> list[str]:
        """ "benign", "malignant" or "uncertain" for each score (n,); "" where unknown."""
        if self.card.conformal is None:
            return [""] * len(scores)
        called = conformal_calls(self.card.conformal, scores)
        return [str(call) if known else "" for call, known in zip(called, np.isfinite(scores), strict=True)]

    def summary(self) -> dict[str, str]:
        """Its AUC beside that of size alone on patients held out, in words."""
        lines = {}
        for row in self.report.figures:
            place = "all held-out sites" if row.site == "all" else f"held-out site {row.site}"
            lines[f"AUC of {SCORES[row.score]}, {place}"] = f"{row.auc.text()} on {row.auc.n} nodules"
        return lines

    def warnings(self) -> tuple[str, ...]:
        """That familiarity is not known, and the evaluation's warnings; random weights have a banner of their own."""
        unknown = (self.familiarity.why_unknown,) * (not self.familiarity.is_known)
        lines = self.report.warnings
        return unknown + tuple(line for line in lines if self.report.pretrained or "random numbers" not in line)

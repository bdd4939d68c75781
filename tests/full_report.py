"""An evaluation that holds everything a report can hold, made up; values follow no data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data_contracts.evaluation import (
    SCORES,
    AdaptationDecision,
    ConceptFigures,
    ConformalFigures,
    ConformalSubgroup,
    EvaluationReport,
    Figure,
    NetBenefit,
    OperatingPoint,
    ScoreFigures,
    SubgroupFigures,
)
from data_contracts.model_card import Calibration, InputSpec, ModelCard


def figure(value: float | None, half: float = 0.04, *, n: int = 120, note: str = "") -> Figure:
    if value is None:
        return Figure(value=None, n=n, note=note)
    return Figure(value=value, low=value - half, high=value + half, n=n, n_positive=48, method="DeLong")


def score_row(score: str, site: str = "all", *, auc: float = 0.85, size_matched: float | None = 0.7) -> ScoreFigures:
    return ScoreFigures(
        score=score,
        site=site,
        auc=figure(auc),
        auc_clustered=figure(auc, 0.05),
        auc_bootstrap=figure(auc, 0.06),
        average_precision=figure(0.8),
        size_matched_auc=figure(size_matched, 0.1, n=31, note="2 pairs are too few"),
        brier=figure(0.12),
        ece=figure(0.05),
        calibration_slope=figure(0.8, 0.1),
        calibration_intercept=figure(-0.1),
        threshold=0.61,
        sensitivity=figure(0.75, n=48),
        specificity=figure(0.9, n=72),
        operating_points=(
            OperatingPoint(
                name="sensitivity_0.95", threshold=0.2, sensitivity=figure(0.94, n=48), specificity=figure(0.41, n=72)
            ),
        ),
        net_benefit=tuple(
            NetBenefit(threshold=k / 100, model=figure(0.35 - k / 400), treat_all=0.35 - k / 200) for k in range(1, 21)
        ),
    )


def subgroup(variable: str, level: str, *, n: int = 60, auc: float = 0.8) -> SubgroupFigures:
    return SubgroupFigures(
        variable=variable,
        level=level,
        n=n,
        n_positive=n // 3,
        n_patients=n // 2,
        flagged=n < 30,
        auc=figure(auc, n=n),
        size_auc=figure(0.7, n=n),
        sensitivity=figure(0.7),
        specificity=figure(0.8),
        ece=figure(0.1),
    )


def full_report(**changes: object) -> EvaluationReport:
    sites = ("all", "site-a", "site-b")
    rows = tuple(score_row(score, site, auc=0.8 + 0.03 * k) for site in sites for k, score in enumerate(SCORES))
    report = EvaluationReport(
        run_id="run-1",
        dataset_id="dataset-1",
        backbone="resnet50",
        weights="IMAGENET1K_V2",
        pretrained=True,
        protocol="held-out patients",
        n_patients=70,
        n_nodules=120,
        n_indeterminate=9,
        figures=rows,
        size_auc_difference=figure(0.06, 0.03),
        size_auc_difference_delong=figure(0.06, 0.02),
        subgroups=(
            subgroup("diameter", "<6 mm"),
            subgroup("diameter", ">=15 mm", n=12, auc=0.6),
            subgroup("sex", "female", auc=0.7),
        ),
        conformal=ConformalFigures(
            alpha=0.1,
            coverage=figure(0.91),
            abstention=figure(0.2),
            subgroups=(
                ConformalSubgroup(
                    variable="class",
                    level="malignant",
                    n=48,
                    flagged=False,
                    coverage=figure(0.8),
                    abstention=figure(0.2),
                ),
            ),
        ),
        source_minus_target=figure(0.08, 0.05),
        alternatives={"dann": rows},
        adaptation=AdaptationDecision(
            method="dann", chosen="source-only", adapted=False, reasons=("no",), figures={"dann": {"agreement": 0.66}}
        ),
        concepts=(
            ConceptFigures(
                concept="spiculation",
                unit="1-5",
                spearman=figure(0.4),
                kappa=figure(0.3),
                mean_absolute_error=figure(0.5),
            ),
        ),
        warnings=("Few patients",),
    )
    return report.model_copy(update=changes)


def predictions(n: int = 120, *, seed: int = 1) -> pd.DataFrame:
    source = np.random.default_rng(seed)
    label = source.integers(0, 2, n)
    size = np.clip(0.5 + 0.2 * (label - 0.5) + source.normal(0, 0.2, n), 0, 1)
    return pd.DataFrame(
        {
            "patient_key": [f"p{k // 2}" for k in range(n)],
            "site": np.where(np.arange(n) % 2, "site-a", "site-b"),
            "label": pd.array(label, dtype="Int8"),
            "score": np.clip(size + source.normal(0, 0.1, n) + 0.1 * label, 0, 1),
            "score_size": size,
            "score_image": source.random(n),
            "diameter_mm": source.uniform(4, 30, n),
        }
    )


def evaluated_card(**changes: object) -> ModelCard:
    card = ModelCard(
        name="finetune",
        run_id="run-1",
        backbone="resnet50",
        weights="IMAGENET1K_V2",
        weights_sha256="ff" * 32,
        pretrained=True,
        head="mlp",
        input=InputSpec(kind="2.5d", patch_shape=(3, 48, 48), value_unit="HU", spacing_mm=1.0, input_size_px=96),
        calibration=Calibration(
            bias=0.1, image_weight=1, size_weight=2, image_only_bias=0, image_only_weight=1, size_only_bias=0,
            size_only_weight=1,
        ),
        thresholds={"specificity_0.90": 0.61},
        checkpoint_sha256="aa" * 32,
        dataset_id="dataset-1",
        training={"epochs": 20, "class_weights": "balanced", "population": "80 nodules of 40 patients, site-a"},
    )  # fmt: skip
    return card.model_copy(update=changes)

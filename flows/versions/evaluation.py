"""Evaluation: held-out predictions, the report of their figures, and paired comparison of versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from data_contracts.concepts import CONCEPT_TABLE, CONCEPTS_FILE
from data_contracts.errors import NothingUsableError
from data_contracts.evaluation import AdaptationDecision, EvaluationReport, Figure, ScoreFigures
from data_contracts.manifest import Split
from data_contracts.model_card import Calibration, ModelCard
from data_contracts.params import EvaluateParams, TrainParams
from data_contracts.predictions import PREDICTION_TABLE
from data_contracts.records import write_bytes_atomic
from flows.datasets.labelled import patches_of
from flows.engine import step
from flows.registry import Registry
from flows.registry.evidence import fitted_patients
from flows.versions.concepts import concept_table, concepts_in_own_units
from flows.versions.disclosure import disclosure_of, write_disclosure
from flows.versions.facts import held_out_facts
from flows.versions.judged_rows import doubts
from flows.workspace import Workspace
from models.predict import Predictor
from pipeline.cohort.dataset import PatchReader
from pipeline.review.evaluation_page import render_evaluation
from pipeline.scoring.compare import compare_paired
from pipeline.scoring.concepts import concept_figures
from pipeline.scoring.conformal import conformal_calls
from pipeline.scoring.evaluation import build_report
from pipeline.scoring.fusion import apply_calibration
from pipeline.scoring.thresholds import threshold_name


def predictions_of(
    rows: pd.DataFrame,
    logits: np.ndarray,
    calibration: Calibration,
    *,
    fold: int = 0,
    facts: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A PredictionTable of patch rows and the logits of a network on them, in the same order.

    facts: of the same rows, as `held_out_facts` gives them.
    """
    columns = ["patch_id", "nodule_id", "patient_key", "split", "site", "label", "diameter_mm"]
    table = rows[columns].reset_index(drop=True).assign(fold=fold)
    diameters = table["diameter_mm"].to_numpy(dtype=np.float64, na_value=np.nan)
    table = table.assign(**apply_calibration(calibration, logits, diameters))
    return table if facts is None else pd.concat([table, facts.reset_index(drop=True)], axis=1)


def write_evaluation(
    folder: Path,
    predictions: pd.DataFrame,
    card: ModelCard,
    *,
    protocol: str,
    params: EvaluateParams,
    baseline_thresholds: Mapping[str, Mapping[str, float]] | None = None,
    alternatives: Mapping[str, pd.DataFrame] | None = None,
    adaptation: AdaptationDecision | None = None,
    concepts: pd.DataFrame | None = None,
    source: pd.DataFrame | None = None,
    same_alternatives: Mapping[str, tuple[ScoreFigures, ...]] | None = None,
) -> EvaluationReport:
    """predictions.parquet, concepts.parquet, evaluation.json and report.html of one network on one held-out set.

    same_alternatives: figures of networks that were not chosen, on this very set, where their predictions are gone.
    source: predictions on the held-out patients of training, where `predictions` are of another dataset.

    Returns what evaluation.json holds.
    """
    if card.conformal is not None:
        predictions = predictions.assign(conformal=conformal_calls(card.conformal, predictions["score"]))
    report = build_report(
        predictions,
        run_id=card.run_id,
        dataset_id=card.dataset_id,
        backbone=card.backbone,
        weights=card.weights,
        pretrained=card.pretrained,
        protocol=protocol,
        thresholds=card.thresholds,
        params=params,
        alternatives=alternatives,
        adaptation=adaptation,
        baseline_thresholds=baseline_thresholds,
        warnings=card.warnings,
        conformal=card.conformal,
        source_site=str(card.training.get("source_site", "")),
        target_site=str(card.training.get("target_site", "")),
        source=source,
    )
    if same_alternatives:
        report = report.model_copy(update={"alternatives": dict(same_alternatives)})
    if concepts is not None:
        report = report.model_copy(update={"concepts": concept_figures(concepts, params)})
        CONCEPT_TABLE.write(folder / CONCEPTS_FILE, concepts)
    PREDICTION_TABLE.write(folder / "predictions.parquet", predictions)
    write_bytes_atomic(folder / "report.html", render_evaluation(report, predictions).encode())
    report.write(folder / "evaluation.json")
    return report


@step("evaluate-version")
def evaluate_version(workspace: Workspace, model_name: str, version: str, dataset: str) -> Path:
    """Predict patients that a verified version did not learn from; returns the folder of the files.

    Of the dataset it was trained on these are the held-out split, of another one all whose patient key is not that of a
    patient it learned from or was calibrated on.
    """
    run_folder, card = Registry(workspace, model_name).verified_folder(version)
    dataset_dir = workspace.dataset(dataset or card.dataset_id)
    reader = PatchReader(dataset_dir)
    rows, whose = unseen_rows(reader, card, fitted_patients(workspace, run_folder, card))
    reader.verify()
    if rows.empty:
        raise NothingUsableError("the dataset has no patients unseen in training", where=dataset_dir.name)
    cut = TrainParams(common_spacing_mm=card.training.get("common_spacing_mm", 0.0))
    predictor, patches = Predictor.load(run_folder), patches_of(reader, rows, cut)
    logits = predictor.logits(patches)
    found = doubts(workspace, reader, rows, card, logits)
    warnings = tuple(dict.fromkeys((*card.warnings, *reader.card.warnings, *found)))
    sealed, same = _report_at_training(run_folder), dataset_dir.name == card.dataset_id
    used = card.model_copy(update={"dataset_id": dataset_dir.name, "warnings": warnings})
    folder = workspace.root / "evaluations" / f"{card.run_id}-{dataset_dir.name}"
    write_evaluation(
        folder,
        predictions_of(rows, logits, card.calibration, facts=held_out_facts(workspace, reader, rows)),
        used,
        protocol=f"{whose}; thresholds and calibration as registered",
        params=EvaluateParams(),
        concepts=concept_table(concepts_in_own_units(predictor.network, patches, card), rows),
        source=None if same else _held_out_at_training(run_folder),
        baseline_thresholds=_baseline_thresholds(sealed),
        adaptation=sealed.adaptation if sealed else None,
        same_alternatives=sealed.alternatives if sealed and same else None,
    )
    write_disclosure(disclosure_of(workspace, folder, card=card), folder)
    return folder


def _report_at_training(run_folder: Path) -> EvaluationReport | None:
    """The evaluation that was registered with a version: it alone knows what was frozen and decided in training."""
    file = run_folder / "evaluation.json"
    return EvaluationReport.read(file) if file.is_file() else None


def _baseline_thresholds(sealed: EvaluationReport | None) -> dict[str, dict[str, float]]:
    """Thresholds of size only and image only by score, which the model card does not hold."""
    operating = threshold_name(EvaluateParams().operating_specificity)
    frozen: dict[str, dict[str, float]] = {}
    for score in ("score_image", "score_size"):
        row = sealed.find(score) if sealed else None
        if row is None:
            continue
        frozen[score] = {point.name: point.threshold for point in row.operating_points}
        if row.threshold is not None:  # reports of before hold the one threshold only
            frozen[score].setdefault(operating, row.threshold)
    return frozen


def _held_out_at_training(run_folder: Path) -> pd.DataFrame | None:
    """The predictions that were registered with a version, of its source site where it names one."""
    file = run_folder / "predictions.parquet"
    if not file.is_file():
        return None
    table, card = PREDICTION_TABLE.read(file), ModelCard.read(run_folder / "model_card.json")
    site = card.training.get("source_site", "")
    return table[table["site"] == site] if site else table


def unseen_rows(reader: PatchReader, card: ModelCard, fitted: frozenset[str] | None) -> tuple[pd.DataFrame, str]:
    """Rows that the version of `card` may be judged by, and which these are.

    fitted: keys of the patients that it learned from or was calibrated on; None where nobody knows any more.

    Raises
    ------
    NothingUsableError: nobody knows whom it learned from, so no patient is known to be unseen.
    """
    if fitted is None:
        raise NothingUsableError(
            "nobody knows any more whom this version learned from, so no patient is known to be unseen",
            where=reader.card.dataset_id,
            todo=f"Bring back the dataset {card.dataset_id}, or train the version again.",
        )
    unseen = reader.index[~reader.index["patient_key"].isin(fitted)]
    if reader.card.dataset_id == card.dataset_id:
        return unseen[unseen["split"] == Split.TEST.value], "held-out patients of the dataset"
    return unseen, "all patients of the dataset unseen in training"


@flow(name="evaluate", log_prints=False)
def evaluate_flow(workspace_root: str, version: str, dataset: str, model_name: str) -> dict[str, Any]:
    """Figures of a registered version on held-out patients."""
    workspace = Workspace(Path(workspace_root))
    folder = evaluate_version(workspace, model_name, version, dataset)
    return {"version": version, "folder": str(folder), "report": str(folder / "report.html")}


def compare_versions(workspace: Workspace, model_name: str, version_a: str, version_b: str) -> dict[str, Any]:
    """Paired comparison of two versions on the held-out nodules both scored."""
    registry = Registry(workspace, model_name)
    tables = [
        PREDICTION_TABLE.read(registry.verified_folder(version)[0] / "predictions.parquet")
        for version in (version_a, version_b)
    ]
    comparison = asdict(compare_paired(tables[0], tables[1]))
    figures = {key: value.model_dump() if isinstance(value, Figure) else value for key, value in comparison.items()}
    return {"a": version_a, "b": version_b, **figures}

"""Review: a study's nodules as the champion sees them, as pages for a radiologist."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from data_contracts.errors import UsageError
from data_contracts.evaluation import SCORES, EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.nodules import RATINGS
from data_contracts.params import DriftParams, IngestParams, LabelParams, PatchParams, ReviewParams
from data_contracts.records import digest_of, write_bytes_atomic
from data_contracts.review import Finding, SeriesSummary, StudyReview
from data_contracts.series import SeriesRecord
from data_contracts.volume import CTVolume
from flows.concepts import concepts_in_own_units
from flows.drift import keep_study, watch
from flows.drift_samples import watched_rows
from flows.engine import step
from flows.progress import stage
from flows.registry import CHAMPION, Registry
from flows.results import Drawn, results_of, with_kept_time, write_results
from flows.review_maps import MapVerdict, map_pictures, map_verdict
from flows.series_choice import remembered_preference, to_be_read
from flows.sources import existing_sources
from flows.workspace import Workspace
from models.predict import Predictor
from pipeline.cohort.consensus import nodules_by_consensus
from pipeline.imaging.lungs import LungMask, LungSegmenter, segment_lungs
from pipeline.imaging.nifti import read_nifti
from pipeline.imaging.patches import extract_patch
from pipeline.review.html import render_study
from pipeline.review.key_images import close_up_mm, render_key_images
from pipeline.review.measure import measured
from pipeline.review.pdf import render_study_pdf
from pipeline.scoring.fusion import apply_calibration

NOT_EXAMINED = (
    "Places without an annotation: no search for further nodules was made.",
    "Lymph nodes, pleura, heart, bone and upper abdomen.",
    "Prior studies: no comparison was made.",
)

_DEFAULTS = ReviewParams()
_DRIFT = DriftParams()


def study_keys_of(workspace: Workspace, sources: list[str], site: str) -> list[str]:
    """Study keys named directly, or the studies of the sources, ingested first where they are new."""
    known = {record.study_key for record in workspace.series_records()}
    keys = [source for source in sources if source in known]
    paths = tuple(Path(source) for source in sources if source not in known)
    if paths:
        from flows.ingest import ingest_flow

        found = existing_sources(paths)
        keys += ingest_flow(str(workspace.root), found, site, IngestParams(), False)["study_keys"]
    return list(dict.fromkeys(keys))


@step("review-study")
def review_study(workspace: Workspace, study_key: str, model_name: str, version: str, params: ReviewParams) -> str:
    """Write one study's report files and return its folder's name."""
    registry = Registry(workspace, model_name)
    number = registry.resolve(version)
    run_folder, card = registry.verified_folder(number)
    records = [record for record in workspace.series_records() if record.study_key == study_key]
    nodules = workspace.nodules()
    nodules = nodules[nodules["series_key"].isin([record.series_key for record in records])]
    predictor = Predictor.load(run_folder) if len(nodules) else None
    segmenter = _lung_segmenter(workspace, params)
    images: dict[str, bytes] = {}
    drawn = Drawn()
    findings: list[Finding] = []
    watched: list[pd.DataFrame] = []
    maps = map_verdict(run_folder, card, number, params)
    annotated = {str(key) for key in nodules["series_key"]}
    for record in to_be_read(records, annotated, remembered_preference(workspace.preference_file)):
        rows = nodules_by_consensus(nodules[nodules["series_key"] == record.series_key], LabelParams())
        rows = rows[rows["diameter_mm"] >= params.min_diameter_mm].reset_index(drop=True)
        rows["source"] = rows["nodule_id"].map(nodules.groupby("nodule_id")["source"].first())
        if predictor is None or rows.empty:
            continue
        volume = read_nifti(workspace.root / record.volume_path)
        lungs = segment_lungs(volume, segmenter)
        found, pictures, seen = _findings(volume, record, rows, predictor, lungs, maps, drawn, params)
        findings += found
        watched.append(seen)
        images |= pictures
    findings.sort(key=lambda finding: -(finding.probability or 0.0))
    report = EvaluationReport.read(run_folder / "evaluation.json")
    review = StudyReview(
        study_key=study_key,
        patient_key=records[0].patient_key,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        model_name=model_name,
        model_version=number,
        model=card,
        evaluation_summary=_evaluation_summary(report),
        series=tuple(_series_summary(record) for record in records),
        findings=tuple(findings),
        origin_of_findings=_origin(nodules),
        not_examined=NOT_EXAMINED,
        warnings=_warnings(report),
    )
    _write(workspace, review, records, drawn, images, params)
    keep_study(workspace, run_folder.name, watched)
    return study_key


def _write(
    workspace: Workspace,
    review: StudyReview,
    records: list[SeriesRecord],
    drawn: Drawn,
    images: dict[str, bytes],
    params: ReviewParams,
) -> None:
    folder = workspace.reviews_root / review.study_key
    review = with_kept_time(folder, review)
    for name, content in images.items():
        write_bytes_atomic(folder / name, content)
    write_bytes_atomic(folder / "report.html", render_study(review, images).encode())
    pdf = render_study_pdf(review, images) if params.pdf else None
    if pdf is not None:
        write_bytes_atomic(folder / "report.pdf", pdf)
    write_results(workspace, review, records, drawn, images, pdf, params)
    review.write(folder / "review.json")


def _findings(
    volume: CTVolume,
    record: SeriesRecord,
    rows: pd.DataFrame,
    predictor: Predictor,
    lungs: LungMask,
    maps: MapVerdict,
    drawn: Drawn,
    params: ReviewParams,
) -> tuple[list[Finding], dict[str, bytes], pd.DataFrame]:
    card = predictor.card
    patch_params = patch_params_of(card)
    centers = rows[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    cut = [extract_patch(volume, center, patch_params) for center in centers]
    diameters = rows["diameter_mm"].to_numpy(dtype=np.float64)
    patches = np.stack([patch for patch, _ in cut])
    scores = apply_calibration(card.calibration, predictor.logits(patches), diameters)
    concepts = concepts_in_own_units(predictor.network, patches, card)
    looked = map_pictures(maps, predictor, patches, volume, centers)
    findings, images = [], {}
    for number, row in enumerate(rows.to_dict("records")):
        finding_id = digest_of([record.series_key, row["nodule_id"]], length=8)
        pictures = {**render_key_images(volume, centers[number], diameters[number], params), **looked[number]}
        named = {f"key-{finding_id}-{name}.png": content for name, content in pictures.items()}
        images |= named
        k, j, i = (float(value) for value in volume.to_kji(centers[number]))
        x, y, z = (float(value) for value in centers[number])
        measurement, outline = measured(volume, centers[number], float(diameters[number]))
        drawn.add(finding_id, outline, close_up_mm(float(diameters[number]), params))
        findings.append(
            Finding(
                finding_id=finding_id,
                nodule_id=str(row["nodule_id"]),
                series_key=record.series_key,
                lps_mm=(x, y, z),
                kji=(k, j, i),
                slice_number=round(k) + 1,
                side=(lungs.side_of(centers[number]) or "") if lungs.is_plausible else "",
                measurement=measurement,
                probability=_known(scores["score"][number]),
                probability_size_only=_known(scores["score_size"][number]),
                probability_image_only=_known(scores["score_image"][number]),
                n_readers=int(row["n_readers"]),
                ratings={name: float(row[name]) for name in RATINGS if pd.notna(row.get(name))},
                concepts={name: float(values[number]) for name, values in concepts.items()},
                explanation=maps.sentence,
                source=str(row["source"]),
                padded=bool(cut[number][1]),
                key_images=tuple(named),
            )
        )
    nodule_ids = [str(key) for key in rows["nodule_id"]]
    seen = watched_rows(record, nodule_ids, predictor.network, card, patches, scores["score"])
    return findings, images, seen


def _lung_segmenter(workspace: Workspace, params: ReviewParams) -> LungSegmenter | None:
    """The trained segmenter that the parameters name; None where the classical mask is wanted."""
    if not params.lung_segmenter:
        return None
    from models.weights.lung_segmenter import load_lung_segmenter

    return load_lung_segmenter(workspace.segmenters_root / params.lung_segmenter)


def patch_params_of(card: ModelCard) -> PatchParams:
    """How to cut the patches a network was trained on; raises UsageError for one trained on imported crops."""
    spec = card.input
    if spec.value_unit != "HU" or spec.spacing_mm is None:
        raise UsageError(
            "this version was trained on imported crops without HU and cannot review a CT study",
            where=card.name,
            todo="Name a version trained on a dataset of `noduleflow prepare`.",
        )
    size_mm = spec.patch_shape[-1] * spec.spacing_mm
    planes = 9 if spec.kind == "2.5d" and spec.patch_shape[0] == 9 else 3
    return PatchParams(kind=spec.kind, planes=planes, size_mm=size_mm, spacing_mm=spec.spacing_mm)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _origin(nodules: pd.DataFrame) -> str:
    if nodules.empty:
        return "No annotation came with this study, and no search for nodules was made: the report has no findings."
    sources = ", ".join(sorted({str(source) for source in nodules["source"]}))
    readers = nodules["reader"].nunique()
    return f"Annotations of {readers} reader{'s' if readers != 1 else ''} ({sources})."


def _evaluation_summary(report: EvaluationReport) -> dict[str, str]:
    summary = {}
    for row in report.figures:
        place = "all held-out sites" if row.site == "all" else f"held-out site {row.site}"
        summary[f"AUC of {SCORES[row.score]}, {place}"] = f"{row.auc.text()} on {row.auc.n} nodules"
    return summary


def _warnings(report: EvaluationReport) -> tuple[str, ...]:
    """The report's warnings; that of random weights has a banner of its own on the page."""
    return tuple(line for line in report.warnings if report.pretrained or "random numbers" not in line)


def _series_summary(record: SeriesRecord) -> SeriesSummary:
    return SeriesSummary(**{name: getattr(record, name) for name in SeriesSummary.model_fields})


@step("watch-drift")
def watch_drift(workspace: Workspace, model_name: str, version: str, params: DriftParams) -> dict[str, Any]:
    """Whether the studies reviewed last still resemble those the version was judged on; an alarm where they do not."""
    registry = Registry(workspace, model_name)
    number = registry.resolve(version)
    report = watch(workspace, model_name, number, registry.verified_folder(number)[0], params)
    return report.model_dump(mode="json")


@flow(name="review", log_prints=False)
def review_flow(
    workspace_root: str,
    study_keys: list[str],
    model_name: str,
    version: str = CHAMPION,
    params: ReviewParams = _DEFAULTS,
    drift: DriftParams = _DRIFT,
) -> dict[str, Any]:
    """Reports of some studies, one task a study; then the drift of the studies reviewed last."""
    workspace = Workspace(Path(workspace_root))
    reports = []
    with stage("review", len(study_keys)) as progress:
        for key in study_keys:
            review_study(workspace, key, model_name, version, params)
            folder = workspace.reviews_root / key
            review = StudyReview.read(folder / "review.json")
            n_findings = len(review.findings)
            dicom = results_of(folder)
            paths = {"report": str(folder / "report.html"), "dicom": dicom["objects"], "problems": dicom["problems"]}
            reports.append({"study_key": key, "n_findings": n_findings, **paths})
            progress.advance(f"study {key}: {n_findings} findings")
    return {"reports": reports, "version": version, "drift": watch_drift(workspace, model_name, version, drift)}

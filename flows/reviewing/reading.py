"""A study read: its nodules found in each series, measured, asked of a version and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.nodules import RATINGS
from data_contracts.params import LabelParams, ReviewParams
from data_contracts.records import digest_of
from data_contracts.review import Finding, Measurement
from data_contracts.series import SeriesRecord
from flows.intake.series_choice import remembered_preference, to_be_read
from flows.remote.opening import fetched
from flows.reviewing.at_once import for_each
from flows.reviewing.drift_samples import acquisition_of, watched_rows
from flows.reviewing.finding import NoduleSearch, finder_of, search_series
from flows.reviewing.picturing import pictures_of
from flows.reviewing.results import Drawn
from flows.reviewing.review_maps import map_pictures
from flows.reviewing.version import ReviewingVersion
from flows.versions.concepts import concepts_in_own_units
from flows.workspace import Workspace
from models.predict import logits_and_represented
from pipeline.cohort.consensus import nodules_by_consensus
from pipeline.cohort.settled import is_answer, settled_candidates
from pipeline.imaging.lungs import LungMask, LungSegmenter, segment_lungs
from pipeline.imaging.nifti import read_nifti
from pipeline.imaging.patches import extract_patch
from pipeline.review.key_images import close_up_mm, key_image_name
from pipeline.review.measure import Outline, measured
from pipeline.review.measurement.thorax import thorax_of
from pipeline.review.registration import Scan
from pipeline.review.same_nodule import repeats
from pipeline.review.stack import stack_name
from pipeline.scoring.fusion import apply_calibration

#: so far from the mask, beside its own radius, a mark may still be of a nodule at the pleura or the hilum
_OFF_LUNG_MM = 10.0


@dataclass
class StudyReading:
    """What the series of a study gave so far.

    nodules: the marks of the study, of nodules.parquet. images: pictures by file name. stacks: slices
    around a nodule by the name its finding gives them. scans: of the series read, by key.
    watched: DRIFT_TABLE rows of each series with marks. unfamiliar: what of a series' acquisition no held-out series
    had. search: of the lungs, in a study without marks; None where there are marks.
    segmenter: what finds lungs, None for the classical mask.
    """

    nodules: pd.DataFrame
    segmenter: LungSegmenter | None

    findings: list[Finding] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    stacks: dict[str, bytes] = field(default_factory=dict)
    drawn: Drawn = field(default_factory=Drawn)
    scans: dict[str, Scan] = field(default_factory=dict)
    watched: list[pd.DataFrame] = field(default_factory=list)
    unfamiliar: list[str] = field(default_factory=list)
    search: NoduleSearch | None = None


def read_study(
    workspace: Workspace, records: Sequence[SeriesRecord], version: ReviewingVersion, params: ReviewParams
) -> StudyReading:
    """Read the series of one study that are to be read: the chosen one, and those that carry annotations.

    Where the study carries none, the lungs of the chosen series are searched and the candidates are read.
    """
    nodules = workspace.nodules()
    nodules = nodules[nodules["series_key"].isin([record.series_key for record in records])]
    answers = nodules[is_answer(nodules)]
    # what readers answered to a report is no mark: it is laid over the marks, or over what a search finds
    marks = nodules[~is_answer(nodules)]
    reading = StudyReading(marks, _lung_segmenter(workspace, params))
    annotated = {str(key) for key in marks["series_key"]}
    finder = None if annotated else finder_of(workspace, params)
    for record in to_be_read(records, annotated, remembered_preference(workspace.preference_file)):
        rows = nodules_by_consensus(nodules[nodules["series_key"] == record.series_key], LabelParams())
        rows = rows[rows["diameter_mm"] >= params.min_diameter_mm].reset_index(drop=True)
        rows["source"] = rows["nodule_id"].map(nodules.groupby("nodule_id")["source"].first())
        if rows.empty and finder is None:
            continue
        scan = scan_of(workspace, record, reading.segmenter)
        reading.scans[record.series_key] = scan
        if finder is not None:
            reading.search = search_series(finder, scan.volume, scan.lungs, params, record.series_key)
            own = answers[answers["series_key"] == record.series_key]
            rows = settled_candidates(reading.search.candidates, own)
            rows = rows[rows["diameter_mm"] >= params.min_diameter_mm].reset_index(drop=True)
            if rows.empty:
                continue
        _read_series(reading, scan, record, rows, version, params)
    return reading


def scan_of(workspace: Workspace, record: SeriesRecord, segmenter: LungSegmenter | None) -> Scan:
    """The volume of a series and its lungs."""
    fetched(workspace, workspace.root / record.volume_path)
    volume = read_nifti(workspace.root / record.volume_path)
    return Scan(volume, segment_lungs(volume, segmenter))


def _centers(rows: pd.DataFrame) -> NDArray[np.float64]:
    return rows[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)


def _sized(
    reading: StudyReading, scan: Scan, rows: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[Measurement, Outline | None]]]:
    """The rows with their measurements; of places that a search found in one nodule the best alone, and that is said.

    What a reader answered stays, wherever it lies.
    """
    centers, diameters = _centers(rows), rows["diameter_mm"].to_numpy(dtype=np.float64)
    thorax = thorax_of(scan.lungs)
    sizes = for_each(
        len(rows),
        lambda number: measured(scan.volume, centers[number], float(diameters[number]), thorax=thorax),
    )
    if reading.search is None:
        return rows, sizes
    again = np.array(repeats([outline for _, outline in sizes], centers)) & (rows["n_readers"] == 0).to_numpy()
    if again.any():
        words = f"{again.sum()} more {'lies' if again.sum() == 1 else 'lie'} in a nodule that is shown already."
        reading.search = replace(reading.search, origin=f"{reading.search.origin} Of the places {words}")
    return rows[~again].reset_index(drop=True), [size for size, left in zip(sizes, ~again, strict=True) if left]


def off_lung(lungs: LungMask, center_lps_mm: NDArray[np.float64], diameter_mm: float) -> str:
    """What a report says of a mark beside the lungs; "" of one that lies in them or may touch them."""
    if not lungs.is_plausible:
        return ""
    distance_mm = lungs.distance_mm(center_lps_mm)
    if distance_mm <= diameter_mm / 2 + _OFF_LUNG_MM:
        return ""
    return (
        f"Its place lies {distance_mm:.0f} mm outside of the lungs that the program found; the model was judged on "
        "nodules of the lungs alone."
    )


def _read_series(
    reading: StudyReading,
    scan: Scan,
    record: SeriesRecord,
    rows: pd.DataFrame,
    version: ReviewingVersion,
    params: ReviewParams,
) -> None:
    """Add to `reading` a finding for each of `rows` (nodule_id, x_mm, y_mm, z_mm, diameter_mm, source, n_readers)."""
    volume, lungs = scan.volume, scan.lungs
    card, predictor = version.card, version.predictor
    rows, sizes = _sized(reading, scan, rows)
    centers = _centers(rows)
    cut = [extract_patch(volume, center, version.patch_params) for center in centers]
    diameters = rows["diameter_mm"].to_numpy(dtype=np.float64)
    patches = np.stack([patch for patch, _ in cut])
    logits, vectors = logits_and_represented(predictor.network, patches, card.input)
    scores = apply_calibration(card.calibration, logits, diameters)
    concepts = concepts_in_own_units(predictor.network, patches, card)
    looked = map_pictures(version.maps, predictor, patches, volume, centers)
    nodule_ids = [str(key) for key in rows["nodule_id"]]
    watched = watched_rows(record, nodule_ids, card, patches, vectors, scores["score"])
    if reading.search is None:
        # what a search proposes is mostly no nodule, and would pass for drift among those that were judged
        reading.watched.append(watched)
    unfamiliar = version.familiarity.of_nodules(np.array(watched["embedding"].tolist(), dtype=np.float64))
    reading.unfamiliar += version.familiarity.of_acquisition(acquisition_of(record))
    calls = version.calls(scores["score"])
    pictured = pictures_of(volume, centers, diameters, scores["score"], params)
    for number, row in enumerate(rows.to_dict("records")):
        finding_id = digest_of([record.series_key, row["nodule_id"]], length=8)
        pictures = {**pictured[number].images, **looked[number]}
        named = {key_image_name(finding_id, name): content for name, content in pictures.items()}
        reading.images |= named
        if (slices := pictured[number].stack) is not None:
            reading.stacks[stack_name(finding_id)] = slices
        k, j, i = (float(value) for value in volume.to_kji(centers[number]))
        x, y, z = (float(value) for value in centers[number])
        measurement, outline = sizes[number]
        off = off_lung(lungs, centers[number], float(diameters[number]))
        reading.drawn.add(finding_id, outline, close_up_mm(float(diameters[number]), params))
        reading.findings.append(
            Finding(
                finding_id=finding_id,
                nodule_id=str(row["nodule_id"]),
                series_key=record.series_key,
                lps_mm=(x, y, z),
                kji=(k, j, i),
                slice_number=round(k) + 1,
                series_number=record.series_number,
                instance_number=_instance_number(record, k),
                detection_score=_known(row.get("detection_score", np.nan)),
                side="" if off or not lungs.is_plausible else lungs.side_of(centers[number]) or "",
                measurement=measurement,
                probability=_known(scores["score"][number]),
                probability_interval=version.interval.at(float(scores["score"][number])),
                call=calls[number],
                unfamiliar=unfamiliar[number],
                probability_size_only=_known(scores["score_size"][number]),
                probability_image_only=_known(scores["score_image"][number]),
                n_readers=int(row["n_readers"]),
                ratings={name: float(row[name]) for name in RATINGS if pd.notna(row.get(name))},
                concepts={name: float(values[number]) for name, values in concepts.items()},
                explanation=version.maps.sentence,
                source=str(row["source"]),
                padded=bool(cut[number][1]),
                note=off,
                stack=stack_name(finding_id) if slices is not None else "",
                key_images=tuple(named),
            )
        )


def _lung_segmenter(workspace: Workspace, params: ReviewParams) -> LungSegmenter | None:
    """The trained segmenter that the parameters name; None where the classical mask is wanted."""
    if not params.lung_segmenter:
        return None
    from models.weights.lung_segmenter import load_lung_segmenter

    return load_lung_segmenter(workspace.segmenters_root / params.lung_segmenter)


def _instance_number(record: SeriesRecord, k: float) -> int | None:
    """As the scanner counted the slice; None for an interpolated one, or where the header does not say."""
    place = min(max(round(k), 0), record.n_slices - 1)
    return (record.instance_numbers[place] or None) if place < len(record.instance_numbers) else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

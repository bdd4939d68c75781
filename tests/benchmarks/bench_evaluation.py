"""How often the 95 % intervals of a report hold the truth, over 1000 simulated held-out sets; bench/evaluation.json.

Every set is drawn from a world of which the truth is known (a sample of some hundred thousand nodules), and is given
to the functions that write a report. Each row is the share of sets whose interval holds the truth, for one figure; an
interval that is right holds it in 95 of 100. DeLong's own interval takes nodules for independent: it is judged in a
world where each patient has one, and what it does where patients have several stands beside it without a bar.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

import numpy as np
import pandas as pd
from evaluation_simulation import World, held_out_set
from paired import Row, publish, value_row
from threadpoolctl import threadpool_limits

from data_contracts.evaluation import SCORES, Figure
from data_contracts.model_card import ConformalQuantiles
from data_contracts.params import EvaluateParams
from pipeline.scoring.calibration_figures import ece_figure
from pipeline.scoring.clustered_auc import unpaired_difference_figure
from pipeline.scoring.compare import compare_paired
from pipeline.scoring.conformal import conformal_calls, conformal_figures, fit_conformal
from pipeline.scoring.delong import auc_figure
from pipeline.scoring.evaluation import build_report, size_auc_difference, size_auc_difference_delong
from pipeline.scoring.figures import score_figures
from pipeline.scoring.subgroups import SMALL_N, UNKNOWN, subgroup_figures
from pipeline.scoring.thresholds import freeze_operating_points

SETS = 1000
PARAMS = EvaluateParams()
#: share of held-out sets, in 100, that an interval called 95 % may hold the truth in
LEAST, MOST = 0.93, 0.97

#: a fifth of the patients of the LIDC, and a small hospital
WORLDS = {"130 patients": World(), "60 patients": World(patients=60)}
ONE_NODULE_EACH = World(patients=200, clustered=False)
CALIBRATED = World(slope=1.0, bias=0.0, target_noise=0.0)

_TRUTH_PATIENTS, _TRUTH_PARTS = 20_000, 8
_VALIDATION_PATIENTS = 130
_CHUNK = 10
#: subgroups of every fifth set: the levels of a variable share a row, which has enough of them
_SUBGROUPS_EVERY = 5
#: what rests on independent nodules
_DELONG = ("AUC, DeLong", "AUC minus size only, paired DeLong")

Held = dict[str, list[bool]]
FiguresOf = Callable[..., Iterator[tuple[str, Figure]]]


@cache
def frozen_on_validation(world: World) -> tuple[dict[str, float], ConformalQuantiles]:
    """Thresholds and quantiles of a validation set, which stay the same over all held-out sets."""
    validation = held_out_set(world, np.random.default_rng(99), _VALIDATION_PATIENTS)
    scores, labels = validation["score"], validation["label"].to_numpy(dtype=np.float64)
    quantiles = fit_conformal(scores, labels, alpha=PARAMS.conformal_alpha)
    assert quantiles is not None
    return freeze_operating_points(scores, labels), quantiles


def figures_of(
    table: pd.DataFrame, world: World, params: EvaluateParams = PARAMS, *, subgroups: bool = True
) -> Iterator[tuple[str, Figure]]:
    """Every figure of image + size that a report holds, by a name for people."""
    thresholds, quantiles = frozen_on_validation(world)
    row = score_figures(table, "score", "all", params, None, thresholds)
    yield "AUC, DeLong", row.auc
    yield "AUC, patients as clusters", row.auc_clustered or row.auc
    yield "AUC, patient bootstrap", row.auc_bootstrap
    yield "average precision", row.average_precision
    yield "size-matched AUC", row.size_matched_auc
    yield "Brier score", row.brier
    yield "expected calibration error", row.ece
    for name, figure in (("slope", row.calibration_slope), ("intercept", row.calibration_intercept)):
        assert figure is not None
        yield f"calibration {name}", figure
    for point in row.operating_points:
        yield f"sensitivity at {point.name}", point.sensitivity
        yield f"specificity at {point.name}", point.specificity
    for point in row.net_benefit:
        if round(100 * point.threshold) in (1, 5, 10, 15, 20):
            yield f"net benefit at {point.threshold:.2f}", point.model
    yield "AUC minus size only, patients as clusters", size_auc_difference(table)
    yield "AUC minus size only, paired DeLong", size_auc_difference_delong(table)
    other = compare_paired(table, table.assign(score=table["score_image"]), draws=params.bootstrap)
    yield "AUC of A minus B, patients as clusters", other.difference
    yield "AUC of A minus B, patient bootstrap", other.difference_bootstrap
    yield "AUC source minus target", _source_minus_target(table)
    labelled = table.assign(conformal=conformal_calls(quantiles, table["score"]))
    conformal = conformal_figures(labelled, quantiles.alpha)
    yield "conformal coverage", conformal.coverage
    yield "conformal abstention", conformal.abstention
    if not subgroups:
        return
    for group in conformal.subgroups:
        if not group.flagged and group.level != UNKNOWN:
            yield f"conformal coverage in {group.variable} {group.level}", group.coverage
            yield f"conformal abstention in {group.variable} {group.level}", group.abstention
    for row_of in subgroup_figures(table, params, thresholds["specificity_0.90"]):
        if row_of.n < SMALL_N or row_of.level == UNKNOWN:
            continue
        for name in ("auc", "size_auc", "sensitivity", "specificity", "ece"):
            yield f"{name} in {row_of.variable} {row_of.level}", getattr(row_of, name)


def delong_figures(
    table: pd.DataFrame, world: World, params: EvaluateParams = PARAMS, *, subgroups: bool = True
) -> Iterator[tuple[str, Figure]]:
    """What rests on independent nodules."""
    yield "AUC, DeLong", auc_figure(table["label"].to_numpy(dtype=np.int64), table["score"].to_numpy())
    yield "AUC minus size only, paired DeLong", size_auc_difference_delong(table)


def ece_alone(
    table: pd.DataFrame, world: World, params: EvaluateParams = PARAMS, *, subgroups: bool = True
) -> Iterator[tuple[str, Figure]]:
    """The calibration error by itself."""
    arrays = table["label"].to_numpy(dtype=np.int64), table["score"].to_numpy(), table["patient_key"].to_numpy()
    yield "expected calibration error", ece_figure(*arrays, bins=params.ece_bins, seed=params.seed)


def _source_minus_target(table: pd.DataFrame) -> Figure:
    parts = []
    for site in ("source", "target"):
        rows = table[table["site"] == site]
        parts += [rows["label"].to_numpy(dtype=np.int64), rows["score"].to_numpy(), rows["patient_key"].to_numpy()]
    return unpaired_difference_figure(*parts)


def _truth_part(world: World, figures: FiguresOf, seed: int) -> dict[str, float]:
    table = held_out_set(world, np.random.default_rng([7, seed]), _TRUTH_PATIENTS)
    found = figures(table, world, PARAMS.model_copy(update={"bootstrap": 100}))
    return {name: figure.value for name, figure in found if figure.value is not None}


def _intervals(world: World, figures: FiguresOf, chunk: int) -> list[tuple[str, float, float]]:
    found = []
    with threadpool_limits(1):
        for number in range(_CHUNK):
            table = held_out_set(world, np.random.default_rng([11, chunk, number]))
            for name, figure in figures(table, world, subgroups=number % _SUBGROUPS_EVERY == 0):
                if figure.low is not None and figure.high is not None:
                    found.append((name, figure.low, figure.high))
    return found


def coverage(world: World, sets: int, figures: FiguresOf = figures_of) -> Held:
    """Whether each interval held the truth, by figure."""
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(partial(_truth_part, world, figures), range(_TRUTH_PARTS)))
        truth = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        held: Held = defaultdict(list)
        for found in pool.map(partial(_intervals, world, figures), range(sets // _CHUNK)):
            for name, low, high in found:
                held[name].append(low <= truth[name] <= high)
    return held


def _row(work: str, held: list[bool], *, least: bool, most: bool) -> Row:
    share, n = float(np.mean(held)), len(held)
    half = 1.96 * float(np.sqrt(share * (1 - share) / n))
    bars = ({"at_least": LEAST} if least else {}) | ({"at_most": MOST} if most else {})
    return value_row(work, share, "of sets", n=n, interval=(share - half, min(share + half, 1.0)), **bars)


def rows_of(world: World, name: str, sets: int, figures: FiguresOf = figures_of) -> list[Row]:
    """A row a figure, the levels of a variable in one.

    Without a bar where DeLong's own assumption does not hold; without an upper one where the true error is at the end
    of its scale, which an interval cannot miss on the other side.
    """
    grouped: Held = defaultdict(list)
    for figure, held in coverage(world, sets, figures).items():
        label = figure.rsplit(" in ", 1)
        grouped[figure if len(label) == 1 else f"{label[0]}, levels of {label[1].split()[0]}"] += held
    rows = []
    for figure, held in grouped.items():
        judged = not world.clustered or figure not in _DELONG
        rows.append(_row(f"{figure} ({name})", held, least=judged, most=judged and world != CALIBRATED))
    return rows


def seconds_row() -> Row:
    """A whole report of 2000 nodules: three scores on three sites, subgroups, conformal coverage."""
    table = held_out_set(World(), np.random.default_rng(1), 1000).head(2000)
    thresholds, quantiles = frozen_on_validation(World())
    started = time.process_time()
    build_report(
        table,
        run_id="bench",
        dataset_id="bench",
        backbone="none",
        weights="none",
        pretrained=True,
        protocol="simulated",
        thresholds=thresholds,
        params=PARAMS,
        baseline_thresholds=dict.fromkeys(SCORES, thresholds),
        conformal=quantiles,
        source_site="source",
        target_site="target",
    )
    return value_row("report of 2000 nodules", time.process_time() - started, "s of processor", at_most=15)


def main(sets: int = SETS) -> None:
    """Print and write the table."""
    rows = [seconds_row()]
    for name, world in WORLDS.items():
        rows += rows_of(world, name, sets)
    rows += rows_of(ONE_NODULE_EACH, "200 patients, one nodule each", sets, delong_figures)
    rows += rows_of(CALIBRATED, "130 patients, calibrated", sets, ece_alone)
    publish("evaluation", rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SETS)

"""How well readers agree: kappa of what they call a nodule, intraclass correlation and limits of its diameter.

Cohen's kappa (Educ Psychol Meas 1960;20:37), of Lung-RADS with linear weights (Cohen 1968, Psychol Bull 70:213);
ICC(1,1) with its exact interval (Shrout & Fleiss 1979, Psychol Bull 86:420); limits of agreement with the standard
error of Bland & Altman (1999, Stat Methods Med Res 8:135). Pairs of readers are pooled; the first of a pair is the one
whose name comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution
from sklearn.metrics import cohen_kappa_score

from data_contracts.evaluation import Figure
from pipeline.review.answers.cases import Case
from pipeline.review.answers.opinions import Opinion
from pipeline.scoring.bootstrap import cluster_draws, percentile_interval
from pipeline.scoring.proportions import clustered_proportion_figure

Floats = NDArray[np.float64]

#: what readers put into classes: column -> its classes in order, and whether their order counts
CLASSES: dict[str, tuple[tuple[str, ...], bool]] = {
    "nodule": (("no", "yes"), False),
    "malignant": (("no", "yes"), False),
    "nodule_type": (("ground_glass", "part_solid", "solid"), False),
    "lung_rads": (("0", "1", "2", "3", "4A", "4B", "4X"), True),
}
STRATA = ("all", "model seen first", "model not seen first", "one of each", "same reader twice")
_DRAWS = 1000
#: resamplings of fewer tell of these patients alone
_MIN_PATIENTS = 5


def reading_pairs(cases: Iterable[Case]) -> pd.DataFrame:
    """Every two readings of one nodule, of two readers or of one who read it again blind; adjudications are none.

    Columns: stratum, patient_key, nodule_id, and for each of CLASSES and diameter_mm one of each reading (`_1`, `_2`),
    None or NaN where the reader left it open. stated: how many of both diameters are the readers' own.
    """
    rows = []
    for case in cases:
        readings = [item for item in case.opinions if item.role == "reader" and item.said != "absent"]
        readings = [item for item in readings if not item.abstains]
        # in a silent reading of a nodule that another added nobody was asked about it
        for one, other in combinations(sorted(readings, key=lambda item: (item.reader_key, item.second_read)), 2):
            rows.append(_pair(case, one, other))
    names = [f"{name}_{side}" for name in (*CLASSES, "diameter_mm") for side in (1, 2)]
    return pd.DataFrame(rows, columns=["stratum", "patient_key", "nodule_id", "stated", *names])


def agreement(pairs: pd.DataFrame, *, seed: int = 0) -> dict[str, dict[str, Figure]]:
    """Stratum -> figures of its pairs; `all` has those of two different readers. The same pairs give the same numbers.

    `agreement_<class>` and `kappa_<class>` of each of CLASSES; `icc_diameter`, `bias_diameter_mm`,
    `limit_low_diameter_mm` and `limit_high_diameter_mm` of the first reader's diameter minus the second's.
    """
    result = {}
    for stratum in STRATA:
        chosen = pairs["stratum"] != STRATA[-1] if stratum == "all" else pairs["stratum"] == stratum
        own = pairs[chosen]
        figures: dict[str, Figure] = {}
        for name, (classes, ordered) in CLASSES.items():
            both = own.dropna(subset=[f"{name}_1", f"{name}_2"])
            codes = [np.array([classes.index(value) for value in both[f"{name}_{side}"]], dtype=int) for side in (1, 2)]
            patients = both["patient_key"].to_numpy()
            figures[f"agreement_{name}"] = (
                clustered_proportion_figure(codes[0] == codes[1], patients, n_positive=0, what="pairs of readings")
                if len(both)
                else _none(0, "no pair of readings")
            )
            figures[f"kappa_{name}"] = kappa(codes[0], codes[1], patients, len(classes), ordered=ordered, seed=seed)
        both = own.dropna(subset=["diameter_mm_1", "diameter_mm_2"])
        values = both[["diameter_mm_1", "diameter_mm_2"]].to_numpy(dtype=np.float64)
        figures["icc_diameter"] = intraclass_correlation(values)
        figures |= limits_of_agreement(values[:, 0] - values[:, 1])
        result[stratum] = figures
    return result


def kappa(
    first: NDArray[np.int_],
    second: NDArray[np.int_],
    patients: NDArray[np.object_],
    n_classes: int,
    *,
    ordered: bool,
    seed: int,
) -> Figure:
    """Cohen's kappa of (n,) classes 0 .. n_classes - 1, with the 95 % percentile interval of resampled patients."""
    n = len(first)
    if n == 0:
        return _none(0, "no pair of readings")
    if len({*first.tolist(), *second.tolist()}) == 1:
        return _none(n, "not defined: every answer is the same class")
    weights = "linear" if ordered else None
    value = float(cohen_kappa_score(first, second, labels=list(range(n_classes)), weights=weights))
    method = f"Cohen's kappa{', linear weights' if ordered else ''}; {_DRAWS} resamplings of patients"
    if len(set(patients.tolist())) < _MIN_PATIENTS:
        return Figure(value=value, n=n, method=method, note=f"no interval: of fewer than {_MIN_PATIENTS} patients")

    def of_weights(weight: Floats) -> Floats:
        return _kappas(first, second, n_classes, weight, ordered)

    drawn = cluster_draws(patients, of_weights, draws=_DRAWS, seed=seed)
    ends = percentile_interval(drawn, value)
    note = "" if ends else "no interval: most resamplings have one class only"
    if ends and np.ptp(drawn[np.isfinite(drawn)]) == 0:
        ends, note = None, "no interval: all resamplings are alike"
    low, high = ends or (None, None)
    return Figure(value=value, low=low, high=high, n=n, method=method, note=note)


def _kappas(first: NDArray[np.int_], second: NDArray[np.int_], n_classes: int, weight: Floats, ordered: bool) -> Floats:
    """Kappa under (b, n) case weights; NaN where only one class is left."""
    cells = np.zeros((len(first), n_classes**2))
    cells[np.arange(len(first)), first * n_classes + second] = 1
    table = (weight @ cells).reshape(-1, n_classes, n_classes)
    total = table.sum(axis=(1, 2))
    chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :] / total[:, None, None]
    steps = np.abs(np.subtract.outer(np.arange(n_classes), np.arange(n_classes)))
    cost = steps.astype(np.float64) if ordered else (steps > 0).astype(np.float64)
    expected = (chance * cost).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(expected > 0, 1 - (table * cost).sum(axis=(1, 2)) / expected, np.nan)
    return found


def intraclass_correlation(values: Floats) -> Figure:
    """ICC(1,1) of (n, k) readings with its exact 95 % interval."""
    n, k = values.shape
    method = "ICC(1,1), Shrout & Fleiss"
    if n < 2:
        return _none(n, "needs two nodules with two diameters each")
    means = values.mean(axis=1)
    between = k * float(((means - means.mean()) ** 2).sum()) / (n - 1)
    within = float(((values - means[:, None]) ** 2).sum()) / (n * (k - 1))
    if within == 0:
        note = "no interval: all readings of a nodule are the same" if between else "not defined: all are one diameter"
        return Figure(value=1.0 if between else None, n=n, method=method, note=note)
    ratio = between / within
    freedom = n - 1, n * (k - 1)
    lower = ratio / f_distribution.ppf(0.975, *freedom)
    upper = ratio * f_distribution.ppf(0.975, *freedom[::-1])
    value, low, high = ((x - 1) / (x + k - 1) for x in (ratio, lower, upper))
    return Figure(value=float(value), low=float(low), high=float(high), n=n, method=method)


def limits_of_agreement(differences: Floats) -> dict[str, Figure]:
    """Bias and 95 % limits of agreement of (n,) differences in mm, each with its 95 % interval."""
    names = ("bias_diameter_mm", "limit_low_diameter_mm", "limit_high_diameter_mm")
    n = len(differences)
    if n < 2:
        return dict.fromkeys(names, _none(n, "needs two nodules with two diameters each"))
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    quantile = float(t_distribution.ppf(0.975, n - 1))
    half = quantile * spread / np.sqrt(n)
    half_limit = quantile * spread * np.sqrt(1 / n + 1.96**2 / (2 * (n - 1)))
    values = (mean, half), (mean - 1.96 * spread, half_limit), (mean + 1.96 * spread, half_limit)
    return {
        name: Figure(value=value, low=float(value - width), high=float(value + width), n=n, method="Bland & Altman")
        for name, (value, width) in zip(names, values, strict=True)
    }


def _pair(case: Case, one: Opinion, other: Opinion) -> dict[str, object]:
    seen = {one.model_visible_first, other.model_visible_first}
    stratum = "one of each" if len(seen) == 2 else "model seen first" if True in seen else "model not seen first"
    if one.reader_key == other.reader_key:
        stratum = STRATA[-1]
    row: dict[str, object] = {"stratum": stratum, "patient_key": case.patient_key, "nodule_id": case.nodule_id}
    row["stated"] = sum("diameter_mm" in item.stated for item in (one, other))
    for side, item in enumerate((one, other), start=1):
        row[f"nodule_{side}"] = "yes" if item.is_kept else "no"
        row[f"malignant_{side}"] = None if item.malignant is None else "yes" if item.malignant else "no"
        row[f"nodule_type_{side}"], row[f"lung_rads_{side}"] = item.nodule_type, item.lung_rads
        row[f"diameter_mm_{side}"] = np.nan if item.diameter_mm is None else item.diameter_mm
    return row


def _none(n: int, note: str) -> Figure:
    return Figure(value=None, n=n, note=note)


def agreement_lines(figures: dict[str, dict[str, Figure]], words: Sequence[str] = STRATA) -> list[str]:
    """Lines for a person: the figures of every stratum that has one."""
    lines = []
    for stratum in words:
        shown = {name: figure for name, figure in figures[stratum].items() if figure.n}
        if not shown:
            lines.append(f"{stratum}: no pair of readings")
            continue
        lines.append(f"{stratum}:")
        lines += [f"  {name.replace('_', ' '):<26} {_words(figure)} (n = {figure.n})" for name, figure in shown.items()]
    return lines


def _words(figure: Figure) -> str:
    is_bare = figure.value is not None and figure.low is None
    return f"{figure.text()}, interval not known" if is_bare else figure.text()

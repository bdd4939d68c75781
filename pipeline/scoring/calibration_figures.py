"""How far scores are from probabilities: calibration error, slope and intercept, with intervals that hold.

The binned calibration error is biased upwards: a score that is perfectly calibrated has an error of some hundredths by
chance alone, and resampling adds the same again, so percentiles of a bootstrap miss the truth more often than not. Its
interval is made by asking which true errors would give the one that was found: the mean gaps of the bins are nearly
normal with a covariance known from the patients, so what a true error would give can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from data_contracts.evaluation import Figure
from pipeline.scoring.delong import Z_95, class_problem
from pipeline.scoring.quantiles import student_95
from pipeline.scoring.weighted_metrics import ece_bins

Floats = NDArray[np.float64]

ONE_PATIENT = "no interval: all nodules are of one patient"
#: a probability of 0 or 1 has no logit
_LEAST_PROBABILITY = 1e-12
_MOST_STEPS = 50
#: beyond this the classes are separated for all that this table can say
_STEEPEST = 1e3
#: standard errors that are added to each gap for the upper end, and with how many patients the larger one is reached
_EVENNESS, _EVEN_FROM = (0.2, 1.0), 400.0
#: draws of what a true error would give, and halvings of the range in which an end of the interval is sought
_DRAWS, _HALVINGS = 1000, 12


def ece_figure(labels: NDArray[np.int64], scores: Floats, patients: NDArray[Any], *, bins: int, seed: int) -> Figure:
    """Expected calibration error over `bins` bins of equal width with a 95 % interval of the true error.

    Ends of the interval (test inversion): the smallest and the largest true error under which an error as large, or as
    small, as the one found has a chance of 2.5 %. For the lower end the true gaps are proportional to those found; for
    the upper end to those found plus a share of a standard error each, because true gaps are spread more evenly over
    the bins than those found, and the more evenly, the smaller the bias; the share grows with the patients as
    simulation asks (`make bench WHAT=evaluation`). Where the value, which chance alone makes larger, is above the
    interval, the interval is widened to hold it, and the note says so.
    """
    n, n_positive = int(labels.size), int((labels == 1).sum())
    method = f"{bins} bins of equal width; interval by inversion, patients as clusters"
    if n == 0:
        return Figure(value=None, n=0, n_positive=0, method=method, note=class_problem(labels))
    codes, names = pd.factorize(patients)
    sums = np.zeros((len(names), bins))
    np.add.at(sums, (codes, ece_bins(scores, bins)), scores - labels)
    gaps = sums.sum(axis=0) / n
    value = float(np.abs(gaps).sum())
    if len(names) < 2:
        return Figure(value=value, n=n, n_positive=n_positive, method=method, note=ONE_PATIENT)
    influence = (sums - np.bincount(codes)[:, None] * gaps) / n
    covariance = influence.T @ influence * (len(names) / (len(names) - 1))
    low, high = _inverted(gaps, covariance, patients=len(names), seed=seed)
    note = ""
    if value > high:
        note = f"chance alone gives such a value: the true error is at most {high:.3f}"
    return Figure(
        value=value, low=min(low, value), high=max(high, value), n=n, n_positive=n_positive, method=method, note=note
    )


def _inverted(gaps: Floats, covariance: Floats, *, patients: int, seed: int) -> tuple[float, float]:
    """Ends of the interval of the sum of |true gaps| from gaps (bins,) and their covariance (bins, bins)."""
    values, vectors = np.linalg.eigh(covariance)
    rng = np.random.default_rng(seed)
    widen = student_95(patients - 1) / Z_95
    noise = rng.normal(size=(_DRAWS, gaps.size)) * np.sqrt(np.maximum(values, 0.0)) * widen @ vectors.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    found = float(np.abs(gaps).sum())
    largest = min(found + 4 * float(errors.sum()), 1.0)

    def share(error: float, direction: Floats, sign: float) -> float:
        """Of draws under this true error that are as large as the error found (sign 1), or as small (sign -1)."""
        drawn = np.abs(error * direction + noise).sum(axis=1)
        return float((sign * (drawn - found) >= -1e-12).mean())

    evenness = float(np.clip(patients / _EVEN_FROM, *_EVENNESS))
    proportional, even = (
        direction / max(float(np.abs(direction).sum()), 1e-300)
        for direction in (gaps, gaps + np.where(gaps >= 0, evenness, -evenness) * errors)
    )
    low, high = 0.0, largest
    if share(0.0, proportional, 1.0) < 0.025:
        low = _crossing(lambda error: share(error, proportional, 1.0) < 0.025, 0.0, largest)
    if share(largest, even, -1.0) < 0.025:
        high = _crossing(lambda error: share(error, even, -1.0) >= 0.025, 0.0, largest)
    return low, high


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where `holds`, true of small numbers, ceases to be true between low and high."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def recalibration_figures(labels: NDArray[np.int64], scores: Floats, patients: NDArray[Any]) -> tuple[Figure, Figure]:
    """Slope and intercept of logit P(malignant) = intercept + slope * logit(score) (Cox 1958), by maximum likelihood.

    Slope 1 and intercept 0 where scores are probabilities; a slope below 1 means that they are too sure. The 95 %
    intervals leave out one patient after the other (jackknife, one Newton step each) and take Student's t.
    """
    n, n_positive = int(labels.size), int((labels == 1).sum())
    method = "logistic recalibration (Cox 1958), patient jackknife"

    def without(note: str) -> tuple[Figure, Figure]:
        figure = Figure(value=None, n=n, n_positive=n_positive, method=method, note=note)
        return figure, figure

    problem = class_problem(labels)
    if problem:
        return without(problem)
    design = np.column_stack([np.ones(n), logit(np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY))])
    if np.ptp(design[:, 1]) < 1e-9:
        return without("every nodule has the same score")
    coefficients = _logistic(design, labels)
    if coefficients is None:
        return without("the score separates the classes")
    codes, names = pd.factorize(patients)
    errors = _jackknife_errors(design, labels, codes, len(names), coefficients)
    figures = []
    for value, error in zip(coefficients[::-1], (None, None) if errors is None else errors[::-1], strict=True):
        half = None if error is None else student_95(len(names) - 1) * error
        figures.append(
            Figure(
                value=float(value),
                low=None if half is None else float(value - half),
                high=None if half is None else float(value + half),
                n=n,
                n_positive=n_positive,
                method=method,
                note=ONE_PATIENT if half is None else "",
            )
        )
    return figures[0], figures[1]


def _logistic(design: Floats, labels: NDArray[np.int64]) -> Floats | None:
    """Maximum-likelihood coefficients of a logistic regression (Newton); None where they run away."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(_MOST_STEPS):
        fitted = expit(design @ coefficients)
        information = (design * (fitted * (1 - fitted))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (labels - fitted))
        except np.linalg.LinAlgError:
            return None
        # Scores that are far from probabilities overshoot at first.
        step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-300))
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-10:
            return coefficients if np.abs(coefficients).max() < _STEEPEST else None
    return None


def _jackknife_errors(
    design: Floats, labels: NDArray[np.int64], codes: NDArray[np.intp], n_patients: int, coefficients: Floats
) -> Floats | None:
    """Standard errors of the coefficients from leaving out one patient at a time; None where one cannot be left out."""
    if n_patients < 2:
        return None
    fitted = expit(design @ coefficients)
    weights = fitted * (1 - fitted)
    products = (design * weights[:, None])[:, :, None] * design[:, None, :]
    k = design.shape[1]
    information, score = np.zeros((n_patients, k, k)), np.zeros((n_patients, k))
    np.add.at(information, codes, products)
    np.add.at(score, codes, design * (labels - fitted)[:, None])
    rest = information.sum(axis=0) - information
    if (np.linalg.cond(rest) > 1e12).any():
        return None
    moved = -np.linalg.solve(rest, score[:, :, None])[:, :, 0]
    moved -= moved.mean(axis=0)
    return np.asarray(np.sqrt((n_patients - 1) / n_patients * (moved**2).sum(axis=0)))

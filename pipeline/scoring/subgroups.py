"""Figures of subgroups of the held-out nodules: by size, texture, acquisition, site and patient.

Every nodule is in exactly one level of each variable; a fact that nobody knows makes the level "unknown". Levels with
few nodules are shown and flagged, because hiding them hides those for whom nobody knows how well it works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.evaluation import SubgroupFigures
from data_contracts.params import EvaluateParams
from pipeline.intake.kernel_sharpness import sharpness_of
from pipeline.scoring.calibration_figures import ece_figure
from pipeline.scoring.clustered_auc import clustered_auc_figure
from pipeline.scoring.proportions import no_threshold
from pipeline.scoring.thresholds import operating_point

#: below this many nodules a figure is shown and flagged
SMALL_N = 30
UNKNOWN = "unknown"

#: lower edges of each level above the first, in mm or years, and the levels' names
_DIAMETERS = (6.0, 8.0, 15.0), ("<6 mm", "6-8 mm", "8-15 mm", ">=15 mm")
_AGES = (55.0, 65.0, 75.0), ("<55 years", "55-64 years", "65-74 years", ">=75 years")
#: upper edges, which belong to their level: a slice of 1.25 mm is thin
_THICKNESSES = (1.25, 2.5), ("<=1.25 mm", "1.25-2.5 mm", ">2.5 mm")
#: mean ratings that round to 1 or 2, to 3 or 4, to 5 (LIDC: 1 non-solid, 3 part-solid, 5 solid)
_TEXTURES = (2.5, 4.5), ("GGO", "part-solid", "solid")
_SEXES = {"F": "female", "M": "male", "O": "other"}
_KERNELS = {"soft": "soft", "medium": "medium", "sharp": "sharp"}

Levels = tuple[NDArray[np.object_], tuple[str, ...]]


def _numbers(
    column: str, edges: tuple[float, ...], names: tuple[str, ...], *, side: Literal["left", "right"]
) -> Callable[..., Levels]:
    def levels(rows: pd.DataFrame) -> Levels:
        if column not in rows:
            return np.full(len(rows), UNKNOWN, dtype=object), names
        values = rows[column].to_numpy(dtype=np.float64, na_value=np.nan)
        known = np.isfinite(values) & (values > 0)
        index = np.searchsorted(np.array(edges), np.where(known, values, 0.0), side=side)
        return np.where(known, np.array(names, dtype=object)[index], UNKNOWN), names

    return levels


def _words(rows: pd.DataFrame, column: str) -> list[str]:
    """Text of a column with single blanks, "" where it is missing."""
    if column not in rows:
        return [""] * len(rows)
    return [" ".join(str(value).split()) if isinstance(value, str) else "" for value in rows[column]]


def _kernels(rows: pd.DataFrame) -> Levels:
    pairs = zip(_words(rows, "kernel"), _words(rows, "manufacturer"), strict=True)
    found = [_KERNELS.get(sharpness_of(kernel, maker), UNKNOWN) for kernel, maker in pairs]
    return np.array(found, dtype=object), tuple(_KERNELS.values())


def _sexes(rows: pd.DataFrame) -> Levels:
    found = [_SEXES.get(word.upper()[:1], UNKNOWN) for word in _words(rows, "sex")]
    return np.array(found, dtype=object), tuple(_SEXES.values())


def _manufacturers(rows: pd.DataFrame) -> Levels:
    """By name without regard to capitals, which differ between software versions of one maker."""
    found = [word.upper() or UNKNOWN for word in _words(rows, "manufacturer")]
    return np.array(found, dtype=object), tuple(sorted(set(found) - {UNKNOWN}))


def _sites(rows: pd.DataFrame) -> Levels:
    found = [word or UNKNOWN for word in _words(rows, "site")]
    return np.array(found, dtype=object), tuple(sorted(set(found) - {UNKNOWN}))


#: variables in the order of the report
VARIABLES: dict[str, Callable[[pd.DataFrame], Levels]] = {
    "diameter": _numbers("diameter_mm", *_DIAMETERS, side="right"),
    "texture": _numbers("texture", *_TEXTURES, side="right"),
    "thickness": _numbers("slice_thickness_mm", *_THICKNESSES, side="left"),
    "kernel": _kernels,
    "manufacturer": _manufacturers,
    "site": _sites,
    "sex": _sexes,
    "age": _numbers("age_years", *_AGES, side="right"),
}


def subgroup_masks(rows: pd.DataFrame) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """(variable, level, rows in it (n,)) of every level that has a nodule, "unknown" last, in the report's order."""
    masks = []
    for variable, levels_of in VARIABLES.items():
        levels, names = levels_of(rows)
        for level in (*names, UNKNOWN):
            mask = np.asarray(levels == level, dtype=np.bool_)
            if mask.any():
                masks.append((variable, level, mask))
    return masks


def subgroup_figures(
    rows: pd.DataFrame, params: EvaluateParams, threshold: float | None
) -> tuple[SubgroupFigures, ...]:
    """Figures of every level of every variable.

    Parameters
    ----------
    rows: labelled rows of a PredictionTable, with the facts that are known beside its columns.
    threshold: of `score`, frozen on validation; None leaves sensitivity and specificity without a value.
    """
    labels = rows["label"].to_numpy(dtype=np.int64)
    scores = rows["score"].to_numpy(dtype=np.float64)
    sizes = rows["score_size"].to_numpy(dtype=np.float64)
    patients = rows["patient_key"].to_numpy(dtype=object)
    figures = []
    for variable, level, mask in subgroup_masks(rows):
        y, p, whose = labels[mask], scores[mask], patients[mask]
        sized = mask & np.isfinite(sizes)
        n = int(mask.sum())
        sensitivity, specificity = no_threshold(y) if threshold is None else operating_point(y, p, threshold, whose)
        figures.append(
            SubgroupFigures(
                variable=variable,
                level=level,
                n=n,
                n_positive=int(y.sum()),
                n_patients=len(set(whose)),
                flagged=n < SMALL_N,
                auc=clustered_auc_figure(y, p, whose),
                size_auc=clustered_auc_figure(labels[sized], sizes[sized], patients[sized]),
                sensitivity=sensitivity,
                specificity=specificity,
                ece=ece_figure(y, p, whose, bins=params.ece_bins, seed=params.seed),
            )
        )
    return tuple(figures)

"""Figures of two runs side by side: which of them are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from data_contracts.reproduction import TOLERANCE, ReproducedFigure

#: what an item of a list is called by, in this order; a point of a curve by its threshold
_NAMES = ("site", "score", "concept", "variable", "level", "name")
_NO_FIGURES = ("schema_version", "run_id", "dataset_id", "pretrained")
_SCORES = ("score", "score_image", "score_size")


def named_figures(evaluation: Mapping[str, object], card: Mapping[str, object]) -> dict[str, float | None]:
    """Every number of an evaluation, of the calibration and of the thresholds by a name, such as `all/score/auc/low`.

    What is None has a name, too. Which network was chosen is the figure `chosen/NETWORK`.

    Parameters
    ----------
    evaluation, card: evaluation.json and model_card.json as they stand in the files: a field that the program of then
        did not write must not look like one that it left empty.
    """
    told = {key: value for key, value in evaluation.items() if key not in _NO_FIGURES}
    # The figures of the report are what everybody looks for; they need no word before them.
    figures = {**dict(_leaves(told.pop("figures"), "")), **dict(_leaves(told, ""))}
    figures |= dict(_leaves(card["calibration"], "calibration"))
    figures |= dict(_leaves(card["thresholds"], "threshold"))
    training = card["training"]
    assert isinstance(training, Mapping)
    return {**figures, f"chosen/{training.get('network', '')}": 1.0}


def _leaves(value: object, name: str) -> Iterator[tuple[str, float | None]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _leaves(inner, "/".join(part for part in (name, _item_name(inner, position)) if part))
    elif value is None:
        yield name, None
    elif isinstance(value, int | float):
        yield name, float(value)


def _item_name(item: object, position: int) -> str:
    if not isinstance(item, Mapping):
        return str(position)
    words = [str(item[key]) for key in _NAMES if isinstance(item.get(key), str)]
    if not words and isinstance(item.get("threshold"), int | float):
        words = [f"{item['threshold']:g}"]
    return "/".join(words) or str(position)


def compare_figures(
    then: Mapping[str, float | None], now: Mapping[str, float | None], tolerance: float = TOLERANCE
) -> tuple[tuple[ReproducedFigure, ...], tuple[str, ...], tuple[str, ...]]:
    """(figures that both have, names only `then` has, names only `now` has), in the order of `then`."""
    shared = tuple(_compared(name, value, now[name], tolerance) for name, value in then.items() if name in now)
    # A field that stood empty in a record of an older program is no figure that is missed.
    missing = tuple(name for name, value in then.items() if name not in now and value is not None)
    return shared, missing, tuple(name for name in now if name not in then)


def _compared(name: str, then: float | None, now: float | None, tolerance: float) -> ReproducedFigure:
    if then is None or now is None:
        return ReproducedFigure(name=name, then=then, now=now, difference=None, same=then is None and now is None)
    difference = 0.0 if then == now or (math.isnan(then) and math.isnan(now)) else abs(then - now)
    return ReproducedFigure(name=name, then=then, now=now, difference=difference, same=difference <= tolerance)


def prediction_figures(then: pd.DataFrame, now: pd.DataFrame) -> tuple[dict[str, float], dict[str, float]]:
    """The farthest score of two prediction tables, column by column, as figures of `then` and of `now`.

    Tables of other patches differ in the figure `predictions/n`.
    """
    sizes = {"predictions/n": float(len(then))}, {"predictions/n": float(len(now))}
    both = then.merge(now, on="patch_id", suffixes=("_then", "_now"), validate="one_to_one")
    sizes[0]["predictions/n shared"], sizes[1]["predictions/n shared"] = float(len(then)), float(len(both))
    for column in _SCORES:
        one, other = (both[f"{column}_{when}"].to_numpy(dtype=np.float64) for when in ("then", "now"))
        unlike = np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(one - other))
        if len(unlike):
            farthest = int(np.argmax(np.where(np.isnan(unlike), np.inf, unlike)))
            sizes[0][f"predictions/{column}, farthest"] = float(one[farthest])
            sizes[1][f"predictions/{column}, farthest"] = float(other[farthest])
    return sizes

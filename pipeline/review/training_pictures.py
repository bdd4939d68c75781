"""Pictures of a training run: learning curves of every network, and who was called what at the frozen threshold."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY, _GREEN = "#1f5fa8", "#d1711b", "#777777", "#3a7d44"
_NAMES = ("benign", "malignant")


def confusion_png(predictions: pd.DataFrame, threshold: float | None, sites: Sequence[str]) -> bytes:
    """Confusion of held-out nodules at a threshold frozen on validation, a panel a site.

    Parameters
    ----------
    predictions: PREDICTION_TABLE; rows without a label or score are left out.
    threshold: of `score`; None where validation allowed none, the picture then says so.
    sites: in the order of the panels; empty names count as every site.
    """
    figure = Figure(figsize=(3.6 * max(len(sites), 1), 3.6), layout="constrained", dpi=130)
    known = predictions[predictions["label"].notna() & predictions["score"].notna()]
    for axes, site in zip(np.atleast_1d(figure.subplots(1, max(len(sites), 1))), sites or [""], strict=True):
        rows = known[known["site"] == site] if site else known
        axes.set_title(f"{f'site {site}' if site else 'all sites'}, {len(rows)} nodules", fontsize=10)
        if threshold is None or rows.empty:
            why = "no nodule with a label" if rows.empty else "no threshold could be frozen"
            axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
            axes.set_axis_off()
            continue
        counts = confusion(rows["label"].to_numpy(dtype=np.int64), rows["score"].to_numpy(dtype=float), threshold)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = f"{count}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
        axes.set_xticks([0, 1], _NAMES)
        axes.set_yticks([0, 1], _NAMES, rotation=90, va="center")
        axes.set_xlabel("called (malignant from the threshold on)")
        axes.set_ylabel("label")
    if threshold is not None:
        figure.suptitle(f"image + size at threshold {threshold:.3f}, frozen on validation", fontsize=10)
    return _png(figure)


def confusion(labels: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Counts (2, 2): row is the label, column the call (score >= threshold)."""
    counts = np.zeros((2, 2), dtype=np.int64)
    np.add.at(counts, (labels, (scores >= threshold).astype(np.int64)), 1)
    return counts


def curves_png(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Losses (above) and validation AUC with the adaptation's figures (below), a column a network that was fitted."""
    fitted = {name: epochs for name, epochs in histories.items() if epochs}
    figure = Figure(figsize=(3.4 * max(len(fitted), 1), 5.2), layout="constrained", dpi=110)
    columns = figure.subplots(2, max(len(fitted), 1), squeeze=False, sharex="col").T
    for (above, below), (name, epochs) in zip(columns, fitted.items(), strict=False):
        above.set_title(name, fontsize=10)
        lines = (
            ("classification", "classification_loss", _BLUE),
            ("validation", "validation_loss", _ORANGE),
            ("adaptation", "adaptation_loss", _GREEN),
        )
        for label, key, colour in lines:
            _line(above, epochs, [epoch.get(key) for epoch in epochs], label, colour)
        above.set_ylabel("loss")
        _line(below, epochs, [epoch.get("validation_auc") for epoch in epochs], "validation AUC", _ORANGE)
        for figure_name in sorted({key for epoch in epochs for key in epoch.get("figures", {})}):
            values = [epoch["figures"].get(figure_name) for epoch in epochs]
            if all(value is None or 0 <= value <= 1 for value in values):
                _line(below, epochs, values, figure_name.replace("_", " "), _GREY)
        below.set_ylim(-0.02, 1.02)
        below.set_xlabel("epoch")
        below.xaxis.get_major_locator().set_params(integer=True)
        for axes in (above, below):
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=7)
    return _png(figure)


def _line(axes: Any, epochs: Sequence[Mapping[str, Any]], values: list[float | None], label: str, colour: str) -> None:
    known = [(epoch["epoch"], value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), label=label, color=colour, marker=".", linewidth=1.3)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi="figure", metadata={"Software": None})
    return stream.getvalue()

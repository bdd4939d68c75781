"""Plain figures of a nodule that its label can be compared with: size, the readers' other ratings, and its picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.nodules import RATINGS

Floats = NDArray[np.float64]

_RINGS = 8
_COMPONENTS = 8


def label_features(rows: pd.DataFrame, planes: NDArray[np.generic]) -> Floats:
    """(n, k) of index rows and their axial planes (n, P, H, W); NaN where a rating or diameter is unknown.

    Log-diameter; every rating but malignancy; the first principal components of means, contrast and edges in rings
    about the middle. A column that is unknown everywhere is left out.
    """
    columns: list[Floats] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        columns.append(np.log(rows["diameter_mm"].to_numpy(dtype=np.float64, na_value=np.nan)))
    columns += [
        rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in _named(rows, tuple(RATINGS))
        if name != "malignancy"
    ]
    known = np.stack(columns, axis=1)
    known = known[:, np.isfinite(known).any(axis=0)]
    return np.concatenate([known, _components(ring_figures(planes), min(_COMPONENTS, len(rows) // 30))], axis=1)


def ring_figures(planes: NDArray[np.generic]) -> Floats:
    """(n, 24) mean, standard deviation and mean edge in eight rings about the middle of the middle plane."""
    shown = np.ascontiguousarray(planes[:, planes.shape[1] // 2], dtype=np.float32)
    height, width = shown.shape[1:]
    j, i = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    ring = np.minimum((np.hypot(j, i) / (min(height, width) / 2) * _RINGS).astype(int), _RINGS)
    masks = [mask for number in range(_RINGS) if (mask := ring == number).any()]
    edges = np.zeros(shown.shape, dtype=np.float32)
    for plane, out in zip(shown, edges, strict=True):
        smooth = cv2.GaussianBlur(plane, (0, 0), 1.0)
        out[:] = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    figures = [shown[:, mask].mean(axis=1) for mask in masks]
    figures += [shown[:, mask].std(axis=1) for mask in masks] + [edges[:, mask].mean(axis=1) for mask in masks]
    return np.stack(figures, axis=1).astype(np.float64)


def _components(figures: Floats, count: int) -> Floats:
    """(n, count) principal components of the standardised figures."""
    spread = figures.std(axis=0)
    scaled = (figures - figures.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    kept = [number for number in range(min(count, len(values))) if values[number] > 1e-6]
    return np.asarray(left[:, kept] * values[kept], dtype=np.float64)


def _named(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in rows]

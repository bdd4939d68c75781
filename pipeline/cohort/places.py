"""Which places of a series become patches: its nodules, moved copies of them, and places without a nodule.

A pure function of the series, its nodules and the parameters: every random number comes from a digest of these, so the
number of processes and the order of series change nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.manifest import Split
from data_contracts.params import PatchParams
from data_contracts.volume import CTVolume
from pipeline.imaging.bright import bright_structures
from pipeline.imaging.lungs import LungMask, segment_lungs

NODULE, JITTER, LUNG, VESSEL = "nodule", "jitter", "lung", "vessel"
_CENTER = ["x_mm", "y_mm", "z_mm"]


def without_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of an index without moved copies of nodules, which show what their nodule shows."""
    return rows[rows["place"] != JITTER] if "place" in rows else rows


def series_places(
    volume: CTVolume,
    nodules: pd.DataFrame,
    params: PatchParams,
    split: Split,
) -> pd.DataFrame:
    """Rows of `nodules_by_consensus` of one series with `patch_id` and `place`, and those of copies and negatives.

    place: "nodule"; "jitter", a copy of a training nodule, moved; "lung" and "vessel", places without a nodule, whose
    nodule_id is their own. With target "nodule" the label is 1 for nodules and 0 for negatives, and label_soft is NaN.
    """
    rows = nodules.reset_index(drop=True).copy()
    rows["patch_id"], rows["place"] = rows["nodule_id"], NODULE
    parts = [rows]
    if split is Split.TRAIN:
        parts += [_moved(volume, rows, copy, params) for copy in range(params.jitter_copies)]
    if params.target == "nodule":
        for part in parts:
            part["label"] = pd.array([1] * len(part), dtype="Int8")
            part["label_soft"] = np.nan
        if params.negatives_per_series:
            parts.append(_negatives(volume, rows, params))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _moved(volume: CTVolume, nodules: pd.DataFrame, copy: int, params: PatchParams) -> pd.DataFrame:
    """Copies within a ball of `jitter_mm`; one that would leave the volume stays where its nodule is."""
    moved = nodules.copy()
    moved["patch_id"], moved["place"] = nodules["nodule_id"] + f"-j{copy + 1}", JITTER
    centers = nodules[_CENTER].to_numpy(dtype=np.float64, copy=True)
    for row, nodule_id in enumerate(nodules["nodule_id"]):
        point = centers[row] + _in_ball(_random(params.seed, "jitter", str(nodule_id), copy), params.jitter_mm)
        if volume.contains(point):
            centers[row] = point
    moved[_CENTER] = centers
    return moved


def _in_ball(random: np.random.Generator, radius_mm: float) -> NDArray[np.float64]:
    """A point spread evenly over a ball."""
    direction = random.normal(size=3)
    return np.asarray(direction / np.linalg.norm(direction) * radius_mm * random.random() ** (1 / 3))


def _negatives(volume: CTVolume, nodules: pd.DataFrame, params: PatchParams) -> pd.DataFrame:
    lungs = segment_lungs(volume)
    series_key = str(nodules["series_key"].iloc[0])
    random = _random(params.seed, "negatives", series_key, 0)
    n_vessels = params.negatives_per_series // 2
    bright = bright_structures(volume, lungs)
    chosen = [
        (VESSEL, _drawn(random, _clear(bright, nodules, params), n_vessels)),
        (LUNG, _drawn(random, _clear(_lung_points(lungs), nodules, params), params.negatives_per_series - n_vessels)),
    ]
    rows = []
    for place, points_mm in chosen:
        for number, point in enumerate(points_mm):
            own = hashlib.sha256(f"{series_key} {place} {number} {params.seed}".encode()).hexdigest()[:16]
            x, y, z = (float(value) for value in point)
            rows.append({"patch_id": own, "nodule_id": own, "place": place, "x_mm": x, "y_mm": y, "z_mm": z})
    table = pd.DataFrame(rows, columns=["patch_id", "nodule_id", "place", *_CENTER])
    table["series_key"] = series_key
    table["label"] = pd.array([0] * len(table), dtype="Int8")
    table["n_readers"] = table["n_ratings"] = 0
    for column in nodules.columns.difference(table.columns):
        table[column] = np.nan
    return table[nodules.columns.tolist()]


def _lung_points(lungs: LungMask) -> NDArray[np.float64]:
    """Centres of the voxels of the mask, (n, 3) LPS mm."""
    return np.asarray(np.argwhere(lungs.sides) @ lungs.affine[:3, :3].T + lungs.affine[:3, 3])


def _clear(points_mm: NDArray[np.float64], nodules: pd.DataFrame, params: PatchParams) -> NDArray[np.float64]:
    """The points that stay off every nodule: its radius and the margin."""
    centers = nodules[_CENTER].to_numpy(dtype=np.float64)
    radii = nodules["diameter_mm"].to_numpy(dtype=np.float64) / 2
    kept = np.ones(len(points_mm), dtype=np.bool_)
    for center, radius in zip(centers, np.nan_to_num(radii), strict=True):
        kept &= np.linalg.norm(points_mm - center, axis=1) > radius + params.negative_margin_mm
    return np.asarray(points_mm[kept])


def _drawn(random: np.random.Generator, points_mm: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    chosen = random.permutation(len(points_mm))[:count]
    return np.asarray(points_mm[np.sort(chosen)])


def _random(seed: int, purpose: str, name: str, number: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {purpose} {name} {number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))

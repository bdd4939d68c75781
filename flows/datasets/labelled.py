"""From rows of a patch table to what a fit sees: labels, readers' means, weights and auxiliary targets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.concepts import DIAMETER_RANGE_MM, LOG_DIAMETER
from data_contracts.errors import UsageError
from data_contracts.model_card import ModelCard
from data_contracts.nodules import RATINGS
from data_contracts.params import TrainParams
from models.fitting.data import LabelledPatches
from models.networks.inputs import to_common_spacing
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.size_balance import size_balance

#: from this number of readers on a nodule counts fully; below, in proportion (only with a soft-label term)
_FULL_READERS = 3
#: grids that differ by less than this part show a nodule alike
_SAME_GRID = 0.01


def patches_of(reader: PatchReader, rows: pd.DataFrame, params: TrainParams) -> NDArray[np.generic]:
    """Patches (n, *patch_shape) of some rows, on `params.common_spacing_mm` where they were cut at native spacing.

    One whose spacing nobody knows stays as it is: `check_common_spacing` refuses it for a fit, `off_grid` counts it
    where a version is applied.
    """
    patches = np.asarray(reader.load(list(rows["patch_id"])))
    if params.common_spacing_mm and reader.card.spacing_mm is None and "pixel_spacing_mm" in rows:
        return to_common_spacing(patches, floats(rows["pixel_spacing_mm"]), params.common_spacing_mm)
    return patches


def masks_of(reader: PatchReader, rows: pd.DataFrame, params: TrainParams) -> NDArray[np.uint8]:
    """What the readers outlined in some rows, uint8 (n, *patch_shape), on the grid of `patches_of`.

    Raises UsageError where the dataset was made without outlines.
    """
    masks = reader.load_masks(list(rows["patch_id"]))
    if params.common_spacing_mm and reader.card.spacing_mm is None and "pixel_spacing_mm" in rows:
        spacing_mm = floats(rows["pixel_spacing_mm"])
        return to_common_spacing(masks, spacing_mm, params.common_spacing_mm).astype(np.uint8, copy=False)
    return masks


def check_common_spacing(reader: PatchReader, params: TrainParams) -> None:
    """Refuse a common grid that `patches_of` could not give every patch of the dataset.

    Raises
    ------
    UsageError: pixel spacings are unknown, or the patches were cut on one grid already, another one.
    """
    wanted_mm, card = params.common_spacing_mm, reader.card
    if wanted_mm == 0 or (card.spacing_mm is not None and math.isclose(card.spacing_mm, wanted_mm)):
        return
    where = f"common_spacing_mm={wanted_mm:g}, dataset {card.name or card.dataset_id}"
    if card.spacing_mm is not None:
        raise UsageError(
            f"the patches lie on a grid of {card.spacing_mm:g} mm already",
            where=where,
            todo=f"Add --set common_spacing_mm=0, or prepare others with --set spacing_mm={wanted_mm:g}.",
        )
    unknown = int((~(_spacings_mm(reader, reader.index, 0.0) > 0)).sum())
    if unknown:
        some = f"{unknown} of {len(reader.index)} patches have"
        raise UsageError(
            f"{some if unknown < len(reader.index) else 'the dataset has'} no pixel spacing, which one grid needs",
            where=where,
            todo="Import it with a table whose column pixel_spacing (mm) is filled, or add --set common_spacing_mm=0.",
        )


def off_grid(reader: PatchReader, rows: pd.DataFrame, card: ModelCard) -> int:
    """How many patches of some rows are not known to reach a version on the grid (mm a pixel) that its card claims."""
    if card.input.spacing_mm is None:
        return 0
    spacings_mm = _spacings_mm(reader, rows, float(card.training.get("common_spacing_mm", 0.0)))
    return int((~np.isclose(spacings_mm, card.input.spacing_mm, rtol=_SAME_GRID)).sum())


def _spacings_mm(reader: PatchReader, rows: pd.DataFrame, common_mm: float) -> NDArray[np.float64]:
    """(n,) mm a pixel of patches as `patches_of` gives them, NaN where unknown."""
    if reader.card.spacing_mm is not None:
        return np.full(len(rows), reader.card.spacing_mm)
    if "pixel_spacing_mm" not in rows:
        return np.full(len(rows), np.nan)
    native_mm = floats(rows["pixel_spacing_mm"])
    return np.where(np.isfinite(native_mm), common_mm, np.nan) if common_mm else native_mm


def labelled_patches(
    reader: PatchReader, rows: pd.DataFrame, params: TrainParams, *, features: NDArray[np.float32] | None = None
) -> LabelledPatches:
    """Patches of some rows with everything `params` lets a fit learn from, and their features where they are known."""
    soft = params.soft_label_weight > 0
    readers = rows["n_readers"].to_numpy(dtype=np.float64)
    known = LabelledPatches(
        patches_of(reader, rows, params),
        floats(rows["label"]),
        soft_labels=floats(rows["label_soft"]) if soft else None,
        weights=np.clip(readers, 1, _FULL_READERS) / _FULL_READERS if soft else None,
        auxiliary=concept_targets(rows) if params.auxiliary_weight > 0 else None,
        features=features,
        masks=masks_of(reader, rows, params) if params.mask_weight > 0 else None,
    )
    if params.class_weights != "size":
        return known
    weights = np.ones(len(known)) if known.weights is None else known.weights
    targets = known.targets(params.soft_label_weight)
    return replace(known, weights=weights * size_balance(targets, floats(rows["diameter_mm"]), weights))


def concept_names(rows: pd.DataFrame) -> tuple[str, ...]:
    """What `concept_targets` has a column for: log-diameter and the readers' ratings that the table holds."""
    return (LOG_DIAMETER, *(name for name in RATINGS if name != "malignancy" and name in rows))


def learned_concepts(rows: pd.DataFrame, params: TrainParams) -> tuple[str, ...]:
    """The concepts that a fit on these rows reads out; none without an auxiliary weight.

    Raises
    ------
    UsageError: a weight for a concept that the dataset does not have.
    """
    names = concept_names(rows)
    unknown = sorted(set(params.auxiliary_weights) - set(names))
    if unknown:
        raise UsageError(
            f"the dataset has no concept {unknown[0]!r}",
            where="auxiliary_weights",
            todo=f"Known: {', '.join(names)}.",
        )
    if params.auxiliary_weights and params.auxiliary_weight == 0:
        raise UsageError(
            "auxiliary_weights without auxiliary_weight weigh nothing", todo="Add --set auxiliary_weight=0.5."
        )
    return names if params.auxiliary_weight > 0 else ()


def concept_targets(rows: pd.DataFrame) -> NDArray[np.float64]:
    """(n, k) in 0..1: log-diameter and the readers' mean ratings other than malignancy; NaN where unknown."""
    low, high = (math.log(value) for value in DIAMETER_RANGE_MM)
    columns = [np.clip((np.log(floats(rows["diameter_mm"])) - low) / (high - low), 0, 1)]
    columns += [(floats(rows[name]) - 1) / (RATINGS[name] - 1) for name in concept_names(rows)[1:]]
    return np.stack(columns, axis=1)


def floats(column: pd.Series) -> NDArray[np.float64]:
    """A column as float64, NaN where missing."""
    return column.to_numpy(dtype=np.float64, na_value=np.nan)

"""Predicted concepts of held-out nodules beside what the readers said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.concepts import LOG_DIAMETER, in_own_unit
from data_contracts.evaluation import ConceptFigures
from data_contracts.model_card import ModelCard
from flows.datasets.labelled import floats
from models.explanation.concepts import predict_concepts
from models.networks.network import NoduleNetwork


def concepts_in_own_units(
    network: NoduleNetwork, patches: NDArray[np.generic], card: ModelCard
) -> dict[str, NDArray[np.float64]]:
    """Predictions (n,) of each concept of the card, as ratings or mm; empty where the network reads none out."""
    if not card.concepts:
        return {}
    predicted = predict_concepts(network, patches, card.input)
    return {name: in_own_unit(name, predicted[:, column]) for column, name in enumerate(card.concepts)}


def concept_table(predicted: dict[str, NDArray[np.float64]], rows: pd.DataFrame) -> pd.DataFrame | None:
    """A CONCEPT_TABLE of patch rows, in their order, or None without a concept."""
    parts = []
    for name, values in predicted.items():
        column = "diameter_mm" if name == LOG_DIAMETER else name
        part = rows[["patch_id", "nodule_id", "patient_key"]].reset_index(drop=True)
        readers = floats(rows[column]) if column in rows else np.full(len(rows), np.nan)
        parts.append(part.assign(concept=name, predicted=values, readers=readers))
    return pd.concat(parts, ignore_index=True) if parts else None


def card_figures(figures: Sequence[ConceptFigures]) -> dict[str, dict[str, float | None]]:
    """The figures of each concept as a model card holds them."""
    return {
        row.concept: {
            "n": float(row.spearman.n),
            "spearman": row.spearman.value,
            "spearman_low": row.spearman.low,
            "spearman_high": row.spearman.high,
            "kappa": row.kappa.value,
            "mae": row.mean_absolute_error.value,
        }
        for row in figures
    }

"""Concepts that a network reads out beside malignancy: from 0..1 to their own units, and the table of predictions."""

from __future__ import annotations

import numpy as np
import pandera.pandas as pa
from numpy.typing import NDArray

from data_contracts.nodules import RATINGS
from data_contracts.tables import TableContract

#: the concept that is not a rating
LOG_DIAMETER = "log_diameter"
#: diameters that are 0 and 1 of log_diameter, on a logarithmic scale
DIAMETER_RANGE_MM = (3.0, 50.0)
CONCEPTS_FILE = "concepts.parquet"

#: what the lowest and the highest rating of LIDC mean: without it "calcification 6 of 6", which is none, reads as much
SCALE_ENDS = {
    "subtlety": ("extremely subtle", "obvious"),
    "internal_structure": ("soft tissue", "air"),
    "calcification": ("popcorn", "absent"),
    "sphericity": ("linear", "round"),
    "margin": ("poorly defined", "sharp"),
    "lobulation": ("none", "marked"),
    "spiculation": ("none", "marked"),
    "texture": ("ground glass", "solid"),
    "malignancy": ("highly unlikely", "highly suspicious"),
}

#: Predictions, not ratings. `predicted` is in the concept's own unit: 1 to the top of its scale, or mm; `readers` is
#: the mean of the readers' ratings, or the diameter of the mark, where it is known.
CONCEPT_TABLE = TableContract(
    "concepts",
    pa.DataFrameSchema(
        {
            "patch_id": pa.Column(str),
            "nodule_id": pa.Column(str),
            "patient_key": pa.Column(str),
            "concept": pa.Column(str, pa.Check.isin([LOG_DIAMETER, *RATINGS])),
            "predicted": pa.Column("float64"),
            "readers": pa.Column("float64", nullable=True),
        },
        unique=["patch_id", "concept"],
        coerce=True,
    ),
)


def in_own_unit(concept: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs 0..1 of a network as ratings (1 to the top of the scale), or as mm for log_diameter."""
    if concept == LOG_DIAMETER:
        low, high = np.log(DIAMETER_RANGE_MM)
        return np.asarray(np.exp(low + values * (high - low)), dtype=np.float64)
    return np.asarray(1 + values * (RATINGS[concept] - 1), dtype=np.float64)


def concept_words(concept: str, value: float) -> str:
    """A value as a reader reads it: "3.2 of 5 (1 none, 5 marked)", or "8.1 mm"."""
    if concept == LOG_DIAMETER:
        return f"{value:.1f} mm"
    top, (lowest, highest) = RATINGS[concept], SCALE_ENDS[concept]
    return f"{value:.1f} of {top} (1 {lowest}, {top} {highest})"


def concept_title(concept: str) -> str:
    """The name of a concept on a page."""
    return "Diameter" if concept == LOG_DIAMETER else concept.replace("_", " ").capitalize()

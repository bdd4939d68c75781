"""PredictionTable: held-out predictions, so that every figure can be computed again by anyone."""

from __future__ import annotations

import pandera.pandas as pa

from data_contracts.tables import TableContract

_PROBABILITY = pa.Check.in_range(0, 1)

#: what a prediction set says of a nodule: one class, or both or none
CONFORMAL_CALLS = ("benign", "malignant", "uncertain")

#: Held-out rows only. `score` is the run's calibrated probability (image + size where the diameter is
#: known), `score_image` the image alone, `score_size` the diameter alone.
#: `texture` is the readers' mean rating (1 GGO .. 5 solid), sex and age are the patient's at the scan; missing where
#: unknown.
PREDICTION_TABLE = TableContract(
    "predictions",
    pa.DataFrameSchema(
        {
            "patch_id": pa.Column(str, unique=True),
            "nodule_id": pa.Column(str),
            "patient_key": pa.Column(str),
            "split": pa.Column(str),
            "fold": pa.Column("int64"),
            "site": pa.Column(str),
            "label": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
            "score": pa.Column("float64", _PROBABILITY),
            "score_size": pa.Column("float64", _PROBABILITY, nullable=True),
            "score_image": pa.Column("float64", _PROBABILITY, nullable=True),
            "diameter_mm": pa.Column("float64", nullable=True),
            "texture": pa.Column("float64", nullable=True, required=False),
            "slice_thickness_mm": pa.Column("float64", nullable=True, required=False),
            "kernel": pa.Column(str, nullable=True, required=False),
            "manufacturer": pa.Column(str, nullable=True, required=False),
            "sex": pa.Column(str, nullable=True, required=False),
            "age_years": pa.Column("float64", nullable=True, required=False),
            "conformal": pa.Column(str, pa.Check.isin(CONFORMAL_CALLS), nullable=True, required=False),
        },
        coerce=True,
    ),
)

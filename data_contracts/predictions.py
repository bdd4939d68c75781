"""PredictionTable: held-out predictions, so that every figure can be computed again by anyone."""

from __future__ import annotations

import pandera.pandas as pa

from data_contracts.tables import TableContract

_PROBABILITY = pa.Check.in_range(0, 1)

#: Held-out rows only. `score` is the run's calibrated probability (image + size where the diameter is
#: known), `score_image` the image alone, `score_size` the diameter alone.
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
        },
        coerce=True,
    ),
)

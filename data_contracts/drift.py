"""What is watched once a version works: the sample it is compared with, what each review adds, and the verdict.

runs/<run_id>/reference.parquet        REFERENCE_TABLE: held-out nodules of the version's own data
drift/<run_id>/<digest>.parquet        DRIFT_TABLE: the nodules of one reviewed study, written once
drift/<run_id>/reports/<time>.json     DriftReport: what the window of studies said after a review
"""

from __future__ import annotations

from typing import Literal

import pandera.pandas as pa

from data_contracts.records import Record
from data_contracts.tables import TableContract

Verdict = Literal["ok", "watch", "alert", "too few"]

#: acquisition features that are numbers: noise and the centroid of its spectrum are measured in the patch itself
NUMBERS = ("noise", "noise_centroid_per_mm", "slice_thickness_mm", "pixel_spacing_mm", "kvp", "exposure_mas")
#: acquisition features that are names
NAMES = ("kernel", "kernel_family", "manufacturer")

_COMMON = {
    "score": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True),
    # What the network's head classifies, (width,) float32; its length is that of the network.
    "embedding": pa.Column(object),
    **{name: pa.Column("float64", nullable=True) for name in NUMBERS},
    **{name: pa.Column(str) for name in NAMES},
}

#: One row a held-out nodule. `patient` and `series` count up and name nobody: the file travels with the version.
REFERENCE_TABLE = TableContract(
    "reference",
    pa.DataFrameSchema(
        {
            "patient": pa.Column("int64", pa.Check.ge(0)),
            "series": pa.Column("int64", pa.Check.ge(0)),
            "label": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
            **_COMMON,
        },
        coerce=True,
    ),
)

#: One row a reviewed nodule; the keys are those of the workspace, which the table does not leave.
DRIFT_TABLE = TableContract(
    "drift",
    pa.DataFrameSchema(
        {
            "study_key": pa.Column(str),
            "patient_key": pa.Column(str),
            "series_key": pa.Column(str),
            "nodule_id": pa.Column(str),
            "reviewed_utc": pa.Column(str),
            **_COMMON,
        },
        coerce=True,
    ),
)


class DriftCheck(Record):
    """One thing that is watched.

    value: MMD^2, PSI less what chance alone gives, or the difference of the mean predicted probability.
    raw: the figure before that correction, where there is one.
    p: of the permutation test that exchanges whole patients; p_adjusted: after Holm over all checks.
    low, high: 95 % interval of `value` where it has one.
    """

    name: str
    value: float | None
    raw: float | None = None
    p: float | None
    p_adjusted: float | None = None
    low: float | None = None
    high: float | None = None
    watch_at: float
    alert_at: float
    verdict: Verdict
    detail: str = ""


class DriftReport(Record):
    """The verdict over a window of reviewed studies against the reference of one version.

    n_reference_nodules, n_reference_patients: of the reference; 0 where the version has none.
    first_utc, last_utc: of the reviews in the window.
    """

    model_name: str
    version: str
    run_id: str
    created_utc: str
    verdict: Verdict
    reasons: tuple[str, ...]
    n_studies: int
    n_patients: int
    n_nodules: int
    n_reference_nodules: int
    n_reference_patients: int
    first_utc: str = ""
    last_utc: str = ""
    checks: tuple[DriftCheck, ...] = ()

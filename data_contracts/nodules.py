"""NoduleTable: one row a nodule a reader, positions in LPS millimetres."""

from __future__ import annotations

import pandera.pandas as pa

from data_contracts.records import Record
from data_contracts.tables import TableContract

#: LIDC ratings and their scales (Armato 2011, Med Phys 38:915): 1-5, calcification 1-6, internal structure 1-4.
RATINGS: dict[str, int] = {
    "malignancy": 5,
    "subtlety": 5,
    "internal_structure": 4,
    "calcification": 6,
    "sphericity": 5,
    "margin": 5,
    "lobulation": 5,
    "spiculation": 5,
    "texture": 5,
}


class NoduleAnnotation(Record):
    """One reader's mark of one nodule, before it is matched to a series of the workspace.

    The series is named by whichever identifier the source gives; position in LPS mm, or where the
    source speaks in pixels, `pixel_kji` on the slice `sop_instance_uid` (k unused) for the step that
    knows the geometry. Diameters in mm (or pixels with `pixel_kji`).
    """

    series_key: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    reader: str
    lps_mm: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    nodule: str = ""
    label: int | None = None
    ratings: dict[str, float] = {}
    source: str
    #: where the mark stands in its file ("line 7"), for the one who must mend it
    place: str = ""
    #: contours as (sop_instance_uid, z_mm, inclusion, ((column, row), ...)) in pixels
    contours: tuple[tuple[str, float, bool, tuple[tuple[float, float], ...]], ...] = ()


NODULE_TABLE = TableContract(
    "nodules",
    pa.DataFrameSchema(
        {
            "nodule_id": pa.Column(str, pa.Check.str_length(min_value=1)),
            "series_key": pa.Column(str, pa.Check.str_length(min_value=1)),
            "reader": pa.Column(str),
            "x_mm": pa.Column("float64"),
            "y_mm": pa.Column("float64"),
            "z_mm": pa.Column("float64"),
            "diameter_mm": pa.Column("float64", pa.Check.in_range(0.0, 500.0, include_min=False)),
            **{name: pa.Column("float64", pa.Check.in_range(1, top), nullable=True) for name, top in RATINGS.items()},
            "label": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
            "source": pa.Column(str),
        },
        unique=["nodule_id", "reader"],
        coerce=True,
    ),
)

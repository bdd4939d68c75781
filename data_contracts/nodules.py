"""NoduleTable: one row a nodule a reader, positions in LPS millimetres; a diameter may be unknown."""

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

#: `source` of what readers answered to a report; such rows have `answer`, `standing` and `corrected` too
READER_SOURCE = "reader"
#: the texture that a nodule type is, on the scale of the ratings
TEXTURE_OF_TYPE = {"ground_glass": 1.0, "part_solid": 3.0, "solid": 5.0}


class NoduleAnnotation(Record):
    """One reader's mark of one nodule, before it is matched to a series of the workspace.

    The series is named by whichever identifier the source gives. The place is one of: `lps_mm`; `pixel_kji`, an index
    into the volume or, with `sop_instance_uid`, into that slice (k unused); `contours` or `outlines`, drawn on slices.

    Attributes
    ----------
    reader: as the source has it; what is not a plain word is replaced by a key before it is stored.
    diameter_mm: largest diameter in a plane; None where the source states none.
    volume_mm3: volume, where the source has one.
    nodule: rows of one series with one name are one nodule; grouped by place where it is empty.
    probability: of being what the source marks, 0 to 1.
    segment: "UID number" of the DICOM segment that it is, or, without a place of its own, that it evaluates.
    place: where the mark stands in its file ("line 7"), for the one who must mend it.
    problem: why the mark cannot be used; it is refused with these words.
    whole_file: the problem is that of the file, of which nothing could be read.
    file_number: of the files that were read together, the one that holds the mark.
    contours: (sop_instance_uid, z_mm, inclusion, ((column, row), ...)), whole pixels from 0, on the first pixel
        outside as LIDC draws them.
    outlines: (sop_instance_uid, ((column, row), ...)), 0 is the centre of the first pixel; a point has one entry.
    """

    series_key: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    frame_of_reference_uid: str = ""
    reader: str
    lps_mm: tuple[float, float, float] | None = None
    pixel_kji: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    volume_mm3: float | None = None
    nodule: str = ""
    label: int | None = None
    ratings: dict[str, float] = {}
    probability: float | None = None
    segment: str = ""
    source: str
    place: str = ""
    problem: str = ""
    whole_file: bool = False
    file_number: int = 0
    contours: tuple[tuple[str, float, bool, tuple[tuple[float, float], ...]], ...] = ()
    outlines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...] = ()


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
            "diameter_mm": pa.Column("float64", pa.Check.in_range(0.0, 500.0, include_min=False), nullable=True),
            **{name: pa.Column("float64", pa.Check.in_range(1, top), nullable=True) for name, top in RATINGS.items()},
            "label": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
            "source": pa.Column(str),
            "segment_key": pa.Column(str, required=False),
            "volume_mm3": pa.Column("float64", pa.Check.gt(0), nullable=True, required=False),
            "equivalent_diameter_mm": pa.Column("float64", pa.Check.gt(0), nullable=True, required=False),
            "probability": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True, required=False),
            "answer": pa.Column("object", nullable=True, required=False),
            "standing": pa.Column("object", nullable=True, required=False),
            "corrected": pa.Column("object", nullable=True, required=False),
        },
        unique=["nodule_id", "reader"],
        coerce=True,
    ),
)

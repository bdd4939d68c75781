"""What is known of an accepted series, and what of a refused one."""

from __future__ import annotations

import pandera.pandas as pa

from data_contracts.reasons import ReasonCode
from data_contracts.records import Record
from data_contracts.tables import TableContract


class QualityFinding(Record):
    """Something a user of an accepted series must know; figures say which slice and how much.

    sop_instance_uids: the slices concerned, where not all are; digests, or the UIDs where identity is kept.
    """

    code: ReasonCode
    detail: str = ""
    sop_instance_uids: tuple[str, ...] = ()


class SourceIdentity(Record):
    """The direct identifiers of a series; kept only where the site asked for it.

    sop_instance_uids: as SeriesRecord.sop_uid_keys; with frame_of_reference_uid, what results sent back refer to.
    """

    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str = ""
    sop_instance_uids: tuple[str, ...] = ()


class SeriesRecord(Record):
    """One accepted series (series.json, and a row of series.parquet).

    Keys are keyed digests (HMAC-SHA256 with the workspace's secret); dates are shifted by an
    offset of the patient. `affine_lps` takes (k, j, i, 1) to LPS mm.

    sop_uid_keys: of slice k of the volume; "" for one that was interpolated.
    slice_affine_lps: as affine_lps, for (slice, row, column) of the images as they were sent, where the volume was
        resampled from them; None where the volume has their grid.
    slice_shape: (rows, columns) of those images then; None where the volume has theirs, or an old record lacks it.
    sop_class_uid: of the images; "" in old records. frame_numbers: of slice k in its object, from 1; 0 for an
        interpolated one; empty where every object is one slice.
    series_number, instance_numbers: as the scanner counts them; of slice k, 0 for an interpolated one or where the
        header does not say; empty where it says nothing.
    """

    series_key: str
    study_key: str
    patient_key: str
    site: str
    volume_path: str
    n_slices: int
    shape_kji: tuple[int, int, int]
    spacing_kji_mm: tuple[float, float, float]
    affine_lps: tuple[tuple[float, float, float, float], ...]
    slice_affine_lps: tuple[tuple[float, float, float, float], ...] | None = None
    slice_shape: tuple[int, int] | None = None
    sop_class_uid: str = ""
    frame_numbers: tuple[int, ...] = ()
    series_number: int | None = None
    instance_numbers: tuple[int, ...] = ()
    series_uid_key: str
    frame_of_reference_key: str = ""
    sop_uid_keys: tuple[str, ...]
    pixel_sha256: str
    source_path: str
    transfer_syntax: str = ""
    kernel: str = ""
    manufacturer: str = ""
    model_name: str = ""
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    exposure_mas: float | None = None
    contrast: bool | None = None
    patient_sex: str = ""
    patient_age_years: int | None = None
    study_date_shifted: str = ""
    padding_hu: int | None = None
    padding_voxels: int = 0
    findings: tuple[QualityFinding, ...] = ()
    identity: SourceIdentity | None = None

    def row(self) -> dict[str, object]:
        """The record as a row of series.parquet: findings as their codes, identity columns only where kept."""
        of_slices = {"sop_uid_keys", "frame_numbers", "instance_numbers", "slice_affine_lps", "slice_shape"}
        row = self.model_dump(mode="json", exclude={"findings", "identity", "affine_lps", *of_slices})
        row["affine_lps"] = [value for line in self.affine_lps for value in line]
        row["findings"] = [finding.code.value for finding in self.findings]
        row["finding_details"] = [finding.detail for finding in self.findings]
        row["finding_sop_instance_uids"] = [list(finding.sop_instance_uids) for finding in self.findings]
        if self.identity is not None:
            row.update(self.identity.model_dump(exclude={"sop_instance_uids"}))
        return row


class Rejection(Record):
    """One refused item (a row of rejected.parquet).

    path: relative to the source; pseudonymised folder by folder unless identity is kept.
    sop_instance_uids: digests of the UIDs concerned, or the UIDs themselves where identity is kept.
    """

    path: str
    series_key: str = ""
    reason: ReasonCode
    detail: str = ""
    sop_instance_uids: tuple[str, ...] = ()
    patient_id: str | None = None
    series_instance_uid: str | None = None

    def row(self) -> dict[str, object]:
        """The record as a row; identity columns only where kept."""
        row = self.model_dump(mode="json", exclude_none=True)
        row["sop_instance_uids"] = list(self.sop_instance_uids)
        return row


_REASONS = [code.value for code in ReasonCode]

SERIES_TABLE = TableContract(
    "series",
    pa.DataFrameSchema(
        {
            "series_key": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{16}$"), unique=True),
            "study_key": pa.Column(str),
            "patient_key": pa.Column(str),
            "site": pa.Column(str),
            "volume_path": pa.Column(str),
            "n_slices": pa.Column("int64", pa.Check.ge(1)),
            "shape_kji": pa.Column(object),
            "spacing_kji_mm": pa.Column(object),
            "kernel": pa.Column(str),
            "manufacturer": pa.Column(str),
            "findings": pa.Column(object),
        },
        coerce=True,
    ),
)

REJECTED_TABLE = TableContract(
    "rejected",
    pa.DataFrameSchema(
        {
            "path": pa.Column(str),
            "series_key": pa.Column(str),
            "reason": pa.Column(str, pa.Check.isin(_REASONS)),
            "detail": pa.Column(str),
            "sop_instance_uids": pa.Column(object),
        },
        coerce=True,
    ),
)

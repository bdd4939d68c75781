"""Which public studies there are, offline: the index of the Imaging Data Commons that the package idc-index brings."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet

from data_contracts.errors import ContractError, UsageError

_LIDC = "lidc_idri"
_LIDC_ANNOTATIONS = "dicom_lidc_idri_nodules"
_COLUMNS = [
    "collection_id",
    "analysis_result_id",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "instanceCount",
    "series_size_MB",
    "aws_bucket",
    "crdc_series_uuid",
    "source_DOI",
    "license_short_name",
]
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TAGS = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class PublicSeries:
    """One series of a public collection. size_bytes: of all its files together, as the index rounds it."""

    patient_id: str
    study_uid: str
    series_uid: str
    modality: str
    n_instances: int
    size_bytes: int
    bucket: str
    prefix: str
    doi: str
    licence: str

    @property
    def folder(self) -> Path:
        """Where it lies below the folder of the collection."""
        return Path(self.patient_id) / self.study_uid / f"{self.modality}_{self.series_uid}"


@dataclass(frozen=True)
class Citation:
    """How a source wants to be named."""

    title: str
    doi: str
    licence: str
    licence_url: str
    citation: str


def index_files() -> dict[str, Path]:
    """The tables of the installed index: "series", "collections", "analysis_results".

    Raises
    ------
    UsageError: the package is not installed.
    """
    try:
        import idc_index_data
    except ImportError:
        raise UsageError(
            "the index of public data is not installed",
            where="idc-index",
            todo="In the checkout: pip install '.[fetch]'.",
        ) from None
    series = Path(str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH))
    return {
        "series": series,
        "collections": series.with_name("collections_index.parquet"),
        "analysis_results": series.with_name("analysis_results_index.parquet"),
    }


def lidc_series(
    index: Path, n_patients: int, *, annotations: bool = False, exclude: Collection[str] = ()
) -> list[PublicSeries]:
    """CT series of the first patients of LIDC-IDRI by id, so the same for everybody; by patient and series.

    Parameters
    ----------
    index: parquet table with the columns of idc-index.
    annotations: with the segmentations and reports of the readers' nodules, in the studies of these series.
    exclude: patient ids to pass over.

    Raises
    ------
    ContractError: the table cannot be read, lacks a column or has names that are no file names.
    """
    try:
        rows = parquet.read_table(index, columns=_COLUMNS, filters=[("collection_id", "==", _LIDC)]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ContractError(
            f"the index of public data cannot be read ({type(error).__name__})",
            todo="Give one with idc-index's columns.",
        ) from None
    scans = [row for row in rows if row["Modality"] == "CT" and row["PatientID"] not in exclude]
    patients = set(sorted({row["PatientID"] for row in scans})[:n_patients])
    scans = [row for row in scans if row["PatientID"] in patients]
    studies = {row["StudyInstanceUID"] for row in scans}
    marks = [
        row
        for row in rows
        if row["analysis_result_id"] == _LIDC_ANNOTATIONS and row["StudyInstanceUID"] in studies and annotations
    ]
    series = [_series(row) for row in [*scans, *marks]]
    return sorted(series, key=lambda item: (item.patient_id, item.modality != "CT", item.modality, item.series_uid))


def _series(row: dict[str, object]) -> PublicSeries:
    def safe(column: str) -> str:
        text = str(row[column])
        if not _SAFE.fullmatch(text):
            raise ContractError(f"the index of public data has a {column} that is no file name")
        return text

    return PublicSeries(
        patient_id=safe("PatientID"),
        study_uid=safe("StudyInstanceUID"),
        series_uid=safe("SeriesInstanceUID"),
        modality=safe("Modality"),
        n_instances=int(str(row["instanceCount"])),
        size_bytes=round(float(str(row["series_size_MB"])) * 1e6),
        bucket=safe("aws_bucket"),
        prefix=safe("crdc_series_uuid"),
        doi=str(row["source_DOI"]),
        licence=str(row["license_short_name"]),
    )


def citations(files: dict[str, Path], series: Collection[PublicSeries]) -> list[Citation]:
    """The sources of the series: title, DOI, licence and citation, as the index has them; at least DOI and licence."""
    known: dict[str, Citation] = {}
    if "collections" in files:
        for row in parquet.read_table(files["collections"]).to_pylist():
            for source in row.get("sources") or []:
                licence = source.get("license") or {}
                known[str(source.get("source_doi")).lower()] = Citation(
                    str(source.get("source_title") or ""),
                    str(source.get("source_doi")),
                    str(licence.get("license_long_name") or ""),
                    str(licence.get("license_url") or ""),
                    _plain(str(source.get("citation") or "")),
                )
    if "analysis_results" in files:
        for row in parquet.read_table(files["analysis_results"]).to_pylist():
            known[str(row.get("source_DOI")).lower()] = Citation(
                str(row.get("analysis_result_title") or ""),
                str(row.get("source_DOI")),
                str(row.get("license_long_name") or ""),
                str(row.get("license_url") or ""),
                _plain(str(row.get("citation") or "")),
            )
    used = {item.doi.lower(): item for item in series}
    return [known.get(doi) or Citation("", used[doi].doi, used[doi].licence, "", "") for doi in sorted(used)]


def _plain(text: str) -> str:
    return " ".join(_TAGS.sub("", text).replace("&amp;", "&").split())

"""What a radiologist sees of a study, and what the radiologist answers."""

from __future__ import annotations

from typing import Literal

from data_contracts.model_card import ModelCard
from data_contracts.records import Record
from data_contracts.series import QualityFinding


class Measurement(Record):
    """Size of a finding, to 0.1 mm and 1 mm3; `method` says how it was measured."""

    mean_diameter_mm: float
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    volume_mm3: float | None = None
    mean_hu: float | None = None
    method: str


class Finding(Record):
    """One nodule of a study.

    lps_mm: centre in the patient (LPS); slice_number: 1-based, in order of the volume's k axis.
    probability: calibrated; None where the network could not be asked (`note` says why).
    key_images: files beside the report.
    """

    finding_id: str
    nodule_id: str
    series_key: str
    lps_mm: tuple[float, float, float]
    kji: tuple[float, float, float]
    slice_number: int
    side: str = ""
    measurement: Measurement
    probability: float | None
    probability_size_only: float | None = None
    probability_image_only: float | None = None
    n_readers: int = 0
    ratings: dict[str, float] = {}
    source: str
    padded: bool = False
    key_images: tuple[str, ...] = ()
    note: str = ""


class SeriesSummary(Record):
    """The technique of a reviewed series, as a reader expects it at the head of a report."""

    series_key: str
    site: str
    n_slices: int
    spacing_kji_mm: tuple[float, float, float]
    slice_thickness_mm: float | None
    kernel: str
    manufacturer: str
    kvp: float | None
    contrast: bool | None
    findings: tuple[QualityFinding, ...] = ()


class StudyReview(Record):
    """review.json: everything the report pages show."""

    study_key: str
    patient_key: str
    created_utc: str
    model_name: str
    model_version: str
    model: ModelCard
    evaluation_summary: dict[str, str] = {}
    series: tuple[SeriesSummary, ...]
    findings: tuple[Finding, ...]
    origin_of_findings: str
    not_examined: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class FindingAnswer(Record):
    """A reader's answer to one finding."""

    finding_id: str
    nodule_id: str
    answer: Literal["accept", "reject", "correct"]
    malignant: bool | None = None
    diameter_mm: float | None = None
    comment_code: str = ""


class ReaderFeedback(Record):
    """feedback.json: the answers of one reader to one report."""

    study_key: str
    model_version: str
    reader: str
    time_utc: str
    model_visible_first: bool
    answers: tuple[FindingAnswer, ...]

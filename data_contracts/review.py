"""What a radiologist sees of a study."""

from __future__ import annotations

from typing import Literal

from data_contracts.guidelines import GrowthResult, NoduleType, PatientContext, StudyGuidelines
from data_contracts.model_card import ModelCard
from data_contracts.records import Record
from data_contracts.series import QualityFinding


class Measurement(Record):
    """Size of a finding, to 0.1 mm and 1 mm3; `method` says how it was measured.

    nodule_type: None where no outline could be trusted. solid_diameter_mm, solid_volume_mm3: of the solid component of
    a part-solid nodule (mean of its long and short axis). diameter_interval_mm, volume_interval_mm3: 95 %, of what
    readers measuring the same nodule would say.
    """

    mean_diameter_mm: float
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    volume_mm3: float | None = None
    mean_hu: float | None = None
    nodule_type: NoduleType | None = None
    solid_diameter_mm: float | None = None
    solid_volume_mm3: float | None = None
    diameter_interval_mm: tuple[float, float] | None = None
    volume_interval_mm3: tuple[float, float] | None = None
    method: str


class PriorFinding(Record):
    """The same nodule in the study before, and what became of it; intervals in `growth`.

    study_date: shifted as all dates of the patient, YYYY-MM-DD; "" where it is not known. distance_mm: from where it
    was expected. slice_thickness_mm: of the study before.
    """

    study_key: str
    finding_id: str
    study_date: str
    mean_diameter_mm: float
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    volume_mm3: float | None = None
    nodule_type: NoduleType | None = None
    solid_diameter_mm: float | None = None
    solid_volume_mm3: float | None = None
    slice_thickness_mm: float | None = None
    distance_mm: float
    growth: GrowthResult | None = None


class MissedPrior(Record):
    """A nodule of the study before that has no counterpart now; lps_mm: where it would lie in this study's patient."""

    study_key: str
    finding_id: str
    mean_diameter_mm: float
    lps_mm: tuple[float, float, float]
    reason: str


class Finding(Record):
    """One nodule of a study.

    lps_mm: centre in the patient (LPS); slice_number: 1-based, in order of the volume's k axis. series_number,
    instance_number: as the scanner counted; None where the header does not say. side, lobe: "" where not known.
    detection_score: of a candidate that no reader marked, 0 to 1; None for a mark.
    probability: calibrated; None where the network could not be asked (`note` says why). probability_interval: 95 % of
    the calibration at this score; None where too few were held out. call: of the conformal set; "" where the version
    has no quantiles.
    unfamiliar: why the network's figures may not hold for this nodule; empty where it resembles those it was judged on.
    prior: the same nodule in the study before. without_prior: what it says that the study compared with has none.
    is_new: it was not there then.
    concepts: what the network reads out beside malignancy, in the concept's own unit; predictions, unlike `ratings`.
    explanation: what stands below the map, or in its place; empty where the network was not asked.
    key_images: files beside the report. stack: the file with the HU around the nodule that the page scrolls through.
    """

    finding_id: str
    nodule_id: str
    series_key: str
    lps_mm: tuple[float, float, float]
    kji: tuple[float, float, float]
    slice_number: int
    series_number: int | None = None
    instance_number: int | None = None
    side: str = ""
    lobe: str = ""
    detection_score: float | None = None
    measurement: Measurement
    probability: float | None
    probability_interval: tuple[float, float] | None = None
    call: Literal["", "benign", "malignant", "uncertain"] = ""
    unfamiliar: str = ""
    probability_size_only: float | None = None
    probability_image_only: float | None = None
    n_readers: int = 0
    ratings: dict[str, float] = {}
    concepts: dict[str, float] = {}
    explanation: str = ""
    source: str
    padded: bool = False
    prior: PriorFinding | None = None
    without_prior: str = ""
    is_new: bool = False
    stack: str = ""
    key_images: tuple[str, ...] = ()
    note: str = ""


class SeriesSummary(Record):
    """The technique of a reviewed series, as a reader expects it at the head of a report.

    shape_kji, affine_lps: its grid, as in SeriesRecord; None and () in reviews of before. exposure_mas: likewise.
    was_read: whether findings could come from it; None in reviews of before.
    """

    series_key: str
    site: str
    n_slices: int
    spacing_kji_mm: tuple[float, float, float]
    slice_thickness_mm: float | None
    kernel: str
    manufacturer: str
    kvp: float | None
    exposure_mas: float | None = None
    contrast: bool | None
    findings: tuple[QualityFinding, ...] = ()
    shape_kji: tuple[int, int, int] | None = None
    affine_lps: tuple[tuple[float, float, float, float], ...] = ()
    was_read: bool | None = None


class StudyReview(Record):
    """review.json: everything the report pages show.

    unfamiliar: why the model may not hold for this study; the report begins with it. guidelines: of the study and of
    each finding (nodule_id is the finding_id); None where they were not asked. context: what the guidelines were told
    of the patient. prior_study_key: the study compared with, "" where there is none. missed_priors: its nodules not
    found again. reading: how the page is read. "blind" and "second" show nothing that the model says (the fields are
    empty) and the answers say model_visible_first false; those of "second" say second_read; those of "adjudication"
    say role "adjudicator".
    """

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
    unfamiliar: tuple[str, ...] = ()
    context: PatientContext | None = None
    guidelines: StudyGuidelines | None = None
    prior_study_key: str = ""
    reading: Literal["open", "blind", "second", "adjudication"] = "open"
    missed_priors: tuple[MissedPrior, ...] = ()
    warnings: tuple[str, ...] = ()

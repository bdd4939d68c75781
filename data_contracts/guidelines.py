"""What a guideline is asked about (patient, nodules) and what it answers; what is unknown stays unknown."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from data_contracts.records import Record

NoduleType = Literal["solid", "part_solid", "ground_glass"]
LungRads = Literal["0", "1", "2", "3", "4A", "4B", "4X"]
Status = Literal["baseline", "new", "growing", "slow_growing", "stable"]
SolidStatus = Literal["baseline", "new", "growing", "stable"]
GuidelineStatus = Literal["given", "conditional", "refused"]


class PatientContext(Record):
    """The patient and the examination, as far as known; None is unknown.

    sex: at birth, as the Brock model means it. family_history: lung cancer in a first-degree relative.
    carcinogens: inhaled, such as asbestos, radon or uranium.
    screening: the CT belongs to a screening programme. cancer_history: a primary cancer, now or before.
    study_date, prior_dates: dates of this CT and of earlier chest CTs; () says that there is none, None is unknown.
    Shifted dates do, as long as all are shifted alike.
    prior_being_located, lungs_evaluable, infection_suspected: what makes a Lung-RADS 0.
    lungs_searched: the whole lungs were searched for nodules, so that an empty list means no nodule.
    other_significant_finding: what the modifier S stands for.
    earlier_ct: an earlier chest CT of the patient exists, wherever it is. False makes every nodule one of a first CT.
    nodule_count, subsolid_count: nodules in both lungs, and the ground-glass and part-solid ones among them, as a
    person counted them. A list of findings is no count: a search proposes what is no nodule, a reader marks some.
    """

    age_years: float | None = Field(default=None, ge=0, le=130)
    sex: Literal["female", "male"] | None = None
    emphysema: bool | None = None
    pulmonary_fibrosis: bool | None = None
    family_history: bool | None = None
    smoking: Literal["never", "former", "current"] | None = None
    pack_years: float | None = Field(default=None, ge=0, le=500)
    quit_years: float | None = Field(default=None, ge=0, le=120)
    carcinogens: bool | None = None
    screening: bool | None = None
    cancer_history: bool | None = None
    immunosuppression: bool | None = None
    study_date: date | None = None
    prior_dates: tuple[date, ...] | None = None
    earlier_ct: bool | None = None
    prior_being_located: bool | None = None
    lungs_evaluable: bool | None = None
    infection_suspected: bool | None = None
    lungs_searched: bool | None = None
    other_significant_finding: bool | None = None
    nodule_count: int | None = Field(default=None, ge=0)
    subsolid_count: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _priors_are_earlier(self) -> Self:
        if self.study_date and any(day >= self.study_date for day in self.prior_dates or ()):
            raise ValueError("a prior CT is earlier than the CT it is compared with")
        return self

    @model_validator(mode="after")
    def _contradicts_nothing(self) -> Self:
        if self.earlier_ct is False and self.prior_dates:
            raise ValueError("earlier_ct = false, but there are dates of earlier CTs")
        if self.earlier_ct is False and self.prior_being_located:
            raise ValueError("earlier_ct = false, but prior_being_located = true")
        if self.earlier_ct and self.prior_dates == ():
            raise ValueError("earlier_ct = true, but the dates say that there is no earlier CT")
        if self.nodule_count is not None and (self.subsolid_count or 0) > self.nodule_count:
            raise ValueError("subsolid_count is more than nodule_count")
        return self


class Measured(Record):
    """Sizes of one nodule at one time. Axes and diameters in mm, volumes in mm3.

    mean_diameter_mm: where both axes are known their mean is taken, each to 0.1 mm, and this is not asked.
    measured_by: automated outlines repeat better than readers do.
    """

    nodule_type: NoduleType | None = None
    mean_diameter_mm: float | None = Field(default=None, gt=0, le=400)
    long_axis_mm: float | None = Field(default=None, gt=0, le=400)
    short_axis_mm: float | None = Field(default=None, gt=0, le=400)
    volume_mm3: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    solid_diameter_mm: float | None = Field(default=None, gt=0, le=400)
    solid_volume_mm3: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    slice_thickness_mm: float | None = Field(default=None, gt=0, le=100)
    measured_by: Literal["software", "reader"] = "software"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.long_axis_mm and self.short_axis_mm and self.short_axis_mm > self.long_axis_mm:
            raise ValueError("the short axis is longer than the long axis")
        whole = self.long_axis_mm or self.mean_diameter_mm
        if whole and self.solid_diameter_mm and self.solid_diameter_mm > whole + 0.05:
            raise ValueError("the solid part is larger than the nodule")
        return self


class PriorNodule(Measured):
    """The same nodule on an earlier CT. lung_rads: its category then."""

    nodule_id: str = ""
    study_date: date | None = None
    lung_rads: LungRads | None = None


class NoduleProperties(Record):
    """What a person may state of a nodule; a property that is None was not assessed.

    status: against earlier CTs; None lets it follow from `prior` and the dates. solid_status: of the solid part.
    calcification: "none" is known to be none. cyst: "none" is known to be no cyst.
    suspicious_features: others than spiculation, in words (lymphadenopathy, metastasis, chest wall invasion).
    """

    status: Status | None = None
    solid_status: SolidStatus | None = None
    calcification: Literal["none", "complete", "central", "popcorn", "concentric", "eccentric", "other"] | None = None
    fat: bool | None = None
    juxtapleural: bool | None = None
    smooth: bool | None = None
    shape: Literal["oval", "lentiform", "triangular", "round", "irregular"] | None = None
    spiculation: bool | None = None
    suspicious_features: tuple[str, ...] = ()
    upper_lobe: bool | None = None
    airway: Literal["none", "subsegmental", "segmental_or_proximal"] | None = None
    cyst: Literal["none", "thin_walled", "thick_walled", "multilocular"] | None = None
    cyst_change: (
        Literal["none", "cystic_part_growing", "wall_growing", "became_multilocular", "more_loculation_or_density"]
        | None
    ) = None
    proven_benign: bool | None = None


class GuidelineNodule(NoduleProperties, Measured):
    """One nodule as a guideline is asked about it.

    diameter_interval_mm: 95 % interval of the mean diameter, where the measurement knows it better than the table of
        the readers' variability does.
    is_candidate: a search proposes it and no reader marked it; it counts as no nodule beside others.
    status_reason: what `status` rests on, or why a comparison left it unknown.
    """

    nodule_id: str
    is_candidate: bool = False
    status_reason: str = ""
    diameter_interval_mm: tuple[float, float] | None = None
    prior: PriorNodule | None = None

    @model_validator(mode="after")
    def _interval_is_one(self) -> Self:
        if self.diameter_interval_mm and not 0 < self.diameter_interval_mm[0] <= self.diameter_interval_mm[1]:
            raise ValueError("the interval of a diameter runs from a positive lower to an upper bound")
        return self


class GuidelineResult(Record):
    """What one guideline says, and why.

    status: given; conditional (holds if `condition` does); refused (`missing` or `reason` says why).
    possible: every category that the error of the measurements allows, in order of suspicion; `category` among them.
    rule: id of the row or step that decided, in the guideline's table. reason: which row, which bound, which figure.
    missing: inputs without which there is no category. not_assessed: inputs that could still change it.
    verified: the rule was checked; checked_against says against what.
    """

    guideline: str
    status: GuidelineStatus
    category: str | None = None
    modifier: Literal["", "S"] = ""
    possible: tuple[str, ...] = ()
    rule: str = ""
    reason: str
    management: str = ""
    condition: str = ""
    missing: tuple[str, ...] = ()
    not_assessed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""
    verified: bool = False
    checked_against: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The category as a report prints it, with its modifier; "" where there is none."""
        return f"{self.category}{self.modifier}" if self.category else ""

    @property
    def words(self) -> str:
        """One line for a report: the category and, where the error of the sizes allows others, those too."""
        if self.category is None:
            return f"no category: {self.reason}"
        others = [each for each in self.possible if each != self.category]
        also = f" (within the error of the measurement also {' or '.join(others)})" if others else ""
        return f"{self.label}{also}{f', if {self.condition}' if self.condition else ''}"


class GrowthResult(Record):
    """Change of one nodule since an earlier CT.

    diameter_limit_mm: by how much two readers of one nodule differ, 95 %.
    vdt_days: volume doubling time; negative is a halving time, None an unchanged volume or nothing to compute it from.
    vdt_interval_days: 95 %, as (shortest, longest) doubling time. longest None: cannot be told from no growth.
        Both negative: a shrinking nodule, (slowest, fastest) halving. Both None: no volumes to compute it from.
    doublings_per_year, doublings_interval: the same as a rate, which has no gap at zero.
    """

    days: int
    diameter_change_mm: float | None = None
    diameter_limit_mm: float | None = None
    grew_by_diameter: bool | None = None
    volume_change_percent: float | None = None
    vdt_days: float | None = None
    vdt_interval_days: tuple[float | None, float | None] = (None, None)
    doublings_per_year: float | None = None
    doublings_interval: tuple[float, float] | None = None
    words: str
    missing: tuple[str, ...] = ()

    def covers(self, vdt_days: float) -> bool:
        """Whether a true doubling time (inf: unchanged; negative: halving) lies in the interval; needs both volumes."""
        if self.doublings_interval is None:
            return False
        rate = 365.25 / vdt_days
        return self.doublings_interval[0] <= rate <= self.doublings_interval[1]


class BrockResult(Record):
    """Probability of cancer by one variant of the Brock model, or the inputs it lacks."""

    variant: str
    probability: float | None = Field(default=None, ge=0, le=1)
    probability_interval: tuple[float, float] | None = None
    logit: float | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str
    source: str
    verified: bool
    checked_against: tuple[str, ...] = ()


class NoduleGuidelines(Record):
    nodule_id: str
    mean_diameter_mm: float | None
    lung_rads: GuidelineResult
    fleischner: GuidelineResult
    bts: GuidelineResult
    brock: tuple[BrockResult, ...]
    growth: GrowthResult | None = None


class StudyGuidelines(Record):
    """The guidelines of a study: per nodule, and of the most suspicious one."""

    lung_rads: GuidelineResult
    fleischner: GuidelineResult
    bts: GuidelineResult
    nodules: tuple[NoduleGuidelines, ...]
    deciding_nodules: dict[str, str] = {}

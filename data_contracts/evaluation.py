"""EvaluationReport: every figure with n, a 95 % interval and the size baseline beside it."""

from __future__ import annotations

from data_contracts.records import Record

#: order in which scores stand in every table and page
SCORES = {"score_size": "size only", "score_image": "image only", "score": "image + size"}


class Figure(Record):
    """A figure with its 95 % interval; value is None where it cannot be computed (`note` says why).

    n: nodules (or pairs, for the size-matched AUC); n_positive: malignant ones among them.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    n_positive: int | None = None
    method: str = ""
    note: str = ""

    def text(self, digits: int = 3) -> str:
        """`0.912 [0.880-0.941]`, or the reason why there is no figure."""
        if self.value is None:
            return self.note or "not computed"
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


class OperatingPoint(Record):
    """What a threshold that was frozen on validation gives on held-out nodules; score >= threshold is malignant.

    name: "specificity_0.80", "specificity_0.85", "specificity_0.90" or "sensitivity_0.95", which validation reached.
    """

    name: str
    threshold: float
    sensitivity: Figure
    specificity: Figure


class NetBenefit(Record):
    """A point of the decision curve (Vickers & Elkin 2006): acting from this probability of malignancy on.

    model: TP/n - FP/n * t/(1 - t) of calling score >= threshold malignant. treat_all: of calling all nodules so;
    calling none has 0.
    """

    threshold: float
    model: Figure
    treat_all: float | None


class ScoreFigures(Record):
    """The figures of one score (a key of SCORES) on one site ("all" for every site together).

    auc: DeLong's interval takes every nodule for a patient of its own, and is too narrow where patients have several.
        auc_clustered: takes a patient's nodules together (Obuchowski 1997), on the logit scale.
        auc_bootstrap: patients resampled.
    ece: its interval is of the true error, which chance makes the value of few nodules larger than.
    calibration_slope, calibration_intercept: of the logistic regression of the label on the score's logit; 1 and 0
        where the score is a probability.
    sensitivity, specificity: at `threshold`, which was frozen on validation.
    operating_points: at every threshold that was. net_benefit: at 0.01, 0.02, ... 0.20.
    """

    score: str
    site: str
    auc: Figure
    auc_bootstrap: Figure
    average_precision: Figure
    size_matched_auc: Figure
    brier: Figure
    ece: Figure
    auc_clustered: Figure | None = None
    calibration_slope: Figure | None = None
    calibration_intercept: Figure | None = None
    threshold: float | None = None
    sensitivity: Figure | None = None
    specificity: Figure | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    net_benefit: tuple[NetBenefit, ...] = ()


class SubgroupFigures(Record):
    """Image + size on the held-out nodules of one level of one variable, every site together.

    variable: diameter, texture, thickness, kernel, manufacturer, site, sex or age. level: "unknown" where nobody says.
    flagged: fewer than 30 nodules; shown all the same.
    size_auc: of size only, on the same nodules. sensitivity, specificity: at the report's operating threshold.
    """

    variable: str
    level: str
    n: int
    n_positive: int
    n_patients: int
    flagged: bool
    auc: Figure
    size_auc: Figure
    sensitivity: Figure
    specificity: Figure
    ece: Figure


class ConformalSubgroup(Record):
    """Coverage and abstention in one level of one variable.

    Variables and levels are those of SubgroupFigures, and "class" with the levels benign and malignant.
    """

    variable: str
    level: str
    n: int
    flagged: bool
    coverage: Figure
    abstention: Figure


class ConformalFigures(Record):
    """What the frozen prediction sets give on held-out nodules of every site.

    alpha: promised is that a nodule's set misses its class in no more than this share, for each class.
    coverage: share that is not called the other class. abstention: share that is called "uncertain", because its set
    holds both classes or none.
    """

    alpha: float
    coverage: Figure
    abstention: Figure
    subgroups: tuple[ConformalSubgroup, ...] = ()


class AdaptationDecision(Record):
    """What was chosen among source-only and adapted networks, by a rule that needs no target label.

    method: the adapted networks that were offered, with commas between them. chosen: source-only, one of them, or
    "joined" for the mean logit of `members` by `weights`. scale, offset: the kept network's logit is scale * that +
    offset, so that those of the target are a mix of the source's classes; it keeps the order of nodules. reasons: the
    verdict, what decided it for all, then one sentence a network. figures: of every network, by name.
    """

    method: str
    chosen: str
    adapted: bool
    members: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    reasons: tuple[str, ...]
    figures: dict[str, dict[str, float]]


class ConceptFigures(Record):
    """How well a concept (spiculation, margin, ...) is predicted, against the readers' mean ratings.

    unit: "1-5" and the like, or "mm". kappa: quadratic, of both values rounded to whole steps.
    """

    concept: str
    unit: str
    spearman: Figure
    kappa: Figure
    mean_absolute_error: Figure


class EvaluationReport(Record):
    """evaluation.json of a run.

    size_auc_difference: AUC of image + size minus size only; the interval takes a patient's nodules together.
    size_auc_difference_delong: the same by DeLong, every nodule for itself.
    subgroups: of image + size. conformal: None where the card holds no quantile.
    source_minus_target: AUC on the source site minus AUC on the target site, which have other patients.
    alternatives: figures of networks that were not chosen (source-only or adapted), by name.
    pretrained: False where the backbone started from random weights; `weights` says which.
    concepts: of the predicted concepts, where the network reads some out.
    """

    run_id: str
    dataset_id: str
    backbone: str
    weights: str
    pretrained: bool
    protocol: str
    n_patients: int
    n_nodules: int
    n_indeterminate: int = 0
    figures: tuple[ScoreFigures, ...]
    size_auc_difference: Figure | None = None
    size_auc_difference_delong: Figure | None = None
    subgroups: tuple[SubgroupFigures, ...] = ()
    conformal: ConformalFigures | None = None
    source_minus_target: Figure | None = None
    alternatives: dict[str, tuple[ScoreFigures, ...]] = {}
    adaptation: AdaptationDecision | None = None
    concepts: tuple[ConceptFigures, ...] = ()
    warnings: tuple[str, ...] = ()

    def find(self, score: str, site: str = "all") -> ScoreFigures | None:
        """The figures of one score on one site, if they were computed."""
        return next((row for row in self.figures if row.score == score and row.site == site), None)

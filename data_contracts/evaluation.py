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


class ScoreFigures(Record):
    """The figures of one score (a key of SCORES) on one site ("all" for every site together).

    sensitivity, specificity: at `threshold`, which was frozen on validation.
    """

    score: str
    site: str
    auc: Figure
    auc_bootstrap: Figure
    average_precision: Figure
    size_matched_auc: Figure
    brier: Figure
    ece: Figure
    threshold: float | None = None
    sensitivity: Figure | None = None
    specificity: Figure | None = None


class AdaptationDecision(Record):
    """What was chosen among source-only and adapted networks, by a rule that needs no target label.

    method: the adapted networks that were offered, with commas between them. reasons: the verdict, what decided it for
    all, then one sentence a network. figures: of every network, by name.
    """

    method: str
    chosen: str
    adapted: bool
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
    alternatives: dict[str, tuple[ScoreFigures, ...]] = {}
    adaptation: AdaptationDecision | None = None
    concepts: tuple[ConceptFigures, ...] = ()
    warnings: tuple[str, ...] = ()

    def find(self, score: str, site: str = "all") -> ScoreFigures | None:
        """The figures of one score on one site, if they were computed."""
        return next((row for row in self.figures if row.score == score and row.site == site), None)

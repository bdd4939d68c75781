"""What the figures of an evaluation mean, in words: the head of the page, and the interpretation in the disclosure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_contracts.evaluation import EvaluationReport, Figure, ScoreFigures, SubgroupFigures
from pipeline.review.facts import foreign

#: a subgroup of fewer nodules is shown and flagged, and nothing is said of it here
SMALL_N = 30
#: level of a subgroup whose nodules nobody knows the variable of
UNKNOWN = "unknown"
#: a mean gap of probability and truth that is surely larger is named
_LARGE_GAP = 0.05


@dataclass(frozen=True)
class Verdict:
    """headline: one line; sentences: what it rests on, the most important first."""

    level: Literal["good", "caution", "bad", "unknown"]
    headline: str
    sentences: tuple[str, ...]


def interval_text(figure: Figure, *, digits: int = 3, signed: bool = False) -> str:
    """`0.912 [0.880 to 0.941]`, with signs for a difference; the reason where there is no figure."""
    if figure.value is None:
        return figure.note or "not computed"
    form = f"{'+' if signed else ''}z.{digits}f"  # z: no minus before zero
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} [{figure.low:{form}} to {figure.high:{form}}]"


def verdict(report: EvaluationReport) -> Verdict:
    """The verdict of a report; it says "not shown" wherever an interval holds the value of no effect."""
    main, size = report.find("score"), report.find("score_size")
    if main is None or main.auc.value is None:
        why = "no figures of image + size" if main is None else main.auc.note or "no AUC"
        return Verdict("unknown", f"No verdict: {why}", (_counts(report),))
    level, headline = _against_size(report, size)
    sentences = [_ranking(report, main, size), _size_matched(main), _calibration(main), _threshold(main)]
    sentences += [_sites(report), _weakest(report)]
    return Verdict(level, headline, tuple(sentence for sentence in sentences if sentence))


def _against_size(
    report: EvaluationReport, size: ScoreFigures | None
) -> tuple[Literal["good", "caution", "bad", "unknown"], str]:
    difference = report.size_auc_difference
    if size is None or size.auc.value is None or difference is None or difference.value is None:
        return "unknown", "No verdict against size: there is no size-only figure to compare with"
    if difference.low is None or difference.high is None:
        return "unknown", "No verdict against size: the difference has no interval"
    if difference.low > 0:
        return "good", "The image adds to what size alone tells"
    if difference.high < 0:
        return "bad", "Worse than size alone"
    return "caution", "Not shown to be better than size alone"


def _counts(report: EvaluationReport) -> str:
    return f"{report.n_nodules} labelled nodules of {report.n_patients} patients."


def _ranking(report: EvaluationReport, main: ScoreFigures, size: ScoreFigures | None) -> str:
    text = (
        f"On {main.auc.n} held-out nodules ({main.auc.n_positive} malignant) of {report.n_patients} patients, "
        f"image + size reaches AUC {interval_text(_widest(main))}"
    )
    if size is None or size.auc.value is None:
        return f"{text}; there is no size-only figure beside it."
    text += f"; the diameter alone, without one pixel, {interval_text(_widest(size))}."
    difference = report.size_auc_difference
    if difference is not None and difference.value is not None:
        text += f" The difference is {interval_text(difference, signed=True)}."
    return text


def figure_of(row: ScoreFigures | None, *names: str) -> Figure | None:
    """The first of the named figures of a row that it holds."""
    found = (None if row is None else getattr(row, name) for name in names)
    return next((figure for figure in found if isinstance(figure, Figure)), None)


def _widest(row: ScoreFigures) -> Figure:
    """The AUC whose interval takes a patient's nodules together, where it was computed."""
    clustered = row.auc_clustered
    return row.auc if clustered is None or clustered.low is None else clustered


def _size_matched(main: ScoreFigures) -> str:
    figure = main.size_matched_auc
    if figure.value is None:
        return f"There is no size-matched AUC: {figure.note or 'not computed'}."
    told = f"(size-matched AUC {interval_text(figure)}, {figure.n} {'pair' if figure.n == 1 else 'pairs'})"
    if figure.low is not None and figure.low > 0.5:
        return f"Between nodules of the same diameter it still tells malignant from benign better than chance {told}."
    if figure.high is not None and figure.high < 0.5:
        return f"Between nodules of the same diameter it ranks the benign one higher {told}."
    return f"Between nodules of the same diameter it is not shown to be better than chance {told}."


def _calibration(main: ScoreFigures) -> str:
    gap = "" if main.ece.value is None else f"Mean gap of probability and truth (ECE) {interval_text(main.ece)}. "
    if main.ece.low is not None and main.ece.low > _LARGE_GAP:
        gap = f"{gap[:-2]}: the probabilities are off by more than {_LARGE_GAP}. "
    slope = main.calibration_slope
    if slope is None or slope.value is None or slope.low is None or slope.high is None:
        return gap.strip()
    told = f"(calibration slope {interval_text(slope, digits=2)})"
    if slope.high < 1:
        return f"{gap}Its probabilities are too extreme {told}."
    if slope.low > 1:
        return f"{gap}Its probabilities are too cautious {told}."
    return f"{gap}No sign that its probabilities are too extreme or too cautious {told}."


def _threshold(main: ScoreFigures) -> str:
    if main.sensitivity is None or main.specificity is None or main.sensitivity.value is None:
        return "No threshold was frozen on validation, so there is no sensitivity."
    return (
        f"At the frozen threshold {main.threshold:.3f} it finds {interval_text(main.sensitivity, digits=2)} of the "
        f"malignant nodules and clears {interval_text(main.specificity, digits=2)} of the benign ones."
    )


def _sites(report: EvaluationReport) -> str:
    loss = report.source_minus_target
    if loss is None or loss.value is None:
        return ""
    told = f"(AUC on the source site minus the target site {interval_text(loss, signed=True)})"
    if loss.low is not None and loss.low > 0:
        return f"It is worse on the target site {told}."
    if loss.high is not None and loss.high < 0:
        return f"It is better on the target site {told}."
    return f"No difference is shown between source and target site {told}."


def weakest_subgroup(report: EvaluationReport) -> SubgroupFigures | None:
    """The subgroup of at least SMALL_N nodules with the lowest AUC; of nodules that nobody knows it of is no group."""
    judged = [
        row
        for row in report.subgroups
        if not row.flagged and row.auc.value is not None and row.n >= SMALL_N and row.level != UNKNOWN
    ]
    return min(judged, key=lambda row: row.auc.value or 0.0, default=None)


def _weakest(report: EvaluationReport) -> str:
    row = weakest_subgroup(report)
    if row is None:
        return ""
    return (
        f"The weakest subgroup of at least {SMALL_N} nodules is {row.variable} {foreign(row.level)}: AUC "
        f"{interval_text(row.auc)}, {row.n} nodules."
    )

"""What a run knows of itself, for the items of a disclosure: how it was measured, and what came out."""

from __future__ import annotations

from collections.abc import Callable

from data_contracts.evaluation import EvaluationReport, Figure, ScoreFigures, SubgroupFigures
from data_contracts.model_card import ModelCard
from data_contracts.patches import DatasetCard
from pipeline.review.data_facts import labels_are_ratings, patients_known
from pipeline.review.facts import Fact, foreign, foreign_sentence, missing, not_applicable
from pipeline.review.verdict import interval_text, verdict

_NO_SUBGROUPS = "the evaluation holds no subgroups; evaluate the version again with this program"


def result_facts(report: EvaluationReport, card: ModelCard, dataset: DatasetCard | None) -> dict[str, Fact]:
    """Facts of evaluation and results, by name."""
    main = report.find("score")
    readers = dataset is None or labels_are_ratings(dataset)
    figures = (
        _figures(report, main) if main is not None else dict.fromkeys(_FIGURES, missing("no image + size figures"))
    )
    return {**_protocol(report, card, dataset), **_groups(report), **_limits(report, card, readers), **figures}


def _protocol(report: EvaluationReport, card: ModelCard, dataset: DatasetCard | None) -> dict[str, Fact]:
    external = report.dataset_id != card.dataset_id
    rated = ", as readers rate it," if dataset is None or labels_are_ratings(dataset) else ""
    unseen = "Patients" if dataset is None or patients_known(dataset) else "Images (no patient is known)"
    where = f"dataset {report.dataset_id}, {foreign_sentence(report.protocol)}"
    positive = next((row.auc.n_positive for row in report.figures if row.score == "score" and row.site == "all"), None)
    n_sites = len({row.site for row in report.figures} - {"all"})
    source = str(card.training.get("source_site") or "")
    compared = _held_out_shares(report) if source else _shares(dataset)
    return {
        "title": Fact(
            f"Development and evaluation of a prediction model for the malignancy{rated} of nodules on chest CT."
        ),
        "objective": Fact(
            "To fit a classifier of nodules, and to measure on held-out patients whether its image adds to what the "
            "diameter alone tells. Both development and evaluation."
        ),
        "metrics": Fact(
            "Discrimination: AUC, average precision, size-matched AUC (pairs of nearly the same diameter). "
            "Calibration: Brier score, ECE, slope and intercept, reliability diagram. Use: sensitivity and specificity "
            "at frozen thresholds, net benefit at 1-20 %. Each beside the diameter-only model, because diameter "
            "explains most of readers' ratings."
        ),
        "uncertainty": Fact(
            "95 % intervals that take a patient's nodules together; evaluation.json names the method of each figure "
            "(DeLong with clusters, bootstrap of patients, Wilson for shares, jackknife of patients for calibration). "
            "The difference to size only is paired."
        ),
        "internal": not_applicable("this evaluation is on another dataset than the training")
        if external
        else Fact(f"{unseen} of the same dataset that took no part in training: {where}."),
        "external": Fact(f"Yes: {where}.")
        if external
        else not_applicable(
            "this evaluation is on patients of the dataset of the training; `noduleflow evaluate VERSION --dataset "
            "OTHER` tests a version on those of another"
        ),
        "flow": Fact(
            f"{report.n_nodules} labelled nodules of {report.n_patients} patients"
            + (f", {positive} malignant" if positive is not None else "")
            + f"; {report.n_indeterminate} more without a label are in no figure."
        ),
        "differences": Fact(
            "The evaluation is on another dataset; labels follow the rule of that dataset, predictors are the same."
            + compared
        )
        if external
        else Fact(
            (_site_differences(report, card) if source else "None by design: held-out")
            + " patients are a random part of the same dataset, with the same rule of labels."
            + compared
        ),
        "clusters": Fact(
            "Patients: resampled whole, or with their covariance. Sites: figures of each site by itself "
            f"({n_sites} here)."
        ),
        "updating": not_applicable("calibration and thresholds are used as frozen on validation, none is updated"),
        "sample_size": Fact(
            f"All labelled nodules of {f'site {foreign(source)}' if source else 'the dataset'} were used; "
            "the program plans no sample size."
            + _half_width(report.find("score"))
        ),
    }  # fmt: skip


def _shares(dataset: DatasetCard | None) -> str:
    """Share of malignant nodules in each part of a dataset, all of whose sites were learned from."""
    if dataset is None:
        return ""
    shares = []
    for part in ("train", "validation", "test"):
        benign, malignant = (dataset.counts.get(f"split:{part} label:{label}", 0) for label in (0, 1))
        if benign + malignant:
            shares.append(f"{part} {malignant / (benign + malignant):.0%} of {benign + malignant}")
    return f" Share of malignant nodules: {', '.join(shares)}." if shares else ""


def _site_differences(report: EvaluationReport, card: ModelCard) -> str:
    """Whom a version of one site learned from, and whom it is judged on; it ends where "patients are" goes on."""
    told = card.training
    source, target = foreign(told.get("source_site")), foreign(told.get("target_site") or "")
    judged = ", ".join(foreign(row.site) for row in report.figures if row.score == "score" and row.site != "all")
    counts = (
        f"{told.get('n_train', 'an unknown number of')} nodules, {told.get('n_validation', 'unknown')} in validation"
    )
    text = f"By design: it learned from site {source} ({counts}) and is judged on {judged or 'no site'}. "
    if target and told.get("network") == "joint":
        text = f"By design: it learned from sites {source} and {target} ({counts}) and is judged on {judged}. "
    elif target and not told.get("target_label_weight"):
        text += f"No label of site {target} was learned from. "
    return text + "Held-out"


def _held_out_shares(report: EvaluationReport) -> str:
    """The same of the held-out nodules by site: the dataset's counts know nothing of the sites in a part."""
    shares = [
        f"{foreign(row.site)} {row.auc.n_positive / row.auc.n:.0%} of {row.auc.n}"
        for row in report.figures
        if row.score == "score" and row.site != "all" and row.auc.n and row.auc.n_positive is not None
    ]
    return f" Share of malignant nodules held out: {', '.join(shares)}." if shares else ""


def _half_width(row: ScoreFigures | None) -> str:
    figure = None if row is None else row.auc_clustered or row.auc
    if figure is None or figure.low is None or figure.high is None:
        return ""
    return f" The interval of the AUC is {figure.high - figure.low:.3f} wide."


def _figures(report: EvaluationReport, main: ScoreFigures) -> dict[str, Fact]:
    size = report.find("score_size")
    told = verdict(report)
    named: list[tuple[str, Figure | None]] = [
        ("AUC (DeLong)", main.auc),
        ("AUC (patients together)", main.auc_clustered),
        ("AUC (patient bootstrap)", main.auc_bootstrap),
        ("average precision", main.average_precision),
        ("size-matched AUC", main.size_matched_auc),
        ("Brier score", main.brier),
        ("ECE", main.ece),
        ("calibration slope", main.calibration_slope),
        ("calibration intercept", main.calibration_intercept),
        ("AUC of size only", None if size is None else size.auc),
        ("difference to size only", report.size_auc_difference),
    ]
    performance = "; ".join(f"{name} {interval_text(figure)}" for name, figure in named if figure is not None)
    points = "; ".join(
        f"{point.name.replace('_', ' ')}: threshold {point.threshold:.3f}, sensitivity "
        f"{interval_text(point.sensitivity, digits=2)}, specificity {interval_text(point.specificity, digits=2)}"
        for point in main.operating_points
    )
    if not points and main.sensitivity is not None and main.specificity is not None:
        points = (
            f"threshold {main.threshold:.3f}, sensitivity {interval_text(main.sensitivity, digits=2)}, specificity "
            f"{interval_text(main.specificity, digits=2)}"
        )
    if main.auc.value is None:
        performance += f" ({main.auc.note})" if main.auc.note and main.auc.note not in performance else ""
    return {
        "performance": Fact(f"Image + size, all sites, 95 % interval: {performance}."),
        "precision": Fact(f"At thresholds frozen on validation: {points}.")
        if points
        else missing("no threshold could be frozen on validation, so there is no sensitivity or specificity"),
        "failures": _failures(main),
        "interpretation": Fact(f"{told.headline}. {' '.join(told.sentences)}"),
    }


_FIGURES = ("performance", "precision", "failures", "interpretation")


def _failures(main: ScoreFigures) -> Fact:
    sensitivity, specificity = main.sensitivity, main.specificity
    if sensitivity is None or specificity is None or sensitivity.value is None or specificity.value is None:
        return missing("there is no frozen threshold, so no nodule is called")
    missed = round((1 - sensitivity.value) * sensitivity.n)
    called = round((1 - specificity.value) * specificity.n)
    return Fact(
        f"At the frozen threshold {missed} of {sensitivity.n} malignant nodules are missed and {called} of "
        f"{specificity.n} benign ones are called malignant; predictions.parquet names every one of them, confusion.png "
        "counts them by site. Nobody has looked into single cases for this card."
    )


def _levels(rows: tuple[SubgroupFigures, ...], keep: Callable[[SubgroupFigures], bool]) -> str:
    return "; ".join(
        f"{row.variable} {foreign(row.level)}: AUC {interval_text(row.auc)}, {row.n} nodules"
        + (" (few)" if row.flagged else "")
        for row in rows
        if keep(row)
    )


def _groups(report: EvaluationReport) -> dict[str, Fact]:
    rows = report.subgroups
    people = [row for row in rows if row.variable in ("sex", "age") and row.level != "unknown"]
    scans = [row for row in rows if row.variable in ("thickness", "kernel", "manufacturer") and row.level != "unknown"]
    everyone = _levels(rows, lambda row: True)
    sites = [row for row in report.figures if row.score == "score" and row.site != "all"]
    told = "; ".join(f"{foreign(row.site)}: {interval_text(row.auc)}, {row.auc.n} nodules" for row in sites)
    loss = report.source_minus_target
    if loss is not None and loss.value is not None:
        told += f". Source minus target: {interval_text(loss, signed=True)}"
    return {
        "subgroups": Fact(f"Image + size by subgroup: {everyone}.") if rows else missing(_NO_SUBGROUPS),
        "robustness": Fact(
            f"Figures by subgroup of diameter, texture, scanner and patient where these are known: {everyone}. No "
            "perturbation of images is part of this evaluation."
        )
        if rows
        else missing(_NO_SUBGROUPS),
        "demographics": Fact(
            "Held-out nodules: " + "; ".join(f"{row.variable} {foreign(row.level)} {row.n}" for row in people) + "."
        )
        if people
        else missing("sex and age are not in the data of this run"),
        "acquisition": Fact(
            "Held-out nodules: " + "; ".join(f"{row.variable} {foreign(row.level)} {row.n}" for row in scans) + "."
        )
        if scans
        else missing("slice thickness, kernel and manufacturer are not in the data of this run"),
        "fairness": Fact(
            ("Figures were computed by sex and age" if people else "Sex and age are not known, so nothing was compared")
            + "; no method was used to make groups alike."
        ),
        "heterogeneity": Fact(f"AUC of image + size by site: {told}.")
        if len(sites) > 1
        else not_applicable("the held-out nodules come from one site"),
    }


def _limits(report: EvaluationReport, card: ModelCard, readers: bool) -> dict[str, Fact]:
    few = [f"{row.variable} {foreign(row.level)} ({row.n})" for row in report.subgroups if row.flagged]
    known = dict.fromkeys((*report.warnings, *card.warnings))
    limits = [
        "The label is what readers think of one scan, not a diagnosis; it follows the diameter closely."
        if readers
        else "What stands behind the label is not known to the program.",
        *(f"{foreign_sentence(warning).removesuffix('.')}." for warning in known),
    ]
    if few:
        limits.append(f"Subgroups of fewer than 30 nodules: {', '.join(few)}.")
    unknown = report.find("score_size")
    main = report.find("score")
    without = 0 if unknown is None or main is None else main.auc.n - unknown.auc.n
    return {
        "limitations": Fact(" ".join(limits)),
        "missing_data": Fact(
            "Nothing is imputed. A nodule without a label is in no figure; one without a diameter gets the probability "
            f"of the image alone and is left out of size-only figures ({without} here); a nodule that reaches over the "
            "edge of the scan is filled up and marked."
        ),
        "poor_input": Fact(
            "Series that cannot be trusted (gaps, no rescale, wrong modality ...) are refused with a reason before any "
            "score; the report of `review` names what the checks found, and marks nodules at the edge of the scan."
        ),
        "interaction": Fact(
            "A reader accepts, rejects or corrects each finding of a report; marks of nodules or the program's own "
            "candidates are the input. Readers must be able to read the study without the score."
        ),
        "explainability": Fact("Concepts read out beside malignancy and scored against readers: " + ", ".join(
            f"{row.concept} (Spearman {interval_text(row.spearman, digits=2)})" for row in report.concepts
        ) + ".")
        if report.concepts
        else not_applicable("this run computed no explanation; `noduleflow explain` computes and tests one"),
        "adaptation": Fact(
            f"Offered: {foreign(report.adaptation.method)}. The gate, which sees no target label, chose "
            f"{foreign(report.adaptation.chosen)}."
        )
        if report.adaptation is not None
        else not_applicable("no adaptation to another site was asked for"),
    }  # fmt: skip

"""The words and rows of a report, written once and shown by the page and by the PDF alike."""

from __future__ import annotations

from dataclasses import dataclass

from data_contracts.concepts import concept_title, concept_words
from data_contracts.nodules import RATINGS
from data_contracts.review import Finding, SeriesSummary, StudyReview

NOT_DIAGNOSTIC = "Not for diagnostic use"
NOT_DIAGNOSTIC_DETAIL = (
    "Research decision support. It does not replace reading the study, and no decision about a patient may rest on it."
)
UNTRAINED = "The network behind these figures started from random weights, not from pretrained ones"
UNTRAINED_DETAIL = (
    "No pretrained weights were available when it was trained. Its probabilities are worth little: "
    "use them to check the line, not to judge a nodule."
)


@dataclass(frozen=True)
class Banner:
    """Something that stands above everything else; `level` is "info", "warning" or "alarm"."""

    level: str
    title: str
    text: str


#: DICOM's longest short text is 64 characters; what is longer is an attack or an accident.
_LONGEST_HEADER_TEXT = 100

Rows = list[tuple[str, str]]

CONCEPT_HEADING = "Predicted by the network, not rated"


def banners(review: StudyReview) -> list[Banner]:
    """Banners at the head of the report, most important first."""
    shown = []
    if not review.model.pretrained:
        shown.append(Banner("alarm", UNTRAINED, UNTRAINED_DETAIL))
    shown.append(Banner("info", NOT_DIAGNOSTIC, NOT_DIAGNOSTIC_DETAIL))
    notes = dict.fromkeys((*review.warnings, *review.model.warnings))
    if notes:
        shown.append(Banner("warning", "Please note", " ".join(notes)))
    return shown


def sorted_findings(review: StudyReview) -> list[Finding]:
    """Findings as they are numbered in the report: highest probability first, unknown last, larger first."""
    return sorted(
        review.findings,
        key=lambda finding: (
            -1.0 if finding.probability is None else -finding.probability - 2,
            -finding.measurement.mean_diameter_mm,
            finding.finding_id,
        ),
    )


def percent(probability: float | None) -> str:
    """A probability as a reader wants it: whole percent, never 0 or 100."""
    if probability is None:
        return "not available"
    if probability < 0.01:
        return "< 1 %"
    if probability > 0.99:
        return "> 99 %"
    return f"{round(100 * probability)} %"


def millimetres(value: float | None) -> str:
    """A length to 0.1 mm."""
    return "not measured" if value is None else f"{value:.1f} mm"


def _short(text: str) -> str:
    """Header text as a cell can hold it."""
    return text if len(text) <= _LONGEST_HEADER_TEXT else text[:_LONGEST_HEADER_TEXT] + " ..."


def technique_rows(series: SeriesSummary) -> Rows:
    """How the series was made, as stands at the head of a radiology report."""
    k, j, i = series.spacing_kji_mm
    contrast = {True: "with contrast medium", False: "without contrast medium", None: "not stated"}
    return [
        ("Scanner", _short(series.manufacturer) or "not stated"),
        ("Tube voltage", "not stated" if series.kvp is None else f"{series.kvp:g} kVp"),
        ("Kernel", _short(series.kernel) or "not stated"),
        ("Slice thickness", "not stated" if series.slice_thickness_mm is None else f"{series.slice_thickness_mm:g} mm"),
        ("Slices", f"{series.n_slices}, every {k:.3g} mm"),
        ("Pixel spacing", f"{j:.3g} x {i:.3g} mm"),
        ("Contrast", contrast[series.contrast]),
        ("Site", _short(series.site) or "not stated"),
        ("Series key", series.series_key),
    ]


def quality_sentences(series: SeriesSummary) -> list[str]:
    """What the checks of the series found, in plain words."""
    return [
        f"{finding.code.meaning} {finding.detail}".strip() if finding.detail else finding.code.meaning
        for finding in series.findings
    ]


def model_rows(review: StudyReview) -> Rows:
    """Which network spoke, and what it had seen."""
    card = review.model
    weights = card.weights if card.pretrained else f"{card.weights} (random start, not pretrained)"
    rows = [
        ("Model", f"{review.model_name}, version {review.model_version}"),
        ("Network", f"{card.backbone}, {card.head} head, {card.input.kind} input"),
        ("Starting weights", weights),
        ("Trained on", f"dataset {card.dataset_id}"),
        ("Checkpoint", f"sha256 {card.checkpoint_sha256[:16]}"),
        ("Run", card.run_id),
        ("Intended use", card.intended_use),
    ]
    population = card.training.get("population")
    if population:
        rows.insert(4, ("Training population", str(population)))
    return rows


def measurement_rows(finding: Finding, review: StudyReview) -> Rows:
    """Size and place of a finding."""
    size = finding.measurement
    n_slices = next((series.n_slices for series in review.series if series.series_key == finding.series_key), None)
    rows = [
        ("Mean diameter", millimetres(size.mean_diameter_mm)),
        ("Long, short axis", f"{millimetres(size.long_axis_mm)}, {millimetres(size.short_axis_mm)}"),
        ("Volume", "not measured" if size.volume_mm3 is None else f"{size.volume_mm3:.0f} mm³"),
        ("Mean density", "not measured" if size.mean_hu is None else f"{size.mean_hu:.0f} HU"),
        ("Side", finding.side or "not determined"),
        ("Slice", f"{finding.slice_number} of {n_slices}" if n_slices else str(finding.slice_number)),
        ("Position, mm", "L {:.1f} P {:.1f} S {:.1f}".format(*finding.lps_mm)),
    ]
    if size.long_axis_mm is None:
        del rows[1]
    return rows


def probability_rows(finding: Finding) -> list[tuple[str, float | None, str]]:
    """Probabilities (name, value, words) with the size-only model beside the network: the honest baseline."""
    rows = [
        ("Image and size", finding.probability),
        ("Image alone", finding.probability_image_only),
        ("Size alone", finding.probability_size_only),
    ]
    return [(name, value, percent(value)) for name, value in rows if value is not None or name == "Image and size"]


def reader_rows(finding: Finding) -> Rows:
    """Mean ratings of the readers who marked the nodule before."""
    return [
        (name.replace("_", " ").capitalize(), f"{value:.1f} of {RATINGS[name]}" if name in RATINGS else f"{value:.1f}")
        for name, value in sorted(
            finding.ratings.items(), key=lambda item: list(RATINGS).index(item[0]) if item[0] in RATINGS else 99
        )
    ]


def concept_rows(finding: Finding, review: StudyReview) -> Rows:
    """What the network reads out beside malignancy, each with how well it agreed with readers on held-out patients."""
    rows = []
    for name, value in finding.concepts.items():
        rho = review.model.concept_figures.get(name, {}).get("spearman")
        trust = "" if rho is None else f", Spearman {rho:.2f} with readers"
        rows.append((concept_title(name), f"{concept_words(name, value)}{trust}"))
    return rows


def reader_heading(finding: Finding) -> str:
    """How many readers marked it."""
    return "1 reader" if finding.n_readers == 1 else f"{finding.n_readers} readers"


def note_sentences(finding: Finding) -> list[str]:
    """What a reader must know of this finding's figures."""
    notes = [f"Size: {finding.measurement.method}."]
    if finding.padded:
        notes.append("The nodule lies at the edge of the scanned volume; part of what the network saw was filled up.")
    if finding.probability is None and not finding.note:
        notes.append("The network gave no probability for this nodule.")
    if finding.note:
        notes.append(finding.note)
    return notes

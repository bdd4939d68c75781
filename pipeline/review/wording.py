"""The words and rows of a report, written once and shown by the page and by the PDF alike."""

from __future__ import annotations

from dataclasses import dataclass

from data_contracts.concepts import concept_title, concept_words
from data_contracts.explanation import NO_EXPLANATION
from data_contracts.nodules import RATINGS
from data_contracts.review import Finding, SeriesSummary, StudyReview
from pipeline.review.cutting import short_note, short_text
from pipeline.review.wording_guidelines import TYPE_WORDS, GuidelineLine

NOT_DIAGNOSTIC = "Not for diagnostic use"
NOT_DIAGNOSTIC_DETAIL = (
    "Research decision support. It does not replace reading the study, and no decision about a patient may rest on it."
)
UNTRAINED = "The network behind these figures started from random weights, not from pretrained ones"
UNTRAINED_DETAIL = (
    "No pretrained weights were available when it was trained. Its probabilities are worth little: "
    "use them to check the line, not to judge a nodule."
)
#: of more findings than this the guidelines of the whole study stand before the table, not pages after it
SHORT_LIST = 15
#: no tube gives more in one rotation; some scanners write the sum of a scan, or another unit
_MOST_MAS = 1500

UNFAMILIAR = "Outside what the model was judged on: its figures may not hold here"


def made_words(review: StudyReview) -> str:
    """When the report was made, to the minute: "2026-11-22 18:03 UTC"; as it is where it is no UTC time."""
    day, _, time = review.created_utc.partition("T")
    return f"{day} {time[:5]} UTC" if time.endswith("+00:00") else review.created_utc


@dataclass(frozen=True)
class Banner:
    """Something that stands above everything else; `level` is "info", "warning" or "alarm".

    nodules: (number, finding_id) of those that it speaks of; the page numbers them anew where the model is hidden.
    """

    level: str
    title: str
    text: str
    nodules: tuple[tuple[int, str], ...] = ()

    @property
    def words(self) -> str:
        """The whole text, for paper."""
        named = ", ".join(f"nodule {number}" for number, _ in self.nodules)
        return f"{self.text} See {named}.".strip() if named else self.text


Rows = list[tuple[str, str]]

CONCEPT_HEADING = "Predicted by the network, not rated"


def banners(review: StudyReview) -> list[Banner]:
    """Banners at the head of the report, most important first."""
    shown = []
    numbered = enumerate(sorted_findings(review), start=1)
    strangers = tuple((number, finding.finding_id) for number, finding in numbered if finding.unfamiliar)
    if review.unfamiliar or strangers:
        shown.append(Banner("warning", UNFAMILIAR, " ".join(dict.fromkeys(review.unfamiliar)), strangers))
    if not review.model.pretrained:
        shown.append(Banner("alarm", UNTRAINED, UNTRAINED_DETAIL))
    shown.append(Banner("info", NOT_DIAGNOSTIC, NOT_DIAGNOSTIC_DETAIL))
    notes = dict.fromkeys(map(short_note, (*review.warnings, *review.model.warnings)))
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


def technique_rows(series: SeriesSummary) -> Rows:
    """How the series was made, as stands at the head of a radiology report."""
    k, j, i = series.spacing_kji_mm
    contrast = {True: "with contrast medium", False: "without contrast medium", None: "not stated"}
    return [
        ("Scanner", short_text(series.manufacturer) or "not stated"),
        ("Tube voltage", "not stated" if series.kvp is None else f"{series.kvp:g} kVp"),
        ("Exposure", _exposure_words(series.exposure_mas)),
        ("Kernel", short_text(series.kernel) or "not stated"),
        ("Slice thickness", "not stated" if series.slice_thickness_mm is None else f"{series.slice_thickness_mm:g} mm"),
        ("Slices", f"{series.n_slices}, every {k:.3g} mm"),
        ("Pixel spacing", f"{j:.3g} x {i:.3g} mm"),
        ("Contrast", contrast[series.contrast]),
        ("Site", short_text(series.site) or "not stated"),
        ("Series key", series.series_key),
        *_reading_row(series),
    ]


def _exposure_words(exposure_mas: float | None) -> str:
    if exposure_mas is None:
        return "not stated"
    doubt = "" if 0 < exposure_mas <= _MOST_MAS else " (as the header says; not plausible for one rotation)"
    return f"{exposure_mas:g} mAs{doubt}"


def _reading_row(series: SeriesSummary) -> Rows:
    if series.was_read is None:
        return []
    return [("Read", "yes" if series.was_read else "no: the findings come from another series of the study")]


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
        ("Checkpoint", f"sha256 {card.checkpoint_sha256}"),
        ("Run", card.run_id),
        ("Intended use", card.intended_use),
    ]
    population = card.training.get("population")
    if population:
        rows.insert(4, ("Training population", str(population)))
    return rows


_CALLS = {
    "uncertain": "Call: uncertain, neither benign nor malignant can be ruled out at the error rate it was set to.",
    "malignant": "Call: malignant, benign is ruled out at the error rate it was set to.",
    "benign": "Call: benign, malignant is ruled out at the error rate it was set to.",
}


def measurement_rows(finding: Finding, review: StudyReview) -> Rows:
    """Size and place of a finding."""
    size = finding.measurement
    n_slices = next((series.n_slices for series in review.series if series.series_key == finding.series_key), None)
    rows = [
        ("Mean diameter", diameter_words(finding) + _interval(size.diameter_interval_mm, ".1f")),
        ("Long, short axis", f"{millimetres(size.long_axis_mm)}, {millimetres(size.short_axis_mm)}"),
        ("Volume", cubic_millimetres(size.volume_mm3) + _interval(size.volume_interval_mm3, ".0f")),
        ("Type", type_words(finding)),
        ("Solid part", f"{millimetres(size.solid_diameter_mm)}, {cubic_millimetres(size.solid_volume_mm3)}"),
        ("Mean density", "not measured" if size.mean_hu is None else f"{size.mean_hu:.0f} HU"),
        ("Place", place_words(finding) or "not determined"),
        ("Slice", slice_words(finding, n_slices)),
        ("Position, mm", "L {:.1f} P {:.1f} S {:.1f}".format(*finding.lps_mm)),
    ]
    known = {"Long, short axis": size.long_axis_mm, "Solid part": size.solid_diameter_mm}
    if review.reading in ("blind", "second"):  # the reader's own measure is asked for
        rows = [row for row in rows if row[0] in ("Place", "Slice", "Position, mm")]
    return [row for row in rows if row[0] not in known or known[row[0]] is not None]


def _interval(low_high: tuple[float, float] | None, form: str) -> str:
    return "" if low_high is None else f" ({low_high[0]:{form}} to {low_high[1]:{form}})"


def diameter_words(finding: Finding) -> str:
    """The mean diameter; of a finding that could not be outlined that it is the mark's."""
    words = millimetres(finding.measurement.mean_diameter_mm)
    return words if finding.measurement.volume_mm3 is not None else words.replace(" ", "\u00a0") + ", mark's"


def cubic_millimetres(value: float | None) -> str:
    """A volume to 1 mm3."""
    return "not measured" if value is None else f"{value:.0f} mm³"


def type_words(finding: Finding) -> str:
    """Solid, part-solid or ground glass."""
    kind = finding.measurement.nodule_type
    return "not determined" if kind is None else TYPE_WORDS[kind]


def place_words(finding: Finding) -> str:
    """Lobe where it is known, else the side; "" where neither is."""
    return short_text(finding.lobe or finding.side)


def slice_words(finding: Finding, n_slices: int | None) -> str:
    """Slice of the volume, with the series and image numbers of the scanner where the header has them."""
    words = f"{finding.slice_number} of {n_slices}" if n_slices else str(finding.slice_number)
    if finding.series_number is not None:
        words += f", series {finding.series_number}"
    return words if finding.instance_number is None else f"{words}, image {finding.instance_number}"


def probability_sentence(finding: Finding) -> str:
    """The interval of the probability, or that it is not known, and the call of the conformal set."""
    parts = []
    if finding.probability is not None and finding.probability_interval is not None:
        low, high = finding.probability_interval
        parts.append(f"95 % interval {percent(low)} to {percent(high)}.")
    elif finding.probability is not None:
        parts.append("95 % interval not known: too few held-out patients or nodules.")
    if finding.call:
        parts.append(_CALLS[finding.call])
    return " ".join(parts)


def explanation_sentence(finding: Finding) -> str:
    """What stands with the map or in its place; a report never leaves it open."""
    return finding.explanation or f"{NO_EXPLANATION}: none was made for this nodule."


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
    order = list(RATINGS)
    return [
        (concept_title(name), concept_words(name, finding.ratings[name]))
        for name in sorted(finding.ratings.keys() & RATINGS.keys(), key=order.index)
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


def marked_by(finding: Finding) -> str:
    """Whose mark it is, and how many readers set one."""
    who = "the search for nodules" if finding.source == "candidate" else short_text(finding.source)
    return f"Marked by: {who}" + (f", {reader_heading(finding)}" if finding.n_readers else "")


def note_sentences(finding: Finding) -> list[str]:
    """What a reader must know of this finding's figures."""
    notes = [f"Size: {finding.measurement.method}."]
    if finding.detection_score is not None:
        notes.append(f"Found by the search for nodules, score {finding.detection_score:.2f} of 1; no reader marked it.")
    if finding.padded:
        notes.append("The nodule lies at the edge of the scanned volume; part of what the network saw was filled up.")
    if finding.probability is None and not finding.note:
        notes.append("The network gave no probability for this nodule.")
    if finding.note:
        notes.append(short_note(finding.note))
    return notes


def remarks(line: GuidelineLine) -> list[str]:
    """What could still change a guideline's answer, and its notes."""
    return [f"Not assessed: {line.open_questions}"] * bool(line.open_questions) + list(line.notes)

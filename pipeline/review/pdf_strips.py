"""Strips of report.pdf: the less suspicious findings of many share pages, with all that a page of their own would say.

Only their pictures are fewer and smaller: those in the lung window.
"""

from __future__ import annotations

from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, KeepTogether, Paragraph, Spacer, Table

from data_contracts.review import Finding, StudyReview
from pipeline.review import wording, wording_guidelines
from pipeline.review.key_images import VIEWS
from pipeline.review.pdf_parts import DENSE, PLAIN, WIDTH, markup, rows, small_picture

#: what the pictures leave for the figures that are read first
_FACTS = 62 * mm
_GAP = 6
#: of those, what stands beside the pictures
_FIRST = ("Mean diameter", "Volume", "Type", "Place", "Slice")
_WINDOW = "lung window"
#: by pen, as on a page of its own
ANSWER = "Reader's answer: [  ] accept   [  ] reject   [  ] correct   [  ] malignant   [  ] benign   Reader, date:"
_RUN_IN = ParagraphStyle("run-in", parent=DENSE, fontSize=7.5, leading=9)


def nodule_strip(
    review: StudyReview, finding: Finding, head: list[Flowable], pictures: list[tuple[str, bytes]]
) -> list[Flowable]:
    """A finding in about a quarter of a page.

    head: what stands above it. pictures: (view, PNG), as on a page.
    """
    shown = [(view, content) for view, content in pictures if VIEWS[view].caption.endswith(_WINDOW)]
    side = min(38 * mm, (WIDTH - _FACTS) / max(len(shown), 1) - _GAP)
    cells: list[list[Flowable]] = [small_picture(_caption(view), content, side) for view, content in shown]
    width = WIDTH - len(shown) * (side + _GAP)
    measured = wording.measurement_rows(finding, review)
    first = [_chance(finding), *(row for row in measured if row[0] in _FIRST)]
    lung_rads = wording_guidelines.lung_rads_words(review, finding)
    first += [("Lung-RADS", lung_rads)] if lung_rads else []
    cells.append([rows(first, width, label_mm=22, style=DENSE)])
    strip = Table([cells], colWidths=[side + _GAP] * len(shown) + [width])
    strip.setStyle(PLAIN)
    others = [row for row in measured if row[0] not in _FIRST]
    return [KeepTogether([*head, strip, *_said(review, finding, others), Spacer(1, 12)])]


def nodule_key(finding: Finding) -> str:
    """What the nodule is called in tables."""
    return f"Nodule key {finding.nodule_id}"


def _caption(view: str) -> str:
    """Without the window, which is that of all pictures of a strip."""
    return VIEWS[view].caption.removesuffix(f", {_WINDOW}")


def _chance(finding: Finding) -> tuple[str, str]:
    """The probability with its interval and call, in a line."""
    words = wording.percent(finding.probability)
    if finding.probability is not None and finding.probability_interval is not None:
        words += " ({} to {})".format(*map(wording.percent, finding.probability_interval))
    return "Malignant", words + (f", call: {finding.call}" if finding.call else "")


def _said(review: StudyReview, finding: Finding, measured: wording.Rows) -> list[Flowable]:
    """What does not stand beside the pictures, a run-in paragraph a subject."""
    probabilities = [(name, words) for name, _, words in wording.probability_rows(finding)[1:]]
    not_known = wording.probability_sentence(finding) if finding.probability_interval is None else ""
    subjects = [_joined([*probabilities, *measured], not_known)]
    if review.prior_study_key:
        subjects.append(_joined(wording_guidelines.prior_rows(finding), head="Since the study before"))
    subjects += [_guideline(line) for line in wording_guidelines.nodule_guideline_lines(review, finding)]
    if finding.concepts:
        subjects.append(_joined(wording.concept_rows(finding, review), head=wording.CONCEPT_HEADING))
    if finding.ratings:
        subjects.append(_joined(wording.reader_rows(finding), head=f"Ratings of {wording.reader_heading(finding)}"))
    notes = [wording.explanation_sentence(finding), *wording.note_sentences(finding)]
    subjects.append(markup(" ".join([*notes, f"{wording.marked_by(finding)}.", f"{nodule_key(finding)}."])))
    subjects.append(markup(ANSWER))
    return [Paragraph(subject, _RUN_IN) for subject in subjects if subject]


def _joined(items: wording.Rows, sentence: str = "", *, head: str = "") -> str:
    words = " · ".join(f"{_soft(name)} {markup(value)}" for name, value in items)
    title = f"<b>{markup(head)}:</b> " if head else ""
    return f"{title}{words}{' · ' if words and sentence else ''}{markup(sentence)}"


def _guideline(line: wording_guidelines.GuidelineLine) -> str:
    """As beside a whole page's figures, in one paragraph."""
    trust = f" ({line.trust})" if line.trust else ""
    sentences = [line.reason, *([line.management] if line.management else []), *wording.remarks(line)]
    return f"{_soft(line.name)} <b>{markup(line.answer + trust)}</b> {markup('. '.join(sentences))}"


def _soft(name: str) -> str:
    return f'<font color="#51606e">{markup(name)}</font>'

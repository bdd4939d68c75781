"""report.pdf: the content of the review page on A4: summary, a page a nodule, technique; the same bytes every time."""

from __future__ import annotations

import io

from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from data_contracts.review import Finding, StudyReview
from pipeline.review import wording, wording_guidelines
from pipeline.review.key_images import VIEWS, view_of
from pipeline.review.pdf_parts import (
    BODY,
    BOLD,
    DENSE,
    HEADING,
    IMAGE,
    LABEL,
    LINE,
    MARGIN,
    MODEL,
    PLAIN,
    REMARK,
    SECTION,
    SIZE,
    SMALL,
    SOFT,
    TITLE,
    WIDTH,
    banner,
    columns,
    latin,
    markup,
    meter,
    picture,
    rows,
    text,
)
from pipeline.review.pdf_strips import nodule_key, nodule_strip

#: Of how many findings, the most suspicious first, the PDF has a whole page; the others share pages.
FULL_PAGES = 20

#: reportlab insets every frame by this much.
_FRAME_PADDING = 6
_HALF = WIDTH / 2 - 8


def render_study_pdf(review: StudyReview, images: dict[str, bytes]) -> bytes:
    """The report of a study as PDF (A4, portrait).

    Parameters
    ----------
    review, images: as for the page (`html.render_study`).

    Returns
    -------
    PDF bytes; the same input gives the same bytes. Its metadata name the study key and nothing of the patient.
    """
    findings = wording.sorted_findings(review)
    story = _summary(review, findings)
    for number, finding in enumerate(findings[:FULL_PAGES], start=1):
        story += [PageBreak(), *_nodule_page(review, finding, number, len(findings), images)]
    for number, finding in enumerate(findings[FULL_PAGES:], start=FULL_PAGES + 1):
        if number == FULL_PAGES + 1:
            story.append(PageBreak())
        head = _head(finding, number, len(findings), has_key=False)
        story += nodule_strip(review, finding, head, _pictures(finding, images))
    story += [PageBreak() if findings else Spacer(1, 10), *_technique(review)]
    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer, pagesize=A4, leftMargin=MARGIN - _FRAME_PADDING, rightMargin=MARGIN - _FRAME_PADDING,
        topMargin=14 * mm, bottomMargin=18 * mm,
        title=f"Nodule review {review.study_key}", author="noduleflow", subject=wording.NOT_DIAGNOSTIC,
        creator="noduleflow", invariant=1,
    )  # fmt: skip

    def footer(canvas: Canvas, _: SimpleDocTemplate) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 7.5)
        canvas.setFillColor(SOFT)
        canvas.drawString(MARGIN, 10 * mm, f"{wording.NOT_DIAGNOSTIC}. Study {latin(review.study_key[:64])}")
        model = f"{review.model_name[:64]} version {review.model_version[:32]}, page {canvas.getPageNumber()}"
        canvas.drawRightString(A4[0] - MARGIN, 10 * mm, latin(model))
        canvas.restoreState()

    document.build(story, onFirstPage=footer, onLaterPages=footer)
    return buffer.getvalue()


def _summary(review: StudyReview, findings: list[Finding]) -> list[Flowable]:
    story: list[Flowable] = [
        text("Lung nodule review", TITLE),
        text(f"Study {review.study_key}, made {wording.made_words(review)}", SMALL),
        Spacer(1, 6),
    ]
    for shown in wording.banners(review):
        story += [banner(shown), Spacer(1, 5)]
    story.append(text(f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}", HEADING))
    numbers = {finding.finding_id: number for number, finding in enumerate(findings, start=1)}
    lines = wording_guidelines.study_guideline_lines(review, numbers)
    rules = [text("GUIDELINES, OF THE WHOLE STUDY", SECTION), *_guidelines(lines)] if lines else []
    is_long = len(findings) > wording.SHORT_LIST
    if is_long:
        story += [*rules, Spacer(1, 6)]
    if findings:
        story.append(_finding_table(review, findings))
    if len(findings) > FULL_PAGES:
        story.append(
            text(
                f"The {FULL_PAGES} most suspicious findings have a page each; the others share pages, with "
                "their pictures in the lung window alone.",
                SMALL,
            )
        )
    if not is_long:
        story += rules
    if review.missed_priors:
        story.append(text("NOT FOUND AGAIN: NODULES OF THE STUDY BEFORE", SECTION))
        story += [text("; ".join(wording_guidelines.missed_prior_rows(missed))) for missed in review.missed_priors[:50]]
    story += [Spacer(1, 4), text(f"Where the findings come from: {review.origin_of_findings}")]
    if review.prior_study_key:
        story.append(text(f"Compared with: study {review.prior_study_key}"))
    return story


def _technique(review: StudyReview) -> list[Flowable]:
    left: list[Flowable] = []
    for number, series in enumerate(review.series, start=1):
        title = f"SERIES {number}" if len(review.series) > 1 else "SERIES"
        left += [text(title, SECTION), rows(wording.technique_rows(series), _HALF)]
        left.append(text("IMAGE QUALITY", SECTION))
        sentences = wording.quality_sentences(series) or ["The checks found nothing to report."]
        left += [text(sentence) for sentence in sentences]
    told = wording_guidelines.context_rows(review)
    if told:
        left += [text("WHAT THE GUIDELINES WERE TOLD OF THE PATIENT", SECTION), rows(told, _HALF)]
    right: list[Flowable] = [text("MODEL", SECTION), rows(wording.model_rows(review), _HALF)]
    if review.evaluation_summary:
        right.append(text("HOW IT DID ON PATIENTS HELD OUT", SECTION))
        right.append(rows(list(review.evaluation_summary.items()), _HALF, label_mm=42))
    right.append(text("WHAT THE PROGRAM DID NOT LOOK AT", SECTION))
    right += [text(item) for item in review.not_examined or ("not stated",)]
    story: list[Flowable] = [text("Technique and model", HEADING), columns(left, right)]
    sources = wording_guidelines.sources(review)
    if sources:
        story.append(text("GUIDELINES: SOURCES", SECTION))
        story += [text(f"{name}: {source}", SMALL) for name, source in sources]
        story.append(text(wording_guidelines.UNVERIFIED_DETAIL, SMALL))
    return story


def _finding_table(review: StudyReview, findings: list[Finding]) -> Table:
    has_prior, has_rules = bool(review.prior_study_key), review.guidelines is not None
    heads = ["No.", "Malignant", "", "By size", "Diameter", "Volume", "Type"]
    heads += ["Lung-RADS"] * has_rules + ["Since prior"] * has_prior + ["Place", "Slice"]
    lines: list[list[Flowable]] = [[text(head, LABEL) for head in heads]]
    for number, finding in enumerate(findings, start=1):
        size = finding.measurement
        link = f'<a href="#nodule-{number}" color="#0b5c8a">{number}</a>'
        cells = [wording.percent(finding.probability_size_only), wording.diameter_words(finding)]
        cells += ["-" if size.volume_mm3 is None else wording.cubic_millimetres(size.volume_mm3)]
        cells += [wording.type_words(finding) if size.nodule_type else "-"]
        cells += [wording_guidelines.lung_rads_words(review, finding) or "-"] * has_rules
        cells += [wording_guidelines.change_words(finding) or "-"] * has_prior
        cells += [wording.place_words(finding) or "-", str(finding.slice_number)]
        chance = wording.percent(finding.probability) + (", uncertain" if finding.call == "uncertain" else "")
        first = [Paragraph(link, BODY), meter(finding.probability, MODEL, 12 * mm), text(chance, BOLD)]
        lines.append([*first, *(text(cell, DENSE) for cell in cells)])
    shares = [0.055, 0.1, 0.165, 0.08, 0.125, 0.105, 0.105] + [0.125] * has_rules + [0.12] * has_prior + [0.09, 0.06]
    table = Table(lines, colWidths=[WIDTH * share / sum(shares) for share in shares], repeatRows=1)
    table.setStyle(
        TableStyle(
            [
                ("LINEBELOW", (0, 0), (-1, -1), 0.5, LINE),
                ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (-1, -1), 3),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ]
        )
    )
    return table


def _pictures(finding: Finding, images: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """(view, PNG) of a finding in the order of the page, maps last: paper has no switch, so a review without them asks
    for none."""
    named = {view_of(name): images[name] for name in finding.key_images if name in images}
    return [(view, named[view]) for view in VIEWS if view in named]


def _head(finding: Finding, number: int, n_findings: int, *, has_key: bool = True) -> list[Flowable]:
    kind = f" {wording.type_words(finding)}" if finding.measurement.nodule_type else ""
    size = f"Nodule {number} of {n_findings}, {wording.millimetres(finding.measurement.mean_diameter_mm)}{kind}"
    place = ", ".join(part for part in (wording.place_words(finding), f"slice {finding.slice_number}") if part)
    head = Paragraph(f'<a name="nodule-{number}"/>{markup(f"{size}, {place}")}', HEADING)
    story: list[Flowable] = [head, text(nodule_key(finding), SMALL), Spacer(1, 4)] if has_key else [head]
    if finding.unfamiliar:
        story += [banner(wording.Banner("warning", wording.UNFAMILIAR, finding.unfamiliar)), Spacer(1, 4)]
    return story


def _nodule_page(
    review: StudyReview, finding: Finding, number: int, n_findings: int, images: dict[str, bytes]
) -> list[Flowable]:
    cell = (WIDTH - 10) / 3
    cells: list[list[Flowable]] = [
        picture(VIEWS[view].caption, content, cell * 0.97) for view, content in _pictures(finding, images)
    ]
    cells.append(_probabilities(finding, cell))
    cells += [[] for _ in range(-len(cells) % 3)]
    grid = Table([cells[row : row + 3] for row in range(0, len(cells), 3)], colWidths=[WIDTH / 3] * 3)
    grid.setStyle(PLAIN)
    left: list[Flowable] = [text("SIZE AND PLACE", SECTION), rows(wording.measurement_rows(finding, review), _HALF)]
    right: list[Flowable] = []
    if review.prior_study_key:
        left.append(text("SINCE THE STUDY BEFORE", SECTION))
        left.append(rows(wording_guidelines.prior_rows(finding), _HALF))
    left += [text("WHERE THE NETWORK LOOKED", SECTION), text(wording.explanation_sentence(finding))]
    lines = wording_guidelines.nodule_guideline_lines(review, finding)
    if lines:
        right += [text("GUIDELINES", SECTION), *_guidelines(lines)]
    if finding.concepts:
        right.append(text(wording.CONCEPT_HEADING.upper(), SECTION))
        right.append(rows(wording.concept_rows(finding, review), _HALF))
    if finding.ratings:
        left.append(text(f"RATINGS OF {wording.reader_heading(finding).upper()}", SECTION))
        ratings = "; ".join(f"{name} {value}" for name, value in wording.reader_rows(finding))
        left.append(text(ratings))
    right.append(text("NOTES", SECTION))
    right += [text(note, DENSE) for note in (*wording.note_sentences(finding), wording.marked_by(finding))]
    head = _head(finding, number, n_findings)
    return [*head, grid, Spacer(1, 2), columns(left, right), Spacer(1, 8), _answer_line()]


def _guidelines(lines: list[wording_guidelines.GuidelineLine]) -> list[Flowable]:
    story: list[Flowable] = []
    for line in lines:
        trust = f" ({line.trust})" if line.trust else ""
        words = f"{line.reason}{f'. {line.management}' if line.management else ''}"
        name, answer = markup(line.name), markup(line.answer + trust)
        story.append(Paragraph(f'<font color="#51606e">{name}</font> <b>{answer}</b><br/>{markup(words)}', DENSE))
        story += [text(remark, REMARK) for remark in wording.remarks(line)]
    return story


def _answer_line() -> Table:
    """The answer by pen, for the printed page."""
    line = [text(f"[  ] {word}") for word in ("accept", "reject", "correct", "malignant", "benign")]
    widths = [31 * mm, *[24 * mm] * len(line), None]
    table = Table([[text("Reader's answer", BOLD), *line, text("Reader, date:")]], colWidths=widths)
    table.setStyle(TableStyle([("BOX", (0, 0), (-1, -1), 0.5, LINE), ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    return table


def _probabilities(finding: Finding, width: float) -> list[Flowable]:
    """The network's probability with the size-only one below it, as bars; interval and call."""
    by_name = {"Image and size": MODEL, "Image alone": IMAGE, "Size alone": SIZE}
    bars = [
        [text(name), meter(value, by_name[name], 13 * mm), text(words, BOLD)]
        for name, value, words in wording.probability_rows(finding)
    ]
    table = Table(bars, colWidths=[25 * mm, 16 * mm, width - 41 * mm])
    table.setStyle(TableStyle([*PLAIN.getCommands(), ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    sentence = wording.probability_sentence(finding)
    return [text("PROBABILITY OF MALIGNANCY", SECTION), table, *([text(sentence, DENSE)] if sentence else [])]

"""report.pdf: the content of the review page on A4, a summary and then one page a nodule; the same bytes every time."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from reportlab.graphics.shapes import Drawing, Rect
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Image, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from data_contracts.review import Finding, StudyReview
from pipeline.review import wording
from pipeline.review.key_images import VIEWS, view_of

_INK = colors.HexColor("#17212b")
_SOFT = colors.HexColor("#51606e")
_LINE = colors.HexColor("#d5dce3")
_TINT = colors.HexColor("#e8f1f7")
_MODEL, _IMAGE, _SIZE = (colors.HexColor(code) for code in ("#0b5c8a", "#5b8db0", "#8a6d1f"))
_BANNER = {
    "alarm": (colors.HexColor("#9c1f1f"), colors.white),
    "warning": (colors.HexColor("#fff6df"), _INK),
    "info": (_TINT, _INK),
}

_BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9, leading=12.5, textColor=_INK, splitLongWords=1)
_SMALL = ParagraphStyle("small", parent=_BODY, fontSize=8, leading=10.5, textColor=_SOFT)
_LABEL = ParagraphStyle("label", parent=_BODY, textColor=_SOFT)
_BOLD = ParagraphStyle("bold", parent=_BODY, fontName="Helvetica-Bold")
_TITLE = ParagraphStyle("title", parent=_BODY, fontName="Helvetica-Bold", fontSize=16, leading=20)
_HEADING = ParagraphStyle("heading", parent=_BODY, fontName="Helvetica-Bold", fontSize=12, leading=16, spaceAfter=3)
_SECTION = ParagraphStyle(
    "section", parent=_BODY, fontName="Helvetica-Bold", fontSize=7.5, leading=10, textColor=_SOFT, spaceBefore=7,
    spaceAfter=2,
)  # fmt: skip
_MARGIN = 16 * mm
_WIDTH = A4[0] - 2 * _MARGIN
#: reportlab insets every frame by this much.
_FRAME_PADDING = 6
#: Longest text that is set in full; a hostile header string must not fill a page.
_LONGEST_TEXT = 400


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
    for number, finding in enumerate(findings, start=1):
        story += [PageBreak(), *_nodule_page(review, finding, number, len(findings), images)]
    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer, pagesize=A4, leftMargin=_MARGIN - _FRAME_PADDING, rightMargin=_MARGIN - _FRAME_PADDING,
        topMargin=14 * mm, bottomMargin=18 * mm,
        title=f"Nodule review {review.study_key}", author="noduleflow", subject=wording.NOT_DIAGNOSTIC,
        creator="noduleflow", invariant=1,
    )  # fmt: skip

    def footer(canvas: Canvas, _: SimpleDocTemplate) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 7.5)
        canvas.setFillColor(_SOFT)
        canvas.drawString(_MARGIN, 10 * mm, f"{wording.NOT_DIAGNOSTIC}. Study {_latin(review.study_key)}")
        model = f"{review.model_name} version {review.model_version}, page {canvas.getPageNumber()}"
        canvas.drawRightString(A4[0] - _MARGIN, 10 * mm, _latin(model))
        canvas.restoreState()

    document.build(story, onFirstPage=footer, onLaterPages=footer)
    return buffer.getvalue()


def _summary(review: StudyReview, findings: list[Finding]) -> list[Flowable]:
    story: list[Flowable] = [
        _text("Lung nodule review", _TITLE),
        _text(f"Study {review.study_key}, made {review.created_utc}", _SMALL),
        Spacer(1, 6),
    ]
    for banner in wording.banners(review):
        ground, ink = _BANNER[banner.level]
        style = ParagraphStyle("banner", parent=_BODY, textColor=ink)
        title = ParagraphStyle("banner title", parent=_BOLD, textColor=ink)
        box = Table([[[_text(banner.title, title), _text(banner.text, style)]]], colWidths=[_WIDTH])
        box.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, -1), ground), ("ROUNDEDCORNERS", [4, 4, 4, 4])]))
        story += [box, Spacer(1, 5)]
    story.append(_text(f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}", _HEADING))
    if findings:
        story.append(_finding_table(findings))
    story += [Spacer(1, 4), _text(f"Where the findings come from: {review.origin_of_findings}"), Spacer(1, 6)]
    left: list[Flowable] = []
    for series in review.series:
        left += [_text("SERIES", _SECTION), _rows(wording.technique_rows(series), _WIDTH / 2 - 8)]
        left.append(_text("IMAGE QUALITY", _SECTION))
        sentences = wording.quality_sentences(series) or ["The checks found nothing to report."]
        left += [_text(sentence) for sentence in sentences]
    right: list[Flowable] = [_text("MODEL", _SECTION), _rows(wording.model_rows(review), _WIDTH / 2 - 8)]
    if review.evaluation_summary:
        right.append(_text("HOW IT DID ON PATIENTS HELD OUT", _SECTION))
        right.append(_rows(list(review.evaluation_summary.items()), _WIDTH / 2 - 8))
    right.append(_text("WHAT THE PROGRAM DID NOT LOOK AT", _SECTION))
    right += [_text(item) for item in review.not_examined or ("not stated",)]
    columns = Table([[left, right]], colWidths=[_WIDTH / 2, _WIDTH / 2], splitInRow=1)
    columns.setStyle(_PLAIN)
    return [*story, columns]


def _finding_table(findings: list[Finding]) -> Table:
    heads = ("No.", "Malignant", "", "By size alone", "Mean diameter", "Volume", "Side", "Slice")
    lines: list[list[Flowable]] = [[_text(head, _LABEL) for head in heads]]
    for number, finding in enumerate(findings, start=1):
        size = finding.measurement
        volume = "not measured" if size.volume_mm3 is None else f"{size.volume_mm3:.0f} mm³"
        link = f'<a href="#nodule-{number}" color="#0b5c8a">Nodule {number}</a>'
        lines.append(
            [
                Paragraph(link, _BODY),
                _meter(finding.probability, _MODEL, 20 * mm),
                _text(wording.percent(finding.probability), _BOLD),
                _text(wording.percent(finding.probability_size_only), _LABEL),
                _text(wording.millimetres(size.mean_diameter_mm)),
                _text(volume),
                _text(finding.side or "-"),
                _text(str(finding.slice_number)),
            ]
        )
    shares = (0.12, 0.14, 0.12, 0.14, 0.16, 0.14, 0.1, 0.08)
    table = Table(lines, colWidths=[_WIDTH * share for share in shares], repeatRows=1)
    table.setStyle(
        TableStyle(
            [
                ("LINEBELOW", (0, 0), (-1, -1), 0.5, _LINE),
                ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ]
        )
    )
    return table


def _nodule_page(
    review: StudyReview, finding: Finding, number: int, n_findings: int, images: dict[str, bytes]
) -> list[Flowable]:
    head = f"Nodule {number} of {n_findings}, {wording.millimetres(finding.measurement.mean_diameter_mm)}"
    place = ", ".join(part for part in (finding.side, f"slice {finding.slice_number}") if part)
    story: list[Flowable] = [
        Paragraph(f'<a name="nodule-{number}"/>{_markup(f"{head}, {place}")}', _HEADING),
        _text(f"Nodule key {finding.nodule_id}", _SMALL),
        Spacer(1, 4),
    ]
    pictures = [
        (view, images[name])
        for view in VIEWS
        for name in finding.key_images
        if view_of(name) == view and name in images
    ]
    cell = (_WIDTH - 10) / 3
    cells: list[list[Flowable]] = [_picture(VIEWS[view].caption, content, cell) for view, content in pictures]
    cells.append(_probabilities(finding, cell))
    cells += [[] for _ in range(-len(cells) % 3)]
    grid = Table([cells[row : row + 3] for row in range(0, len(cells), 3)], colWidths=[_WIDTH / 3] * 3)
    grid.setStyle(_PLAIN)
    story += [grid, Spacer(1, 4)]
    left: list[Flowable] = [
        _text("SIZE AND PLACE", _SECTION),
        _rows(wording.measurement_rows(finding, review), _WIDTH / 2 - 8),
    ]
    right: list[Flowable] = []
    if finding.explanation:
        left += [_text("WHERE THE NETWORK LOOKED", _SECTION), _text(finding.explanation)]
    if finding.concepts:
        right.append(_text(wording.CONCEPT_HEADING.upper(), _SECTION))
        right.append(_rows(wording.concept_rows(finding, review), _WIDTH / 2 - 8))
    if finding.ratings:
        right.append(_text(f"RATINGS OF {wording.reader_heading(finding).upper()}", _SECTION))
        right.append(_rows(wording.reader_rows(finding), _WIDTH / 2 - 8))
    right.append(_text("NOTES", _SECTION))
    right += [_text(note) for note in wording.note_sentences(finding)]
    right.append(_text(f"Marked by: {finding.source}"))
    columns = Table([[left, right]], colWidths=[_WIDTH / 2, _WIDTH / 2], splitInRow=1)
    columns.setStyle(_PLAIN)
    return [*story, columns, Spacer(1, 10), _answer_line()]


def _answer_line() -> Table:
    """The answer by pen, for the printed page."""
    line = [_text(f"[  ] {word}") for word in ("accept", "reject", "correct", "malignant", "benign")]
    widths = [31 * mm, *[24 * mm] * len(line), None]
    table = Table([[_text("Reader's answer", _BOLD), *line, _text("Reader, date:")]], colWidths=widths)
    table.setStyle(TableStyle([("BOX", (0, 0), (-1, -1), 0.5, _LINE), ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    return table


def _probabilities(finding: Finding, width: float) -> list[Flowable]:
    """The network's probability with the size-only one below it, as bars."""
    by_name = {"Image and size": _MODEL, "Image alone": _IMAGE, "Size alone": _SIZE}
    bars = [
        [_text(name), _meter(value, by_name[name], 13 * mm), _text(words, _BOLD)]
        for name, value, words in wording.probability_rows(finding)
    ]
    table = Table(bars, colWidths=[25 * mm, 16 * mm, width - 41 * mm])
    table.setStyle(TableStyle([*_PLAIN.getCommands(), ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    return [_text("PROBABILITY OF MALIGNANCY", _SECTION), table]


_PLAIN = TableStyle(
    [("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP"), ("TOPPADDING", (0, 0), (-1, -1), 0.5),
     ("BOTTOMPADDING", (0, 0), (-1, -1), 0.5)]
)  # fmt: skip


def _rows(rows: wording.Rows, width: float) -> Table:
    cells = [[_text(name, _LABEL), _text(value)] for name, value in rows]
    table = Table(cells, colWidths=[31 * mm, width - 31 * mm], splitInRow=1)
    table.setStyle(_PLAIN)
    return table


def _picture(caption: str, content: bytes, side: float) -> list[Flowable]:
    return [Image(io.BytesIO(content), width=side, height=side), _text(caption, _SMALL)]


def _meter(value: float | None, color: colors.Color, width: float) -> Drawing:
    drawing = Drawing(width, 7)
    if value is not None:
        drawing.add(Rect(0, 0, width, 6, fillColor=_LINE, strokeColor=None))
        drawing.add(Rect(0, 0, width * value, 6, fillColor=color, strokeColor=None))
    return drawing


def _text(text: str, style: ParagraphStyle = _BODY) -> Paragraph:
    return Paragraph(_markup(text), style)


def _markup(text: str) -> str:
    """Escaped text; letters that the PDF's standard fonts lack are set in DejaVu Sans."""
    short = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
    clean = "".join(letter if letter.isprintable() else " " for letter in short)
    if _latin(clean) == clean:
        return escape(clean)
    return f'<font name="{_wide_font()}">{escape(clean)}</font>'


def _latin(text: str) -> str:
    """The text with `?` for letters that the standard fonts lack."""
    return text.encode("cp1252", errors="replace").decode("cp1252")


@cache
def _wide_font() -> str:
    """DejaVu Sans, which comes with matplotlib."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    pdfmetrics.registerFont(TTFont("DejaVuSans", str(path)))
    return "DejaVuSans"

"""Pieces of report.pdf: styles, escaped text in any script, rows, meters and pictures."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
import PIL.Image
from reportlab import rl_config
from reportlab.graphics.shapes import Drawing, Rect
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Image, Paragraph, Table, TableStyle

from pipeline.review import wording
from pipeline.review.cutting import not_endless

#: pictures as bytes: as text they take twice the time and a quarter more room
rl_config.useA85 = 0

#: nothing of it is seen at the size of a strip
_JPEG_QUALITY = 90

INK = colors.HexColor("#17212b")
SOFT = colors.HexColor("#51606e")
LINE = colors.HexColor("#d5dce3")
TINT = colors.HexColor("#e8f1f7")
MODEL, IMAGE, SIZE = (colors.HexColor(code) for code in ("#0b5c8a", "#5b8db0", "#8a6d1f"))

BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9, leading=12.5, textColor=INK, splitLongWords=1)
SMALL = ParagraphStyle("small", parent=BODY, fontSize=8, leading=10.5, textColor=SOFT)
DENSE = ParagraphStyle("dense", parent=BODY, fontSize=8, leading=10.2)
REMARK = ParagraphStyle("remark", parent=DENSE, fontSize=7, leading=8.6, textColor=SOFT)
LABEL = ParagraphStyle("label", parent=BODY, textColor=SOFT)
BOLD = ParagraphStyle("bold", parent=BODY, fontName="Helvetica-Bold")
TITLE = ParagraphStyle("title", parent=BODY, fontName="Helvetica-Bold", fontSize=16, leading=20)
HEADING = ParagraphStyle("heading", parent=BODY, fontName="Helvetica-Bold", fontSize=12, leading=16, spaceAfter=3)
SECTION = ParagraphStyle(
    "section", parent=BODY, fontName="Helvetica-Bold", fontSize=7.5, leading=10, textColor=SOFT, spaceBefore=7,
    spaceAfter=2,
)  # fmt: skip
MARGIN = 16 * mm
WIDTH = A4[0] - 2 * MARGIN
PLAIN = TableStyle(
    [("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP"), ("TOPPADDING", (0, 0), (-1, -1), 0.5),
     ("BOTTOMPADDING", (0, 0), (-1, -1), 0.5)]
)  # fmt: skip
_BANNER = {
    "alarm": (colors.HexColor("#9c1f1f"), colors.white),
    "warning": (colors.HexColor("#fff6df"), INK),
    "info": (TINT, INK),
}


def text(words: str, style: ParagraphStyle = BODY) -> Paragraph:
    """Words as they are, whatever they hold."""
    return Paragraph(markup(words), style)


def markup(words: str) -> str:
    """Escaped text; letters that the PDF's standard fonts lack are set in DejaVu Sans.

    What comes from headers has been cut where it was worded; a report's own sentences are said to their end.
    """
    clean = "".join(letter if letter.isprintable() else " " for letter in not_endless(words))
    if latin(clean) == clean:
        return escape(clean)
    return f'<font name="{_wide_font()}">{escape(clean)}</font>'


def latin(words: str) -> str:
    """The text with `?` for letters that the standard fonts lack."""
    return words.encode("cp1252", errors="replace").decode("cp1252")


@cache
def _wide_font() -> str:
    """DejaVu Sans, which comes with matplotlib."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    pdfmetrics.registerFont(TTFont("DejaVuSans", str(path)))
    return "DejaVuSans"


def rows(items: wording.Rows, width: float, *, label_mm: float = 31, style: ParagraphStyle = BODY) -> Table:
    """Names and values in two columns."""
    label = LABEL if style is BODY else ParagraphStyle("small label", parent=style, textColor=SOFT)
    cells = [[text(name, label), text(value, style)] for name, value in items]
    table = Table(cells, colWidths=[label_mm * mm, width - label_mm * mm], splitInRow=1)
    table.setStyle(PLAIN)
    return table


def columns(left: list[Flowable], right: list[Flowable]) -> Table:
    """Two halves of the page side by side; it may be split over pages."""
    table = Table([[left, right]], colWidths=[WIDTH / 2, WIDTH / 2], splitInRow=1)
    table.setStyle(PLAIN)
    return table


def banner(shown: wording.Banner) -> Table:
    """A coloured box with a title."""
    ground, ink = _BANNER[shown.level]
    style = ParagraphStyle("banner", parent=BODY, textColor=ink)
    title = ParagraphStyle("banner title", parent=BOLD, textColor=ink)
    box = Table([[[text(shown.title, title), text(shown.words, style)]]], colWidths=[WIDTH], splitInRow=1)
    box.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, -1), ground), ("ROUNDEDCORNERS", [4, 4, 4, 4])]))
    return box


def picture(caption: str, content: bytes, side: float) -> list[Flowable]:
    """A key image with its caption."""
    return [Image(io.BytesIO(content), width=side, height=side), text(caption, SMALL)]


def small_picture(caption: str, content: bytes, side: float) -> list[Flowable]:
    """A key image of a few centimetres, as JPEG: lossless ones of hundreds would be most of the file."""
    held = io.BytesIO()
    PIL.Image.open(io.BytesIO(content)).save(held, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return picture(caption, held.getvalue(), side)


def meter(value: float | None, color: colors.Color, width: float) -> Drawing:
    """A probability as a bar."""
    drawing = Drawing(width, 7)
    if value is not None:
        drawing.add(Rect(0, 0, width, 6, fillColor=LINE, strokeColor=None))
        drawing.add(Rect(0, 0, width * value, 6, fillColor=color, strokeColor=None))
    return drawing

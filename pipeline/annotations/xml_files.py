"""Marks out of LIDC reader XML and PASCAL VOC XML, parsed so that a hostile file can neither expand nor reach out."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from data_contracts.errors import AnnotationError
from data_contracts.nodules import RATINGS, NoduleAnnotation

_MAX_BYTES = 64 * 2**20
_MAX_DEPTH = 64
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_CLASS = re.compile(r"[A-Za-z0-9_-]{1,16}")
#: names of the ratings as the XML spells them
_RATING_ELEMENTS = {name.replace("_", "").lower(): name for name in RATINGS}

Contour = tuple[str, float, bool, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class LidcReading:
    """marks: the nodules of 3 mm and more, one a reader. n_small: smaller ones, given as a point only.

    n_non_nodules: lesions that a reader marked as no nodule.
    """

    marks: tuple[NoduleAnnotation, ...]
    n_small: int
    n_non_nodules: int


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file without namespaces; see parse_xml_bytes."""
    try:
        content = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
    except OSError:
        raise AnnotationError("the XML file cannot be read") from None
    return parse_xml_bytes(content)


def parse_xml_bytes(content: bytes) -> ElementTree.Element:
    """The root of an XML document without namespaces.

    Raises
    ------
    AnnotationError: not XML, too large or too deep, or with a DOCTYPE (which alone can declare entities).
    """
    if not content or len(content) > _MAX_BYTES:
        raise AnnotationError("the XML file is empty or larger than 64 MiB")
    depth = 0

    def refuse(*_: object) -> NoReturn:
        raise AnnotationError("the XML file has a DOCTYPE", todo="Remove it; annotations need none.")

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise AnnotationError(f"the XML file is nested more than {_MAX_DEPTH} deep")

    def leave(*_: object) -> None:
        nonlocal depth
        depth -= 1

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    guard.StartElementHandler, guard.EndElementHandler = enter, leave
    try:
        guard.Parse(content, True)
        root = ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError):
        raise AnnotationError("the file is not well-formed XML") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def read_lidc_xml(path: Path) -> LidcReading:
    """Nodules that the readers of a LIDC XML file outlined, readers numbered in order (reader-1, ...).

    Raises
    ------
    AnnotationError: not a LIDC reader file.
    """
    root = parse_xml(path)
    if root.tag != "LidcReadMessage":
        raise AnnotationError("not a LIDC reader file: there is no LidcReadMessage")
    header = next((child for child in root if child.tag == "ResponseHeader"), root)
    series = next((_text(child) for child in header if child.tag.lower() == "seriesinstanceuid"), "")
    marks: list[NoduleAnnotation] = []
    n_small = n_non_nodules = 0
    for number, session in enumerate(root.findall("readingSession"), start=1):
        n_non_nodules += len(session.findall("nonNodule"))
        for ordinal, nodule in enumerate(session.findall("unblindedReadNodule"), start=1):
            contours = [_lidc_contour(roi) for roi in nodule.findall("roi")]
            # below 3 mm readers gave a point and no ratings
            if all(contour is not None and len(contour[3]) == 1 for contour in contours):
                n_small += 1
                continue
            whole = [contour for contour in contours if contour is not None]
            marks.append(
                NoduleAnnotation(
                    series_instance_uid=series,
                    sop_instance_uid=whole[0][0] if whole else "",
                    reader=f"reader-{number}",
                    ratings=_lidc_ratings(nodule),
                    source="lidc-xml",
                    place=f"reader {number}, nodule {ordinal}",
                    contours=tuple(whole) if len(whole) == len(contours) else (),
                )
            )
    return LidcReading(tuple(marks), n_small, n_non_nodules)


def _lidc_contour(roi: ElementTree.Element) -> Contour | None:
    """One outline; None where it cannot be read, which refuses the nodule."""
    try:
        points = tuple(
            (float(_text(edge.find("xCoord"))), float(_text(edge.find("yCoord")))) for edge in roi.findall("edgeMap")
        )
        z_mm = float(_text(roi.find("imageZposition")))
    except ValueError:
        return None
    uid = _text(roi.find("imageSOP_UID"))
    if not points or not _UID.fullmatch(uid) or not all(math.isfinite(value) for point in points for value in point):
        return None
    return uid, z_mm, _text(roi.find("inclusion")).upper() != "FALSE", points


def _lidc_ratings(nodule: ElementTree.Element) -> dict[str, float]:
    ratings = {}
    for element in nodule.findall("characteristics/*"):
        name = _RATING_ELEMENTS.get(element.tag.lower())
        # readers of the first sessions left some at 0, which is no rating
        if name is not None and _text(element).isdigit() and 1 <= int(_text(element)) <= RATINGS[name]:
            ratings[name] = float(_text(element))
    return ratings


def read_voc_xml(path: Path) -> list[NoduleAnnotation]:
    """Boxes of one PASCAL VOC file named after the SOP Instance UID of its slice, as contours of four corners.

    The class name goes into `source` ("voc-xml:A").

    Raises
    ------
    AnnotationError: not a VOC file, or a name that is no UID.
    """
    if not _UID.fullmatch(path.stem):
        raise AnnotationError("a VOC file must be named after the SOP Instance UID of its slice")
    root = parse_xml(path)
    if root.tag != "annotation":
        raise AnnotationError("not a PASCAL VOC file: there is no annotation element")
    marks = []
    for ordinal, item in enumerate(root.findall("object"), start=1):
        try:
            left, top, right, bottom = (
                float(_text(item.find(f"bndbox/{name}"))) for name in ("xmin", "ymin", "xmax", "ymax")
            )
            whole = math.isfinite(left + top + right + bottom) and left < right and top < bottom
        except ValueError:
            whole = False
        kind = _text(item.find("name"))
        box: tuple[Contour, ...] = ()
        if whole:
            box = ((path.stem, 0.0, True, ((left, top), (right, top), (right, bottom), (left, bottom))),)
        marks.append(
            NoduleAnnotation(
                sop_instance_uid=path.stem,
                reader="voc",
                source=f"voc-xml:{kind}" if _CLASS.fullmatch(kind) else "voc-xml",
                place=f"object {ordinal}",
                contours=box,
            )
        )
    return marks


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()

"""Content items of a structured report as they are read back."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from pipeline.review.dicom.codes import Code


def items(parent: Dataset | None, concept: Code) -> Iterator[Dataset]:
    """Children with a concept name."""
    for item in (parent.get("ContentSequence") if parent is not None else None) or []:
        names = item.get("ConceptNameCodeSequence")
        if names and str(names[0].get("CodeValue", "")) == concept[0]:
            yield item


def child_words(parent: Dataset | None, concept: Code) -> str:
    """The text of the children with a concept name; "" where there is none."""
    return "".join(str(item.get("TextValue", "")) for item in items(parent, concept))


def code_of(item: Dataset) -> str:
    """The value of a coded item; "" of another."""
    given = item.get("ConceptCodeSequence")
    return str(given[0].get("CodeValue", "")) if given else ""


def number_of(item: Dataset) -> float:
    """The value of a numeric item."""
    return float(item.MeasuredValueSequence[0].NumericValue)

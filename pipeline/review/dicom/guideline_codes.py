"""Coded terms of what Lung-RADS, Fleischner 2017, BTS 2015 and the Brock models say: (code value, scheme, meaning).

No standard has them: PS3.16 of 2026 and SNOMED CT know recommendations of mammography alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.review.dicom import feedback_codes as answers
from pipeline.review.dicom.codes import PRIVATE_SCHEME, Code


@dataclass(frozen=True)
class GuidelineTerms:
    """How a report states the result of one guideline.

    field: its name in the guidelines of a nodule and of a study. categories: category -> code. possible: concept of a
    category that the error of the measurement allows. condition, recommendation, refusal: concepts of sentences.
    checked: concept of whether the rule was checked, which is said where it was not.
    """

    field: str
    category: Code
    categories: dict[str, Code]
    possible: Code
    condition: Code
    recommendation: Code
    refusal: Code
    checked: Code


@dataclass(frozen=True)
class BrockTerms:
    """How a report states the result of one variant of the Brock model.

    method: of the probability of cancer. limits: lower and upper one. basis, refusal: concepts of sentences.
    """

    method: Code
    limits: tuple[Code, Code]
    basis: Code
    refusal: Code


def _private(value: str, meaning: str) -> Code:
    return value, PRIVATE_SCHEME, meaning


def _terms(field: str, value: str, name: str, category: Code, categories: dict[str, Code]) -> GuidelineTerms:
    short = name.rsplit(" ", 1)[0]
    return GuidelineTerms(
        field=field,
        category=category,
        categories=categories,
        possible=_private(f"{value}_ERROR", f"{short} within the error of measurement"),
        condition=_private(f"{value}_IF", f"{short} category holds if"),
        recommendation=_private(f"{value}_DO", f"{name} recommendation"),
        refusal=_private(f"{value}_NONE", f"Why there is no {name} category"),
        checked=_private(f"{value}_CHECK", f"{name} rule was checked"),
    )


_FLEISCHNER = {
    "none": "FL_NONE",
    "optional CT at 12 months": "FL_CT12_OPTIONAL",
    "CT at 6-12 months": "FL_CT6_12",
    "CT at 3-6 months": "FL_CT3_6",
    "CT at 3 months, PET/CT or tissue sampling": "FL_CT3_OR_MORE",
}
_BTS = {
    "discharge": "BTS_DISCHARGE",
    "CT at 1 year": "BTS_CT12",
    "CT at 3 months": "BTS_CT3",
    "surveillance or biopsy": "BTS_CT_OR_BIOPSY",
    "Brock 10 % or more": "BTS_BROCK10",
    "further investigation": "BTS_INVESTIGATE",
}


def _categories(values: dict[str, str], name: str) -> dict[str, Code]:
    return {category: _private(value, f"{name}: {category}") for category, value in values.items()}


LUNG_RADS = _terms("lung_rads", "LUNGRADS", "Lung-RADS v2022", answers.CATEGORY, answers.CATEGORIES)
FLEISCHNER = _terms(
    "fleischner",
    "FLEISCHNER",
    "Fleischner 2017",
    _private("FLEISCHNER", "Fleischner 2017 category"),
    _categories(_FLEISCHNER, "Fleischner"),
)
BTS = _terms("bts", "BTS", "BTS 2015", _private("BTS", "BTS 2015 category"), _categories(_BTS, "BTS"))
GUIDELINES = (LUNG_RADS, FLEISCHNER, BTS)


def _brock(value: str, variant: str) -> BrockTerms:
    limits = (_private(f"{value}_{end}", f"Brock {variant}, {word} limit by error of size") for end, word in _ENDS)
    lower, upper = limits
    return BrockTerms(
        method=_private(value, f"Brock (PanCan) model {variant}"),
        limits=(lower, upper),
        basis=_private(f"{value}_FROM", f"Brock {variant}: from what"),
        refusal=_private(f"{value}_NONE", f"Why there is no Brock probability {variant}"),
    )


_ENDS = (("L95", "lower"), ("U95", "upper"))
#: variant of the model -> terms, in the order of its table
BROCK = {
    "with spiculation": _brock("BROCK_2B", "with spiculation"),
    "without spiculation": _brock("BROCK_2A", "without spiculation"),
}
#: of CID 228: where the formula of a number comes from
CITATION: Code = ("121421", "DCM", "Equation Citation")

#: the reason of a result of which a report says nothing
UNSAID = "not in the report in DICOM"

MODIFIER = _private("LUNGRADS_MOD", "Lung-RADS modifier")
MODIFIERS: dict[str, Code] = {"S": _private("LR_S", "S: other significant finding")}

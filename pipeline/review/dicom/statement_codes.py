"""Coded terms of what a report states of a finding or a study beside its figures: (code value, coding scheme, meaning).

Type, Lung-RADS category, malignant, benign and yes are those of a reader's answers, so that both can be compared.
"""

from __future__ import annotations

from pipeline.review.dicom.codes import PRIVATE_SCHEME, Code
from pipeline.review.dicom.feedback_codes import MALIGNANCIES, YES_NO


def _private(value: str, meaning: str) -> Code:
    return value, PRIVATE_SCHEME, meaning


def _limits(value: str, meaning: str) -> tuple[Code, Code]:
    lower = _private(f"{value}_L95", f"{meaning}, lower limit of the 95 % interval")
    return lower, _private(f"{value}_U95", f"{meaning}, upper limit of the 95 % interval")


#: TID 1500 has this container for what is of the whole study
STUDY_STATEMENTS: Code = ("C0034375", "UMLS", "Qualitative Evaluations")
METHOD: Code = ("370129005", "SCT", "Measurement Method")
#: tells the type of a nodule from a texture that the network reads out: both have one concept
MEASURED_TYPE = _private("TYPE_MEASURED", "From the measured densities")

#: (lower, upper) limit of an interval. Names of their own: checkers refuse the ranges of TID 310 inside TID 1419, those
#: do not tell their level, and a limit under the name of its measurement would be taken for one.
DIAMETER_LIMITS = _limits("DIAMETER", "Diameter")
VOLUME_LIMITS = _limits("VOLUME", "Volume")
PROBABILITY_LIMITS = _limits("PROBABILITY", "Probability of cancer")

SOLID_DIAMETER = _private("SOLID_DIAMETER", "Diameter of the solid part")
SOLID_VOLUME = _private("SOLID_VOLUME", "Volume of the solid part")

CALL = _private("CALL", "Call at the error rate it was set to")
CALLS: dict[str, Code] = {
    "uncertain": ("64957009", "SCT", "Uncertain"),
    "malignant": MALIGNANCIES[True],
    "benign": MALIGNANCIES[False],
}

UNFAMILIAR = _private("UNFAMILIAR", "Unlike what the model was judged on")
UNFAMILIAR_YES: Code = YES_NO[True]
UNFAMILIAR_WHY = _private("UNFAMILIAR_WHY", "Why the figures may not hold")

SINCE_PRIOR = _private("SINCE_PRIOR", "Since the study before")
PRIOR_STUDY = _private("PRIOR_STUDY", "Compared with")
PRIOR_MISSED = _private("PRIOR_MISSED", "Nodule of the study before that was not found again")

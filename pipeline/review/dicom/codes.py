"""Coded terms of the results, as data: (code value, coding scheme, meaning).

Concepts and values of the qualitative evaluations are those of the LIDC conversion of QIICR (Fedorov 2020, Med Phys
47:5953; github.com/QIICR/lidc2dicom, concepts_dict.json and values_dict.json), measurements those of PS3.16 CID 7470
and TID 1411, the probability that of the CAD templates (PS3.16 TID 4006).
"""

from __future__ import annotations

from hashlib import sha256

from highdicom.sr import CodedConcept

from data_contracts.nodules import RATINGS

Code = tuple[str, str, str]

#: the scheme of terms that no standard has; it is named in every object that uses it
PRIVATE_SCHEME = "99NODULEFLOW"

NODULE: Code = ("27925004", "SCT", "Nodule")
ABNORMAL_STRUCTURE: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
LUNG: Code = ("39607008", "SCT", "Lung")
LATERALITY: dict[str, Code] = {"left": ("7771000", "SCT", "Left"), "right": ("24028007", "SCT", "Right")}
#: of CID 100, which has none for the chest
CT_PROCEDURE: Code = ("25045-6", "LN", "CT unspecified body region")
#: of CID 7162: how nodules are outlined
OUTLINING: Code = ("123104", "DCM", "Morphological Operations")
ALGORITHM_FAMILY: Code = ("123110", "DCM", "Artificial Intelligence")
SEGMENTATION: Code = ("113076", "DCM", "Segmentation")
SOURCE_FOR_PROCESSING: Code = ("121322", "DCM", "Source image for image processing operation")

DIAMETER: Code = ("81827009", "SCT", "Diameter")
LONG_AXIS: Code = ("103339001", "SCT", "Long axis")
SHORT_AXIS: Code = ("103340004", "SCT", "Short axis")
VOLUME: Code = ("118565006", "SCT", "Volume")
ATTENUATION: Code = ("112031", "DCM", "Attenuation Coefficient")
PROBABILITY: Code = ("111047", "DCM", "Probability of cancer")
MEAN: Code = ("373098007", "SCT", "Mean")

MM: Code = ("mm", "UCUM", "mm")
MM3: Code = ("mm3", "UCUM", "mm3")
HU: Code = ("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT: Code = ("%", "UCUM", "Percent")
SCORE: Code = ("{score}", "UCUM", "score")

#: how a probability that is not the model's own came about
SIZE_ONLY: Code = ("SIZE", PRIVATE_SCHEME, "From the diameter alone")
IMAGE_ONLY: Code = ("IMAGE", PRIVATE_SCHEME, "From the image alone")
#: a concept that is not a rating
LOG_DIAMETER: Code = ("DIAMETER", PRIVATE_SCHEME, "Diameter as the network reads it")

_Q = "99LIDCQIICR"
CONCEPTS: dict[str, Code] = {
    "subtlety": ("C45992", "NCIt", "Subtlety score"),
    "internal_structure": ("200", _Q, "Internal structure"),
    "calcification": ("C3672", "NCIt", "Calcification"),
    "sphericity": ("400", _Q, "Sphericity"),
    "margin": ("C25563", "NCIt", "Margin"),
    "lobulation": ("C62175", "NCIt", "Lobular Pattern"),
    "spiculation": ("C28749", "NCIt", "Spiculation"),
    "texture": ("C41144", "NCIt", "Texture"),
    "malignancy": ("RID36042", "RadLex", "Malignancy"),
}
_GENERIC: dict[int, Code] = {step: (f"00{step}", _Q, f"{step} out of 5") for step in range(1, 6)}


def _scale(hundred: int, words: dict[int, str]) -> dict[int, Code]:
    return {step: (f"{hundred}0{step}", _Q, f"{step} out of 5 ({word})") for step, word in words.items()}


VALUES: dict[str, dict[int, Code]] = {
    "subtlety": _scale(
        1, {1: "Extremely subtle", 2: "Moderately subtle", 3: "Fairly subtle", 4: "Moderately obvious", 5: "Obvious"}
    ),
    "internal_structure": {
        1: ("C12471", "NCIt", "Soft tissue"),
        2: ("C25278", "NCIt", "Fluid"),
        3: ("C12472", "NCIt", "Adipose tissue"),
        4: ("C73434", "NCIt", "Air"),
    },
    "calcification": {
        1: ("RID35453", "RadLex", "Popcorn calcification sign"),
        2: ("302", _Q, "Laminated appearance"),
        3: ("RID5741", "RadLex", "Solid appearance"),
        4: ("304", _Q, "Non-central appearance"),
        5: ("RID5827", "RadLex", "Central calcification"),
        6: ("RID28473", "RadLex", "Absent"),
    },
    "sphericity": _GENERIC
    | {1: ("RID5811", "RadLex", "linear"), 3: ("RID5800", "RadLex", "ovoid"), 5: ("RID5799", "RadLex", "round")},
    "margin": _GENERIC
    | {1: ("RID5709", "RadLex", "Indistinct margin"), 5: ("RID5707", "RadLex", "Circumscribed margin")},
    "lobulation": _GENERIC | _scale(6, {1: "No lobulation", 5: "Marked lobulation"}),
    "spiculation": _GENERIC | _scale(7, {1: "No spiculation", 5: "Marked spiculation"}),
    "texture": _GENERIC
    | {
        1: ("RID50153", "RadLex", "non-solid pulmonary nodule"),
        3: ("RID50152", "RadLex", "part-solid pulmonary nodule"),
        5: ("RID50151", "RadLex", "solid pulmonary nodule"),
    },
}


def coded(value: str, scheme: str, meaning: str) -> CodedConcept:
    """highdicom's form of a code."""
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def value_code(rating: str, value: float) -> CodedConcept | None:
    """The coded value nearest to a read-out on the scale of a rating; None where there is none.

    Malignancy has none: a reader's rating of it is a label to learn from, and what a model thinks is not.
    """
    step = int(min(max(round(value), 1), RATINGS.get(rating, 1)))
    code = VALUES.get(rating, {}).get(step)
    return None if code is None else coded(*code)


def words_code(words: str) -> CodedConcept:
    """A code of the private scheme that means these words, cut to the 64 characters of a meaning."""
    return coded(f"M{sha256(words.encode()).hexdigest()[:10].upper()}", PRIVATE_SCHEME, words[:64])

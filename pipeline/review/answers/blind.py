"""A report without what the model says, for a reader who answers before seeing it, or a second time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from data_contracts.review import Finding, StudyReview
from pipeline.review.answers.cases import Case
from pipeline.review.answers.opinions import Opinion

BLIND = "Read without the model: its figures, its outline and earlier answers are left out."
NOT_MEASURED = "diameter of the mark"

#: fields of a finding that the model, or whoever answered before, had a hand in
_EMPTY: dict[str, object] = {
    "probability": None,
    "probability_interval": None,
    "call": "",
    "unfamiliar": "",
    "probability_size_only": None,
    "probability_image_only": None,
    "detection_score": None,
    "n_readers": 0,
    "ratings": {},
    "concepts": {},
    "explanation": "",
    "note": "",
    "prior": None,
    "without_prior": "",
    "is_new": False,
}
_MAP = "-map-"


def blinded(
    review: StudyReview, reading: Literal["blind", "second"], finding_ids: Sequence[str] | None = None
) -> StudyReview:
    """The review with the places of its findings and nothing that the model says of them.

    finding_ids: the findings to show, in their order; None shows all, by their place and not by their score.
    """
    findings = {finding.finding_id: finding for finding in review.findings}
    wanted = [item.finding_id for item in head_to_feet(findings.values())] if finding_ids is None else [*finding_ids]
    return review.model_copy(
        update={
            "reading": reading,
            "findings": tuple(_blinded(findings[name]) for name in wanted if name in findings),
            "evaluation_summary": {},
            "guidelines": None,
            "unfamiliar": (),
            "missed_priors": (),
            "prior_study_key": "",
            "warnings": (BLIND,),
        }
    )


def head_to_feet(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in the order in which they lie, which tells nothing of their score."""
    return sorted(findings, key=lambda item: (item.series_key, -item.lps_mm[2], item.finding_id))


def _blinded(finding: Finding) -> Finding:
    size = finding.measurement
    bare = type(size)(mean_diameter_mm=size.mean_diameter_mm, method=NOT_MEASURED)
    pictures = tuple(name for name in finding.key_images if _MAP not in name)
    return finding.model_copy(update={**_EMPTY, "measurement": bare, "key_images": pictures})


def for_adjudication(review: StudyReview, cases: Mapping[str, Case], extra: Collection[Finding] = ()) -> StudyReview:
    """The review with the findings that wait for an adjudicator, each with what every reader said of it.

    cases: by finding id. extra: findings for nodules that readers added, which the review does not have.
    """
    shown = [item for item in (*review.findings, *extra) if item.finding_id in cases]
    noted = tuple(item.model_copy(update={"note": said_by_readers(cases[item.finding_id])}) for item in shown)
    return review.model_copy(update={"reading": "adjudication", "findings": noted})


def said_by_readers(case: Case) -> str:
    """One sentence a reader: what was said of the nodule."""
    return " ".join(f"{item.reader}: {said(item)}." for item in case.opinions)


def said(opinion: Opinion) -> str:
    """What a reader said, in words."""
    words = {"accept": "accepted", "reject": "rejected", "correct": "corrected", "missed": "added"}
    parts = [words.get(opinion.said, "did not add it")]
    if opinion.reason:
        parts.append(opinion.reason.replace("_", " "))
    if opinion.malignant is not None:
        parts.append("malignant" if opinion.malignant else "benign")
    if "diameter_mm" in opinion.stated:
        parts.append(f"{opinion.diameter_mm:g} mm")
    if "nodule_type" in opinion.stated and opinion.nodule_type:
        parts.append(opinion.nodule_type.replace("_", " "))
    if "lung_rads" in opinion.stated:
        parts.append(f"Lung-RADS {opinion.lung_rads}")
    if "lps_mm" in opinion.stated and opinion.said == "correct":
        parts.append("another place")
    if opinion.second_read:
        parts.append("blind second reading")
    elif not opinion.model_visible_first:
        parts.append("before seeing the model")
    return ", ".join(parts)

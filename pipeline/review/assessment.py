"""From the findings of a review to what the guidelines are asked, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from data_contracts.guidelines import GuidelineNodule, PatientContext, StudyGuidelines
from data_contracts.patient_facts import StatedFacts, with_stated
from data_contracts.review import Finding
from data_contracts.series import SeriesRecord
from pipeline.review.guidelines.study import assess_study
from pipeline.review.measure import OUTLINED
from pipeline.review.priors import guideline_nodule

_SEX = {"F": "female", "M": "male"}
#: on the five-point scale of LIDC a mean of readers this high or low is a yes or a no; between them they do not agree
_MARKED, _ABSENT = 4.0, 2.0
#: findings that a sentence names
_NAMED = 5


def assess(
    findings: Sequence[Finding],
    records: Sequence[SeriesRecord],
    stated: StatedFacts,
    *,
    prior_dates: Sequence[date],
    prior: StudyGuidelines | None,
) -> tuple[PatientContext, StudyGuidelines]:
    """Every guideline about the findings of a study, and what it was told of the patient.

    records: series of the study. prior: of the study whose findings stand in `Finding.prior`.
    Age and sex come from the header where nobody stated them; an earlier CT that is not in the workspace is unknown,
    not absent. How many nodules there are is for a person to state: neither the candidates of a search nor the marks of
    a reader are known to be all of them and nothing else. So is that the lungs were searched: a program's search that
    found nothing is no negative examination.
    """
    first = records[0]
    known = PatientContext(
        age_years=first.patient_age_years,
        sex=_SEX.get(first.patient_sex),  # type: ignore[arg-type]
        study_date=study_date_of(first),
        prior_dates=tuple(sorted(prior_dates)) or None,
    )
    told = stated.patient
    if known.prior_dates and told.earlier_ct is False:
        told = told.model_copy(update={"earlier_ct": None})
    context = with_stated(known, told)
    thickness_mm = {record.series_key: record.slice_thickness_mm for record in records}
    nodules = [_nodule(finding, stated, thickness_mm) for finding in findings]
    return context, assess_study(nodules, context, prior)


def unused_facts(findings: Sequence[Finding], stated: StatedFacts, prior_dates: Sequence[date]) -> tuple[str, ...]:
    """Facts that came to nothing, in sentences: of findings that the report has not, and what an earlier CT refutes."""
    shown = {finding.finding_id for finding in findings}
    unknown = sorted(name for name in stated.nodules if name not in shown)
    lines = []
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        named = ", ".join(repr(name[:64]) for name in unknown[:_NAMED])
        lines.append(f"Facts are stated of nodule {named}{more}, none of this report's findings; they were not used.")
    if prior_dates and stated.patient.earlier_ct is False:
        lines.append("Stated was earlier_ct = false, but the workspace holds an earlier CT; it was not used.")
    return tuple(lines)


def study_date_of(record: SeriesRecord) -> date | None:
    """The date of a study, shifted as all of its patient's are; None where the header states none."""
    try:
        return datetime.strptime(record.study_date_shifted, "%Y%m%d").date()
    except ValueError:
        return None


def _nodule(finding: Finding, stated: StatedFacts, thickness_mm: Mapping[str, float | None]) -> GuidelineNodule:
    nodule = guideline_nodule(finding, thickness_mm.get(finding.series_key))
    known: dict[str, object] = {
        "measured_by": "software" if finding.measurement.method == OUTLINED else "reader",
        "spiculation": _rated(finding.ratings.get("spiculation")),
        "upper_lobe": "upper" in finding.lobe if finding.lobe else None,
        # who accepts a candidate on the page has marked it
        "is_candidate": finding.detection_score is not None and not finding.n_readers,
        "status": "new" if finding.is_new else None,
        "status_reason": finding.without_prior,
    }
    if (own := stated.nodules.get(finding.finding_id)) is not None:
        known |= {name: value for name in type(own).model_fields if (value := getattr(own, name)) not in (None, ())}
        # what a person says of the comparison rests on what that person saw
        known |= {"status_reason": ""} if own.status is not None else {}
    return nodule.model_copy(update=known)


def _rated(mean: float | None) -> bool | None:
    """A property that readers rated; None where they did not, or do not agree."""
    if mean is None or _ABSENT < mean < _MARKED:
        return None
    return mean >= _MARKED

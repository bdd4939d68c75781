"""The way back of `report_statements`: what a report states, as fields of its review; the others are absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydicom.dataset import Dataset

from data_contracts.guidelines import GuidelineResult, NoduleGuidelines, NoduleType, StudyGuidelines
from data_contracts.review import Finding
from pipeline.review.dicom import feedback_codes as answers
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.brock_items import reported_brock, with_reported_brock
from pipeline.review.dicom.codes import Code
from pipeline.review.dicom.feedback_codes import YES_NO
from pipeline.review.dicom.guideline_codes import GUIDELINES, LUNG_RADS, MODIFIER, MODIFIERS, UNSAID, GuidelineTerms
from pipeline.review.dicom.reading_items import child_words, code_of, items
from pipeline.review.guidelines import bts, fleischner, lung_rads

#: the fields of a result; and by the field of its guideline
Result = dict[str, Any]
Results = dict[str, Result]

_BROCK = "brock"


def reported_finding(group: Dataset) -> dict[str, Any]:
    """Call and what is unfamiliar, of a finding's measurement group."""
    said: dict[str, Any] = {}
    call = next(_coded(group, terms.CALL, terms.CALLS), None)
    if call is not None:
        said["call"] = call
    why = reported_unfamiliar(group)
    if why:
        said["unfamiliar"] = why[0]
    return said


def reported_type(group: Dataset) -> NoduleType | None:
    """The type, where a texture of the group is one that was measured."""
    for item in items(group, answers.TYPE):
        if any(code_of(child) == terms.MEASURED_TYPE[0] for child in items(item, terms.METHOD)):
            return next((name for name in get_args(NoduleType) if answers.TYPES[name][0] == code_of(item)), None)
    return None


def reported_unfamiliar(container: Dataset | None) -> tuple[str, ...]:
    """Why the figures may not hold, as often as it is said."""
    return tuple(str(item.TextValue) for item in items(container, terms.UNFAMILIAR_WHY))


def reported_guidelines(container: Dataset | None) -> Results:
    """Field of a guideline -> the fields of its result, of those that a group or the study speaks of."""
    found = ((named.field, _reported_result(container, named)) for named in GUIDELINES)
    return {field: result for field, result in found if result is not None}


def reported_nodule(group: Dataset) -> Results:
    """The same of a finding's measurement group, with what it says of the Brock models as the field `brock`."""
    brock = reported_brock(group)
    return {**reported_guidelines(group), **({_BROCK: brock} if brock else {})}


def _reported_result(container: Dataset | None, named: GuidelineTerms) -> Result | None:
    category = next(_coded(container, named.category, named.categories), None)
    if category is None:
        why = child_words(container, named.refusal)
        return {"status": "refused", "category": None, "reason": why} if why else None
    condition = child_words(container, named.condition)
    # a report of an earlier program recommends nothing
    management = {"management": said} if (said := child_words(container, named.recommendation)) else {}
    modifier = next(_coded(container, MODIFIER, MODIFIERS), "") if named is LUNG_RADS else ""
    return {
        "status": "conditional" if condition else "given",
        "category": category,
        "modifier": modifier,
        "possible": tuple(_coded(container, named.possible, named.categories)) or (category,),
        "condition": condition,
        "verified": next(_coded(container, named.checked, {"no": YES_NO[False]}), None) is None,
        **management,
    }


def study_container(report: Dataset) -> Dataset | None:
    """What holds the statements of the whole study."""
    return next(items(report, terms.STUDY_STATEMENTS), None)


def with_guidelines(
    guidelines: StudyGuidelines | None,
    findings: Sequence[Finding],
    of_findings: Mapping[str, Results],
    of_study: Results,
) -> StudyGuidelines | None:
    """The guidelines with the results of a report; what it does not say stays, or is named as unsaid."""
    if not of_study and not any(of_findings.values()):
        return guidelines
    whole = guidelines or StudyGuidelines(**_all_unsaid(), nodules=())
    known = {nodule.nodule_id: nodule for nodule in whole.nodules}
    for finding in findings:
        results = of_findings.get(finding.finding_id)
        if results:
            own = known.get(finding.finding_id) or _nodule(finding)
            known[finding.finding_id] = own.model_copy(update=_all_taken(own, results))
    return whole.model_copy(update={"nodules": tuple(known.values()), **_all_taken(whole, of_study)})


def _all_taken(given: NoduleGuidelines | StudyGuidelines, results: Results) -> dict[str, Any]:
    taken: dict[str, Any] = {
        field: _taken(getattr(given, field), result) for field, result in results.items() if field != _BROCK
    }
    if _BROCK in results and isinstance(given, NoduleGuidelines):
        taken[_BROCK] = with_reported_brock(given.brock, results[_BROCK])
    return taken


def _taken(result: GuidelineResult, said: Result) -> GuidelineResult:
    """The result as reported; one that says the same keeps its own words."""
    names = set(said) & {"category", "modifier", "condition", "management", "reason", "verified"}
    if all(getattr(result, name) == said[name] for name in names):
        possible = said.get("possible", ())
        return result.model_copy(update={"possible": possible} if len(possible) > 1 else {})
    return _unsaid(result.guideline).model_copy(update=said)


def _nodule(finding: Finding) -> NoduleGuidelines:
    return NoduleGuidelines(
        nodule_id=finding.finding_id,
        mean_diameter_mm=finding.measurement.mean_diameter_mm,
        brock=(),
        **_all_unsaid(),
    )


def _all_unsaid() -> dict[str, Any]:
    named = {"lung_rads": lung_rads.TABLE, "fleischner": fleischner.TABLE, "bts": bts.TABLE}
    return {field: _unsaid(table.name) for field, table in named.items()}


def _unsaid(guideline: str) -> GuidelineResult:
    return GuidelineResult(guideline=guideline, status="refused", reason=UNSAID)


def _coded(parent: Dataset | None, concept: Code, values: Mapping[str, Code]) -> Iterator[str]:
    """The names of the codes that children with a concept give; codes that `values` lacks are passed over."""
    names = {code[0]: name for name, code in values.items()}
    return (names[value] for item in items(parent, concept) if (value := code_of(item)) in names)

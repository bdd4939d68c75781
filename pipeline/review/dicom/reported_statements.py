"""The way back of `report_statements`: what a report states, as fields of its review; the others are absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydicom.dataset import Dataset

from data_contracts.guidelines import GuidelineResult, NoduleGuidelines, NoduleType, StudyGuidelines
from data_contracts.review import Finding
from pipeline.review.dicom import feedback_codes as answers
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.codes import Code
from pipeline.review.guidelines import bts, fleischner, lung_rads

_UNSAID = "not in the report in DICOM"
Category = dict[str, Any]


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
    for item in _items(group, answers.TYPE):
        if any(_value(child) == terms.MEASURED_TYPE[0] for child in _items(item, terms.METHOD)):
            return next((name for name in get_args(NoduleType) if answers.TYPES[name][0] == _value(item)), None)
    return None


def reported_unfamiliar(container: Dataset | None) -> tuple[str, ...]:
    """Why the figures may not hold, as often as it is said."""
    return tuple(str(item.TextValue) for item in _items(container, terms.UNFAMILIAR_WHY))


def reported_category(container: Dataset | None) -> Category | None:
    """The fields of a Lung-RADS result that a group or the study states; None where it has no category."""
    category = next(_coded(container, answers.CATEGORY, answers.CATEGORIES), None)
    if category is None:
        return None
    condition = "".join(str(item.TextValue) for item in _items(container, terms.CONDITION))
    return {
        "status": "conditional" if condition else "given",
        "category": category,
        "modifier": next(_coded(container, terms.MODIFIER, terms.MODIFIERS), ""),
        "possible": tuple(_coded(container, terms.POSSIBLE, answers.CATEGORIES)) or (category,),
        "condition": condition,
    }


def study_container(report: Dataset) -> Dataset | None:
    """What holds the statements of the whole study."""
    return next(_items(report, terms.STUDY_STATEMENTS), None)


def with_categories(
    guidelines: StudyGuidelines | None,
    findings: Sequence[Finding],
    categories: Mapping[str, Category | None],
    of_study: Category | None,
) -> StudyGuidelines | None:
    """The guidelines with the Lung-RADS categories of a report; what it does not say stays, or is named as unsaid."""
    if of_study is None and not any(categories.values()):
        return guidelines
    whole = guidelines or StudyGuidelines(**_all_unsaid(), nodules=())
    known = {nodule.nodule_id: nodule for nodule in whole.nodules}
    for finding in findings:
        category = categories.get(finding.finding_id)
        if category is not None:
            own = known.get(finding.finding_id) or _nodule(finding)
            known[finding.finding_id] = own.model_copy(update={"lung_rads": _taken(own.lung_rads, category)})
    return whole.model_copy(
        update={
            "nodules": tuple(known.values()),
            "lung_rads": whole.lung_rads if of_study is None else _taken(whole.lung_rads, of_study),
        }
    )


def _taken(result: GuidelineResult, category: Category) -> GuidelineResult:
    """The result with a reported category; one that says the same keeps its own words."""
    if (result.label, result.condition) == (f"{category['category']}{category['modifier']}", category["condition"]):
        return result.model_copy(update={"possible": category["possible"]} if len(category["possible"]) > 1 else {})
    return _unsaid(result.guideline).model_copy(update=category)


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
    return GuidelineResult(guideline=guideline, status="refused", reason=_UNSAID)


def _items(parent: Dataset | None, concept: Code) -> Iterator[Dataset]:
    """Children with a concept name."""
    for item in (parent.get("ContentSequence") if parent is not None else None) or []:
        names = item.get("ConceptNameCodeSequence")
        if names and str(names[0].get("CodeValue", "")) == concept[0]:
            yield item


def _coded(parent: Dataset | None, concept: Code, values: Mapping[str, Code]) -> Iterator[str]:
    """The names of the codes that children with a concept give; codes that `values` lacks are passed over."""
    names = {code[0]: name for name, code in values.items()}
    return (names[value] for item in _items(parent, concept) if (value := _value(item)) in names)


def _value(item: Dataset) -> str:
    given = item.get("ConceptCodeSequence")
    return str(given[0].get("CodeValue", "")) if given else ""

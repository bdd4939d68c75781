"""What a person states of a patient and of single nodules, so that a guideline need not refuse for want of it.

A file of facts, TOML; nothing in it names a patient but the study_key of the workspace:

    screening = true                              # holds for every study of the command
    [study.3f2a9c0d11e45b67]                      # of one study; a study's own word is the last
    smoking = "former"
    [study.3f2a9c0d11e45b67.nodule.8c1f02aa]      # of one finding, by the finding_id of review.json
    spiculation = true
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from data_contracts.errors import UsageError
from data_contracts.guidelines import NoduleProperties, PatientContext
from data_contracts.records import Record

#: known of the study itself; a person does not state them
_NOT_STATED = ("study_date", "prior_dates", "nodule_count")
_TODO = "docs/guidelines.md shows a file of facts."


class StatedNodule(NoduleProperties):
    """Properties of one finding, as a person states them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StatedFacts(Record):
    """facts.json beside a report: what was stated of its patient, and of findings by finding_id."""

    patient: PatientContext = PatientContext()
    nodules: dict[str, StatedNodule] = Field(default={}, max_length=10_000)


def facts_by_study(values: dict[str, Any], study_keys: list[str], *, where: str) -> dict[str, StatedFacts]:
    """Facts of each study of a command from a file of facts.

    Raises
    ------
    UsageError: a fact that no guideline asks for, a value it cannot have, or a study that the command does not name.
    """
    studies = values.get("study", {})
    everyone = {name: value for name, value in values.items() if name != "study"}
    if not isinstance(studies, dict) or any(not isinstance(own, dict) for own in studies.values()):
        raise UsageError("[study.KEY] is a table of facts", where=where, todo=_TODO)
    unknown = [key for key in studies if key not in study_keys]
    if unknown:
        raise UsageError(
            f"facts of a study that is not reviewed: {unknown[0][:64]!r}",
            where=where,
            todo=f"The studies of this command: {', '.join(study_keys[:5])}.",
        )
    return {key: _facts(everyone, studies.get(key, {}), where) for key in study_keys}


def _facts(everyone: dict[str, Any], own: dict[str, Any], where: str) -> StatedFacts:
    patient = {**everyone, **{name: value for name, value in own.items() if name != "nodule"}}
    known = [name for name in PatientContext.model_fields if name not in _NOT_STATED]
    unknown = [name for name in patient if name not in known]
    if unknown:
        raise UsageError(
            f"no guideline asks for {unknown[0][:64]!r}", where=where, todo=f"Known facts: {', '.join(known)}."
        )
    try:
        return StatedFacts.model_validate({"patient": patient, "nodules": own.get("nodule", {})})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{field}: {first['msg']}", where=where, todo=_TODO) from None


def with_stated(context: PatientContext, stated: PatientContext) -> PatientContext:
    """What is known of a patient, overruled by what was stated."""
    own = {name: value for name in type(stated).model_fields if (value := getattr(stated, name)) is not None}
    return PatientContext.model_validate({**context.model_dump(), **own})

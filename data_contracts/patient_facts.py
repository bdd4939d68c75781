"""What a person states of a patient and of single nodules, so that a guideline need not refuse for want of it.

A file of facts, TOML; nothing in it names a patient but the study_key of the workspace:

    screening = true                              # holds for every study of the command
    [study.3f2a9c0d11e45b67]                      # of one study; a study's own word is the last
    smoking = "former"
    earlier_ct = false                            # no earlier chest CT exists: every nodule is one of a first CT
    nodule_count = 2                              # nodules that a person counted in both lungs
    [study.3f2a9c0d11e45b67.nodule.8c1f02aa]      # of one finding, by the finding_id of review.json
    spiculation = true
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from data_contracts.errors import UsageError
from data_contracts.guidelines import NoduleProperties, PatientContext
from data_contracts.records import Record

#: Known of the study itself, so that a person does not state them: what to do instead.
_NOT_STATED = {
    "study_date": "it is read from the CT's header",
    "prior_dates": "dates are read from the CTs; earlier_ct = false says that no earlier chest CT exists",
}
_TODO = "docs/guidelines.md shows a file of facts."


class StatedNodule(NoduleProperties):
    """Properties of one finding, as a person states them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StatedFacts(Record):
    """facts.json beside a report: what was stated of its patient, and of findings by finding_id."""

    patient: PatientContext = PatientContext()
    nodules: dict[str, StatedNodule] = Field(default={}, max_length=10_000)

    @model_validator(mode="after")
    def _no_nodule_changed_since_no_ct(self) -> Self:
        if self.patient.earlier_ct is not False:
            return self
        for finding_id, nodule in self.nodules.items():
            for name, status in (("status", nodule.status), ("solid_status", nodule.solid_status)):
                if status not in (None, "baseline"):
                    said = f'{name} = "{status}" of nodule {finding_id[:64]!r}'
                    raise ValueError(f"earlier_ct = false, but {said} is one against an earlier CT")
        return self


def facts_by_study(values: dict[str, Any], study_keys: list[str], *, where: str) -> dict[str, StatedFacts]:
    """Facts of each study of a command from a file of facts.

    Raises
    ------
    UsageError: a fact that no guideline asks for, a value it cannot have, facts that contradict each other, or a study
    that the command does not name.
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
    for name, instead in _NOT_STATED.items():
        if name in patient:
            raise UsageError(f"{name!r} is not stated in a file of facts: {instead}", where=where, todo=_TODO)
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
        # A contradiction between facts names them itself.
        words = str(first["msg"])
        told = words.removeprefix("Value error, ") if first["type"] == "value_error" else f"{field}: {words}"
        raise UsageError(told, where=where, todo=_TODO) from None


def with_stated(context: PatientContext, stated: PatientContext) -> PatientContext:
    """What is known of a patient, overruled by what was stated."""
    own = {name: value for name in type(stated).model_fields if (value := getattr(stated, name)) is not None}
    return PatientContext.model_validate({**context.model_dump(), **own})

"""The result of a study from those of its nodules: the most suspicious decides, if the others cannot exceed it."""

from __future__ import annotations

from collections.abc import Sequence

from data_contracts.guideline_tables import RuleTable
from data_contracts.guidelines import GuidelineResult, PatientContext

#: nodules of one reason, and reasons, that a sentence names
_NAMED = 3


def most_suspicious(
    table: RuleTable,
    results: Sequence[tuple[str, GuidelineResult]],
    deciding: dict[str, str],
    context: PatientContext,
) -> GuidelineResult:
    """The result of the most suspicious nodule, with the categories that the study could have.

    A nodule that was refused for missing inputs stops a study's category only where it could be more suspicious than
    those that have one. deciding: gets guideline -> nodule that decided.
    """
    if not results:
        searched = context.lungs_searched
        reason = "no nodule" if searched else f"{table.name} needs: whether the lungs were searched for nodules"
        missing = () if searched else ("search of the lungs",)
        return GuidelineResult(
            guideline=table.name, status="refused", reason=reason, missing=missing, source=table.source
        )
    given = [(nodule_id, result) for nodule_id, result in results if result.category is not None]
    open_ = [(nodule_id, result) for nodule_id, result in results if result.category is None and result.missing]
    possible = possible_of_study(table, [result for _, result in results])
    if not given:
        return _without_category(table, results, open_, possible)
    nodule_id, top = max(given, key=lambda each: table.rank(each[1].category or ""))
    rank = table.rank(top.category or "")
    exceeding = [
        (other_id, result)
        for other_id, result in open_
        if not result.possible or max(table.rank(category) for category in result.possible) > rank
    ]
    if exceeding:
        return _without_category(table, results, exceeding, possible)
    deciding[table.name] = nodule_id
    return top.model_copy(update={"possible": possible, "notes": (*top.notes, *_reasons(open_))})


def possible_of_study(table: RuleTable, results: Sequence[GuidelineResult]) -> tuple[str, ...]:
    """The categories that the most suspicious nodule could have, as each nodule's error allows."""
    ranks = [sorted(table.rank(category) for category in result.possible) for result in results if result.possible]
    if not ranks:
        return ()
    least = max(each[0] for each in ranks)
    return tuple(table.categories[rank] for rank in sorted({rank for each in ranks for rank in each if rank >= least}))


def _without_category(
    table: RuleTable,
    results: Sequence[tuple[str, GuidelineResult]],
    open_: Sequence[tuple[str, GuidelineResult]],
    possible: tuple[str, ...],
) -> GuidelineResult:
    refused = open_ or results
    missing = tuple(dict.fromkeys(name for _, result in refused for name in result.missing))
    return GuidelineResult(
        guideline=table.name,
        status="refused",
        possible=possible,
        reason="; ".join(_reasons(refused)),
        missing=missing,
        notes=tuple(f"nodule {nodule_id}: {note}" for nodule_id, result in refused[:3] for note in result.notes),
        source=table.source,
    )


def _reasons(refused: Sequence[tuple[str, GuidelineResult]]) -> list[str]:
    """Each reason once, with the nodules it is of; of many only the first few are named."""
    of_reason: dict[str, list[str]] = {}
    for nodule_id, result in refused:
        of_reason.setdefault(result.reason, []).append(f"nodule {nodule_id}")
    said = [f"{_few(nodules)}: {reason}" for reason, nodules in list(of_reason.items())[:_NAMED]]
    if len(of_reason) > _NAMED:
        said.append(f"and {sum(map(len, list(of_reason.values())[_NAMED:]))} more nodules for other reasons")
    return said


def _few(nodules: list[str]) -> str:
    named = ", ".join(nodules[:_NAMED])
    return named if len(nodules) <= _NAMED else f"{named} and {len(nodules) - _NAMED} more"

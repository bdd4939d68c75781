"""The disclosure of a version: every item of two checklists and every element of CHAI's card, answered.

An answer comes from the run or from the site; where neither can give one, it says so and who can. No item is left out
and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_contracts.disclosure import Answer, Checklist, Disclosure, Status
from data_contracts.evaluation import EvaluationReport
from data_contracts.model_card import ModelCard
from data_contracts.patches import DatasetCard
from data_contracts.site_statements import SITE_QUESTIONS, check_statements, is_not_applicable
from pipeline.review.applied_model_card import applied_model_card
from pipeline.review.checklists import (
    CLAIM_2024,
    CLAIM_NAME,
    CLAIM_REFERENCE,
    TRIPOD_AI,
    TRIPOD_NAME,
    TRIPOD_REFERENCE,
    Item,
)
from pipeline.review.data_facts import data_facts
from pipeline.review.facts import Fact, model_facts, not_applicable
from pipeline.review.result_facts import result_facts


def build_disclosure(
    report: EvaluationReport,
    card: ModelCard,
    dataset_card: DatasetCard | None,
    environment: Mapping[str, Any],
    site: Mapping[str, object],
    *,
    made_on: str = "",
) -> Disclosure:
    """Everything that the run and the site tell of a version.

    Parameters
    ----------
    report: the evaluation; on another dataset than the card's it counts as a test on external data.
    dataset_card: of the dataset that the report is on; None where it is gone, its items are then missing.
    environment: as environment.json holds it.
    site: statements by key, as in [disclosure] of the site's file.
    made_on: date of the version, YYYY-MM-DD.

    Raises
    ------
    UsageError: the site states something that nobody asks for.
    """
    stated = check_statements(site)
    facts = {
        **model_facts(card, environment),
        **data_facts(dataset_card),
        **result_facts(report, card, dataset_card),
        "treatments": not_applicable(
            "the score is of a nodule on one scan at one moment, and no treatment is among its predictors"
        ),
    }
    checklists = (
        Checklist(name=CLAIM_NAME, reference=CLAIM_REFERENCE, answers=_answers(CLAIM_2024, facts, stated)),
        Checklist(name=TRIPOD_NAME, reference=TRIPOD_REFERENCE, answers=_answers(TRIPOD_AI, facts, stated)),
    )
    missing = tuple(
        f"{checklist.name} {answer.item} ({answer.topic})"
        for checklist in checklists
        for answer in checklist.answers
        if answer.status == "missing"
    )
    not_stated = tuple(key for key in SITE_QUESTIONS if key not in stated and _is_open(key, facts))
    return Disclosure(
        run_id=report.run_id,
        dataset_id=report.dataset_id,
        complete=not missing,
        missing=missing,
        not_stated=not_stated,
        applied_model_card=applied_model_card(report, card, facts, stated, made_on=made_on, n_open=len(not_stated)),
        checklists=checklists,
    )


#: questions that the data of a run may answer themselves, and the fact that does
_ANSWERED_BY_DATA = {"demographics": "demographics", "acquisition": "acquisition"}


def _is_open(key: str, facts: Mapping[str, Fact]) -> bool:
    return key not in _ANSWERED_BY_DATA or facts[_ANSWERED_BY_DATA[key]].status == "missing"


def _answers(
    table: Mapping[str, tuple[Item, ...]], facts: Mapping[str, Fact], stated: Mapping[str, str]
) -> tuple[Answer, ...]:
    return tuple(_answer(section, item, facts, stated) for section, items in table.items() for item in items)


def _answer(section: str, item: Item, facts: Mapping[str, Fact], stated: Mapping[str, str]) -> Answer:
    found = [facts[name] for name in item.facts]
    known = [fact.text for fact in found if fact.status == "answered"]
    gone = [fact.text for fact in found if fact.status == "missing"]
    key = item.needs or (item.instead if gone else "")
    said = [stated[name] for name in (key, *item.also) if name in stated]
    status: Status = "answered"
    if key and key not in stated:
        status = "not_stated"
        ask = f"Not stated by the site: {SITE_QUESTIONS[key]} To answer, set {key} under [disclosure]."
        text = " ".join([ask, *(["Known from the run:", *known] if known else [])])
    elif gone and not item.instead:
        status, text = "missing", " ".join(["The run does not hold it: " + "; ".join(gone) + ".", *known])
    elif known or said:
        text = " ".join([*known, *said])
        if not known and len(said) == 1 and is_not_applicable(said[0]):
            status = "not_applicable"
    else:
        status, text = "not_applicable", " ".join(fact.text for fact in found)
    return Answer(item=item.number, section=section, topic=item.topic, status=status, text=text, site_key=key)

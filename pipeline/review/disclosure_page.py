"""disclosure.html: a version's model card and its answers to the checklists as one self-contained page."""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

from data_contracts.disclosure import Disclosure
from data_contracts.records import Record
from data_contracts.site_statements import SITE_QUESTIONS
from pipeline.review import wording
from pipeline.review.html import content_policy, plain_environment, read_template

STATUS_WORDS = {
    "answered": "answered",
    "not_applicable": "not applicable",
    "not_stated": "not stated by the site",
    "missing": "missing",
}


def render_disclosure(disclosure: Disclosure) -> str:
    """The disclosure as one HTML file without a script; every string of it is escaped."""
    style = read_template("report.css") + read_template("evaluation.css")
    card = disclosure.applied_model_card
    return (
        plain_environment()
        .get_template("disclosure.html.j2")
        .render(
            disclosure=disclosure,
            card=card,
            sections=[
                (title(name), _rows(getattr(card, name)))
                for name in type(card).model_fields
                if isinstance(getattr(card, name), Record) and name != "KeyMetrics"
            ],
            metrics=[
                (title(name), getattr(card.KeyMetrics, name), _results(getattr(card.KeyMetrics, name)))
                for name in type(card.KeyMetrics).model_fields
            ],
            questions={key: SITE_QUESTIONS[key] for key in disclosure.not_stated},
            n_items=sum(len(checklist.answers) for checklist in disclosure.checklists),
            n_waiting=sum(checklist.count("not_stated") for checklist in disclosure.checklists),
            statuses=STATUS_WORDS,
            policy=content_policy(style),
            style=Markup(style),
            wording=wording,
        )
    )


def title(element: str) -> str:
    """`IntendedUseAndWorkflow` as `Intended use and workflow`."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+", element)
    return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])


def _rows(record: Record) -> list[tuple[str, str]]:
    """(title, text) of every element that holds text, those of nested elements in their place."""
    rows = []
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Record):
            rows += _rows(value)
        elif isinstance(value, tuple):
            rows.append((title(name), ", ".join(value)))
        elif value is not None:
            rows.append((title(name), str(value)))
    return rows


def _results(metric: Any) -> list[tuple[str, str]]:
    return [(result.Label, _value_text(json.loads(result.ValueJson))) for result in metric.Results.MetricResult]


def _value_text(value: dict[str, Any]) -> str:
    if value["kind"] == "estimate_ci":
        return f"{value['estimate']:z.3f} [{value['lower']:z.3f} to {value['upper']:z.3f}]"
    return str(value["value"])

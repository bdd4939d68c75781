"""report.html: one self-contained page a study, images inline, answers saved by the reader without a network."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jinja2
from markupsafe import Markup

from data_contracts.review import ANSWER_REASONS, Finding, StudyReview
from pipeline.review import wording
from pipeline.review.key_images import VIEWS, view_of

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def render_study(review: StudyReview, images: dict[str, bytes]) -> str:
    """The report of a study as one HTML file.

    Parameters
    ----------
    review: everything the page says; all of its strings are escaped.
    images: PNG bytes by file name; a finding shows those that its `key_images` names, others are left out.

    Returns
    -------
    HTML that loads nothing: its content security policy allows inline images and, by their digests,
    its own style and script alone.
    """
    findings = wording.sorted_findings(review)
    environment = page_environment()
    environment.globals["wording"] = wording
    style, script = read_template("report.css"), read_template("answers.js")
    return environment.get_template("study.html.j2").render(
        review=review,
        findings=findings,
        pictures={finding.finding_id: _pictures(finding, images) for finding in findings},
        style=Markup(style),
        script=Markup(script),
        policy=content_policy(style, script),
        reasons=ANSWER_REASONS,
        answer_data={
            "study_key": review.study_key,
            "model_version": review.model_version,
            "findings": [{"finding_id": finding.finding_id, "nodule_id": finding.nodule_id} for finding in findings],
        },
    )


def page_environment() -> jinja2.Environment:
    """Templates of this package; everything is escaped and an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.review"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def plain_environment() -> jinja2.Environment:
    """The same for pages that quote names of sites and headers: signs that hide, or turn the text around, are left out.

    Right-to-left marks and the like would let a name show another order of letters than it has.
    """
    return page_environment().overlay(finalize=_without_hidden_signs)


def _without_hidden_signs(value: object) -> object:
    if type(value) is not str or value.isprintable():  # Markup is ours
        return value
    return "".join(sign if sign.isprintable() or sign in "\n\t" else " " for sign in value)


def read_template(name: str) -> str:
    """Style or script that stands in the page as it is."""
    loader = page_environment().loader
    assert loader is not None
    return loader.get_source(page_environment(), name)[0]


def content_policy(*inline: str) -> str:
    """Content security policy of a page that holds a style and, if given, a script, and loads nothing."""
    digests = ["'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in inline]
    policy = ["default-src 'none'", "img-src data:", f"style-src {digests[0]}"]
    policy += [f"script-src {digest}" for digest in digests[1:]]
    return "; ".join([*policy, "base-uri 'none'", "form-action 'none'"])


def _pictures(finding: Finding, images: dict[str, bytes]) -> list[dict[str, Any]]:
    """Key images of a finding in the order of the views: source, caption, alternative text."""
    named = [(view_of(name), images[name]) for name in finding.key_images if name in images]
    order = list(VIEWS)
    named.sort(key=lambda item: order.index(item[0]) if item[0] else len(order))
    shown = []
    for view, content in named:
        if not content.startswith(_PNG_SIGNATURE):
            continue
        shown.append(
            {
                "source": "data:image/png;base64," + base64.b64encode(content).decode(),
                "caption": VIEWS[view].caption if view else "Key image",
            }
        )
    return shown

"""report.html: one self-contained page a study, images inline, answers saved by the reader without a network."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, get_args

import jinja2
from markupsafe import Markup

from data_contracts.feedback import ANSWER_REASONS, MAX_COMMENT
from data_contracts.guidelines import LungRads
from data_contracts.model_card import BONE_WINDOW, LUNG_WINDOW, MEDIASTINAL_WINDOW
from data_contracts.review import Finding, StudyReview
from pipeline.review import wording, wording_guidelines
from pipeline.review.answers.blind import head_to_feet
from pipeline.review.cutting import not_endless, short_text, without_hidden_signs
from pipeline.review.key_images import KEY_VIEWS, MAP_VIEWS, VIEWS, view_of

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Keys and gestures for the help on the page: title, then (keys, what they do).
KEYS: list[tuple[str, list[tuple[tuple[str, ...], str]]]] = [
    (
        "Reading",
        [
            (("J", "K"), "next, previous nodule"),
            (("↑", "↓"), "scroll the slices (Page up, Page down: five at a time; Home, End)"),
            (("T",), "next picture: axial, mediastinal, coronal, sagittal"),
            (("1", "2", "3"), "lung, mediastinal, bone window"),
            (("Shift", "arrows"), "move the crosshair"),
            (("0",), "reset windows and place"),
            (("Z",), "enlarge the picture, and back"),
            (("H",), "heat map, where there is one"),
        ],
    ),
    (
        "Answering",
        [
            (("A", "R", "C"), "accept, reject, correct"),
            (("M", "B", "O"), "malignant, benign, open"),
            (("P",), "correct the position: take the crosshair"),
            (("N",), "add a missed nodule at the crosshair"),
            (("X",), "hide what the AI says; V shows it for a nodule you have answered"),
            (("S",), "save the answers"),
            (("?",), "this help"),
        ],
    ),
    (
        "Mouse and touch",
        [
            (("wheel",), "scroll the slices of the picture under the pointer"),
            (("drag",), "window: right wider, down brighter tissue"),
            (("click",), "put the crosshair there; all planes follow"),
            (("double click",), "enlarge"),
            (("swipe aside",), "scroll the slices on a touch screen, or use the slider"),
        ],
    ),
]


def render_study(review: StudyReview, images: dict[str, bytes], stacks: dict[str, bytes] | None = None) -> str:
    """The report of a study as one HTML file.

    Parameters
    ----------
    review: everything the page says; all of its strings are escaped. Where its `reading` is "blind" or "second" the
        page has no place for what the model says, and findings stand as they are given.
    images: PNG bytes by file name; a finding shows those that its `key_images` names, others are left out.
    stacks: what `stack.pack_stack` made, by the name that a finding's `stack` gives.

    Returns
    -------
    HTML that loads nothing: its content security policy allows inline images and, by their digests,
    its own style and script alone.
    """
    hides_model = review.reading in ("blind", "second")
    findings = list(review.findings) if hides_model else wording.sorted_findings(review)
    numbers = {finding.finding_id: number for number, finding in enumerate(findings, start=1)}
    shown = {finding.stack: (stacks or {}).get(finding.stack) for finding in findings if finding.stack}
    held = {name: Markup(base64.b64encode(content).decode()) for name, content in shown.items() if content}
    environment = page_environment().overlay(finalize=_not_endless)
    environment.globals.update(short_text=short_text, wording=wording, guiding=wording_guidelines)
    style = read_template("report.css") + read_template("study.css")
    script = '"use strict";\n' + "".join(read_template(name) for name in ("viewer.js", "answers.js", "page.js"))
    return environment.get_template("study.html.j2").render(
        review=review,
        findings=findings,
        pictures={finding.finding_id: _pictures(finding, images) for finding in findings},
        stacks=held,
        n_scrolled=sum(finding.stack in held for finding in findings),
        study_guidelines=wording_guidelines.page_guideline_lines(review, numbers),
        shows_guidelines=review.guidelines is not None,
        shows_prior=bool(review.prior_study_key),
        shows_model=not hides_model,
        style=Markup(style),
        script=Markup(script),
        policy=content_policy(style, script),
        reasons=ANSWER_REASONS,
        lung_rads=get_args(LungRads),
        max_comment=MAX_COMMENT,
        help=KEYS,
        answer_data=_answer_data(review, findings, held),
    )


def _answer_data(review: StudyReview, findings: list[Finding], stacks: dict[str, Markup]) -> dict[str, Any]:
    """What the page's script knows: keys, places, grids and windows; no figure of the model."""
    by_place = head_to_feet(findings)
    return {
        "study_key": review.study_key,
        "model_version": review.model_version,
        "created_utc": review.created_utc,
        "reading": review.reading,
        "windows": [
            {"name": name, "values": [window.width_hu, window.center_hu]}
            for name, window in (("lung", LUNG_WINDOW), ("mediastinal", MEDIASTINAL_WINDOW), ("bone", BONE_WINDOW))
        ],
        "series": [
            {
                "series_key": series.series_key,
                "n_slices": series.n_slices,
                "shape_kji": series.shape_kji,
                "affine_lps": series.affine_lps if series.shape_kji else (),
            }
            for series in review.series
        ],
        "findings": [
            {
                "finding_id": finding.finding_id,
                "nodule_id": finding.nodule_id,
                "series_key": finding.series_key,
                "stack": finding.stack if finding.stack in stacks else "",
                "place": by_place.index(finding),
            }
            for finding in findings
        ],
    }


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


def _not_endless(value: object) -> object:
    """Text without signs that turn others, cut where it would fill pages; Markup is ours."""
    return not_endless(without_hidden_signs(value)) if type(value) is str else value


def _without_hidden_signs(value: object) -> object:
    return without_hidden_signs(value) if type(value) is str else value  # Markup is ours


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


def _pictures(finding: Finding, images: dict[str, bytes]) -> dict[str, list[dict[str, Any]]]:
    """Key images of a finding in the order of the views: those that can be scrolled, others, and maps."""
    named = [(view_of(name), images[name]) for name in finding.key_images if name in images]
    order = list(VIEWS)
    named.sort(key=lambda item: order.index(item[0]) if item[0] else len(order))
    shown: dict[str, list[dict[str, Any]]] = {"tiles": [], "others": [], "maps": []}
    for view, content in named:
        if not content.startswith(PNG_SIGNATURE):
            continue
        place = "maps" if view in MAP_VIEWS else "tiles" if view in KEY_VIEWS and view != "overview" else "others"
        shown[place].append(
            {
                "view": view,
                # Width of the first header chunk: pictures of long lists are smaller.
                "side": int.from_bytes(content[16:20], "big"),
                "source": Markup("data:image/png;base64," + base64.b64encode(content).decode()),
                "caption": VIEWS[view].caption if view else "Key image",
            }
        )
    return shown

"""What guidelines and the study before say, in the lines of a report; shown by the page and by the PDF alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from markupsafe import Markup

from data_contracts.guidelines import BrockResult, GuidelineResult, NoduleGuidelines
from data_contracts.review import Finding, MissedPrior, StudyReview
from pipeline.review.cutting import without_hidden_signs

#: The nodule types as radiologists write them.
TYPE_WORDS = {"solid": "solid", "part_solid": "part-solid", "ground_glass": "ground glass"}

UNVERIFIED = "unverified"
UNVERIFIED_DETAIL = (
    "A figure marked unverified was not checked against the publication: it comes from secondary sources or memory."
)

#: A nodule by its number in the report; the page's script rewrites the number where it sorts the findings anew.
_NODULE = Markup('<span class="nodule-number" data-finding="{finding_id}">nodule {number}</span>')
#: What tables write in ASCII as a page prints it, a sign on the line of its number.
_PRINTED = ((">= ", "≥\u00a0"), ("<= ", "≤\u00a0"), ("< ", "<\u00a0"), ("> ", ">\u00a0"), ("mm3", "mm³"))
#: No sentence needs more; a stated property can hold any length.
_LONGEST = 1500


@dataclass(frozen=True)
class GuidelineLine:
    """One guideline's answer.

    answer: the category, or why there is none. reason: which rule, bound and figure decided. missing: inputs without
    which there is none. open_questions: what could still change it. trust: "" or UNVERIFIED.
    """

    name: str
    answer: str
    is_given: bool
    reason: str
    management: str = ""
    missing: str = ""
    open_questions: str = ""
    notes: tuple[str, ...] = ()
    source: str = ""
    trust: str = ""


def study_guideline_lines(review: StudyReview, numbers: dict[str, int]) -> list[GuidelineLine]:
    """Of the study, as plain text; `numbers` gives the nodule number that the report uses for a finding_id."""
    return [_with_numbers(line, lambda words: _numbered(words, numbers)) for line in _study_lines(review)]


def page_guideline_lines(review: StudyReview, numbers: dict[str, int]) -> list[GuidelineLine]:
    """The same as HTML, whose script can renumber the nodules: each stands in a span that names its finding_id."""
    return [_with_numbers(line, lambda words: _marked_up(words, numbers)) for line in _study_lines(review)]


def nodule_guideline_lines(review: StudyReview, finding: Finding) -> list[GuidelineLine]:
    """Of one nodule: Lung-RADS, Fleischner, BTS and the variants of the Brock model."""
    nodule = _of_nodule(review, finding)
    if nodule is None:
        return []
    lines = [_line(result) for result in (nodule.lung_rads, nodule.fleischner, nodule.bts)]
    brock = [_brock_line(result) for result in nodule.brock]
    # Two variants that lack inputs say the same twice: the one that lacks less speaks for both.
    if brock and not any(line.is_given for line in brock):
        brock = [min(brock, key=lambda line: line.missing.count(","))]
    return lines + brock


def sources(review: StudyReview) -> list[tuple[str, str]]:
    """Each guideline with where its rules come from and, where its figures were checked, against what."""
    if review.guidelines is None:
        return []
    given = review.guidelines
    results: list[GuidelineResult | BrockResult] = [given.lung_rads, given.fleischner, given.bts]
    results += [each for nodule in given.nodules for each in (nodule.lung_rads, nodule.fleischner, nodule.bts)]
    results += [brock for nodule in given.nodules for brock in nodule.brock]
    found: dict[str, str] = {}
    checks: dict[str, dict[str, None]] = {}
    for result in results:
        name = f"Brock, {result.variant}" if isinstance(result, BrockResult) else result.guideline
        found[name] = result.source
        checks.setdefault(name, {}).update(dict.fromkeys(result.checked_against))
    return [
        (name, source + (f" Checked against: {'; '.join(checks[name])}." if checks[name] else ""))
        for name, source in found.items()
    ]


def lung_rads_words(review: StudyReview, finding: Finding) -> str:
    """The Lung-RADS category for a table cell: "4A", with what the error allows beside it; "" where there is none."""
    nodule = _of_nodule(review, finding)
    if nodule is None or nodule.lung_rads.category is None:
        return ""
    result = nodule.lung_rads
    others = [each for each in result.possible if each != result.category]
    return result.label + (f" ({', '.join(others)}?)" if others else "")


def change_words(finding: Finding) -> str:
    """The change since the study before for a table cell: "+2.1 mm, VDT 437 d"; "" where there is none."""
    prior = finding.prior
    if prior is None:
        return ""
    words = f"{finding.measurement.mean_diameter_mm - prior.mean_diameter_mm:+.1f} mm"
    if prior.growth is not None and prior.growth.vdt_days is not None and prior.growth.vdt_days > 0:
        words += f", VDT {prior.growth.vdt_days:.0f} d"
    return words


def prior_rows(finding: Finding) -> list[tuple[str, str]]:
    """Comparison with the study before, as rows; of a finding without counterpart what that says."""
    prior = finding.prior
    if prior is None:
        return [("Counterpart", finding.without_prior or "none in the study before")]
    size = f"{prior.mean_diameter_mm:.1f} mm"
    if prior.volume_mm3 is not None:
        size += f", {prior.volume_mm3:.0f} mm³"
    if prior.nodule_type is not None:
        size += f", {TYPE_WORDS[prior.nodule_type]}"
    rows = [("Then", size)]
    growth = prior.growth
    if growth is None:
        rows.append(("Change", change_words(finding)))
    else:
        rows.append(("Change", growth.words))
        if growth.missing:
            rows.append(("Not known", ", ".join(growth.missing)))
    rows.append(("Matched at", f"{prior.distance_mm:.1f} mm from its place then"))
    return rows


def missed_prior_rows(missed: MissedPrior) -> list[str]:
    """A nodule of the study before that was not found again, as cells: size then, where it would lie, why."""
    x, y, z = missed.lps_mm
    return [f"{missed.mean_diameter_mm:.1f} mm", f"L {x:.1f} P {y:.1f} S {z:.1f}", missed.reason]


def context_rows(review: StudyReview) -> list[tuple[str, str]]:
    """What the guidelines were told of the patient: only what is known."""
    if review.context is None:
        return []
    known = review.context.model_dump(mode="json", exclude_none=True)
    shifted = {"study_date": "Study date, shifted", "prior_dates": "Earlier CTs, shifted"}
    names = {name: shifted.get(name, name.replace("_", " ").capitalize().replace(" ct", " CT")) for name in known}
    return [(names[name], _told(value)) for name, value in known.items() if value != []]


def _of_nodule(review: StudyReview, finding: Finding) -> NoduleGuidelines | None:
    nodules = review.guidelines.nodules if review.guidelines else ()
    return next((nodule for nodule in nodules if nodule.nodule_id == finding.finding_id), None)


def _line(result: GuidelineResult) -> GuidelineLine:
    is_given = result.category is not None
    return GuidelineLine(
        name=result.guideline,
        answer=result.words if is_given else "No category",
        is_given=is_given,
        reason=_printed(result.reason),
        management=_printed(result.management),
        missing=", ".join(result.missing),
        open_questions=", ".join(result.not_assessed),
        notes=tuple(map(_printed, result.notes)),
        source=result.source,
        trust=UNVERIFIED if is_given and not result.verified else "",
    )


def _printed(words: str) -> str:
    words = without_hidden_signs(words)
    for written, printed in _PRINTED:
        words = words.replace(written, printed)
    return words


def _brock_line(result: BrockResult) -> GuidelineLine:
    answer = "No probability"
    if result.probability is not None:
        answer = f"{100 * result.probability:.1f} %"
        if result.probability_interval is not None:
            low, high = result.probability_interval
            answer += f" ({100 * low:.1f} to {100 * high:.1f} %)"
    return GuidelineLine(
        name=f"Brock, {result.variant}",
        answer=answer,
        is_given=result.probability is not None,
        reason=result.reason,
        missing=", ".join(result.missing),
        notes=result.notes,
        source=result.source,
        trust=UNVERIFIED if result.probability is not None and not result.verified else "",
    )


def _study_lines(review: StudyReview) -> list[GuidelineLine]:
    """Each guideline of the study; a reason begins with the nodule that decided, under its finding_id."""
    given = review.guidelines
    if given is None:
        return []
    lines = []
    for result in (given.lung_rads, given.fleischner, given.bts):
        line, decided = _line(result), given.deciding_nodules.get(result.guideline)
        lines.append(replace(line, reason=f"nodule {decided} decides: {line.reason}") if decided else line)
    return lines


def _with_numbers(line: GuidelineLine, numbered: Callable[[str], str]) -> GuidelineLine:
    return replace(line, reason=numbered(line.reason), notes=tuple(numbered(note) for note in line.notes))


def _numbered(words: str, numbers: dict[str, int]) -> str:
    """The words with "nodule 2" in the place of "nodule <finding_id>"."""
    return "".join(f"nodule {numbers[part]}" if is_id else part for part, is_id in _parts(words, numbers))


def _marked_up(words: str, numbers: dict[str, int]) -> Markup:
    shown = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    return Markup("").join(
        _NODULE.format(finding_id=part, number=numbers[part]) if is_id else part
        for part, is_id in _parts(shown, numbers)
    )


def _parts(words: str, numbers: dict[str, int]) -> list[tuple[str, bool]]:
    """The words in pieces: (finding_id, True) where they say "nodule <finding_id>", (text, False) between."""
    if not numbers:
        return [(words, False)]
    # The longest first: one id may begin another.
    ids = "|".join(re.escape(finding_id) for finding_id in sorted(numbers, key=len, reverse=True))
    pieces = re.split(rf"\bnodule ({ids})(?![\w-])", words)
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces)]


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

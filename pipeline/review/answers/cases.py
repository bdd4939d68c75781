"""One case a nodule: every reader's last word on it, whether they agree, and whether it is settled.

single: one reader. agreed: two or more different readers, and no two of them differ. differs: they do, or one reader
differs from itself in the blind second reading; an adjudicator settles it. adjudicated: somebody else did, and that
word counts. An adjudicator who is one of the readers, or whom nothing waited for, is one more reader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from data_contracts.params import FeedbackParams
from pipeline.review.answers.opinions import Opinion, is_mark, last_words

Standing = Literal["single", "agreed", "differs", "adjudicated"]
#: cases whose label a dataset may use
SETTLED: tuple[Standing, ...] = ("agreed", "adjudicated")
_CATEGORIES = ("malignant", "nodule_type", "lung_rads")


@dataclass(frozen=True)
class Case:
    """A nodule and what readers said of it, in the order they said it.

    marks: ids of the places that readers added and that are this nodule; () for a finding of a report.
    differs_on: what the readings differ on: "presence" or the name of a figure. decided: the opinions that count.
    """

    study_key: str
    patient_key: str
    nodule_id: str
    finding_id: str
    series_key: str
    opinions: tuple[Opinion, ...]
    standing: Standing
    differs_on: tuple[str, ...] = ()
    decided: tuple[Opinion, ...] = ()
    marks: tuple[str, ...] = ()


def cases_of(opinions: Iterable[Opinion], params: FeedbackParams) -> list[Case]:
    """Cases of all opinions, sorted by study and nodule; the order of the opinions does not matter."""
    given = list(opinions)
    found: dict[tuple[str, str], list[Opinion]] = defaultdict(list)
    for opinion in last_words([item for item in given if item.finding_id and not is_mark(item.finding_id)]):
        found[opinion.study_key, opinion.nodule_id].append(opinion)
    # the last words on what readers added come after it is known which marks are one nodule
    added: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in sorted(given, key=lambda item: item.order):
        if is_mark(opinion.finding_id):
            added[opinion.study_key].append(opinion)
    cases = [_case(group, (), params) for group in found.values()]
    for study_key, group in added.items():
        readers = [item for item in given if item.study_key == study_key]
        cases += [_case(list(own), marks, params) for own, marks in _added_nodules(group, readers, params)]
    return sorted(cases, key=lambda case: (case.study_key, case.nodule_id))


def same_place(
    one: tuple[float, float, float], other: tuple[float, float, float], diameter_mm: float, params: FeedbackParams
) -> bool:
    """Whether two centres (LPS mm) are of one nodule of this diameter."""
    return float(np.linalg.norm(np.subtract(one, other))) <= max(params.position_tolerance_mm, diameter_mm / 2)


def differences(one: Opinion, other: Opinion, params: FeedbackParams) -> tuple[str, ...]:
    """What two opinions of one nodule differ on; () where they agree. What one of them leaves open is no difference."""
    if one.is_kept != other.is_kept:
        return ("presence",)
    if not one.is_kept:
        return ()
    found = []
    for name in (*_CATEGORIES, "diameter_mm", "lps_mm"):
        a, b = getattr(one, name), getattr(other, name)
        if a is None or b is None:
            # one calls the report's figure wrong, the other lets it stand
            doubted = name in one.wrong and b is not None and name not in other.stated
            doubted |= name in other.wrong and a is not None and name not in one.stated
            if doubted:
                found.append(name)
        elif not _same(name, a, b, max(one.diameter_mm or 0, other.diameter_mm or 0), params):
            found.append(name)
    return tuple(found)


def _same(name: str, a: object, b: object, diameter_mm: float, params: FeedbackParams) -> bool:
    if name == "lps_mm":
        assert isinstance(a, tuple) and isinstance(b, tuple)
        return same_place(a, b, diameter_mm, params)
    if name == "diameter_mm":
        assert isinstance(a, float) and isinstance(b, float)
        allowed = max(params.diameter_tolerance_mm, params.diameter_tolerance_share * max(a, b))
        return abs(a - b) <= allowed + 1e-9
    return a == b


def _case(opinions: list[Opinion], marks: tuple[str, ...], params: FeedbackParams) -> Case:
    ordered = sorted(opinions, key=lambda item: item.order)
    first = ordered[0]
    voices = [item for item in ordered if not item.abstains]
    readings = [item for item in voices if item.role == "reader"]
    judges = [item for item in voices if item.role == "adjudicator"]
    names = {item.reader_key for item in readings}
    outside = [item for item in judges if item.reader_key not in names]
    differs_on = _differing(readings, params)
    standing: Standing
    decided: tuple[Opinion, ...]
    if differs_on and outside:
        standing, decided = "adjudicated", (outside[-1],)
    else:
        differs_on = _differing(voices, params)
        names |= {item.reader_key for item in judges}
        standing = "differs" if differs_on else "agreed" if len(names) > 1 else "single"
        decided = tuple(voices) if standing == "agreed" else ()
    return Case(
        study_key=first.study_key,
        patient_key=first.patient_key,
        nodule_id=marks[0] if marks else first.nodule_id,
        finding_id=marks[0] if marks else first.finding_id,
        series_key=next((item.series_key for item in ordered if item.series_key), ""),
        opinions=tuple(ordered),
        standing=standing,
        differs_on=differs_on,
        decided=decided,
        marks=marks,
    )


def _differing(opinions: Sequence[Opinion], params: FeedbackParams) -> tuple[str, ...]:
    found = {name for one, other in combinations(opinions, 2) for name in differences(one, other, params)}
    return tuple(name for name in ("presence", *_CATEGORIES, "diameter_mm", "lps_mm") if name in found)


def _added_nodules(
    opinions: Sequence[Opinion], readers: Sequence[Opinion], params: FeedbackParams
) -> list[tuple[list[Opinion], tuple[str, ...]]]:
    """Opinions of each nodule that readers added to one study, with the ids of its marks, the first one first.

    Who read the study and did not add it is "absent" there: that is no word against it, but the nodule waits for one.
    A nodule that everybody who added it took back is none.
    """
    groups: list[list[Opinion]] = []
    for mark in sorted((item for item in opinions if item.said == "missed"), key=lambda item: item.order):
        near = next((own for own in groups if _is_near(mark, own, params)), None)
        if near is None:
            groups.append([mark])
        else:
            near.append(mark)
    result = []
    for group in groups:
        marks = tuple(dict.fromkeys(item.finding_id for item in group))
        answers = [_placed(item, group[0]) for item in opinions if item.finding_id in marks and item.said != "missed"]
        own = last_words([replace(item, nodule_id=marks[0]) for item in (*group, *answers)])
        if not any(item.is_kept for item in own):
            continue
        heard = {item.reader_key for item in own}
        # who only says that the images allow no answer has not looked for it either
        reading = [item for item in readers if item.role == "reader" and not item.abstains]
        silent = {item.reader_key: item for item in reading if item.reader_key not in heard}
        own += [_absent(item, group[0]) for item in silent.values()]
        result.append((own, marks))
    return result


def _is_near(mark: Opinion, group: Sequence[Opinion], params: FeedbackParams) -> bool:
    for other in group:
        assert mark.lps_mm is not None and other.lps_mm is not None
        diameter_mm = max(mark.diameter_mm or 0, other.diameter_mm or 0)
        if mark.series_key == other.series_key and same_place(mark.lps_mm, other.lps_mm, diameter_mm, params):
            return True
    return False


def _placed(answer: Opinion, mark: Opinion) -> Opinion:
    """An answer to a nodule that another reader added, with that reader's figures where it lets them stand."""
    if answer.said == "reject":
        return replace(answer, series_key=mark.series_key)
    names = ("diameter_mm", "nodule_type", "lps_mm")
    left: dict[str, Any] = {name: getattr(mark, name) for name in names if name not in answer.stated | answer.wrong}
    return replace(answer, series_key=mark.series_key, **left)


def _absent(reader: Opinion, mark: Opinion) -> Opinion:
    silence: dict[str, Any] = dict.fromkeys(
        ("malignant", "diameter_mm", "nodule_type", "lung_rads", "lps_mm", "report")
    )
    silence |= {"said": "absent", "reason": "", "stated": frozenset(), "wrong": frozenset()}
    silence |= {"nodule_id": mark.nodule_id, "finding_id": mark.finding_id, "series_key": mark.series_key}
    return replace(reader, **silence)

"""The Brock probabilities of a finding in its report: numbers with limits and source, or why there is none; and back.

Each is a probability of cancer whose method is the variant of the model, so that none is taken for the network's.
"""

from __future__ import annotations

from typing import Any

import highdicom as hd
from pydicom.dataset import Dataset

from data_contracts.guidelines import BrockResult, StudyGuidelines
from pipeline.review.dicom import codes
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.codes import Code, coded
from pipeline.review.dicom.guideline_codes import BROCK, CITATION, BrockTerms
from pipeline.review.dicom.reading_items import child_words, code_of, items, number_of
from pipeline.review.dicom.report_values import DIGITS, Measurements
from pipeline.review.guidelines.tables import brock_table

#: what ends the citation of a formula that was not checked against its publication
_UNVERIFIED = " (unverified)"


def brock_figures(finding_id: str, guidelines: StudyGuidelines | None) -> Measurements:
    """The probabilities of a finding in percent, each before its limits."""
    made = []
    for result in _results(finding_id, guidelines):
        if result.probability is None:
            continue
        named = BROCK[result.variant]
        value = hd.sr.Measurement(
            coded(*codes.PROBABILITY),
            _percent(result.probability),
            coded(*codes.PERCENT),
            method=coded(*named.method),
        )
        citation = result.source + ("" if result.verified else _UNVERIFIED)
        value[0].ContentSequence.append(
            hd.sr.TextContentItem(coded(*CITATION), citation, hd.sr.RelationshipTypeValues.INFERRED_FROM)
        )
        made.append(value)
        for name, limit in zip(named.limits, result.probability_interval or (), strict=False):
            made.append(hd.sr.Measurement(coded(*name), _percent(limit), coded(*codes.PERCENT)))
    return made


def brock_sentences(results: tuple[BrockResult, ...]) -> list[tuple[Code, str]]:
    """What each variant was computed from, or why there is no probability."""
    return [
        (BROCK[result.variant].refusal if result.probability is None else BROCK[result.variant].basis, result.reason)
        for result in results
    ]


def reported_brock(group: Dataset) -> dict[str, dict[str, Any]]:
    """Variant -> the fields of its result, of those that a finding's measurement group speaks of."""
    found = ((variant, _reported(group, named)) for variant, named in BROCK.items())
    return {variant: fields for variant, fields in found if fields}


def with_reported_brock(given: tuple[BrockResult, ...], reported: dict[str, dict[str, Any]]) -> tuple[BrockResult, ...]:
    """The results as reported; one that says the same keeps its own digits and notes, one not reported stays."""
    results = {result.variant: result for result in given}
    for variant, said in reported.items():
        own = results.get(variant)
        if own is None or _stated(own) != said:
            shares = {name: _shares(said[name]) for name in ("probability", "probability_interval") if name in said}
            common = {"variant": variant, "source": brock_table().source, "verified": False}
            results[variant] = BrockResult.model_validate({**common, **said, **shares})
    return tuple(results.values())


def _results(finding_id: str, guidelines: StudyGuidelines | None) -> tuple[BrockResult, ...]:
    nodules = guidelines.nodules if guidelines else ()
    return next((nodule.brock for nodule in nodules if nodule.nodule_id == finding_id), ())


def _stated(result: BrockResult) -> dict[str, Any]:
    """The fields of a result as a report has them, probabilities in percent."""
    if result.probability is None:
        return {"reason": result.reason}
    stated: dict[str, Any] = {"probability": _percent(result.probability), "reason": result.reason}
    if result.probability_interval is not None:
        stated["probability_interval"] = tuple(map(_percent, result.probability_interval))
    return {**stated, "source": result.source, "verified": result.verified}


def _reported(group: Dataset, named: BrockTerms) -> dict[str, Any]:
    if why := child_words(group, named.refusal):
        return {"reason": why}
    for item in items(group, codes.PROBABILITY):
        if any(code_of(child) == named.method[0] for child in items(item, terms.METHOD)):
            citation = child_words(item, CITATION)
            said: dict[str, Any] = {"probability": number_of(item), "reason": child_words(group, named.basis)}
            limits = tuple(number_of(limit) for name in named.limits for limit in items(group, name))
            if len(limits) == len(named.limits):
                said["probability_interval"] = limits
            verified = not citation.endswith(_UNVERIFIED)
            return {**said, "source": citation.removesuffix(_UNVERIFIED), "verified": verified}
    return {}


def _percent(share: float) -> float:
    return round(100 * share, DIGITS)


def _shares(percent: float | tuple[float, ...]) -> float | tuple[float, ...]:
    if isinstance(percent, tuple):
        return tuple(round(each / 100, DIGITS + 2) for each in percent)
    return round(percent / 100, DIGITS + 2)

"""How often readers overrode what a version found: rejected or corrected, of what they answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from data_contracts.evaluation import Figure
from data_contracts.feedback import AnsweredFinding
from data_contracts.params import FeedbackParams
from pipeline.review.answers.cases import differences
from pipeline.review.answers.opinions import Opinion, is_mark, last_words
from pipeline.scoring.proportions import clustered_proportion_figure


@dataclass(frozen=True)
class Overrides:
    """Of one model version. rate: of the findings answered, with a 95 % interval that has patients as clusters."""

    version: str
    overridden: int
    answered: int
    rate: Figure

    @property
    def words(self) -> str:
        """`12 of 40, 0.300 [0.176-0.461]`."""
        return f"{self.overridden} of {self.answered}, {self.rate.text()}"


def overrides_by_version(opinions: Iterable[Opinion], params: FeedbackParams) -> dict[str, Overrides]:
    """Version -> how often its findings were overridden, by the last word of every reader on every finding.

    Blind second readings and adjudications are no answers to what a version shows, and an answer that says no more
    than that the image allows none is left out. A reader who did not see the model first overrides it by rejecting the
    finding, or by a figure that differs from the report's by more than readers differ; any correction of one who did
    see it is an override.
    """
    counted: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in last_words([*opinions], by_version=True):
        answers = opinion.said in ("accept", "reject", "correct") and not is_mark(opinion.finding_id)
        if answers and opinion.role == "reader" and not opinion.second_read and not opinion.abstains:
            counted[opinion.model_version].append(opinion)
    result = {}
    for version, own in sorted(counted.items()):
        hits = np.array([is_override(opinion, params) for opinion in own], dtype=np.bool_)
        patients = np.array([opinion.patient_key for opinion in own])
        rate = clustered_proportion_figure(hits, patients, n_positive=int(hits.sum()), what="answered findings")
        result[version] = Overrides(version, int(hits.sum()), int(hits.size), rate)
    return result


def is_override(opinion: Opinion, params: FeedbackParams) -> bool:
    """Whether the reader takes the finding for something else than the report does."""
    if opinion.said == "correct" and not opinion.model_visible_first and opinion.report is not None:
        return bool(opinion.wrong) or bool(differences(opinion, _as_reported(opinion, opinion.report), params))
    return opinion.said in ("reject", "correct")


def _as_reported(opinion: Opinion, report: AnsweredFinding) -> Opinion:
    """The opinion of a reader who would let the whole report stand."""
    return replace(
        opinion,
        said="accept",
        malignant=None,
        diameter_mm=report.diameter_mm,
        nodule_type=report.nodule_type,
        lung_rads=report.lung_rads,
        lps_mm=report.lps_mm,
        stated=frozenset(),
        wrong=frozenset(),
    )

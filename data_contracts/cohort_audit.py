"""cohort.json of a run: what was found in the dataset before anything learned from it."""

from __future__ import annotations

from data_contracts.drift import Verdict
from data_contracts.records import Record


class Share(Record):
    """A share of labels with its 95 % interval by resampling patients."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """The share and its interval in per cent."""
        return f"{self.value:.0%} [{self.low:.0%} to {self.high:.0%}]"


class BatchLabels(Record):
    """One batch (import, reader, source, site) against the rest.

    flipped: share of its labels that look flipped. p, p_adjusted: that patients drawn at random contradict as much;
    after Holm over all batches.
    """

    column: str
    level: str
    n: int
    n_patients: int
    flipped: Share
    p: float
    p_adjusted: float
    verdict: Verdict


class SuspiciousLabel(Record):
    """A nodule whose label contradicts the others.

    malignant: probability that the other patients give it. flipped: probability that its label is flipped.
    """

    patch_id: str
    label: int
    malignant: float
    flipped: float


class LabelAudit(Record):
    """Whether the labels contradict each other, by a small model that never saw the patient it judges.

    auc: of that model on the labels. contradictions: labels on the wrong side of their readers' own mean rating.
    """

    n: int
    n_patients: int
    auc: float | None = None
    flipped: Share | None = None
    contradictions: int = 0
    batches: tuple[BatchLabels, ...] = ()
    suspicious: tuple[SuspiciousLabel, ...] = ()
    verdict: Verdict
    reasons: tuple[str, ...] = ()


class SamePicture(Record):
    """Two patches of different patients and splits that show the same, by their ids, and their correlation."""

    first: str
    second: str
    likeness: float


class CohortAudit(Record):
    """What training says of its dataset: pictures that are in two splits under two names, and labels."""

    same_pictures: tuple[SamePicture, ...] = ()
    labels: LabelAudit

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures must know; empty where nothing looks wrong."""
        found = list(self.labels.reasons) if self.labels.verdict in ("watch", "alert") else []
        if self.same_pictures:
            found.insert(0, same_pictures_text(self.same_pictures))
        return tuple(found)


def same_pictures_text(pairs: tuple[SamePicture, ...]) -> str:
    """How many pairs there are, and the first of them."""
    some = ", ".join(f"{pair.first} and {pair.second}" for pair in pairs[:3])
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    pairs_are = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
    what = "of patches in two splits show the same picture under two patient keys"
    return f"{pairs_are} {what}, so no figure on them can be trusted: {some}{more}"

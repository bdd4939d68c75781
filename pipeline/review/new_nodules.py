"""A nodule without counterpart in the study before: whether that makes it new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_contracts.review import Finding
from pipeline.review.measure import OUTLINED, measure
from pipeline.review.registration import Alignment

OUTSIDE_BEFORE = "no counterpart in the study before: its place lies outside that scan"
OF_A_SEARCH = (
    "no counterpart among what a search found in the study before; a search misses nodules, so that a reader decides "
    "whether it is new"
)
SEEN_BEFORE = (
    "no counterpart among the nodules that readers marked in the study before, but a structure of {diameter_mm:.1f} mm "
    "is seen at its place there; a reader decides whether it is new"
)
UNCLEAR_BEFORE = (
    "no counterpart among the nodules that readers marked in the study before; its place there cannot be judged "
    "({reason}), so that a reader decides whether it is new"
)
NEW = "new: no counterpart among the nodules that readers marked in the study before, and none is seen at its place"

#: What `measure` says of a place without a nodule.
_EMPTY = ("hardly brighter", "nothing nodule-like")


def judged_new(finding: Finding, before: Sequence[Finding], alignment: Alignment) -> Finding:
    """The finding with what its lack of a counterpart among `before` says.

    New is a grave word in Lung-RADS: it is said only where readers marked the study before, its scan holds the whole
    place, and its voxels show nothing there.
    """
    diameter_mm = finding.measurement.mean_diameter_mm
    place = alignment.to_before(np.array(finding.lps_mm), diameter_mm)
    volume = alignment.before.volume
    sides = np.concatenate([np.eye(3), -np.eye(3)]) * diameter_mm / 2
    if not all(volume.contains(place + side) for side in sides):
        return finding.model_copy(update={"without_prior": OUTSIDE_BEFORE})
    if any(each.detection_score is not None for each in before):
        return finding.model_copy(update={"without_prior": OF_A_SEARCH})
    there = measure(volume, place, diameter_mm)
    if there.method == OUTLINED:
        words = SEEN_BEFORE.format(diameter_mm=there.mean_diameter_mm)
        return finding.model_copy(update={"without_prior": words})
    if not any(words in there.method for words in _EMPTY):
        reason = there.method.split(": ", 1)[-1].rstrip(")")
        return finding.model_copy(update={"without_prior": UNCLEAR_BEFORE.format(reason=reason)})
    return finding.model_copy(update={"without_prior": NEW, "is_new": True})

"""Nodules of a series that no reader marked: searched for, and what a report says of the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_contracts.detection import DetectionHead
from data_contracts.errors import UsageError
from data_contracts.params import DetectionParams
from data_contracts.records import digest_of
from data_contracts.volume import CTVolume
from flows.workspace import Workspace
from pipeline.detection.candidates import Candidate, CandidateFinder
from pipeline.detection.head import builtin_head
from pipeline.detection.propose import propose
from pipeline.imaging.lungs import LungMask

_BUNDLE = "bundle:"
_COLUMNS = ("nodule_id", "x_mm", "y_mm", "z_mm", "diameter_mm", "source", "n_readers", "detection_score")
_MOST = 1000

MARKED_ONLY = "Places without an annotation: no search for further nodules was made."
_OUTSIDE = "Outside the lungs: nothing was searched."


@dataclass(frozen=True, eq=False)
class NoduleSearch:
    """What a search gave and what a report has to say of it.

    candidates: columns as those of `candidates_of`. origin: for `StudyReview.origin_of_findings`. not_examined: what
    the search leaves open, for `StudyReview.not_examined`.
    """

    candidates: pd.DataFrame
    origin: str
    not_examined: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class NoduleFinder:
    """A detector by name. words: what it is called in a report. sensitivity: what it found of known nodules, and where.

    find: None where nothing is to be searched. threshold: of its scores.
    """

    find: CandidateFinder | None
    words: str
    sensitivity: str
    threshold: float


def finder_of(workspace: Workspace, params: DetectionParams) -> NoduleFinder:
    """The detector that the parameters name.

    Raises
    ------
    WeightsError, WeightsDigestError, ContractError: a bundle's folder that cannot be used.
    UsageError: parameters that leave nothing to search for.
    """
    if params.smallest_mm >= params.largest_mm:
        raise UsageError("parameter 'smallest_mm' must be below 'largest_mm'", where="--set")
    if params.detector == "none":
        return NoduleFinder(None, "", "", 1.0)
    if params.detector.startswith(_BUNDLE):
        from flows.reviewing.finding_by_bundle import bundle_finder

        finder, card = bundle_finder(workspace.detectors_root / params.detector.removeprefix(_BUNDLE))
        threshold = card.threshold if params.detection_threshold is None else params.detection_threshold
        words = f"the detector {card.name} ({params.detector}, weights sha256 {card.weights_sha256[:12]})"
        return NoduleFinder(finder, words, f"Its sensitivity: {card.sensitivity.rstrip('.')}.", threshold)
    head = builtin_head()
    threshold = head.threshold if params.detection_threshold is None else params.detection_threshold
    return NoduleFinder(
        propose, f"the classical blob search with the learned head {head.name}", _found(head), threshold
    )


def search_series(
    finder: NoduleFinder, volume: CTVolume, lungs: LungMask, params: DetectionParams, series_key: str
) -> NoduleSearch:
    """Search one series, or say why it was not searched."""
    nothing = "No annotation came with this study"
    if finder.find is None:
        return NoduleSearch(
            _table([], series_key),
            f"{nothing}, and the search for nodules is turned off (detector=none): the report has no findings.",
            ("The lungs: no search for nodules was made.",),
        )
    if not lungs.is_plausible:
        why = "; ".join(lungs.implausible)
        return NoduleSearch(
            _table([], series_key),
            f"{nothing}, and no search for nodules was made, because what was taken for the lungs is not plausible "
            f"({why}): the report has no findings.",
            (f"The lungs: no search for nodules was made ({why}).",),
        )
    every = params.model_copy(update={"max_candidates": _MOST})
    found = candidates_of(volume, lungs, every, series_key=series_key, find=finder.find)
    shown = found.head(params.max_candidates)
    return NoduleSearch(
        shown,
        f"{nothing}. The lungs were searched by {finder.words}: {_counted(len(found), len(shown), finder.threshold)} "
        f"{finder.sensitivity} No reader has looked: a place may be no nodule, and a nodule may have been missed.",
        (
            _OUTSIDE,
            f"Nodules below {params.smallest_mm:g} mm and above {params.largest_mm:g} mm: not searched for.",
            f"Places with a detection score below {finder.threshold:.2f}: not shown.",
        ),
    )


def candidates_of(
    volume: CTVolume,
    lungs: LungMask,
    params: DetectionParams,
    *,
    series_key: str = "",
    find: CandidateFinder = propose,
) -> pd.DataFrame:
    """Candidates as rows: nodule_id, x_mm, y_mm, z_mm (LPS), diameter_mm, source, n_readers (0), detection_score.

    Best first. A nodule_id comes from the series and the place to a tenth of a mm, so the same series gives the same.
    """
    return _table(list(find(volume, lungs, params)), series_key)


def _table(found: list[Candidate], series_key: str) -> pd.DataFrame:
    places = np.round(np.array([one.lps_mm for one in found], dtype=np.float64).reshape(-1, 3), 1) + 0.0
    rows = [
        (f"c{digest_of([series_key, *place], length=15)}", *place, round(one.diameter_mm, 2), "candidate", 0, one.score)
        for place, one in zip(places.tolist(), found, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    numbers = ["x_mm", "y_mm", "z_mm", "diameter_mm", "detection_score"]
    return table.astype({**dict.fromkeys(numbers, "float64"), "n_readers": "int64"})


def _counted(found: int, shown: int, threshold: float) -> str:
    where = f"with a detection score of {threshold:.2f} or more"
    if not found:
        return f"no place was found {where}."
    many = f"{found} place{'s' if found != 1 else ''} {where}"
    return f"{many}." if shown == found else f"{many}, of which the {shown} with the highest score are findings."


def _found(head: DetectionHead) -> str:
    """What the head found at its threshold in studies that did not teach it, in a sentence."""
    if not head.held_out:
        return "What it finds of known nodules was not measured."
    parts = [
        f"{figure.sensitivity_at_threshold:.0%} of {figure.n_nodules} nodules at "
        f"{figure.false_marks_at_threshold:.1f} false marks a scan ({figure.what})"
        for figure in head.held_out
    ]
    return f"At its own threshold of {head.threshold:.2f} it found " + "; ".join(parts) + "."

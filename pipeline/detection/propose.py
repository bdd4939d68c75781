"""Candidates of a chest, best first: blobs of the lungs, described, judged, and one for each place.

    LungMask -> pyramid of 1, 2, 4 mm -> blobs -> features -> head -> the best of each place

Everything but the head is fixed by what a nodule is; the head is learned, and head.json says from what.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_contracts.params import DetectionParams
from data_contracts.volume import CTVolume
from pipeline.detection.blobs import Blobs, find_blobs
from pipeline.detection.candidates import Candidate
from pipeline.detection.features import describe
from pipeline.detection.head import builtin_head, score
from pipeline.detection.levels import build_pyramid
from pipeline.imaging.lungs import LungMask

#: blobs of a chest that are described, the strongest first
MOST_BLOBS = 4000


def propose(volume: CTVolume, lungs: LungMask, params: DetectionParams) -> list[Candidate]:
    """Candidates by the learned head, by falling score; a `CandidateFinder`.

    All whose score reaches the threshold (that of the head where the parameters name none), at most
    `params.max_candidates`; none where the lungs are not plausible. The same volume gives the same candidates.
    """
    if not lungs.is_plausible:
        return []
    head = builtin_head()
    threshold = head.threshold if params.detection_threshold is None else params.detection_threshold
    blobs, diameters_mm, features = described(volume, lungs)
    found = judged(blobs, diameters_mm, score(head, features), params, threshold)
    return found[: params.max_candidates]


def described(volume: CTVolume, lungs: LungMask) -> tuple[Blobs, NDArray[np.float64], NDArray[np.float64]]:
    """The blobs of the lungs, their diameters in mm (n,) and their features (n, f)."""
    pyramid = build_pyramid(volume, lungs)
    blobs = find_blobs(pyramid, MOST_BLOBS)
    features, diameters_mm = describe(pyramid, blobs)
    return blobs, diameters_mm, features


def judged(
    blobs: Blobs,
    diameters_mm: NDArray[np.float64],
    scores: NDArray[np.float64],
    params: DetectionParams,
    threshold: float,
) -> list[Candidate]:
    """The best of each place, by falling score: none within the radius of a better one."""
    wanted = (
        (scores >= threshold) & (diameters_mm >= params.smallest_mm * 0.9) & (diameters_mm <= params.largest_mm * 1.1)
    )
    order = np.flatnonzero(wanted)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept: list[int] = []
    for one in order:
        others = np.array(kept, dtype=np.int64)
        away = np.linalg.norm(blobs.lps_mm[others] - blobs.lps_mm[one], axis=1)
        reach = np.maximum(diameters_mm[others], diameters_mm[one]) / 2
        if not (away < reach).any():
            kept.append(int(one))
    return [_candidate(blobs.lps_mm[one], diameters_mm[one], scores[one]) for one in kept]


def _candidate(place_mm: NDArray[np.float64], diameter_mm: float, value: float) -> Candidate:
    x, y, z = (float(part) for part in place_mm)
    return Candidate((x, y, z), float(diameter_mm), float(value))

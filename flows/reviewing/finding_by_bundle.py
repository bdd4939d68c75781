"""MONAI's nodule detector on a volume: brought to its grid, asked, and its boxes brought back to the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_contracts.detection import DetectorCard
from data_contracts.params import DetectionParams
from data_contracts.volume import CTVolume
from models.detection.bundle import BundleDetector, load_bundle_detector
from pipeline.detection.candidates import Candidate, CandidateFinder
from pipeline.imaging.lungs import LungMask
from pipeline.imaging.resample import resample_onto

#: lungs and this much around are looked at
_MARGIN_MM = 15.0
#: a box whose edge is further from the lungs than this is something else
_OFF_LUNG_MM = 5.0
#: k to the head, j to the front, i to the right: turned round, the axes of MONAI's RAS
_AXES = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True, eq=False)
class _ByBundle:
    """A `CandidateFinder`: the detector, asked about the lungs' part of a chest."""

    detector: BundleDetector

    def __call__(self, volume: CTVolume, lungs: LungMask, params: DetectionParams) -> Sequence[Candidate]:
        card = self.detector.card
        if not lungs.is_plausible:
            return []
        affine, shape = _lung_box(lungs, card)
        part = resample_onto(volume, affine, shape)
        boxes, scores = self.detector(part.hu.transpose(2, 1, 0))
        threshold = card.threshold if params.detection_threshold is None else params.detection_threshold
        centers = part.to_lps_mm((boxes[:, :3] + boxes[:, 3:])[:, ::-1] / 2)
        diameters = ((boxes[:, 3:] - boxes[:, :3]) * np.array(card.spacing_xyz_mm)).mean(axis=1)
        found = []
        for center, diameter, score in zip(centers, diameters, scores, strict=True):
            if score < threshold or not params.smallest_mm <= diameter <= params.largest_mm:
                continue
            if lungs.distance_mm(center) > diameter / 2 + _OFF_LUNG_MM:
                continue
            x, y, z = (float(value) for value in center)
            found.append(Candidate((x, y, z), float(diameter), float(score)))
        return found[: params.max_candidates]


def bundle_finder(folder: Path) -> tuple[CandidateFinder, DetectorCard]:
    """The finder of a folder and its card; raises what `load_bundle_detector` raises."""
    detector = load_bundle_detector(folder)
    return _ByBundle(detector), detector.card


def _lung_box(lungs: LungMask, card: DetectorCard) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The grid of the card around the lungs: affine, (k, j, i, 1) to LPS mm, and shape."""
    voxels = np.argwhere(lungs.sides)
    corners = np.stack([voxels.min(axis=0), voxels.max(axis=0)]) @ lungs.affine[:3, :3].T + lungs.affine[:3, 3]
    low, high = corners.min(axis=0) - _MARGIN_MM, corners.max(axis=0) + _MARGIN_MM
    spacing = np.array(card.spacing_xyz_mm)
    affine = np.eye(4)
    affine[:3, :3] = _AXES * spacing[::-1]
    affine[:3, 3] = high[0], high[1], low[2]
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    return affine, (int(counts[2]), int(counts[1]), int(counts[0]))

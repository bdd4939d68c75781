"""FROC as LUNA16 defines it: sensitivity against false marks a scan, and its mean at seven points.

Setio et al. 2017, Med Image Anal 42:1, and the challenge's evaluation script:
- a mark hits a nodule where its distance to the centre is below the nodule's radius; a nodule without a diameter counts
  as one of 10 mm
- of several marks on one nodule the best counts, and the others count neither for nor against
- marks on lesions that are not searched for count neither for nor against; a nodule that is searched for comes first
- a scan has at most its 100 best marks
- between two points of the curve sensitivity is interpolated in a straight line
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: false marks a scan
OPERATING_POINTS: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_MOST_MARKS = 100
_UNKNOWN_DIAMETER_MM = 10.0


@dataclass(frozen=True, eq=False)
class ScanMarks:
    """What was found in one scan, and what there was to find.

    marks_mm: (n, 3) LPS; scores: (n,). nodules_mm: (m, 4), x, y, z and diameter, NaN or negative where unknown.
    ignored_mm: (l, 4), lesions that are not searched for.
    """

    marks_mm: NDArray[np.float64]
    scores: NDArray[np.float64]
    nodules_mm: NDArray[np.float64]
    ignored_mm: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Froc:
    """The curve: false_marks a scan and sensitivity, both rising; n_nodules, n_scans: of which it is made."""

    false_marks: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    n_nodules: int
    n_scans: int

    def at(self, false_marks: float) -> float:
        """Sensitivity at so many false marks a scan."""
        return float(np.interp(false_marks, self.false_marks, self.sensitivity))

    @property
    def seven(self) -> tuple[float, ...]:
        """Sensitivity at the seven operating points."""
        return tuple(self.at(point) for point in OPERATING_POINTS)

    @property
    def mean_sensitivity(self) -> float:
        """Mean of the seven: LUNA16's score (CPM)."""
        return float(np.mean(self.seven))


@dataclass(frozen=True, eq=False)
class Counted:
    """One scan's marks after matching: best_scores, of the nodules that were hit; false_scores; n_nodules."""

    best_scores: NDArray[np.float64]
    false_scores: NDArray[np.float64]
    n_nodules: int


def count_marks(scan: ScanMarks) -> Counted:
    """Which nodules were hit, with which score, and which marks were false."""
    order = np.argsort(-scan.scores, kind="stable")[:_MOST_MARKS]
    marks, scores = scan.marks_mm[order].reshape(-1, 3), scan.scores[order]
    hits = _hits(marks, scan.nodules_mm)
    best = [float(scores[row].max()) for row in hits if row.any()]
    is_false = ~(hits.any(axis=0) | _hits(marks, scan.ignored_mm).any(axis=0))
    return Counted(np.array(best), scores[is_false], len(scan.nodules_mm))


def froc(scans: Sequence[ScanMarks] | Sequence[Counted]) -> Froc:
    """The curve of some scans.

    Raises
    ------
    ValueError: there is no scan, or no nodule in any.
    """
    counted = [scan if isinstance(scan, Counted) else count_marks(scan) for scan in scans]
    n_nodules = sum(scan.n_nodules for scan in counted)
    if not counted or not n_nodules:
        raise ValueError("FROC needs at least one scan and one nodule")
    best = np.concatenate([scan.best_scores for scan in counted])
    false = np.concatenate([scan.false_scores for scan in counted])
    cuts = np.unique(np.concatenate([best, false]))[::-1]
    # marks of equal score are accepted or refused together
    hit = len(best) - np.searchsorted(np.sort(best), cuts, side="left")
    wrong = len(false) - np.searchsorted(np.sort(false), cuts, side="left")
    return Froc(
        false_marks=np.append(0.0, wrong / len(counted)),
        sensitivity=np.append(0.0, hit / n_nodules),
        n_nodules=n_nodules,
        n_scans=len(counted),
    )


def froc_interval(
    scans: Sequence[ScanMarks], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of the seven: scans are drawn again with replacement (draws without a nodule are left out).

    One scan gives no interval but (0, 1): nothing is known of how scans differ.
    """
    if len(scans) < 2:
        return 0.0, 1.0
    counted = [count_marks(scan) for scan in scans]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn = [counted[number] for number in rng.integers(len(counted), size=len(counted))]
        if any(scan.n_nodules for scan in drawn):
            means.append(froc(drawn).mean_sensitivity)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def at_threshold(scans: Sequence[ScanMarks], threshold: float) -> tuple[float, float]:
    """Sensitivity and false marks a scan of the marks whose score is at least the threshold."""
    counted = [count_marks(scan) for scan in scans]
    n_nodules = sum(scan.n_nodules for scan in counted)
    hit = sum(int((scan.best_scores >= threshold).sum()) for scan in counted)
    wrong = sum(int((scan.false_scores >= threshold).sum()) for scan in counted)
    return (hit / n_nodules if n_nodules else float("nan")), wrong / len(counted)


def _hits(marks_mm: NDArray[np.float64], lesions_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which mark lies in which lesion: bool (lesions, marks)."""
    lesions = lesions_mm.reshape(-1, 4)
    known = np.where(lesions[:, 3] > 0, lesions[:, 3], _UNKNOWN_DIAMETER_MM)
    away = np.linalg.norm(lesions[:, None, :3] - marks_mm[None], axis=2)
    return np.asarray(away < known[:, None] / 2)

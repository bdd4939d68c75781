"""Stretch and move a network's logits on an unlabelled site until they are a mix of the source's classes again.

Another scanner mostly moves and stretches logits: the order of the nodules survives, the frozen threshold does not. An
affine map keeps the order, so no AUC on the site can be lost, and mends the threshold as far as p(logit | class) is
then the same at both sites. The mix of classes stays free: a site may have another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.scoring.shift.prevalence import fit_mixture

Floats = NDArray[np.float64]

#: natural logarithms of the stretches, and moves in standard deviations of the source's logits, that are tried
_STRETCHES = np.linspace(-0.6, 0.6, 13)
_MOVES = np.linspace(-2.0, 2.0, 41)
#: mixes tried for each of them
_STEPS = 20


@dataclass(frozen=True)
class LogitAlignment:
    """logit -> scale * logit + offset on the target.

    excess_before, excess_after: distance to the nearest mix of the source's classes, as `MixtureFit.excess`.
    """

    scale: float = 1.0
    offset: float = 0.0
    excess_before: float = 0.0
    excess_after: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether the logits stay as they are."""
        return self.scale == 1.0 and self.offset == 0.0

    def applied(self, logits: ArrayLike) -> Floats:
        """The logits of target nodules, aligned."""
        return self.scale * np.asarray(logits, dtype=np.float64) + self.offset


def align_to_mixture(
    labels: ArrayLike, source_logits: ArrayLike, target_logits: ArrayLike, *, penalty: float
) -> LogitAlignment:
    """The affine map of the target's logits that brings them nearest to a mix of the source's classes.

    labels, source_logits: (n,), both classes present; target_logits: (m,). Nearest is the least of the distance
    (`fit_mixture`) plus `penalty` times (move squared + 4 log(stretch) squared), the move in standard deviations of the
    source's logits, the stretch about their median: of maps that fit alike the smallest is taken, because a mix and a
    move can stand for each other.
    """
    source = np.asarray(source_logits, dtype=np.float64)
    target = np.asarray(target_logits, dtype=np.float64)
    middle, spread = float(np.median(source)), float(source.std())

    def mapped(stretch: float, move: float) -> tuple[float, float]:
        scale = float(np.exp(stretch))
        return scale, middle + move * spread - scale * middle

    def excess(stretch: float, move: float) -> float:
        scale, offset = mapped(stretch, move)
        return fit_mixture(labels, source, scale * target + offset, _STEPS).excess

    excesses = np.array([[excess(stretch, move) for move in _MOVES] for stretch in _STRETCHES])
    costs = excesses + penalty * (_MOVES[None] ** 2 + 4 * _STRETCHES[:, None] ** 2)
    row, column = np.unravel_index(int(costs.argmin()), costs.shape)
    stretch, move = float(_STRETCHES[row]), float(_MOVES[column])
    before = float(excesses[len(_STRETCHES) // 2, len(_MOVES) // 2])
    if abs(stretch) < 1e-9 and abs(move) < 1e-9:
        return LogitAlignment(excess_before=before, excess_after=before)
    return LogitAlignment(*mapped(stretch, move), before, float(excesses[row, column]))

"""Student's t by its bare formulas: the same as scipy.stats, a hundred times faster, which subgroups ask for."""

from __future__ import annotations

from scipy.special import stdtr, stdtrit


def student_95(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return float(stdtrit(freedom, 0.975))


def student_p_value(statistic: float, freedom: float) -> float:
    """Two-sided p of a statistic that has Student's t distribution where there is no difference."""
    return float(2 * stdtr(freedom, -abs(statistic)))

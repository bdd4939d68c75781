"""Sizes as guidelines want them: rounded half up, means of rounded axes, error bars from the variability of readers."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from statistics import NormalDist

from data_contracts.guidelines import GuidelineNodule, Measured
from data_contracts.params.guidelines import GuidelineParams

#: Half width of a 95 % interval in standard deviations.
Z95 = NormalDist().inv_cdf(0.975)


def round_half_up(value: float, step: float = 1.0) -> float:
    """Nearest multiple of `step` (1, 0.1), halves upwards: 5.95 is 6.0, 5.94 is 5.9, 5.5 is 6.

    Asked of the digits that a reader sees: 5.95 counts as 5.95, though its double lies a little below.
    """
    unit = Decimal(str(step))
    return float((Decimal(repr(float(value))) / unit).quantize(Decimal(1), rounding=ROUND_HALF_UP) * unit)


def mean_diameter_mm(measured: Measured, step_mm: float) -> float | None:
    """Mean of long and short axis (each to 0.1 mm), rounded to `step_mm`; the given mean where an axis is unknown.

    Lung-RADS v2022 note 4: axes and mean to one decimal. Fleischner 2017: the mean to the nearest mm.
    """
    exact = exact_mean_mm(measured)
    return None if exact is None else round_half_up(exact, step_mm)


def exact_mean_mm(measured: Measured) -> float | None:
    """The mean diameter before it is rounded."""
    if measured.long_axis_mm is not None and measured.short_axis_mm is not None:
        axes = (round_half_up(axis, 0.1) for axis in (measured.long_axis_mm, measured.short_axis_mm))
        return float(sum((Decimal(repr(axis)) for axis in axes), Decimal(0)) / 2)
    return measured.mean_diameter_mm


def diameter_interval_mm(nodule: GuidelineNodule, diameter_mm: float, params: GuidelineParams) -> tuple[float, float]:
    """95 % interval of the mean diameter: the nodule's own, or from the readers' variability (log-normal)."""
    if nodule.diameter_interval_mm is not None:
        return nodule.diameter_interval_mm
    return relative_interval(diameter_mm, params.reader_diameter_cv)


def relative_interval(value: float, cv: float) -> tuple[float, float]:
    """95 % interval of a size whose logarithm scatters as a coefficient of variation `cv` says."""
    spread = math.exp(Z95 * math.sqrt(math.log1p(cv**2)))
    return value / spread, value * spread


def log_ratio_limit(now: Measured, before: Measured, params: GuidelineParams) -> float:
    """Limit that |ln(V2 / V1)| of an unchanged nodule keeps in 95 %.

    Automated volumes: +-r of the mean difference is +-2 artanh(r / 2) of the log ratio; wider in proportion to the
    thicker of both slices. Readers' volumes: both scatter with the readers' coefficient of variation.
    """
    if "reader" in (now.measured_by, before.measured_by):
        return Z95 * math.sqrt(2 * math.log1p(params.reader_volume_cv**2))
    limit = 2 * math.atanh(params.volume_repeatability / 2)
    thickest = max((size.slice_thickness_mm or 0.0) for size in (now, before))
    return limit * max(1.0, thickest / params.thin_slice_mm)

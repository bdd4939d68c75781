"""Change of a nodule between two CTs: diameter, volume, and the volume doubling time with its interval.

Doubling time = ln 2 x days / ln(V2 / V1) (Schwartz 1961; BTS 2015). Its interval comes from the limit that the log
ratio of two volumes of an unchanged nodule keeps; as a rate (doublings a year) it has no gap where a nodule does not
change, as a time it has: an unchanged nodule never doubles.
"""

from __future__ import annotations

import math
from datetime import date

from data_contracts.guidelines import GrowthResult, GuidelineNodule, Measured, PriorNodule
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.sizes import Z95, exact_mean_mm, log_ratio_limit, mean_diameter_mm, round_half_up

YEAR_DAYS = 365.25


def days_between(study_date: date | None, prior: PriorNodule) -> int | None:
    """Days from the earlier CT to this one; None where a date is unknown or they do not follow each other."""
    if study_date is None or prior.study_date is None or prior.study_date >= study_date:
        return None
    return (study_date - prior.study_date).days


def measure_growth(
    nodule: GuidelineNodule,
    prior: PriorNodule,
    days: int,
    params: GuidelineParams,
    *,
    growth_mm: float,
    within_days: float,
) -> GrowthResult:
    """Change from `prior` to `nodule` in `days`; growth_mm within within_days is what counts as growth in diameter."""
    change_mm = diameter_change_mm(nodule, prior)
    limit_mm = None if change_mm is None else diameter_limit_mm(nodule, prior, params)
    diameters = _diameter_words(change_mm, limit_mm, days)
    common = {
        "days": days,
        "diameter_change_mm": change_mm,
        "diameter_limit_mm": limit_mm,
        "grew_by_diameter": None if change_mm is None else grew(change_mm, days, growth_mm, within_days),
    }
    if nodule.volume_mm3 is None or prior.volume_mm3 is None:
        lacking = [
            name for name, size in (("volume", nodule), ("volume of the prior", prior)) if size.volume_mm3 is None
        ]
        words = diameters or f"no size to compare after {days} days"
        return GrowthResult.model_validate({**common, "words": words, "missing": tuple(lacking)})
    log_ratio = math.log(nodule.volume_mm3 / prior.volume_mm3)
    limit = log_ratio_limit(nodule, prior, params)
    per_year = YEAR_DAYS / (days * math.log(2))
    low, high = (log_ratio - limit) * per_year, (log_ratio + limit) * per_year
    vdt = doubling_time_days(prior.volume_mm3, nodule.volume_mm3, days)
    interval = (_as_days(high), _as_days(low)) if low > 0 or high < 0 else (_as_days(high), None)
    percent = round((nodule.volume_mm3 / prior.volume_mm3 - 1) * 100, 1)
    words = "; ".join(part for part in (diameters, _volume_words(percent, vdt, interval)) if part)
    return GrowthResult.model_validate(
        {
            **common,
            "volume_change_percent": percent,
            "vdt_days": None if math.isinf(vdt) else vdt,
            "vdt_interval_days": interval,
            "doublings_per_year": log_ratio * per_year,
            "doublings_interval": (low, high),
            "words": words,
        }
    )


def doubling_time_days(volume_before_mm3: float, volume_now_mm3: float, days: float) -> float:
    """ln 2 x days / ln(V2 / V1): negative where the nodule shrank (a halving time), inf where it did not change."""
    log_ratio = math.log(volume_now_mm3 / volume_before_mm3)
    return math.inf if log_ratio == 0 else math.log(2) * days / log_ratio


def diameter_change_mm(now: Measured, before: Measured) -> float | None:
    """Difference of the mean diameters, both to 0.1 mm."""
    sizes = [mean_diameter_mm(size, 0.1) for size in (now, before)]
    if sizes[0] is None or sizes[1] is None:
        return None
    return round_half_up(sizes[0] - sizes[1], 0.1) if sizes[0] >= sizes[1] else -round_half_up(sizes[1] - sizes[0], 0.1)


def diameter_limit_mm(now: Measured, before: Measured, params: GuidelineParams) -> float:
    """By how much two readers' diameters of one nodule of this size differ, 95 %, to 0.1 mm."""
    mean_mm = ((exact_mean_mm(now) or 0.0) + (exact_mean_mm(before) or 0.0)) / 2
    return round_half_up(Z95 * math.sqrt(2) * params.reader_diameter_cv * mean_mm, 0.1)


def grew(change_mm: float, days: int, growth_mm: float, within_days: float) -> bool:
    """Whether a change is growth: more than growth_mm, over longer intervals more than growth_mm in each 12 months."""
    # Two CTs two years apart are 730 or 731 days apart: +3.0 mm is 1.5 mm a year, not more.
    return round(change_mm * min(1.0, within_days / days), 2) > growth_mm


def fleischner_growth_mm(now: Measured, before: Measured) -> float | None:
    """Difference of the mean diameters, both to the nearest mm."""
    if exact_mean_mm(now) is None or exact_mean_mm(before) is None:
        return None
    sizes = [mean_diameter_mm(size, 1.0) or 0.0 for size in (now, before)]
    return sizes[0] - sizes[1]


def _as_days(rate: float) -> float | None:
    return None if rate == 0 else YEAR_DAYS / rate


def _diameter_words(change_mm: float | None, limit_mm: float | None, days: int) -> str:
    if change_mm is None or limit_mm is None:
        return ""
    within = "" if abs(change_mm) > limit_mm else f" (two readers differ by up to {limit_mm:.1f} mm)"
    return f"mean diameter {change_mm:+.1f} mm in {days} days{within}"


def _volume_words(percent: float, vdt: float, interval: tuple[float | None, float | None]) -> str:
    shortest, longest = (0.0 if edge is None else edge for edge in interval)
    change = f"volume {percent:+.0f} %"
    if math.isinf(vdt):
        return f"{change}: unchanged, no doubling time; a doubling slower than {shortest:.0f} days cannot be excluded"
    if vdt < 0 and longest:
        return f"{change}: shrinking, halving time {-vdt:.0f} days (95 % {-longest:.0f} to {-shortest:.0f})"
    if vdt < 0:
        return (
            f"{change}: smaller, but within what two measurements of one nodule differ; "
            f"no doubling faster than {shortest:.0f} days"
        )
    if not longest:
        return (
            f"{change}: doubling time {vdt:.0f} days (95 % {shortest:.0f} days or more; cannot be told from no growth)"
        )
    return f"{change}: doubling time {vdt:.0f} days (95 % {shortest:.0f} to {longest:.0f})"

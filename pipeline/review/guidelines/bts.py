"""BTS 2015 of one nodule: by size and Brock at first, by growth and volume doubling time (NELSON) when followed."""

from __future__ import annotations

import math

from data_contracts.guideline_tables import RuleRow
from data_contracts.guidelines import BrockResult, GrowthResult, GuidelineNodule, GuidelineResult, PatientContext
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.asking import needs
from pipeline.review.guidelines.brock import WITH_SPICULATION
from pipeline.review.guidelines.fleischner import is_benign, looks_like_lymph_node
from pipeline.review.guidelines.growth import YEAR_DAYS
from pipeline.review.guidelines.matching import Fact, bounds_asked, categories_of, match, reachable
from pipeline.review.guidelines.sizes import relative_interval, round_half_up
from pipeline.review.guidelines.tables import BTS, checked_against, rule_table

TABLE = rule_table(BTS)

_WORDS = {
    "type": "nodule type",
    "long_axis_mm": "volume or long axis",
    "volume_mm3": "volume",
    "vdt_days": "volumes of both CTs and their dates",
    "grown": "volumes of both CTs and their dates",
}


def bts_of_nodule(
    nodule: GuidelineNodule,
    context: PatientContext,
    brock: tuple[BrockResult, ...],
    params: GuidelineParams,
    growth: GrowthResult | None = None,
) -> GuidelineResult:
    """Management of one nodule; growth: against its prior, where there is one with a date."""
    youngest = TABLE.figures["youngest_years"]
    if context.age_years is not None and context.age_years < youngest:
        return _refused(f"BTS 2015 is for adults; this patient is below {youngest:g} years")
    spiculated = next(result for result in brock if result.variant == WITH_SPICULATION)
    facts = _facts(nodule, spiculated, growth)
    found = match(TABLE, facts)
    rows = [row for variant in _variants(facts, spiculated) for row in _possible(nodule, variant, growth, params)]
    possible = categories_of(TABLE, rows)
    if found.row is None:
        missing = list(dict.fromkeys(_WORDS.get(name, name) for name in found.missing if name != "brock"))
        if "brock" in found.missing:
            missing += [f"{name} (Brock)" for name in spiculated.missing]
        return _refused(needs("BTS", missing), tuple(missing), possible)
    row = found.row
    unknown = context.age_years is None
    return GuidelineResult(
        guideline=TABLE.name,
        status="conditional" if unknown else "given",
        category=row.category,
        possible=possible,
        rule=row.id,
        reason=_reason(row, facts, growth, spiculated),
        management=row.management,
        condition="the patient is an adult" if unknown else "",
        missing=("age",) if unknown else (),
        not_assessed=tuple(
            name
            for name, value in (
                ("calcification", nodule.calcification),
                ("fat", nodule.fat),
                ("juxtapleural place", nodule.juxtapleural),
            )
            if value is None
        ),
        notes=(row.note,) if row.note else (),
        source=TABLE.source,
        verified=row.checked != "unverified",
        checked_against=checked_against(TABLE, row),
    )


def _facts(nodule: GuidelineNodule, brock: BrockResult, growth: GrowthResult | None) -> dict[str, Fact]:
    threshold = TABLE.figures["brock_threshold"]
    risk = None
    if brock.probability is not None:
        risk = "10 % or more" if brock.probability >= threshold else "below 10 %"
    return {
        "benign": "yes" if is_benign(nodule) else "no",
        "lymph_node": "yes" if _is_lymph_node(nodule) else "no",
        "type": nodule.nodule_type,
        "juxtapleural": "yes" if nodule.juxtapleural else "no",
        "smooth": "yes" if nodule.smooth else "no",
        "shape": nodule.shape or "not assessed",
        "followed": "no" if nodule.prior is None else "yes",
        "volume_known": "no" if nodule.volume_mm3 is None else "yes",
        "volume_mm3": None if nodule.volume_mm3 is None else round_half_up(nodule.volume_mm3),
        "long_axis_mm": None if nodule.long_axis_mm is None else round_half_up(nodule.long_axis_mm, 0.1),
        "brock": risk,
        **_growth_facts(growth),
    }


def _variants(facts: dict[str, Fact], brock: BrockResult) -> tuple[dict[str, Fact], ...]:
    """The facts, and where the error of the long axis carries the Brock probability over its threshold, both ways."""
    threshold = TABLE.figures["brock_threshold"]
    if (
        brock.probability_interval is None
        or not brock.probability_interval[0] < threshold <= brock.probability_interval[1]
    ):
        return (facts,)
    return tuple({**facts, "brock": risk} for risk in ("below 10 %", "10 % or more"))


def _growth_facts(growth: GrowthResult | None, log_ratio: float | None = None) -> dict[str, Fact]:
    """Whether the volume grew by 25 %, and its doubling time; of another log ratio of the volumes if one is given."""
    if growth is None or growth.volume_change_percent is None:
        return {"grown": None, "vdt_days": None}
    percent = growth.volume_change_percent if log_ratio is None else math.expm1(log_ratio) * 100
    if percent < TABLE.figures["growth_percent"]:
        return {"grown": "no", "vdt_days": None}
    if log_ratio is None:
        return {"grown": "yes", "vdt_days": growth.vdt_days}
    return {"grown": "yes", "vdt_days": math.log(2) * growth.days / log_ratio}


def _possible(
    nodule: GuidelineNodule, facts: dict[str, Fact], growth: GrowthResult | None, params: GuidelineParams
) -> tuple[RuleRow, ...]:
    """Rows that the error of the sizes, or of the change, allows."""
    if nodule.prior is None:
        if nodule.volume_mm3 is not None:
            low, high = relative_interval(nodule.volume_mm3, params.reader_volume_cv)
            intervals = {"volume_mm3": (round_half_up(low), round_half_up(high))}
            step = 1.0
        else:
            intervals, step = {}, TABLE.diameter_step_mm
        if nodule.long_axis_mm is not None and (nodule.volume_mm3 is None or nodule.nodule_type != "solid"):
            low, high = relative_interval(nodule.long_axis_mm, params.reader_diameter_cv)
            intervals = {"long_axis_mm": (round_half_up(low, 0.1), round_half_up(high, 0.1))}
            step = TABLE.diameter_step_mm
        return reachable(TABLE, facts, intervals, step, "diameter")
    if growth is None or growth.doublings_interval is None:
        return match(TABLE, facts).could
    per_doubling = math.log(2) * growth.days / YEAR_DAYS
    low, high = (rate * per_doubling for rate in growth.doublings_interval)
    figures = TABLE.figures
    edges = [math.log1p(figures["growth_percent"] / 100)]
    edges += [math.log(2) * growth.days / figures[name] for name in ("vdt_suspicious_days", "vdt_benign_days")]
    samples = {low, high, *(edge + nudge for edge in edges for nudge in (-1e-6, 1e-6) if low <= edge + nudge <= high)}
    found: dict[str, RuleRow] = {}
    for log_ratio in sorted(samples):
        for row in match(TABLE, {**facts, **_growth_facts(growth, log_ratio)}).could:
            found[row.id] = row
    return tuple(found.values())


def _is_lymph_node(nodule: GuidelineNodule) -> bool:
    small = nodule.long_axis_mm is not None and nodule.long_axis_mm < 10
    return small and looks_like_lymph_node(nodule, ("lentiform", "triangular"))


def _reason(row: RuleRow, facts: dict[str, Fact], growth: GrowthResult | None, brock: BrockResult) -> str:
    parts = [row.finding]
    for name, bound in bounds_asked(row, facts, "diameter").items():
        unit = {"volume_mm3": "mm3", "vdt_days": "days"}.get(name, "mm")
        words = {"volume_mm3": "volume", "vdt_days": "doubling time"}.get(name, "long axis")
        parts.append(f"{words} {float(facts[name] or 0):{'.1f' if unit == 'mm' else '.0f'}} {unit} ({bound.words('')})")
    if "grown" in row.when and growth is not None:
        parts.append(growth.words)
    if "brock" in row.when and brock.probability is not None:
        parts.append(f"Brock {brock.probability:.1%}")
    return "; ".join(parts)


def _refused(reason: str, missing: tuple[str, ...] = (), possible: tuple[str, ...] = ()) -> GuidelineResult:
    return GuidelineResult(
        guideline=TABLE.name, status="refused", reason=reason, missing=missing, possible=possible, source=TABLE.source
    )

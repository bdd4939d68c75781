"""Nodules of this study and those of the study before: which is which, what grew, what is not there any more.

The two CTs are aligned (pipeline.review.registration), each nodule of either is carried over to the other, and pairs
are taken one to one so that distances and differences of size are smallest together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from data_contracts.guidelines import GrowthResult, GuidelineNodule, PriorNodule
from data_contracts.params.guidelines import GuidelineParams
from data_contracts.review import Finding, Measurement, MissedPrior, PriorFinding
from pipeline.review.guidelines.growth import days_between, measure_growth
from pipeline.review.guidelines.tables import LUNG_RADS, rule_table
from pipeline.review.measure import OUTLINED, measure
from pipeline.review.new_nodules import judged_new
from pipeline.review.registration import Alignment, Scan, align

#: Farthest that a nodule may lie from where it is expected: marks and alignment err by some mm, large nodules by more.
MATCH_MM = 6.0
MATCH_PER_DIAMETER = 0.25
#: A nodule of other size than this factor counts as far away as one at the largest distance.
SIZE_FACTOR = 3.0
#: Distance and size together; a pair of more is two nodules.
_MOST_COST = 1.5

OUTSIDE = "its place lies outside this scan"
NOT_SEEN = "no nodule is seen at its place"
UNMARKED = "not among the findings, but a structure of {diameter_mm:.1f} mm is seen at its place"
UNCLEAR = "not among the findings; its place cannot be judged ({reason})"


@dataclass(frozen=True, eq=False)
class DatedScan:
    """A study's CT with what its findings need to be compared.

    study_date: shifted per patient, so that intervals hold; None where it is not known.
    """

    study_key: str
    scan: Scan
    study_date: date | None = None
    slice_thickness_mm: float | None = None


@dataclass(frozen=True, eq=False)
class PriorMatch:
    """What the comparison found.

    findings: those of now in their order, `prior` filled where one was found, else what its lack says. missed: nodules
    of before that have no counterpart. problem: why nothing could be compared ("" where it could); then nothing is
    matched nor missed.
    """

    findings: tuple[Finding, ...]
    missed: tuple[MissedPrior, ...]
    problem: str
    alignment: Alignment


def match_priors(
    now: Sequence[Finding],
    scan: DatedScan,
    before: Sequence[Finding],
    prior: DatedScan,
    params: GuidelineParams | None = None,
) -> PriorMatch:
    """Match the findings of a study with those of an earlier study of the same patient.

    Parameters
    ----------
    now, before: findings of either study; positions LPS mm in the frame of that study's scan.
    scan, prior: the CT each study's findings lie in.

    Nothing is raised for scans that cannot be aligned: `problem` says why.
    """
    params = params or GuidelineParams()
    alignment = align(scan.scan, prior.scan)
    if alignment.doubt:
        problem = f"no comparison with the study before: {alignment.doubt}"
        return PriorMatch(tuple(now), (), problem, alignment)
    expected = [alignment.to_now(np.array(each.lps_mm), each.measurement.mean_diameter_mm) for each in before]
    distances = _distances(now, before, expected, alignment)
    pairs = assign(distances, _diameters(now), _diameters(before))
    findings = list(now)
    for number, other in pairs.items():
        found = _prior_finding(now[number], scan, before[other], prior, float(distances[number, other]), params)
        findings[number] = now[number].model_copy(update={"prior": found})
    lonely = [number for number in range(len(now)) if number not in pairs]
    for number in lonely if before else ():
        findings[number] = judged_new(now[number], before, alignment)
    lost = sorted(set(range(len(before))) - set(pairs.values()))
    missed = tuple(_missed(before[other], expected[other], scan, prior) for other in lost)
    return PriorMatch(tuple(findings), missed, "", alignment)


def assign(
    distances_mm: NDArray[np.float64], diameters_now_mm: NDArray[np.float64], diameters_before_mm: NDArray[np.float64]
) -> dict[int, int]:
    """One-to-one pairs (number now -> number before) of the least total cost; what is too far apart has no pair.

    distances_mm: (now, before). Cost: squared distance and squared log ratio of the diameters, each relative to the
    most that is believed.
    """
    if not distances_mm.size:
        return {}
    most_mm = MATCH_MM + MATCH_PER_DIAMETER * (diameters_now_mm[:, None] + diameters_before_mm[None]) / 2
    ratio = np.log(diameters_now_mm[:, None] / diameters_before_mm[None]) / math.log(SIZE_FACTOR)
    cost = (distances_mm / most_mm) ** 2 + ratio**2
    # Less than nothing is gained by a pair that is not believed, so that it never displaces one that is.
    gain = np.where((distances_mm <= most_mm) & (cost < _MOST_COST), cost - 2 * _MOST_COST, 0.0)
    rows, columns = linear_sum_assignment(gain)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if gain[row, column] < 0}


def guideline_nodule(finding: Finding, slice_thickness_mm: float | None) -> GuidelineNodule:
    """A finding as the guidelines ask for it; its prior, where there is one, with it."""
    prior = None if finding.prior is None else prior_nodule(finding.prior)
    return GuidelineNodule.model_validate(
        {
            **_sizes(finding.measurement),
            "nodule_id": finding.finding_id,
            "slice_thickness_mm": slice_thickness_mm,
            "diameter_interval_mm": finding.measurement.diameter_interval_mm,
            "prior": prior,
        }
    )


def prior_nodule(prior: PriorFinding) -> PriorNodule:
    """A matched nodule of the study before as the guidelines ask for it."""
    return PriorNodule.model_validate(
        {
            **{name: getattr(prior, name) for name in _SIZES},
            "nodule_id": prior.finding_id,
            "slice_thickness_mm": prior.slice_thickness_mm,
            "study_date": date.fromisoformat(prior.study_date) if prior.study_date else None,
        }
    )


_SIZES = (
    "nodule_type",
    "mean_diameter_mm",
    "long_axis_mm",
    "short_axis_mm",
    "volume_mm3",
    "solid_diameter_mm",
    "solid_volume_mm3",
)


def _sizes(measurement: Measurement) -> dict[str, object]:
    return {name: getattr(measurement, name) for name in _SIZES}


def _diameters(findings: Sequence[Finding]) -> NDArray[np.float64]:
    return np.array([max(each.measurement.mean_diameter_mm, 0.1) for each in findings], dtype=np.float64)


def _distances(
    now: Sequence[Finding], before: Sequence[Finding], expected: Sequence[NDArray[np.float64]], alignment: Alignment
) -> NDArray[np.float64]:
    """(now, before) mm: the smaller of the distances seen from either study; one of the two may have slipped."""
    if not now or not before:
        return np.zeros((len(now), len(before)))
    here, there = (np.array([each.lps_mm for each in findings]) for findings in (now, before))
    carried = np.array([alignment.to_before(np.array(each.lps_mm), each.measurement.mean_diameter_mm) for each in now])
    in_before = np.linalg.norm(carried[:, None] - there[None], axis=-1)
    in_now = np.linalg.norm(here[:, None] - np.array(expected)[None], axis=-1)
    return np.asarray(np.minimum(in_before, in_now))


def _prior_finding(
    finding: Finding,
    scan: DatedScan,
    other: Finding,
    prior: DatedScan,
    distance_mm: float,
    params: GuidelineParams,
) -> PriorFinding:
    measurement = _comparable(other, prior)
    found = PriorFinding.model_validate(
        {
            **_sizes(measurement),
            "study_key": prior.study_key,
            "finding_id": other.finding_id,
            "study_date": prior.study_date.isoformat() if prior.study_date else "",
            "slice_thickness_mm": prior.slice_thickness_mm,
            "distance_mm": round(distance_mm, 1),
        }
    )
    growth = growth_of(finding, found, scan.study_date, scan.slice_thickness_mm, params)
    return found.model_copy(update={"growth": growth})


def growth_of(
    finding: Finding,
    prior: PriorFinding,
    study_date: date | None,
    slice_thickness_mm: float | None,
    params: GuidelineParams | None = None,
) -> GrowthResult | None:
    """Change since the study before; None where a date is unknown or the studies do not follow each other."""
    nodule, before = guideline_nodule(finding, slice_thickness_mm), prior_nodule(prior)
    days = days_between(study_date, before)
    if days is None:
        return None
    figures = rule_table(LUNG_RADS).figures
    return measure_growth(
        nodule,
        before,
        days,
        params or GuidelineParams(),
        growth_mm=figures["growth_mm"],
        within_days=figures["growth_within_days"],
    )


def _comparable(other: Finding, prior: DatedScan) -> Measurement:
    """The earlier nodule as it is measured now: a change of method is no growth."""
    if other.measurement.method == OUTLINED:
        return other.measurement
    again = measure(prior.scan.volume, other.lps_mm, other.measurement.mean_diameter_mm)
    return again if again.method == OUTLINED else other.measurement


def _missed(other: Finding, place_mm: NDArray[np.float64], scan: DatedScan, prior: DatedScan) -> MissedPrior:
    diameter_mm = other.measurement.mean_diameter_mm
    x, y, z = (round(float(value), 1) for value in place_mm)
    if not scan.scan.volume.contains(place_mm):
        reason = OUTSIDE
    else:
        here = measure(scan.scan.volume, place_mm, diameter_mm)
        if here.method == OUTLINED:
            reason = UNMARKED.format(diameter_mm=here.mean_diameter_mm)
        elif "hardly brighter" in here.method or "nothing nodule-like" in here.method:
            reason = NOT_SEEN
        else:
            reason = UNCLEAR.format(reason=here.method.split(": ", 1)[-1].rstrip(")"))
    return MissedPrior(
        study_key=prior.study_key,
        finding_id=other.finding_id,
        mean_diameter_mm=diameter_mm,
        lps_mm=(x, y, z),
        reason=reason,
    )

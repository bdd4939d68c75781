"""The way back: the figures of a measurement report of ours into the findings of its review."""

from __future__ import annotations

from typing import Any

import highdicom as hd
from pydicom.dataset import Dataset

from data_contracts.concepts import LOG_DIAMETER
from data_contracts.errors import ContractError
from data_contracts.review import Finding, Measurement, StudyReview
from pipeline.review.dicom import codes
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.report_values import DIGITS, method_of
from pipeline.review.dicom.reported_statements import (
    reported_finding,
    reported_guidelines,
    reported_nodule,
    reported_type,
    reported_unfamiliar,
    study_container,
    with_guidelines,
)

_SIDES = {code[0]: side for side, code in codes.LATERALITY.items()}
_CONCEPTS = {code[0]: name for name, code in {**codes.CONCEPTS, LOG_DIAMETER: codes.LOG_DIAMETER}.items()}
_METHOD = terms.METHOD[0]


def with_reported_figures(review: StudyReview, report: Dataset) -> StudyReview:
    """The review with what a report says of its findings and of the study.

    Side, size, density, probabilities and read-outs become those of the report; one that it leaves out is not known.
    Type, solid part, intervals, call, what is unfamiliar and guidelines are taken over where it has them.
    What a report does not hold, as the place in the patient, readers' ratings and key images, stays as it is.

    Raises
    ------
    ContractError: no report of this program, or one of other findings.
    """
    try:
        content: Any = hd.sr.Comprehensive3DSR.from_dataset(report).content
        volumetric = content.get_volumetric_roi_measurement_groups()
        planar = content.get_planar_roi_measurement_groups()
    except Exception as error:  # a foreign or broken report may raise anything when it is looked at
        raise ContractError(f"not a measurement report that can be read ({type(error).__name__})") from None
    groups: dict[str, list[Any]] = {}
    for group in (*volumetric, *planar):
        groups.setdefault(str(group.tracking_identifier), []).append(group)
    known = {finding.finding_id: finding for finding in review.findings}
    if set(groups) != set(known):
        raise ContractError("the report is of other findings than the review", where=review.study_key)
    findings = tuple(_finding(finding, groups[finding.finding_id]) for finding in review.findings)
    of_findings = {name: reported_nodule(own[0][0]) for name, own in groups.items()}
    study = study_container(report)
    guidelines = with_guidelines(review.guidelines, findings, of_findings, reported_guidelines(study))
    unfamiliar = reported_unfamiliar(study) or review.unfamiliar
    return review.model_copy(update={"findings": findings, "guidelines": guidelines, "unfamiliar": unfamiliar})


def _finding(finding: Finding, groups: list[Any]) -> Finding:
    measured = [measurement for group in groups for measurement in group.get_measurements()]
    values = {(str(m.name.value), _modifier(m, _METHOD)[0]): m for m in measured}

    def value(code: codes.Code, method: str = "") -> float | None:
        found = values.get((code[0], method))
        return None if found is None else float(found.value)

    def probability(own: float | None, method: str = "") -> float | None:
        percent = value(codes.PROBABILITY, method)
        return None if percent is None else _share(own, percent)

    def interval(limits: tuple[codes.Code, codes.Code]) -> tuple[float, float] | None:
        lower, upper = map(value, limits)
        return None if lower is None or upper is None else (lower, upper)

    before = finding.measurement
    solid_diameter, solid_volume = value(terms.SOLID_DIAMETER), value(terms.SOLID_VOLUME)
    diameter = next(m for m in measured if m.name.value == codes.DIAMETER[0])
    volume, mean_hu = value(codes.VOLUME), value(codes.ATTENUATION)
    size = Measurement(
        mean_diameter_mm=float(diameter.value),
        long_axis_mm=value(codes.LONG_AXIS),
        short_axis_mm=value(codes.SHORT_AXIS),
        volume_mm3=volume,
        mean_hu=mean_hu,
        nodule_type=reported_type(groups[0][0]) or before.nodule_type,
        solid_diameter_mm=before.solid_diameter_mm if solid_diameter is None else solid_diameter,
        solid_volume_mm3=before.solid_volume_mm3 if solid_volume is None else solid_volume,
        diameter_interval_mm=interval(terms.DIAMETER_LIMITS) or before.diameter_interval_mm,
        volume_interval_mm3=interval(terms.VOLUME_LIMITS) or before.volume_interval_mm3,
        method=method_of(_modifier(diameter, _METHOD)[1]),
    )
    return finding.model_copy(
        update={
            "side": _side(groups[0]),
            "measurement": size,
            "probability": probability(finding.probability),
            "probability_interval": _shares(finding.probability_interval, interval(terms.PROBABILITY_LIMITS)),
            "probability_image_only": probability(finding.probability_image_only, codes.IMAGE_ONLY[0]),
            "probability_size_only": probability(finding.probability_size_only, codes.SIZE_ONLY[0]),
            "concepts": {
                name: _kept(finding.concepts.get(name), float(m.value))
                for m in measured
                if (name := _CONCEPTS.get(str(m.name.value))) is not None
            },
            **reported_finding(groups[0][0]),
        }
    )


def _kept(own: float | None, said: float, scale: float = 1.0) -> float:
    """What a report says, with all digits of `own` where it is `own`, rounded. scale: of the report's unit."""
    return own if own is not None and round(scale * own, DIGITS) == said else said / scale


def _share(own: float | None, percent: float) -> float:
    kept = _kept(own, percent, 100)
    return kept if kept == own else round(kept, 8)


def _shares(own: tuple[float, float] | None, percent: tuple[float, float] | None) -> tuple[float, float] | None:
    if percent is None:
        return own
    lower, upper = own or (None, None)
    return _share(lower, percent[0]), _share(upper, percent[1])


def _modifier(measurement: Any, concept: str) -> tuple[str, str]:
    """(code, meaning) of what modifies a measurement; ("", "") where nothing does."""
    for item in measurement[0].get("ContentSequence") or []:
        if item.ConceptNameCodeSequence[0].CodeValue == concept:
            code = item.ConceptCodeSequence[0]
            return str(code.CodeValue), str(code.CodeMeaning)
    return "", ""


def _side(group: Any) -> str:
    for site in group.finding_sites:
        if site.laterality is not None:
            return _SIDES.get(str(site.laterality.value), "")
    return ""

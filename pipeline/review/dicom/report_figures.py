"""The way back: the figures of a measurement report of ours into the findings of its review."""

from __future__ import annotations

from typing import Any

import highdicom as hd
from pydicom.dataset import Dataset

from data_contracts.concepts import LOG_DIAMETER
from data_contracts.errors import ContractError
from data_contracts.review import Finding, Measurement, StudyReview
from pipeline.review.dicom import codes
from pipeline.review.dicom.report import method_of

_SIDES = {code[0]: side for side, code in codes.LATERALITY.items()}
_CONCEPTS = {code[0]: name for name, code in {**codes.CONCEPTS, LOG_DIAMETER: codes.LOG_DIAMETER}.items()}
_METHOD, _DERIVED = "370129005", "121401"


def with_reported_figures(review: StudyReview, report: Dataset) -> StudyReview:
    """The review with what a report says of its findings: side, size, probabilities and read-outs.

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
    return review.model_copy(update={"findings": findings})


def _finding(finding: Finding, groups: list[Any]) -> Finding:
    measured = [measurement for group in groups for measurement in group.get_measurements()]
    values = {(str(m.name.value), _modifier(m, _METHOD)[0]): m for m in measured}

    def value(code: codes.Code, method: str = "") -> float | None:
        found = values.get((code[0], method))
        return None if found is None else float(found.value)

    def probability(method: str = "") -> float | None:
        percent = value(codes.PROBABILITY, method)
        return None if percent is None else round(percent / 100, 8)

    diameter = next(m for m in measured if m.name.value == codes.DIAMETER[0])
    volume, mean_hu = value(codes.VOLUME), value(codes.ATTENUATION)
    size = Measurement(
        mean_diameter_mm=float(diameter.value),
        long_axis_mm=value(codes.LONG_AXIS),
        short_axis_mm=value(codes.SHORT_AXIS),
        volume_mm3=volume,
        mean_hu=mean_hu,
        method=method_of(_modifier(diameter, _METHOD)[1]),
    )
    return finding.model_copy(
        update={
            "side": _side(groups[0]),
            "measurement": size,
            "probability": probability(),
            "probability_image_only": probability(codes.IMAGE_ONLY[0]),
            "probability_size_only": probability(codes.SIZE_ONLY[0]),
            "concepts": {
                _CONCEPTS[str(m.name.value)]: float(m.value) for m in measured if str(m.name.value) in _CONCEPTS
            },
        }
    )


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

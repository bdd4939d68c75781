"""Which of the reconstructions of one study is the one to read, and why it is not each of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import SeriesRecord
from pipeline.intake.kernel_sharpness import sharpness_of

#: a series that covers this share of the longest one of its study covers what that one covers
_FULL_COVERAGE = 0.85
#: planes whose normal is nearer than this to the body's axis are axial (30 degrees)
_AXIAL = 0.866
#: slices up to so many times the thickness asked for are thin; a kernel is not worth a thick slice
_THIN = 1.6
#: findings that speak against a series where there is another
_FLAWS = {
    ReasonCode.LOSSY_COMPRESSION: "compressed with loss",
    ReasonCode.SLICES_INTERPOLATED: "has interpolated slices",
    ReasonCode.INCOMPLETE_SOURCE: "lies beside unreadable files",
    ReasonCode.BURNED_IN_ANNOTATION: "may have text in its pixels",
    ReasonCode.BURNED_IN_BLANKED: "has blanked regions",
    ReasonCode.RESCALE_TYPE_NOT_HU: "says not that it holds HU",
}


@dataclass(frozen=True)
class SeriesChoice:
    """The chosen series of a study, and for each of its series in words why it is chosen or only kept."""

    series_key: str
    reasons: dict[str, str]


@dataclass(frozen=True)
class _Merit:
    """One series in the order in which series are compared: lower figures first. words: what to say of each figure."""

    figures: tuple[float, ...]
    words: tuple[str, ...]


def choose_series(records: Sequence[SeriesRecord], params: IngestParams) -> SeriesChoice:
    """The series of one study that the policy picks; the same for the same series in any order.

    In this order: original before computed images, axial before reformats, whole length before parts, no flaw before
    flaws, thin before thick slices, the preferred kernel, the thickness nearest below the preferred one (nearest above
    where none is below), finer pixels; last the key, so that there is always one.
    """
    longest = max(_length_mm(record) for record in records if _is_axial(record) or not any(map(_is_axial, records)))
    merits = {record.series_key: _merit(record, longest, params) for record in records}
    key = min(merits, key=lambda each: (merits[each].figures, each))
    best = merits[key]
    reasons = {}
    for other, merit in merits.items():
        if other == key:
            continue
        place = next((n for n, (a, b) in enumerate(zip(merit.figures, best.figures, strict=True)) if a != b), None)
        reasons[other] = "kept, not chosen: "
        reasons[other] += (
            "equal to the chosen one" if place is None else f"{merit.words[place]} ({best.words[place]} chosen)"
        )
    said = ", ".join(dict.fromkeys(word for word in best.words if word))
    among = f" among {len(records)} series" if len(records) > 1 else ", the only series"
    reasons[key] = f"chosen{among}: {said}"
    return SeriesChoice(key, reasons)


def _merit(record: SeriesRecord, longest_mm: float, params: IngestParams) -> _Merit:
    codes = [finding.code for finding in record.findings]
    length, thickness = _length_mm(record), _thickness_mm(record)
    flaws = [text for code, text in _FLAWS.items() if code in codes]
    is_derived, is_axial = ReasonCode.DERIVED_IMAGE in codes, _is_axial(record)
    is_whole = length >= _FULL_COVERAGE * longest_mm
    kernel = sharpness_of(record.kernel, record.manufacturer)
    named = f"{kernel or 'unknown'} kernel" + (f" {record.kernel}" if record.kernel else "")
    preferred = params.preferred_thickness_mm
    is_thick = thickness > _THIN * preferred
    pixel_mm = record.spacing_kji_mm[2]
    wanted = f"{thickness:.4g} mm where {preferred:.4g} mm is preferred"
    compared = (
        (is_derived, "computed from other images" if is_derived else "original"),
        (not is_axial, "axial" if is_axial else "not axial"),
        (not is_whole, f"{'whole length' if is_whole else 'only a part'}, {length:.0f} mm"),
        (len(flaws), "; ".join(flaws) if flaws else "without a flaw"),
        (thickness if is_thick else 0, f"{'thick' if is_thick else 'thin'} slices of {thickness:.4g} mm"),
        (_kernel_rank(kernel, params), named),
        (thickness > preferred, wanted),
        (round(abs(thickness - preferred), 3), wanted),
        (round(pixel_mm, 3), f"pixels of {pixel_mm:.3g} mm"),
    )
    return _Merit(tuple(float(figure) for figure, _ in compared), tuple(word for _, word in compared))


def _kernel_rank(kernel: str, params: IngestParams) -> int:
    if params.preferred_kernel == "any":
        return 0
    order = ["sharp", "medium", "soft"]
    if params.preferred_kernel == "soft":
        order.reverse()
    return order.index(kernel) if kernel in order else len(order)


def _normal(record: SeriesRecord) -> tuple[float, float, float]:
    """Unit normal of the planes in LPS; plain numbers, as a workspace has many thousands of series."""
    (_, a, d, _), (_, b, e, _), (_, c, f, _), _ = record.affine_lps
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def _is_axial(record: SeriesRecord) -> bool:
    return abs(_normal(record)[2]) >= _AXIAL


def _step_mm(record: SeriesRecord) -> float:
    """Distance of neighbouring planes, which on a sheared grid is less than the step between slices."""
    return abs(sum(part * line[0] for part, line in zip(_normal(record), record.affine_lps[:3], strict=True)))


def _length_mm(record: SeriesRecord) -> float:
    return record.n_slices * _step_mm(record)


def _thickness_mm(record: SeriesRecord) -> float:
    """Slice thickness, or the distance of the planes where they leave gaps."""
    return round(max(record.slice_thickness_mm or 0.0, _step_mm(record)), 3)

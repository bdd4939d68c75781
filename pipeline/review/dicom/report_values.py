"""The numbers of a measurement report: sizes, density, probabilities and read-outs of a finding (TID 300).

The limits of an interval follow its measurement as numbers of their own.
"""

from __future__ import annotations

import highdicom as hd

from data_contracts.concepts import LOG_DIAMETER
from data_contracts.review import Finding
from pipeline.review.dicom import codes
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.codes import Code, coded
from pipeline.review.dicom.maker import MANUFACTURER, Maker
from pipeline.review.measure import FALLBACK
from pipeline.review.wording import NOT_DIAGNOSTIC

#: digits after the point of a percentage, of a concept's value and of a limit
DIGITS = 4
_NOT_OUTLINED = "by mark: "

Measurements = list[hd.sr.Measurement]
Interval = tuple[float, float] | None


def figures(finding: Finding, maker: Maker) -> Measurements:
    """Size, density, probabilities and read-outs."""
    size, mean = finding.measurement, coded(*codes.MEAN)
    made = [
        hd.sr.Measurement(
            coded(*codes.DIAMETER),
            float(size.mean_diameter_mm),
            coded(*codes.MM),
            derivation=mean,
            method=codes.words_code(method_words(size.method)),
        ),
        *_limits(terms.DIAMETER_LIMITS, size.diameter_interval_mm, codes.MM),
    ]
    if size.volume_mm3 is not None:
        made.append(hd.sr.Measurement(coded(*codes.VOLUME), float(size.volume_mm3), coded(*codes.MM3)))
        made += _limits(terms.VOLUME_LIMITS, size.volume_interval_mm3, codes.MM3)
    if size.solid_diameter_mm is not None:
        made.append(
            hd.sr.Measurement(
                coded(*terms.SOLID_DIAMETER), float(size.solid_diameter_mm), coded(*codes.MM), derivation=mean
            )
        )
    if size.solid_volume_mm3 is not None:
        made.append(hd.sr.Measurement(coded(*terms.SOLID_VOLUME), float(size.solid_volume_mm3), coded(*codes.MM3)))
    if size.mean_hu is not None:
        made.append(
            hd.sr.Measurement(coded(*codes.ATTENUATION), float(size.mean_hu), coded(*codes.HU), derivation=mean)
        )
    for value, method in (
        (finding.probability, None),
        (finding.probability_image_only, codes.IMAGE_ONLY),
        (finding.probability_size_only, codes.SIZE_ONLY),
    ):
        if value is not None:
            made.append(_probability(value, method, maker))
    if finding.probability_interval is not None:
        lower, upper = finding.probability_interval
        made += _limits(terms.PROBABILITY_LIMITS, (100 * lower, 100 * upper), codes.PERCENT)
    return made + _concepts(finding)


def method_words(words: str) -> str:
    """How a size was measured, short enough for the meaning of a code; `method_of` is the way back."""
    before, after = FALLBACK.split("{reason}")
    if words.startswith(before) and words.endswith(after):
        words = _NOT_OUTLINED + words[len(before) : len(words) - len(after)]
    return words[:64]


def method_of(words: str) -> str:
    """The method that `method_words` shortened."""
    return FALLBACK.format(reason=words.removeprefix(_NOT_OUTLINED)) if words.startswith(_NOT_OUTLINED) else words


def _limits(names: tuple[Code, Code], interval: Interval, unit: Code) -> Measurements:
    if interval is None:
        return []
    return [
        hd.sr.Measurement(coded(*name), round(float(limit), DIGITS), coded(*unit))
        for name, limit in zip(names, interval, strict=True)
    ]


def _probability(value: float, method: Code | None, maker: Maker) -> hd.sr.Measurement:
    return hd.sr.Measurement(
        coded(*codes.PROBABILITY),
        round(100 * value, DIGITS),
        coded(*codes.PERCENT),
        method=coded(*method) if method else None,
        algorithm_id=None if method else _algorithm(maker),
    )


def _algorithm(maker: Maker) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=maker.model_name,
        version=maker.model_version,
        manufacturer=MANUFACTURER,
        family=coded(*codes.ALGORITHM_FAMILY),
        parameters=[f"checkpoint sha256 {maker.checkpoint_sha256}", NOT_DIAGNOSTIC],
    )


def _concepts(finding: Finding) -> Measurements:
    """What the network reads out, as it says it; the statements have the nearest words."""
    made = []
    for name, value in finding.concepts.items():
        if name == LOG_DIAMETER:
            unit, concept = codes.MM, codes.LOG_DIAMETER
        elif name in codes.CONCEPTS:
            unit, concept = codes.SCORE, codes.CONCEPTS[name]
        else:
            continue
        made.append(hd.sr.Measurement(coded(*concept), round(float(value), DIGITS), coded(*unit)))
    return made

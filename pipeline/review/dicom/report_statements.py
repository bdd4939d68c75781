"""What a measurement report states in words and codes: of a finding in its group, of the study in a container.

Type, call, what is unfamiliar and the Lung-RADS category; `reported_statements` is the way back.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd

from data_contracts.guidelines import GuidelineResult, StudyGuidelines
from data_contracts.nodules import RATINGS
from data_contracts.review import Finding, StudyReview
from pipeline.review.dicom import codes
from pipeline.review.dicom import feedback_codes as answers
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.codes import Code, coded

_CONTAINS = hd.sr.RelationshipTypeValues.CONTAINS
_Pairs = list[tuple[Code, Code]]
_Texts = list[tuple[Code, str]]


def evaluations(finding: Finding, guidelines: StudyGuidelines | None) -> list[hd.sr.QualitativeEvaluation]:
    """The coded statements of one finding."""
    return [*_ratings(finding), *(_evaluation(*pair) for pair in _statements(finding, guidelines)[0])]


def texts(finding: Finding, guidelines: StudyGuidelines | None) -> list[hd.sr.TextContentItem]:
    """The statements of one finding that are sentences."""
    return _text_items(_statements(finding, guidelines)[1])


def study_statements(review: StudyReview) -> hd.sr.ContainerContentItem | None:
    """The statements of the whole study; None where there is nothing to state."""
    pairs, said = _category(review.guidelines.lung_rads if review.guidelines else None)
    if review.unfamiliar:
        pairs.append((terms.UNFAMILIAR, terms.UNFAMILIAR_YES))
    said += [(terms.UNFAMILIAR_WHY, why) for why in review.unfamiliar]
    if not pairs:
        return None
    made = hd.sr.ContainerContentItem(coded(*terms.STUDY_STATEMENTS), relationship_type=_CONTAINS)
    made.ContentSequence = hd.sr.ContentSequence(
        [*(item for pair in pairs for item in _evaluation(*pair)), *_text_items(said)]
    )
    return made


def _statements(finding: Finding, guidelines: StudyGuidelines | None) -> tuple[_Pairs, _Texts]:
    groups = guidelines.nodules if guidelines else ()
    own = next((group.lung_rads for group in groups if group.nodule_id == finding.finding_id), None)
    pairs, said = _category(own)
    if finding.call:
        pairs.insert(0, (terms.CALL, terms.CALLS[finding.call]))
    if finding.unfamiliar:
        pairs.append((terms.UNFAMILIAR, terms.UNFAMILIAR_YES))
        said.append((terms.UNFAMILIAR_WHY, finding.unfamiliar))
    return pairs, said


def _category(result: GuidelineResult | None) -> tuple[_Pairs, _Texts]:
    """A Lung-RADS category with what restricts it; nothing where there is none."""
    if result is None or result.category not in answers.CATEGORIES:
        return [], []
    pairs = [(answers.CATEGORY, answers.CATEGORIES[result.category])]
    if len(result.possible) > 1:
        pairs += [(terms.POSSIBLE, answers.CATEGORIES[each]) for each in result.possible if each in answers.CATEGORIES]
    if result.modifier:
        pairs.append((terms.MODIFIER, terms.MODIFIERS[result.modifier]))
    return pairs, [(terms.CONDITION, result.condition)] if result.condition else []


def _ratings(finding: Finding) -> list[hd.sr.QualitativeEvaluation]:
    """The type, and the nearest words of what the network reads out; of a texture the type has precedence."""
    made = []
    for name in RATINGS:
        if name == "texture" and finding.measurement.nodule_type is not None:
            evaluation = _evaluation(answers.TYPE, answers.TYPES[finding.measurement.nodule_type])
            evaluation[0].ContentSequence = hd.sr.ContentSequence(
                [
                    hd.sr.CodeContentItem(
                        coded(*terms.METHOD),
                        coded(*terms.MEASURED_TYPE),
                        relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
                    )
                ]
            )
            made.append(evaluation)
            continue
        value = codes.value_code(name, finding.concepts[name]) if name in finding.concepts else None
        if value is not None:
            made.append(hd.sr.QualitativeEvaluation(coded(*codes.CONCEPTS[name]), value))
    return made


def _evaluation(concept: Code, value: Code) -> hd.sr.QualitativeEvaluation:
    return hd.sr.QualitativeEvaluation(coded(*concept), coded(*value))


def _text_items(said: Sequence[tuple[Code, str]]) -> list[hd.sr.TextContentItem]:
    return [hd.sr.TextContentItem(coded(*concept), words, _CONTAINS) for concept, words in said]

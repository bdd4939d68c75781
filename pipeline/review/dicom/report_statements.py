"""What a measurement report states in words and codes: of a finding in its group, of the study in a container.

Type, call, what is unfamiliar and the guidelines, for which `reported_statements` is the way back; the study before.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd

from data_contracts.guidelines import GuidelineResult, NoduleGuidelines, StudyGuidelines
from data_contracts.nodules import RATINGS
from data_contracts.review import Finding, StudyReview
from pipeline.review import wording_guidelines
from pipeline.review.dicom import codes
from pipeline.review.dicom import feedback_codes as answers
from pipeline.review.dicom import statement_codes as terms
from pipeline.review.dicom.brock_items import brock_sentences
from pipeline.review.dicom.codes import Code, coded
from pipeline.review.dicom.guideline_codes import GUIDELINES, MODIFIER, MODIFIERS, UNSAID, GuidelineTerms

_CONTAINS = hd.sr.RelationshipTypeValues.CONTAINS
_Pairs = list[tuple[Code, Code]]
_Texts = list[tuple[Code, str]]


def evaluations(finding: Finding, guidelines: StudyGuidelines | None) -> list[hd.sr.QualitativeEvaluation]:
    """The coded statements of one finding."""
    return [*_ratings(finding), *(_evaluation(*pair) for pair in _statements(finding, guidelines)[0])]


def texts(finding: Finding, review: StudyReview) -> list[hd.sr.TextContentItem]:
    """The statements of one finding that are sentences."""
    said = _statements(finding, review.guidelines)[1]
    if review.prior_study_key:
        rows = "; ".join(f"{name}: {words}" for name, words in wording_guidelines.prior_rows(finding))
        said.append((terms.SINCE_PRIOR, rows))
    return _text_items(said)


def study_statements(review: StudyReview) -> hd.sr.ContainerContentItem | None:
    """The statements of the whole study; None where there is nothing to state."""
    pairs, said = _guidelines(review.guidelines)
    if review.unfamiliar:
        pairs.append((terms.UNFAMILIAR, terms.UNFAMILIAR_YES))
    if review.prior_study_key:
        said.append((terms.PRIOR_STUDY, f"study {review.prior_study_key}"))
    missed = map(wording_guidelines.missed_prior_rows, review.missed_priors)
    said += [(terms.PRIOR_MISSED, "; ".join(cells)) for cells in missed]
    said += [(terms.UNFAMILIAR_WHY, why) for why in review.unfamiliar]
    if not pairs and not said:
        return None
    made = hd.sr.ContainerContentItem(coded(*terms.STUDY_STATEMENTS), relationship_type=_CONTAINS)
    made.ContentSequence = hd.sr.ContentSequence(
        [*(item for pair in pairs for item in _evaluation(*pair)), *_text_items(said)]
    )
    return made


def _statements(finding: Finding, guidelines: StudyGuidelines | None) -> tuple[_Pairs, _Texts]:
    groups = guidelines.nodules if guidelines else ()
    own = next((group for group in groups if group.nodule_id == finding.finding_id), None)
    pairs, said = _guidelines(own)
    said += brock_sentences(own.brock if own else ())
    if finding.call:
        pairs.insert(0, (terms.CALL, terms.CALLS[finding.call]))
    if finding.unfamiliar:
        pairs.append((terms.UNFAMILIAR, terms.UNFAMILIAR_YES))
        said.append((terms.UNFAMILIAR_WHY, finding.unfamiliar))
    return pairs, said


def _guidelines(given: NoduleGuidelines | StudyGuidelines | None) -> tuple[_Pairs, _Texts]:
    """What each guideline says of a nodule or of the study; nothing where there are none."""
    pairs: _Pairs = []
    said: _Texts = []
    for named in GUIDELINES if given else ():
        own_pairs, own_said = _result(named, getattr(given, named.field))
        pairs += own_pairs
        said += own_said
    return pairs, said


def _result(named: GuidelineTerms, result: GuidelineResult) -> tuple[_Pairs, _Texts]:
    """A category with what restricts it and what it recommends, or the reason why there is none."""
    if result.category is None:
        return [], [] if result.reason == UNSAID else [(named.refusal, result.reason)]
    pairs = [(named.category, named.categories[result.category])]
    if len(result.possible) > 1:
        pairs += [(named.possible, named.categories[each]) for each in result.possible]
    if result.modifier:
        pairs.append((MODIFIER, MODIFIERS[result.modifier]))
    if not result.verified:
        pairs.append((named.checked, answers.YES_NO[False]))
    said = [(named.condition, result.condition), (named.recommendation, result.management)]
    return pairs, [(concept, words) for concept, words in said if words]


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

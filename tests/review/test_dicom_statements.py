"""What a report in DICOM states of guidelines and of the study before: that of the page, coded, and read back."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from results_factory import PSEUDONYMS, ball, finding, record_of, review_of, saved, verified

from data_contracts.guidelines import GuidelineNodule, PatientContext, StudyGuidelines
from data_contracts.params import ReviewParams
from data_contracts.review import Finding, MissedPrior, PriorFinding, StudyReview
from data_contracts.series import SeriesRecord
from pipeline.review.dicom.guideline_codes import BROCK, BTS, FLEISCHNER, GUIDELINES, LUNG_RADS
from pipeline.review.dicom.objects import study_objects
from pipeline.review.dicom.report_figures import with_reported_figures
from pipeline.review.dicom.source import pseudonymous_study
from pipeline.review.guidelines import bts, fleischner, lung_rads
from pipeline.review.guidelines.study import assess_study
from pipeline.review.guidelines.tables import brock_table
from pipeline.review.html import render_study
from pipeline.review.pdf import render_study_pdf

HERE = np.array([-5.0, 2.0, -20.0])
INCIDENTAL = PatientContext(
    age_years=63,
    sex="female",
    screening=False,
    cancer_history=False,
    immunosuppression=False,
    family_history=True,
    nodule_count=1,
    subsolid_count=0,
)


@pytest.fixture(scope="module")
def record() -> SeriesRecord:
    return record_of()


def report_of(review: StudyReview, record: SeriesRecord) -> Dataset:
    study = pseudonymous_study([record], PSEUDONYMS)
    outlines = {review.findings[0].finding_id: ball(HERE, 4.0)}
    sides_mm = {item.finding_id: 60.0 for item in review.findings}
    return study_objects(review, outlines, {}, sides_mm, None, study, "1.0", ReviewParams()).objects["sr.dcm"]


def assessed(nodule: Finding, context: PatientContext) -> StudyGuidelines:
    size = nodule.measurement
    known = GuidelineNodule(
        nodule_id=nodule.finding_id,
        mean_diameter_mm=size.mean_diameter_mm,
        long_axis_mm=size.long_axis_mm,
        volume_mm3=size.volume_mm3,
        nodule_type="solid",
        status="baseline",
    )
    return assess_study([known], context, None)


def children(report: Dataset, heading: str) -> list[tuple[str, str]]:
    """(name, words or meaning) of what stands directly in the first container with that name."""
    (held,) = _containers(report, heading)[:1]
    return [
        (
            str(item.ConceptNameCodeSequence[0].CodeMeaning),
            str(item.get("TextValue") or item.ConceptCodeSequence[0].CodeMeaning),
        )
        for item in held.ContentSequence
        if item.ValueType in ("TEXT", "CODE")
    ]


def _containers(item: Dataset, heading: str) -> list[Dataset]:
    found = []
    for child in item.get("ContentSequence", []):
        names = child.get("ConceptNameCodeSequence")
        if child.ValueType == "CONTAINER" and names and names[0].CodeMeaning == heading:
            found.append(child)
        found += _containers(child, heading)
    return found


def test_every_category_of_the_tables_has_one_code() -> None:
    tables = {LUNG_RADS.field: lung_rads.TABLE, FLEISCHNER.field: fleischner.TABLE, BTS.field: bts.TABLE}
    codes = []
    for named in GUIDELINES:
        assert set(named.categories) >= {row.category for row in tables[named.field].rows}
        own = [named.category, named.possible, named.condition, named.recommendation, named.refusal, named.checked]
        codes += [*own, *named.categories.values()]
    for brock in BROCK.values():
        codes += [brock.method, *brock.limits, brock.basis, brock.refusal]
    assert list(BROCK) == [model.variant for model in brock_table().models]
    assert set(FLEISCHNER.categories) == set(fleischner.TABLE.categories)
    assert set(BTS.categories) == set(bts.TABLE.categories)
    assert len({value for value, _, _ in codes}) == len(codes)
    assert all(len(value) <= 16 and len(meaning) <= 64 for value, _, meaning in codes)


def test_a_report_states_fleischner_and_bts_with_what_they_recommend_and_is_read_back(
    record: SeriesRecord, tmp_path: Path
) -> None:
    nodule = finding(1, record, HERE, 4.0)
    given = assessed(nodule, INCIDENTAL)
    own = given.nodules[0]
    assert own.fleischner.category and own.bts.category and own.lung_rads.category is None
    review = review_of(record, nodule, guidelines=given)
    report = report_of(review, record)
    assert verified(*saved({"sr.dcm": report}, tmp_path)) == []
    for said in (children(report, "Measurement Group"), children(report, "Qualitative Evaluations")):
        assert ("Fleischner 2017 category", f"Fleischner: {own.fleischner.category}") in said
        assert ("Fleischner 2017 recommendation", own.fleischner.management) in said
        assert ("BTS 2015 category", f"BTS: {own.bts.category}") in said
        assert ("BTS 2015 recommendation", own.bts.management) in said
        assert ("Why there is no Lung-RADS v2022 category", own.lung_rads.reason) in said
    possible = [words for name, words in children(report, "Measurement Group") if "Fleischner within" in name]
    assert possible == [f"Fleischner: {each}" for each in own.fleischner.possible if len(own.fleischner.possible) > 1]
    groups = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    assert "Fleischner 2017 category" in {item.name.meaning for item in groups[0].get_qualitative_evaluations()}
    for before in (given, None):
        back = with_reported_figures(review.model_copy(update={"guidelines": before}), report)
        assert back.guidelines is not None
        result = back.guidelines.nodules[0].fleischner
        assert (result.category, result.management) == (own.fleischner.category, own.fleischner.management)
        assert report_of(back, record).to_json() == report.to_json()
    assert with_reported_figures(review, report) == review


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"screening": True}, "Fleischner 2017 is not for a CT of a screening programme"),
        ({"age_years": 30.0}, "a patient below 35 years"),
        ({"cancer_history": None}, "Fleischner needs: history of cancer"),
    ],
)
def test_a_report_says_why_a_guideline_gives_nothing(
    record: SeriesRecord, changed: dict[str, object], words: str, tmp_path: Path
) -> None:
    nodule = finding(1, record, HERE, 4.0)
    given = assessed(nodule, INCIDENTAL.model_copy(update=changed))
    review = review_of(record, nodule, guidelines=given)
    report = report_of(review, record)
    assert verified(*saved({"sr.dcm": report}, tmp_path)) == []
    for heading in ("Measurement Group", "Qualitative Evaluations"):
        said = dict(children(report, heading))
        assert words in said["Why there is no Fleischner 2017 category"]
        assert "Fleischner 2017 category" not in said
    bare = with_reported_figures(review.model_copy(update={"guidelines": None}), report)
    assert bare.guidelines is not None
    assert words in bare.guidelines.fleischner.reason and bare.guidelines.fleischner.category is None
    assert report_of(bare, record).to_json() == report.to_json()


SMOKER = INCIDENTAL.model_copy(update={"screening": True, "emphysema": True})


@pytest.mark.parametrize("spiculation", [True, None])
def test_a_report_gives_the_brock_probability_with_its_limits_and_source_and_is_read_back(
    record: SeriesRecord, spiculation: bool | None, tmp_path: Path
) -> None:
    nodule = finding(1, record, HERE, 4.0)
    known = GuidelineNodule(
        nodule_id=nodule.finding_id, mean_diameter_mm=8.0, long_axis_mm=8.6, nodule_type="solid", status="baseline",
        upper_lobe=True, spiculation=spiculation,
    )  # fmt: skip
    given = assess_study([known], SMOKER, None)
    review = review_of(record, nodule, guidelines=given)
    report = report_of(review, record)
    assert verified(*saved({"sr.dcm": report}, tmp_path)) == []
    group = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()[0]
    figures = {item.name.meaning: item.value for item in group.get_measurements()}
    sentences = dict(children(report, "Measurement Group"))
    for result in given.nodules[0].brock:
        terms = BROCK[result.variant]
        stated = [
            item
            for item in group.get_measurements()
            if any(child.ConceptCodeSequence[0].CodeValue == terms.method[0]
                   for child in item[0].get("ContentSequence", []) if child.ValueType == "CODE")
        ]  # fmt: skip
        if result.probability is None:
            assert (result.variant, stated) == ("with spiculation", [])
            assert "spiculation" in sentences[terms.refusal[2]]
            continue
        (value,) = stated
        assert result.probability_interval is not None
        assert (value.name.meaning, value.unit.value) == ("Probability of cancer", "%")
        assert value.value == pytest.approx(100 * result.probability, abs=1e-4)
        limits = [figures[name] for _, _, name in terms.limits]
        assert limits == pytest.approx([100 * limit for limit in result.probability_interval], abs=1e-4)
        (source,) = [child.TextValue for child in value[0].ContentSequence if child.ValueType == "TEXT"]
        assert source == result.source + ("" if result.verified else " (unverified)")
        assert sentences[terms.basis[2]] == result.reason
    assert given.nodules[0].brock[1].probability is not None
    assert with_reported_figures(review, report) == review
    blank = given.model_copy(update={"nodules": (given.nodules[0].model_copy(update={"brock": ()}),)})
    for before in (blank, None):
        back = with_reported_figures(review.model_copy(update={"guidelines": before}), report)
        assert back.guidelines is not None
        for result, own in zip(back.guidelines.nodules[0].brock, given.nodules[0].brock, strict=True):
            assert (result.variant, result.reason, result.source) == (own.variant, own.reason, own.source)
            assert result.probability == (own.probability and pytest.approx(own.probability, abs=1e-6))
            assert own.probability is None or result.verified == own.verified
        assert report_of(back, record).to_json() == report.to_json()


def test_the_networks_own_probability_is_never_taken_from_a_brock_model(record: SeriesRecord) -> None:
    nodule = finding(1, record, HERE, 4.0, probability=None, probability_interval=None)
    known = GuidelineNodule(
        nodule_id=nodule.finding_id, mean_diameter_mm=8.0, long_axis_mm=8.6, nodule_type="solid", upper_lobe=True,
        spiculation=False,
    )  # fmt: skip
    review = review_of(record, nodule, guidelines=assess_study([known], SMOKER, None))
    report = report_of(review, record)
    assert with_reported_figures(review, report).findings[0].probability is None


def test_a_category_of_an_unverified_rule_says_so_in_the_report_as_on_the_page(
    record: SeriesRecord, tmp_path: Path
) -> None:
    nodule = finding(1, record, HERE, 4.0)
    given = assessed(nodule, INCIDENTAL)
    result = given.nodules[0].fleischner.model_copy(update={"verified": False})
    given = given.model_copy(update={"nodules": (given.nodules[0].model_copy(update={"fleischner": result}),)})
    review = review_of(record, nodule, guidelines=given)
    report = report_of(review, record)
    assert verified(*saved({"sr.dcm": report}, tmp_path)) == []
    said = children(report, "Measurement Group")
    assert ("Fleischner 2017 rule was checked", "No") in said
    assert not [name for name, _ in said if name.startswith("BTS 2015 rule")]
    assert "unverified" in render_study(review, {})
    for before in (given, None):
        back = with_reported_figures(review.model_copy(update={"guidelines": before}), report)
        assert back.guidelines is not None and not back.guidelines.nodules[0].fleischner.verified
        assert back.guidelines.nodules[0].bts.verified
        assert report_of(back, record).to_json() == report.to_json()


def test_page_paper_and_report_say_the_same_of_the_study_before(record: SeriesRecord, tmp_path: Path) -> None:
    before = PriorFinding(
        study_key="b" * 16, finding_id="x", study_date=date(2014, 3, 4).isoformat(), mean_diameter_mm=6.5,
        volume_mm3=150, nodule_type="solid", distance_mm=1.5,
    )  # fmt: skip
    new = "no counterpart among what a search found in the study before"
    first = finding(1, record, HERE, 4.0, prior=before)
    others = [finding(n, record, HERE + 6 * n, 2.0, without_prior=words) for n, words in ((2, new), (3, ""))]
    gone = MissedPrior(study_key="b" * 16, finding_id="y", mean_diameter_mm=4.4, lps_mm=(1, 2, 3), reason="not there")
    review = review_of(record, first, *others, prior_study_key="b" * 16, missed_priors=(gone,))
    report = report_of(review, record)
    assert verified(*saved({"sr.dcm": report}, tmp_path)) == []
    groups = [dict(_named(group)) for group in _containers(report, "Measurement Group")]
    said = [group["Since the study before"] for group in groups if "Since the study before" in group]
    assert said == [
        "Then: 6.5 mm, 150 mm³, solid; Change: +1.5 mm; Matched at: 1.5 mm from its place then",
        f"Counterpart: {new}",
        "Counterpart: none in the study before",
    ]
    study = dict(children(report, "Qualitative Evaluations"))
    assert study["Compared with"] == f"study {'b' * 16}"
    assert "4.4 mm; L 1.0 P 2.0 S 3.0; not there" in study.values()
    page = render_study(review, {})
    for words in ("6.5 mm, 150 mm³, solid", "+1.5 mm", "1.5 mm from its place then", new, "none in the study before"):
        assert words in page
    assert render_study_pdf(review, {})
    assert report_of(with_reported_figures(review, report), record).to_json() == report.to_json()


def _named(group: Dataset) -> list[tuple[str, str]]:
    return [
        (str(item.ConceptNameCodeSequence[0].CodeMeaning), str(item.TextValue))
        for item in group.ContentSequence
        if item.ValueType == "TEXT"
    ]


def test_the_review_of_a_report_comes_back_with_all_its_digits_and_another_one_with_those_of_the_report(
    record: SeriesRecord,
) -> None:
    digits = {
        "probability": 0.98457557437628,
        "probability_interval": (0.912345678912, 0.999999999),
        "probability_size_only": 0.9511111111111,
        "concepts": {"spiculation": 3.14159265358979, "texture": 4.7182818284},
    }
    review = review_of(record, finding(1, record, HERE, 4.0, **digits))
    report = report_of(review, record)
    assert with_reported_figures(review, report) == review
    other = review_of(record, finding(1, record, HERE, 4.0, **{**digits, "probability": 0.5, "concepts": {}}))
    back = with_reported_figures(other, report).findings[0]
    assert back.probability == 0.984576
    assert back.concepts == {"spiculation": 3.1416, "texture": 4.7183}

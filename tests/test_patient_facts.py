"""Facts of patients come from a file, are kept beside the report, and decide what a guideline can say."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from data_contracts.errors import UsageError
from data_contracts.guidelines import StudyGuidelines
from data_contracts.patient_facts import StatedFacts, facts_by_study
from data_contracts.review import Finding, Measurement
from data_contracts.series import SeriesRecord
from flows.reviewing.patient_facts import keep_facts, kept_facts
from flows.workspace import Workspace
from pipeline.review.assessment import assess, study_date_of, unused_facts
from pipeline.review.measure import OUTLINED
from pipeline.review.new_nodules import NEW, OF_A_SEARCH

STUDY, OTHER = "3f2a9c0d11e45b67", "aa2a9c0d11e45b67"

FILE = f"""
screening = false
cancer_history = false
immunosuppression = false
smoking = "never"

[study.{STUDY}]
smoking = "former"
emphysema = true
[study.{STUDY}.nodule.f1]
spiculation = true
upper_lobe = true
"""


def record(**changes: object) -> SeriesRecord:
    facts: dict[str, object] = {
        "series_key": "5" * 16,
        "study_key": STUDY,
        "patient_key": "7" * 16,
        "site": "site-a",
        "volume_path": "series/x/volume.nii",
        "n_slices": 100,
        "shape_kji": (100, 512, 512),
        "spacing_kji_mm": (1.0, 0.7, 0.7),
        "affine_lps": ((0, 0, 0.7, 0), (0, 0.7, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)),
        "series_uid_key": "u",
        "sop_uid_keys": (),
        "pixel_sha256": "",
        "source_path": "",
        "patient_sex": "F",
        "patient_age_years": 61,
        "study_date_shifted": "20240301",
        "slice_thickness_mm": 1.0,
    }
    return SeriesRecord.model_validate(facts | changes)


def finding(name: str = "f1", diameter_mm: float = 9.0, **changes: object) -> Finding:
    size = Measurement(
        mean_diameter_mm=diameter_mm,
        long_axis_mm=diameter_mm,
        short_axis_mm=diameter_mm,
        nodule_type="solid",
        method=OUTLINED,
    )
    facts: dict[str, object] = {
        "finding_id": name,
        "nodule_id": f"n-{name}",
        "series_key": "5" * 16,
        "lps_mm": (0, 0, 0),
        "kji": (0, 0, 0),
        "slice_number": 1,
        "measurement": size,
        "probability": 0.4,
        "source": "reader",
    }
    return Finding.model_validate(facts | changes)


def asked(facts: StatedFacts, findings: list[Finding] | None = None, **changes: object) -> StudyGuidelines:
    found = [finding()] if findings is None else findings
    return assess(found, [record(**changes)], facts, prior_dates=(), prior=None)[1]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace").create()


def facts_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "facts.toml"
    path.write_text(text)
    return path


def test_a_study_s_own_fact_is_the_last_word_and_others_hold_for_all(tmp_path: Path, workspace: Workspace) -> None:
    keep_facts(workspace, facts_file(tmp_path, FILE), [STUDY, OTHER])
    own, other = (kept_facts(workspace.reviews_root / key) for key in (STUDY, OTHER))
    assert (own.patient.smoking, own.patient.emphysema, own.patient.screening) == ("former", True, False)
    assert (other.patient.smoking, other.patient.emphysema) == ("never", None)
    assert own.nodules["f1"].spiculation is True and not other.nodules


def test_where_nobody_stated_anything_nothing_is_known(workspace: Workspace) -> None:
    assert kept_facts(workspace.reviews_root / STUDY) == StatedFacts()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shoe_size = 44", "no guideline asks for 'shoe_size'"),
        ("study_date = 2024-03-01", "'study_date' is not stated in a file of facts: it is read from the CT's header"),
        ("prior_dates = []", "earlier_ct = false says that no earlier chest CT exists"),
        ("earlier_ct = false\nprior_being_located = true", "earlier_ct = false, but prior_being_located"),
        (
            f'earlier_ct = false\n[study.{STUDY}.nodule.f1]\nstatus = "new"',
            "earlier_ct = false, but status = \"new\" of nodule 'f1'",
        ),
        ("nodule_count = -1", "nodule_count"),
        ("nodule_count = 1\nsubsolid_count = 2", "subsolid_count is more than nodule_count"),
        ("age_years = -3", "age_years"),
        ('sex = "x"', "sex"),
        (f"[study.{OTHER}]\nemphysema = true", "not reviewed"),
        (f"[study.{STUDY}.nodule.f1]\ncolour = 1", "colour"),
        ("study = 3", "table of facts"),
        ("a = = 3", "no TOML"),
    ],
)
def test_what_cannot_be_is_one_clear_line(tmp_path: Path, workspace: Workspace, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        keep_facts(workspace, facts_file(tmp_path, text), [STUDY])
    assert words in caught.value.line() and "\n" not in caught.value.line()
    assert not list(workspace.reviews_root.rglob("facts.json"))


def test_a_file_that_is_not_there_is_said(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        keep_facts(workspace, tmp_path / "none.toml", [STUDY])


def test_without_facts_fleischner_names_what_it_lacks_and_with_them_it_answers(
    tmp_path: Path, workspace: Workspace
) -> None:
    refused = asked(StatedFacts()).fleischner
    assert refused.status == "refused" and {"screening", "immunosuppression"} <= set(refused.missing)
    given = asked(facts_by_study({**_values(), "study": {}}, [STUDY], where="facts")[STUDY]).fleischner
    assert given.category is not None, given.reason


def test_age_and_sex_of_the_header_are_used_and_what_a_person_states_overrules_them() -> None:
    context, _ = assess([], [record()], StatedFacts(), prior_dates=(), prior=None)
    assert (context.age_years, context.sex, context.study_date) == (61, "female", date(2024, 3, 1))
    stated = StatedFacts.model_validate({"patient": {"age_years": 64}})
    context, _ = assess([], [record()], stated, prior_dates=(), prior=None)
    assert context.age_years == 64


def test_a_sex_or_a_date_that_the_header_does_not_state_stays_unknown() -> None:
    unknown = record(patient_sex="O", study_date_shifted="", patient_age_years=None)
    context, _ = assess([], [unknown], StatedFacts(), prior_dates=(), prior=None)
    assert (context.age_years, context.sex, context.study_date) == (None, None, None)
    assert study_date_of(record(study_date_shifted="2024-99-99")) is None


@pytest.mark.parametrize("score", [None, 0.7])
def test_the_findings_of_a_report_are_no_nodule_count(score: float | None) -> None:
    patient = {"age_years": 66, "emphysema": True, "family_history": True, "screening": False}
    own = {"f0": {"upper_lobe": True, "spiculation": False}}
    found = [finding(f"f{number}", detection_score=score) for number in range(20)]
    refused = asked(StatedFacts.model_validate({"patient": patient, "nodules": own}), found).nodules[0].brock[0]
    assert refused.missing == ("nodule count",)
    stated = {"patient": patient | {"nodule_count": 1}, "nodules": own}
    of_one, of_many = (
        asked(StatedFacts.model_validate(stated), findings).nodules[0].brock[0] for findings in (found[:1], found)
    )
    assert of_one.probability is not None and of_one == of_many


def test_a_first_screening_ct_has_a_category_once_it_is_stated_that_none_came_before() -> None:
    screening = {"screening": True}
    found = [finding("f1", 7.0), finding("f2", 4.0)]
    unknown = asked(StatedFacts.model_validate({"patient": screening}), found).lung_rads
    assert unknown.category is None and "comparison with earlier CTs" in unknown.reason
    first = asked(StatedFacts.model_validate({"patient": screening | {"earlier_ct": False}}), found)
    assert first.lung_rads.category == "3"
    assert [each.lung_rads.category for each in first.nodules] == ["3", "2"]


def test_an_earlier_ct_that_came_later_refutes_that_there_was_none_and_the_report_says_so() -> None:
    facts = StatedFacts.model_validate({"patient": {"screening": True, "earlier_ct": False}})
    days = (date(2023, 3, 1),)
    context, guidelines = assess([finding()], [record()], facts, prior_dates=days, prior=None)
    assert (context.earlier_ct, context.prior_dates) == (None, days)
    assert guidelines.lung_rads.category is None
    (line,) = unused_facts([finding()], facts, days)
    assert "earlier_ct = false" in line
    assert unused_facts([finding()], facts, ()) == ()


def test_no_earlier_ct_is_refused_where_the_workspace_holds_one(tmp_path: Path, workspace: Workspace) -> None:
    for key, day in ((STUDY, "20240301"), (OTHER, "20230301")):
        series = record(study_key=key, series_key=key[:2] * 8, study_date_shifted=day)
        series.write(workspace.series_root / series.series_key / "series.json")
    keep_facts(workspace, facts_file(tmp_path, "earlier_ct = false"), [OTHER])
    with pytest.raises(UsageError, match="the workspace holds an earlier CT") as caught:
        keep_facts(workspace, facts_file(tmp_path, "earlier_ct = false"), [OTHER, STUDY])
    assert STUDY in caught.value.line() and "\n" not in caught.value.line()
    assert not (workspace.reviews_root / STUDY / "facts.json").exists()
    keep_facts(
        workspace,
        facts_file(tmp_path, f"earlier_ct = false\n[study.{STUDY}]\nearlier_ct = true"),
        [OTHER, STUDY],
    )


def test_a_nodule_that_the_study_before_had_not_is_new_unless_a_person_says_otherwise() -> None:
    new = finding("f1", 6.5, is_new=True, without_prior=NEW)
    screening = StatedFacts.model_validate({"patient": {"screening": True}})
    (result,) = (each.lung_rads for each in asked(screening, [new]).nodules)
    assert (result.category, result.rule) == ("4A", "solid-new-4A")
    assert NEW in result.notes
    stated = StatedFacts.model_validate({"patient": {"screening": True}, "nodules": {"f1": {"status": "baseline"}}})
    (result,) = (each.lung_rads for each in asked(stated, [new]).nodules)
    assert result.category == "3" and NEW not in result.notes
    searched = finding("f1", 6.5, without_prior=OF_A_SEARCH)
    (result,) = (each.lung_rads for each in asked(screening, [searched]).nodules)
    assert result.category is None and OF_A_SEARCH in result.reason


def test_facts_of_a_nodule_that_the_report_has_not_are_named() -> None:
    facts = StatedFacts.model_validate({"nodules": {"deadbeef": {"status": "baseline"}, "f1": {"fat": True}}})
    (line,) = unused_facts([finding("f1")], facts, ())
    assert "'deadbeef'" in line and "f1" not in line.replace("deadbeef", "")
    many = StatedFacts.model_validate({"nodules": {f"n{number}": {} for number in range(9)}})
    assert "and 4 more" in unused_facts([], many, ())[0]


def test_an_empty_report_is_lung_rads_1_only_where_a_person_searched_the_lungs() -> None:
    patient = {"screening": True, "lungs_evaluable": True}
    screening = StatedFacts.model_validate({"patient": patient})
    searched = StatedFacts.model_validate({"patient": patient | {"lungs_searched": True}})
    assert asked(searched, []).lung_rads.category == "1"
    assert asked(screening, []).lung_rads.category is None


def test_readers_who_agree_on_spiculation_are_believed_and_others_not() -> None:
    def spiculation(mean: float) -> set[str]:
        rated = finding(ratings={"spiculation": mean})
        (nodule,) = asked(StatedFacts(), [rated]).nodules
        return {name for result in nodule.brock for name in result.missing}

    assert "spiculation" in spiculation(3.0)
    assert "spiculation" not in spiculation(4.5)
    assert "spiculation" not in spiculation(1.0)


def test_each_nodule_is_answered_under_its_finding() -> None:
    found = [finding("f1"), finding("f2", 4.0)]
    assert [each.nodule_id for each in asked(StatedFacts(), found).nodules] == ["f1", "f2"]


def _values() -> dict[str, object]:
    return {
        "screening": False,
        "cancer_history": False,
        "immunosuppression": False,
        "smoking": "current",
        "pack_years": 40.0,
        "nodule_count": 1,
    }

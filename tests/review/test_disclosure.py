"""A disclosure answers every item of its checklists and every element of CHAI's card, and invents nothing."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from full_report import evaluated_card, full_report, subgroup

from data_contracts.disclosure import CHAI_NAMESPACE, AppliedModelCard, Disclosure
from data_contracts.errors import UsageError
from data_contracts.patches import DatasetCard
from data_contracts.records import Record
from data_contracts.site_statements import SITE_QUESTIONS, read_statements, statements_template
from pipeline.review.applied_model_card import model_card_xml
from pipeline.review.checklists import CLAIM_2024, TRIPOD_AI
from pipeline.review.disclosure import build_disclosure
from pipeline.review.disclosure_page import render_disclosure, title

HOSTILE = "<script>alert(1)</script> [x](http://evil) \x07\u202e &"
ENVIRONMENT = {"python": "3.11.7", "version_noduleflow": "0.1.0", "version_torch": "2.15.0", "git_commit": "abc"}


DATASET = DatasetCard(
    dataset_id="dataset-1",
    kind="2.5d",
    patch_shape=(3, 48, 48),
    dtype="int16",
    value_unit="HU",
    shards=(),
    parameters={"label": {"min_readers": 3, "threshold": 3.0}, "split": {"train": 0.5, "validation": 0.2}},
    counts={"patches": 300, "patients": 150, "site:site-a": 300, "split:test label:0": 72, "split:test label:1": 48},
)


def _build(site: dict[str, str] | None = None, **changes: object) -> Disclosure:
    given = {"report": full_report(), "card": evaluated_card(), "dataset_card": DATASET, "environment": ENVIRONMENT}
    return build_disclosure(**{**given, **changes}, site=site or {})


def _answer(disclosure: Disclosure, checklist: int, item: str):
    return next(answer for answer in disclosure.checklists[checklist].answers if answer.item == item)


def test_the_tables_hold_the_items_of_the_guidelines_each_once():
    claim = [item.number for items in CLAIM_2024.values() for item in items]
    assert claim == [str(number) for number in range(1, 45)]
    tripod = [item.number for items in TRIPOD_AI.values() for item in items]
    assert len(tripod) == len(set(tripod)) == 52
    assert list(dict.fromkeys(int(re.match(r"\d+", item)[0]) for item in tripod)) == list(range(1, 28))


def test_every_item_has_an_answer_and_what_only_the_site_knows_is_left_to_it():
    disclosure = _build()
    assert disclosure.complete and not disclosure.missing
    for checklist in disclosure.checklists:
        for answer in checklist.answers:
            assert len(answer.text) > 15, answer
            if answer.status == "not_stated":
                assert answer.text.startswith("Not stated by the site: ") and answer.site_key in SITE_QUESTIONS
            if answer.status == "not_applicable":
                assert "because" in answer.text
    for number in ("5", "16", "44"):
        assert _answer(disclosure, 0, number).status == "not_stated"
    for number in ("17", "18a", "18b", "19"):
        assert _answer(disclosure, 1, number).status == "not_stated"
    assert {"funding", "ethics", "conflicts_of_interest", "registration"} <= set(disclosure.not_stated)


def test_a_site_that_states_everything_leaves_nothing_open():
    disclosure = _build(dict.fromkeys(SITE_QUESTIONS, "As the protocol says."))
    assert disclosure.complete and disclosure.not_stated == ()
    assert sum(checklist.count("not_stated") for checklist in disclosure.checklists) == 0
    assert "Not stated by the site" not in disclosure.to_json()
    assert "Not stated" not in render_disclosure(disclosure)


def test_statements_of_the_site_stand_where_they_belong():
    disclosure = _build({"funding": "The hospital paid.", "registration": "Not applicable, because no trial was run."})
    assert _answer(disclosure, 0, "44").text == "The hospital paid."
    assert disclosure.applied_model_card.TrustIngredients.TransparencyInformation.FundingSource == "The hospital paid."
    assert _answer(disclosure, 1, "18d").status == "not_applicable"
    assert "funding" not in disclosure.not_stated


def test_answers_come_from_the_run():
    disclosure = _build()
    told = {item: _answer(disclosure, 0, item).text for item in ("7", "9", "14", "23", "25", "37", "38")}
    assert "300 patches of 150 patients" in told["7"]
    assert "windows (centre/width) -600/1500" in told["9"]
    assert "at least 3 reader(s)" in told["14"]
    assert "torch 2.15.0" in told["23"]
    assert "epochs=20" in told["25"]
    assert "0.860 [0.820 to 0.900]" in told["37"] and "sex female" in told["37"]
    assert "sensitivity 0.95: threshold 0.200" in told["38"]


def test_what_the_run_should_hold_and_does_not_is_called_missing():
    disclosure = _build(dataset_card=None, environment={}, report=full_report(subgroups=()))
    assert not disclosure.complete
    missing = " ".join(disclosure.missing)
    assert "CLAIM 2024 23 (Software)" in missing and "TRIPOD+AI 2024 12a" in missing and "CLAIM 2024 37" in missing
    assert "Incomplete" in render_disclosure(disclosure)


def test_sex_and_age_of_the_data_answer_for_the_patients():
    assert _answer(_build(), 0, "36").status == "answered"
    unknown = _build(report=full_report(subgroups=(subgroup("sex", "unknown"),)))
    assert _answer(unknown, 0, "36").status == "not_stated"
    assert "demographics" in unknown.not_stated and "demographics" not in _build().not_stated


def test_an_evaluation_on_another_dataset_is_a_test_on_external_data():
    other = DATASET.model_copy(update={"dataset_id": "dataset-2"})
    disclosure = _build(report=full_report(dataset_id="dataset-2"), dataset_card=other)
    assert _answer(disclosure, 0, "32").status == "not_applicable"
    assert _answer(disclosure, 0, "33").text.startswith("Yes: dataset dataset-2")
    inside = _answer(_build(), 0, "33")
    assert inside.status == "not_applicable" and inside.text.startswith("Not applicable, because this evaluation is on")


def test_card_and_page_say_how_much_waits_for_the_site():
    disclosure = _build()
    waiting = sum(checklist.count("not_stated") for checklist in disclosure.checklists)
    told = disclosure.applied_model_card.TrustIngredients.AISystemFacts.Transparency
    assert f"{len(disclosure.not_stated)} questions wait for the site's statement" in told
    assert f"{waiting} of the 96 items of the checklists are not answered until" in render_disclosure(disclosure)
    told = _build(dict.fromkeys(SITE_QUESTIONS, "Yes.")).applied_model_card.TrustIngredients.AISystemFacts.Transparency
    assert "No questions wait for the site's statement." in told


@pytest.mark.parametrize(("checklist", "item"), [(1, "16"), (1, "20c")])
def test_a_version_of_one_site_that_is_judged_on_two_says_so(checklist, item):
    counts = {**DATASET.counts, "split:train label:0": 34, "split:train label:1": 38}
    training = {"source_site": "site-a", "target_site": "site-b", "n_train": 36, "n_validation": 12, "network": "x"}
    card = evaluated_card()
    card = card.model_copy(update={"training": {**card.training, **training}})
    text = _answer(_build(card=card, dataset_card=DATASET.model_copy(update={"counts": counts})), checklist, item).text
    assert text.startswith("By design: it learned from site site-a (36 nodules, 12 in validation) and is judged on ")
    assert "No label of site site-b was learned from. Held-out patients are a random part" in text
    assert "72" not in text and "None by design" not in text


def test_a_version_of_all_sites_says_that_there_is_no_difference():
    card = evaluated_card()
    card = card.model_copy(update={"training": {**card.training, "source_site": "", "target_site": ""}})
    assert _answer(_build(card=card), 1, "16").text.startswith("None by design: held-out patients are")


def test_random_weights_are_never_called_pretrained():
    told = _answer(_build(card=evaluated_card(pretrained=False, weights="none", weights_sha256="")), 0, "24").text
    assert "random numbers, not from pretrained weights" in told


def _elements(record: type[Record]) -> list[str]:
    return list(record.model_fields)


def test_the_xml_holds_chais_elements_in_their_order():
    root = ElementTree.fromstring(model_card_xml(_build().applied_model_card))
    prefix = f"{{{CHAI_NAMESPACE}}}"
    assert root.tag == f"{prefix}AppliedModelCard"
    assert [child.tag for child in root] == [prefix + name for name in _elements(AppliedModelCard)]
    assert [child.tag.removeprefix(prefix) for child in root.find(f"{prefix}KeyMetrics")] == [
        "UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability",
    ]  # fmt: skip
    values = [json.loads(node.text) for node in root.iter(f"{prefix}ValueJson")]
    assert {value["kind"] for value in values} == {"estimate_ci"}
    assert all(value["lower"] <= value["estimate"] <= value["upper"] for value in values)
    assert all((node.text or "").strip() or len(node) or node.tag.endswith("Bibliography") for node in root.iter())


def test_names_out_of_headers_are_harmless_in_every_form():
    report = full_report(subgroups=(subgroup("kernel", HOSTILE),), warnings=(HOSTILE,), protocol=HOSTILE)
    disclosure = _build(
        report=report, card=evaluated_card(name=HOSTILE, backbone=HOSTILE), environment={"version_torch": HOSTILE}
    )
    page = render_disclosure(disclosure)
    assert "<script" not in page and "\u202e" not in page
    ElementTree.fromstring(model_card_xml(disclosure.applied_model_card))
    assert "[x](http" not in disclosure.to_json()


def test_a_disclosure_goes_to_json_and_back():
    disclosure = _build()
    assert Disclosure.from_json(disclosure.to_json()) == disclosure


def test_the_template_holds_every_question_and_reads_back(tmp_path):
    path = tmp_path / "disclosure.toml"
    path.write_text(statements_template({"funding": 'the "fund"\nof 2026'}), encoding="utf-8")
    assert read_statements(path) == {"funding": 'the "fund"\nof 2026'}
    assert all(f"\n{key} = " in path.read_text() for key in SITE_QUESTIONS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[disclosure]\nfounding = 'x'", "unknown key 'founding'"),
        ("[disclosure]\nfunding = 3", "disclosure.funding must be text"),
        ("[other]", "no table"),
        ("[disclosure", "not TOML"),
    ],
)
def test_a_wrong_file_of_statements_is_told_in_one_line(tmp_path, text, words):
    path = tmp_path / "disclosure.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(words)):
        read_statements(path)


def test_element_names_become_titles():
    assert title("EHRCompatibility") == "EHR compatibility"
    assert title("IntendedUseAndWorkflow") == "Intended use and workflow"


def test_where_nobody_named_the_patients_no_split_by_patient_is_claimed():
    unknown = DATASET.model_copy(update={"parameters": {"importer": "medmnist"}})
    disclosure = _build(dataset_card=unknown)
    assert _answer(disclosure, 0, "20").text.startswith("Images only: the data name no patients")
    assert _answer(disclosure, 0, "32").text.startswith("Images (no patient is known)")
    assert "what stands behind it is not known" in _answer(disclosure, 0, "14").text
    assert "as readers rate it" not in disclosure.to_json()

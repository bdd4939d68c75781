"""The page says everything, escapes everything and loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from data_contracts.guidelines import PatientContext
from data_contracts.params import ReviewParams
from data_contracts.review import StudyReview
from pipeline.review.html import content_policy, render_study
from pipeline.review.key_images import key_image_name, render_key_images
from pipeline.review.stack import pack_stack
from pipeline.review.wording import diameter_words, reader_rows, technique_rows
from pipeline.review.wording_guidelines import (
    context_rows,
    nodule_guideline_lines,
    page_guideline_lines,
    study_guideline_lines,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}\u2028\u202e"


class _Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        if self._inside == "answer-data":
            self.data += data
        elif self._inside not in ("style", "script"):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def hostile(review: StudyReview) -> StudyReview:
    """The same review with every free text replaced by an attack."""

    def attack(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {name: attack(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [attack(item, key) for item in value]
        keep = {
            "code",
            "kind",
            "value_unit",
            "pooling",
            "volumetric",
            "key_images",
            "series_key",
            "finding_id",
            "answer",
            "call",
            "reading",
            "nodule_type",
            "status",
            "modifier",
            "sex",
            "study_date",
        }
        return HOSTILE if isinstance(value, str) and key not in keep else value

    return StudyReview.model_validate(attack(review.model_dump(mode="json")))


def test_a_page_names_study_technique_quality_model_and_every_nodule(study_review, key_images):
    page = _Page(render_study(study_review, key_images))
    for words in (
        "b1946ac92492d234", "120 kVp", "B70f", "SIEMENS", "2.5 mm", "The gantry was tilted", "12.5 degrees",
        "noduleflow, version 3", "ResNet50_Weights.IMAGENET1K_V2", "Not for diagnostic use", "Marks of 4 readers.",
        "Lymph nodes and mediastinum.", "0.902 [0.821-0.955]", "268 mm³", "8.4 mm, 7.8 mm", "87 %", "91 %",
        "43 of 133", "2.5 of 5", "at the edge of the scanned volume", "not outlined: no lung around the mark",
        "The network gave no probability",
    ):  # fmt: skip
        assert words in page.text, words
    assert "random weights" not in page.text


@pytest.mark.parametrize(
    ("exposure_mas", "words"),
    [
        (None, "not stated"),
        (120.0, "120 mAs"),
        (4684.0, "4684 mAs (as the header says; not plausible for one rotation)"),
    ],
)
def test_an_exposure_that_no_tube_gives_is_shown_and_doubted(study_review, exposure_mas, words):
    series = study_review.series[0].model_copy(update={"exposure_mas": exposure_mas})
    assert dict(technique_rows(series))["Exposure"] == words


def test_a_rating_says_what_the_ends_of_its_scale_mean(study_review):
    finding = study_review.findings[0].model_copy(update={"ratings": {"calcification": 6.0, "malignancy": 4.75}})
    assert reader_rows(finding) == [
        ("Malignancy", "4.8 of 5 (1 highly unlikely, 5 highly suspicious)"),
        ("Calcification", "6.0 of 6 (1 popcorn, 6 absent)"),
    ]


def test_findings_stand_in_the_order_of_their_probability(study_review, key_images):
    page = _Page(render_study(study_review, key_images))
    order = [finding["finding_id"] for finding in json.loads(page.data)["findings"]]
    assert order == ["f2", "f1", "f3"]


def test_a_network_without_pretrained_weights_is_shouted_about(study_review, key_images):
    card = study_review.model.model_copy(update={"pretrained": False, "weights": "none"})
    html = render_study(study_review.model_copy(update={"model": card}), key_images)
    assert '<div class="banner alarm" role="alert">' in html
    assert "random weights" in html


def test_the_page_loads_nothing_from_anywhere(study_review, key_images):
    html = render_study(study_review, key_images)
    page = _Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "action", "data", "style", "xmlns"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert not re.search(r"https?:|//[a-z0-9-]+\.|url\(|@import|XMLHttpRequest|WebSocket|sendBeacon", html)
    # It posts answers to the server that served it, and to nobody unless a server gives it leave.
    assert html.count("fetch(") == 1 and "connect-src" not in html
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 15


def test_the_policy_names_the_digest_of_the_very_script_and_style_of_the_page(study_review, key_images):
    html = render_study(study_review, key_images)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    script = re.search(r"<script>(.*?)</script>", html, re.S)
    policy = dict(_Page(html).tags[3][1])["content"]
    assert policy == content_policy(style[1], script[1])
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")


@pytest.mark.parametrize("reading", ["open", "blind", "adjudication"])
def test_hostile_strings_come_out_as_text(told_review, key_images, stacks, reading):
    review = told_review.model_copy(update={"reading": reading})
    attacked = hostile(review)
    html = render_study(attacked, key_images, stacks)
    page = _Page(html)
    tags = [tag for tag, _ in page.tags]
    assert tags == [tag for tag, _ in _Page(render_study(with_same_rows(review), key_images, stacks)).tags]
    assert tags.count("script") == 2
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7*7 }}" in page.text and HOSTILE in page.text
    assert json.loads(page.data)["study_key"] == HOSTILE


def with_same_rows(review: StudyReview) -> StudyReview:
    """Notes and warnings filled in where an attack fills them, so that both pages have the same tags."""
    filled = hostile(review).model_dump(mode="json")

    def calm(value: object) -> object:
        if isinstance(value, dict):
            return {name: calm(item) for name, item in value.items()}
        if isinstance(value, list):
            return [calm(item) for item in value]
        return "calm" if value == HOSTILE else value

    return StudyReview.model_validate(calm(filled))


def test_a_picture_that_is_no_png_and_one_that_no_finding_names_are_left_out(study_review, key_images):
    broken = dict.fromkeys(key_images, b"<svg onload=alert(1)>") | {"key-f9-overview.png": b"\x89PNG\r\n\x1a\n"}
    html = render_study(study_review, broken)
    assert "<img" not in html and "No key image." in html


def test_a_study_without_findings_has_a_page_too(study_review):
    empty = study_review.model_copy(update={"findings": (), "origin_of_findings": "No annotation came with it."})
    assert "0 findings" in render_study(empty, {})


@pytest.mark.parametrize("name", ["header", "main", "footer"])
def test_the_page_is_well_formed_for_a_screen_reader(study_review, key_images, name):
    page = _Page(render_study(study_review, key_images))
    assert name in [tag for tag, _ in page.tags]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        label = attributes.get("aria-labelledby")
        assert label is None or label in ids


def test_what_is_outside_the_models_experience_comes_first(told_review, key_images):
    html = render_study(told_review, key_images)
    first = html.index("No series of this manufacturer was among")
    assert first < html.index("Not for diagnostic use") < html.index("3 findings")
    text = _Page(html).text
    assert text.count("Outside what the model was judged on") == 2, "of the study, and at its nodule"
    assert "Its slices are thicker than any it was judged on." in text


def test_an_interval_that_is_not_known_and_the_series_that_were_not_read_are_named(told_review, key_images, tmp_path):
    bare = [item.model_copy(update={"probability_interval": None}) for item in told_review.findings]
    read = told_review.series[0].model_copy(update={"was_read": True})
    unread = read.model_copy(update={"series_key": "fedcba9876543210", "kernel": "B40f", "was_read": False})
    review = told_review.model_copy(update={"findings": tuple(bare), "series": (read, unread)})
    page = render_study(review, key_images)
    assert page.count("95 % interval not known: too few held-out patients or nodules.") == 2, "one has no probability"
    assert page.count("<dt>Read</dt><dd>yes</dd>") == 1
    assert page.count("<dt>Read</dt><dd>no: the findings come from another series of the study</dd>") == 1


def test_a_page_says_interval_call_type_prior_and_guidelines(told_review, key_images, stacks):
    page = _Page(render_study(told_review, key_images, stacks))
    text = " ".join(page.text.split())
    for words in (
        "95 % interval 8 % to 44 %.", "Call: uncertain, neither benign nor malignant", "8.1 mm (7.3 to 8.9)",
        "268 mm³ (190 to 350)", "part-solid", "5.5 mm, 87 mm³", "left upper lobe", "43 of 133, series 3, image 91",
        "6.5 mm, 150 mm³, ground glass", "Not found again", "4.4 mm", "nothing of its size within 15 mm",
        "Lung-RADS needs: change of the solid part", "Fleischner 2017 is not for a CT of a screening programme",
        "Brock needs:", "Found by the search for nodules, score 0.41", "unverified", "doi 10.1016/j.jacr.2023.09.009",
        "Compared with: study aa46ac92492d2340", "none in the study before", "sha256",
    ):  # fmt: skip
        assert words in text, words
    assert "nodule f2" not in text, "findings go by the numbers of the report"


@pytest.mark.parametrize("reading", ["blind", "second"])
def test_a_page_to_be_read_blind_has_no_figure_of_the_model(told_review, key_images, stacks, reading):
    html = render_study(told_review.model_copy(update={"reading": reading}), key_images, stacks)
    page = _Page(html)
    for words in ("21 %", "87 %", "91 %", "uncertain", "Image and size", "By size alone", "unfamiliar"):
        assert words not in page.text, words
    assert not [1 for _, attributes in page.tags if "ai" in (attributes.get("class") or "").split()]
    data = json.loads(page.data)
    assert data["reading"] == reading
    assert [finding["finding_id"] for finding in data["findings"]] == ["f1", "f2", "f3"], "as they were given"


def test_what_readers_said_stands_above_the_pictures_for_an_adjudicator(study_review, key_images):
    findings = tuple(item.model_copy(update={"note": "AB: rejected, vessel."}) for item in study_review.findings)
    review = study_review.model_copy(update={"reading": "adjudication", "findings": findings})
    html = render_study(review, key_images)
    assert html.index("AB: rejected, vessel.") < html.index('class="viewer"')


def test_a_page_with_a_stack_and_all_pictures_of_a_nodule_is_below_one_and_a_half_megabytes(make_nodule, told_review):
    volume, center = make_nodule((4, 4, 4), spacing_mm=(0.7, 0.5, 0.5), noise_hu=120)
    params = ReviewParams()
    pictures = render_key_images(volume, center, 8.0, params)
    images = {key_image_name("f2", view): content for view, content in pictures.items()}
    finding = next(item for item in told_review.findings if item.finding_id == "f2")
    review = told_review.model_copy(update={"findings": (finding.model_copy(update={"key_images": tuple(images)}),)})
    html = render_study(review, images, {finding.stack: pack_stack(volume, center, 8.0, params)})
    assert "stack-f2" in html
    assert len(html.encode()) < 1_500_000


def test_text_of_a_header_does_not_fill_the_page(study_review, key_images):
    long = "A" * 70_000
    series = study_review.series[0].model_copy(update={"kernel": long, "manufacturer": long, "site": long})
    findings = tuple(item.model_copy(update={"note": long, "source": long}) for item in study_review.findings)
    plain = len(render_study(study_review, key_images))
    html = render_study(study_review.model_copy(update={"series": (series,), "findings": findings}), key_images)
    assert len(html) - plain < 20_000


def test_the_guidelines_of_the_study_name_nodules_by_the_numbers_of_the_page(told_review: StudyReview) -> None:
    html = render_study(told_review, {})
    start = html.index("Guidelines, of the whole study")
    part = html[start : html.index("</ul>", start)]
    named = re.findall(r'<span class="nodule-number" data-finding="(\w+)">nodule (\d)</span>', part)
    assert named
    numbers = dict(enumerate((each["finding_id"] for each in _shown(html)), start=1))
    assert all(numbers[int(number)] == finding_id for finding_id, number in named)
    assert not re.search(r"nodule f\d", _Page(html).text)


def test_the_deciding_nodule_and_those_of_notes_are_named_and_escaped(told_review: StudyReview) -> None:
    hostile = '"><b>f</b>'
    lung_rads = told_review.guidelines.lung_rads.model_copy(
        update={"category": "3", "status": "given", "reason": "<i>large</i>", "notes": (f"nodule {hostile}: small",)}
    )
    guidelines = told_review.guidelines.model_copy(
        update={"lung_rads": lung_rads, "deciding_nodules": {lung_rads.guideline: "f1"}}
    )
    review = told_review.model_copy(update={"guidelines": guidelines})
    numbers = {"f1": 2, hostile: 1, "f11": 3}
    plain = study_guideline_lines(review, numbers)[0]
    assert (plain.reason, plain.notes) == ("nodule 2 decides: <i>large</i>", ("nodule 1: small",))
    line = page_guideline_lines(review, numbers)[0]
    assert line.reason == (
        '<span class="nodule-number" data-finding="f1">nodule 2</span> decides: &lt;i&gt;large&lt;/i&gt;'
    )
    assert "<b>" not in line.notes[0] and "nodule 1</span>: small" in line.notes[0]


def _shown(html: str) -> list[dict[str, str]]:
    """The findings in the order of the page."""
    found: list[dict[str, str]] = json.loads(_Page(html).data)["findings"]
    return found


def test_a_guideline_is_printed_with_the_signs_of_print_and_a_bound_stays_on_its_line(
    told_review: StudyReview,
) -> None:
    assert told_review.guidelines is not None
    turned = {"reason": "4X with \u202eevil", "management": "PET/CT from 8 mm (268 mm3) on"}
    whole = told_review.guidelines.lung_rads.model_copy(update=turned)
    told_review = told_review.model_copy(
        update={"guidelines": told_review.guidelines.model_copy(update={"lung_rads": whole})}
    )
    numbers = {finding.finding_id: n for n, finding in enumerate(told_review.findings, start=1)}
    lines = [line for finding in told_review.findings for line in nodule_guideline_lines(told_review, finding)]
    lines += study_guideline_lines(told_review, numbers)
    said = " ".join(part for line in lines for part in (line.reason, line.management, *line.notes))
    assert "mm3" not in said and ">=" not in said
    assert "≥\u00a0" in said and "mm³" in said
    assert "\u202e" not in said + render_study(told_review, {}), "a sign that turns all that follows on its line"
    assert ("Earlier CT", "no") in context_rows(
        told_review.model_copy(update={"context": PatientContext(earlier_ct=False)})
    )


def test_of_a_long_list_the_guidelines_of_the_study_come_before_the_table(told_review: StudyReview) -> None:
    heading, table = "Guidelines, of the whole study", '<tbody id="rows">'
    page = render_study(told_review, {})
    assert page.index(table) < page.index(heading)
    many = [told_review.findings[0].model_copy(update={"finding_id": f"g{n}"}) for n in range(16)]
    page = render_study(told_review.model_copy(update={"findings": (*told_review.findings, *many)}), {})
    assert page.index(heading) < page.index(table)
    assert page.count(heading) == 1


def test_the_page_says_when_it_was_made_as_people_write_it(study_review: StudyReview) -> None:
    made = study_review.model_copy(update={"created_utc": "2026-11-22T18:03:09+00:00"})
    assert "made 2026-11-22 18:03 UTC" in render_study(made, {})
    assert "made long ago" in render_study(made.model_copy(update={"created_utc": "long ago"}), {})


def test_a_diameter_that_is_the_marks_and_not_measured_says_so_in_the_table_and_beside_the_pictures(
    study_review: StudyReview,
) -> None:
    first = study_review.findings[0]
    assert first.measurement.volume_mm3 is None
    page = _Page(render_study(study_review, {})).text
    assert page.count(f"{first.measurement.mean_diameter_mm:.1f}\u00a0mm, mark's") == 2
    assert ", mark's" not in diameter_words(next(f for f in study_review.findings if f.measurement.volume_mm3))

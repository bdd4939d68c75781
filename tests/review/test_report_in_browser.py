"""The review page in a real Chromium: it scrolls, windows, answers by keyboard alone, saves, prints and asks no one."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium, opened
from full_report import evaluated_card, full_report, predictions
from PIL import Image

from data_contracts.feedback import ReaderFeedback
from data_contracts.params import ReviewParams
from pipeline.review.disclosure import build_disclosure
from pipeline.review.disclosure_page import render_disclosure
from pipeline.review.evaluation_page import render_evaluation
from pipeline.review.html import render_study
from pipeline.review.key_images import SMALL_IMAGE_PX, key_image_name, render_key_images

pytestmark = pytest.mark.server

READER = "AB"
#: of the nodule that has the focus, in the order of the model
AT = "document.activeElement.dataset.number"
SLIDERS = "[...document.querySelectorAll('#nodule-f2 .tile input[type=range]')]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def report(told_review, key_images, stacks, tmp_path) -> str:
    """Address of a page with everything a report can say."""
    return written(render_study(told_review, key_images, stacks), tmp_path)


def written(html: str, folder: Path) -> str:
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    return file.as_uri()


def go_to(page: Any, number: int) -> None:
    """K to the first nodule, then J until that one."""
    for key in [*"kkk", *"jjjj"]:
        if page.evaluate(AT) == f"{number - 1}":
            return
        page.keyboard.press(key)
    assert page.evaluate(AT) == f"{number - 1}"


def wait(page: Any, condition: str) -> None:
    """Until it holds; asked from outside, because the page's policy forbids to evaluate text inside."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def live(page: Any, number: int) -> Any:
    """The pictures of a nodule that can be scrolled."""
    go_to(page, number)
    page.wait_for_selector(f".viewer.live[data-number='{number - 1}']")
    return page.locator(f".viewer[data-number='{number - 1}'] canvas")


def pixels(locator: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def middle(locator: Any) -> float:
    """Median grey of the very middle, where no mark is."""
    shown = pixels(locator)
    row, column = shown.shape[0] // 2, shown.shape[1] // 2
    return float(np.median(shown[row - 3 : row + 4, column - 3 : column + 4]))


def saved(page: Any, save: str = "keyboard") -> dict[str, Any]:
    with page.expect_download() as download:
        if save == "keyboard":
            page.keyboard.press("s")
        else:
            page.click("#save")
    assert download.value.suggested_filename == "feedback.json"
    return json.loads(Path(download.value.path()).read_text())


def test_every_plane_scrolls_by_wheel_key_and_slider_and_comes_back(browser, report):
    with opened(browser, report) as page:
        canvases = live(page, 1)
        assert canvases.count() == 4
        captions = f"{SLIDERS}.map(slider => slider.getAttribute('aria-valuetext'))"
        wait(page, f"{captions}.every(words => words)")
        start = page.evaluate(captions)
        assert start[0] == start[1] and start[0].startswith("slice ") and start[2].startswith("coronal ")
        assert middle(canvases.nth(0)) > 220, "the nodule is bright in the lung window"
        for number, axis in ((0, 0), (2, 2), (3, 3)):
            before = page.evaluate(captions)
            canvases.nth(number).hover()
            page.mouse.wheel(0, 120)
            wait(page, f"{captions}[{axis}] !== {json.dumps(before[axis])}")
            canvases.nth(number).focus()
            page.keyboard.press("ArrowUp")
            wait(page, f"{captions}[{axis}] === {json.dumps(before[axis])}")
        page.locator("#nodule-f2 .tile input[type=range]").nth(0).focus()
        page.keyboard.press("Home")
        wait(page, f"{captions}[0] !== {json.dumps(start[0])}")
        page.wait_for_timeout(150)
        assert middle(canvases.nth(0)) < 120, "above the nodule there is lung"
        canvases.nth(0).focus()
        page.keyboard.press("0")
        wait(page, f"{captions}[0] === {json.dumps(start[0])}")
        assert page.complaints == []


def test_windows_change_by_key_by_field_and_by_drag(browser, report):
    with opened(browser, report) as page:
        canvases = live(page, 1)
        window = "[...document.querySelectorAll('#nodule-f2 .tools input')].map(field => Number(field.value))"
        wait(page, f"{window}.join() === '1500,-600'")
        assert page.get_attribute("#nodule-f2 .tools button >> nth=0", "aria-pressed") == "true"
        bright = middle(canvases.nth(0))
        page.keyboard.press("2")
        wait(page, f"{window}.join() === '400,40'")
        page.wait_for_timeout(100)
        assert abs(middle(canvases.nth(0)) - (30 - -160) / 400 * 255) < 12 < bright - 140 + 60
        page.keyboard.press("3")
        wait(page, f"{window}.join() === '1500,300'")
        box = canvases.nth(0).bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 100, box["y"] + 40, steps=4)
        page.mouse.up()
        wait(page, f"{window}[0] === 1700 && {window}[1] === 200")
        page.locator("#nodule-f2 .tools input").nth(0).fill("900")
        page.keyboard.press("Tab")
        wait(page, f"{window}[0] === 900")
        assert page.locator("#nodule-f2 figcaption").nth(1).text_content() == "Axial · mediastinal window"
        assert page.complaints == []


def test_a_finger_scrolls_and_leaves_the_page_alone(browser, report):
    with opened(browser, report, has_touch=True, is_mobile=True) as page:
        page.set_viewport_size({"width": 820, "height": 1180})
        page.evaluate("document.getElementById('nodule-f2').scrollIntoView()")
        page.wait_for_selector("#nodule-f2 .viewer.live")
        slider = page.locator("#nodule-f2 .tile input[type=range]").nth(0)
        wait(page, "document.querySelector('#nodule-f2 .tile input[type=range]').getAttribute('aria-valuetext')")
        before = int(slider.input_value())
        box = page.locator("#nodule-f2 canvas").nth(0).bounding_box()
        session = page.context.new_cdp_session(page)
        x, y = box["x"] + 80, box["y"] + 100
        touch = [("touchStart", x), *(("touchMove", x + 12 * step) for step in range(1, 8))]
        for kind, at in touch:
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": at, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        wait(page, f"Number(document.querySelector('#nodule-f2 .tile input[type=range]').value) > {before}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 820
        small = page.evaluate(
            "[...document.querySelectorAll('.bar button, form.answer .choices span, .tile input')]"
            ".filter(e => e.offsetHeight && e.offsetHeight < 32).length"
        )
        assert small == 0, "what a finger presses is large enough"
        assert page.complaints == []


def test_a_reader_answers_everything_with_the_keyboard_alone_and_saves(browser, report, told_review):
    with opened(browser, report) as page:
        live(page, 1)
        page.keyboard.press("a")
        page.keyboard.press("m")
        live(page, 2)
        page.keyboard.press("c")
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("p")
        while page.evaluate("document.activeElement.name") != "diameter":
            page.keyboard.press("Tab")
        page.keyboard.type("6.5")
        page.keyboard.press("Tab")
        page.keyboard.type("part")
        page.keyboard.press("Tab")
        page.keyboard.type("4A")
        go_to(page, 3) if page.evaluate("document.activeElement.tagName") != "SELECT" else page.keyboard.press("Tab")
        page.keyboard.press("j")
        wait(page, "document.activeElement.id === 'nodule-f3'")
        page.keyboard.press("r")
        page.keyboard.press("s")
        assert "fill in the reader" in page.text_content("#progress")
        page.keyboard.type(READER)
        page.keyboard.press("Tab")
        assert page.text_content("#state-0") == "accepted"
        body = saved(page)
        feedback = ReaderFeedback.from_json(json.dumps(body))
        answers = {answer.finding_id: answer for answer in feedback.answers}
        assert {name: answer.answer for name, answer in answers.items()} == {
            "f2": "accept",
            "f1": "correct",
            "f3": "reject",
        }
        assert answers["f2"].malignant is True
        one = answers["f1"]
        assert (one.diameter_mm, one.nodule_type, one.lung_rads) == (6.5, "part_solid", "4A")
        center = stack_center(page)
        assert np.allclose(np.subtract(one.lps_mm, center), (3, 1, 0), atol=0.02)
        assert feedback.reader == READER and feedback.model_visible_first and not feedback.second_read
        assert feedback.study_key == told_review.study_key and feedback.model_version == told_review.model_version
        assert page.complaints == []


def stack_center(page: Any) -> list[float]:
    return page.evaluate("viewers.get(1).stack.head.center_lps_mm")


def test_a_click_in_a_scrolled_picture_places_a_missed_nodule_and_so_do_coordinates(browser, report):
    with opened(browser, report) as page:
        canvases = live(page, 1)
        canvases.nth(0).focus()
        page.keyboard.press("ArrowDown")
        box = canvases.nth(0).bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25)
        page.keyboard.press("n")
        wait(page, "document.activeElement.name === 'diameter'")
        page.keyboard.type("4.5")
        page.keyboard.press("Enter")
        assert page.locator("#missed-list li").count() == 1
        page.select_option("#missed-form [name=kind]", "kji")
        for name, value in (("first", "41"), ("second", "101"), ("third", "11"), ("diameter", "7")):
            page.fill(f"#missed-form [name={name}]", value)
        page.select_option("#missed-form [name=type]", "ground_glass")
        page.click("#missed-form button")
        for name, value in (("first", "900"), ("second", "1"), ("third", "1"), ("diameter", "7")):
            page.fill(f"#missed-form [name={name}]", value)
        page.click("#missed-form button")
        assert "133 slices, 512 rows and 512 columns" in page.text_content("#missed-form .error")
        page.fill("#comment", "Slices 3 and 4 are blurred.")
        page.fill("#reader", READER)
        feedback = ReaderFeedback.from_json(json.dumps(saved(page, "button")))
        first, second = feedback.missed
        head = page.evaluate("viewers.get(0).stack.head")
        x, y, z = np.subtract(first.lps_mm, head["center_lps_mm"])
        assert (x, y) == (pytest.approx(15, abs=0.5), pytest.approx(-15, abs=0.5))
        assert -3 < z < 0, "one slice towards the feet"
        assert first.series_key == second.series_key == "0123456789abcdef"
        assert second.lps_mm == pytest.approx((-180 + 0.7 * 10, -160 + 0.7 * 100, -300 + 2.5 * 40))
        assert (second.diameter_mm, second.nodule_type) == (7, "ground_glass")
        assert feedback.answers == () and feedback.comment == "Slices 3 and 4 are blurred."
        page.click("#missed-list button >> nth=0")
        assert page.locator("#missed-list li").count() == 1
        assert page.complaints == []


def test_the_model_is_hidden_until_an_answer_and_the_file_says_so(browser, report):
    shown = "[...document.querySelectorAll('.ai')].filter(e => e.offsetParent !== null).length"
    with opened(browser, report) as page:
        assert page.evaluate(shown) > 5
        assert page.text_content(".banner .nodule-number") == "nodule 2"
        page.keyboard.press("x")
        assert page.evaluate(shown) == 0
        order = page.evaluate("[...document.querySelectorAll('section.nodule-page')].map(s => s.id)")
        assert order == ["nodule-f1", "nodule-f2", "nodule-f3"], "head to feet: their order tells nothing"
        assert page.text_content("#nodule-f2 [data-count]") == "2"
        assert page.text_content(".banner .nodule-number") == "nodule 1", "the one that the banner speaks of"
        assert page.get_attribute("#nodule-f2 .tile img", "alt").endswith("nodule 2")
        assert page.evaluate("[...document.querySelectorAll('#rows a')].map(link => link.hash)") == [
            "#nodule-f1", "#nodule-f2", "#nodule-f3"
        ], "no address tells the model's order"  # fmt: skip
        go_to(page, 1)
        page.keyboard.press("v")
        assert "Answer first" in page.text_content("#progress")
        page.keyboard.press("a")
        page.keyboard.press("v")
        assert page.evaluate(shown) > 0
        page.fill("#reader", READER)
        page.locator("#reader").press("Tab")
        assert saved(page)["model_visible_first"] is False
        go_to(page, 1)
        page.keyboard.press("r")
        assert saved(page)["model_visible_first"] is True, "changed after the model was seen"
        assert page.complaints == []


def test_answers_outlive_a_reload_of_the_tab_but_not_its_end(browser, report):
    with opened(browser, report) as page:
        go_to(page, 1)
        page.keyboard.press("a")
        page.fill("#reader", READER)
        page.on("dialog", lambda dialog: dialog.accept())
        page.reload()
        assert page.text_content("#state-0") == "accepted"
        assert page.input_value("#reader") == READER
    with opened(browser, report) as page:
        assert page.text_content("#state-0") == "\u2013" and page.input_value("#reader") == ""


def test_an_answer_that_is_not_complete_is_not_saved_and_says_why(browser, report):
    with opened(browser, report) as page:
        page.fill("#reader", READER)
        page.locator("#reader").press("Tab")
        page.keyboard.press("s")
        assert "Answer at least one" in page.text_content("#progress")
        go_to(page, 1)
        page.keyboard.press("c")
        page.keyboard.press("s")
        assert "needs a diameter" in page.text_content("#nodule-f2 .error")
        page.fill("#nodule-f2 [name=diameter]", "0.01")
        page.click("#save")
        assert "from 0.1 to 300" in page.text_content("#nodule-f2 .error")


def test_a_study_without_findings_is_read_by_saying_that_nothing_is_missed(browser, told_review, tmp_path):
    review = told_review.model_copy(update={"findings": (), "guidelines": None})
    with opened(browser, written(render_study(review, {}), tmp_path)) as page:
        assert page.text_content("#progress") == "No findings"
        page.keyboard.press("s")
        assert "Say that no nodule is missing" in page.text_content("#progress")
        page.keyboard.press("Space")
        assert page.text_content("#progress") == "Read: nothing missed"
        page.keyboard.press("s")
        assert "fill in the reader" in page.text_content("#progress")
        page.keyboard.type(READER)
        page.fill("#comment", "Slices 3 and 4 are blurred.")
        feedback = ReaderFeedback.from_json(json.dumps(saved(page, "button")))
        assert feedback.names_no_nodule and feedback.reader == READER and feedback.comment
        for name, value in (("first", "1"), ("second", "2"), ("third", "3"), ("diameter", "7")):
            page.fill(f"#missed-form [name={name}]", value)
        page.click("#missed-form button")
        assert not page.is_checked("#read-none"), "one that is added contradicts it"
        page.evaluate("document.getElementById('read-none').click()")
        assert not page.is_checked("#read-none")
        assert page.complaints == []


def test_the_help_opens_and_closes_by_key(browser, report):
    with opened(browser, report) as page:
        page.keyboard.press("?")
        assert page.is_visible("#keys") and "heat map" in page.text_content("#keys")
        page.keyboard.press("Escape")
        assert not page.is_visible("#keys")


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_the_page_shows_its_pictures_and_fits_the_screen(browser, report, width):
    with opened(browser, report) as page:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wait(page, "[...document.images].every(image => image.complete && image.naturalWidth === 360)")
        live(page, 1)
        live(page, 2)
        go_to(page, 3)
        page.wait_for_timeout(200)
        # The phantom's nodule is about 30 HU: bright in the lung window, in the middle of the picture.
        assert middle(page.locator("#nodule-f3 .tile img").nth(0)) > 220
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.complaints == []


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_no_figure_is_squeezed_by_the_length_of_its_name(browser, told_review, key_images, tmp_path, width):
    figures = {"AUC of image + size, held-out site of a long name": "0.894 [0.745-1.000] on 21 nodules"}
    path = tmp_path / "report.html"
    path.write_text(render_study(told_review.model_copy(update={"evaluation_summary": figures}), key_images))
    with opened(browser, path.as_uri()) as page:
        page.set_viewport_size({"width": width, "height": 900})
        widths = page.evaluate("[...document.querySelectorAll('.technique dd, .facts dd')].map(e => e.clientWidth)")
        assert min(widths) > 80


def test_hostile_strings_run_nothing(browser, told_review, key_images, stacks, tmp_path):
    attack = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    series = told_review.series[0].model_copy(
        update={"kernel": attack, "manufacturer": "\u202e" + attack, "site": "結節😀"}
    )
    findings = tuple(
        item.model_copy(update={"nodule_id": attack, "note": attack, "source": attack, "side": attack, "lobe": attack})
        for item in told_review.findings
    )
    review = told_review.model_copy(update={"series": (series,), "findings": findings, "study_key": attack})
    with opened(browser, written(render_study(review, key_images, stacks), tmp_path)) as page:
        live(page, 1)
        assert page.title() == f"Nodule review {attack}"
        assert page.evaluate("document.querySelectorAll('script').length") == 4, "two stacks, the data, the script"
        assert page.complaints == []


def test_the_printed_page_gives_every_nodule_a_page_of_its_own(browser, report, tmp_path):
    with opened(browser, report) as page:
        live(page, 1)
        pdf = tmp_path / "print.pdf"
        page.pdf(path=str(pdf), format="A4", print_background=True)
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed (Debian package poppler-utils)")
    command = ["pdftotext", "-layout", str(pdf), "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    pages = text.split("\f")[:-1]
    assert len(pages) == 5
    for number, words in enumerate(pages[1:4], start=1):
        assert f"Nodule {number} of 3" in words
    assert "Technique and model" in pages[4] and "Save answers" not in text
    assert "Not assessed:" in text, "what the screen folds away stands on paper"
    listed = subprocess.run(["pdfimages", "-list", str(pdf)], check=True, capture_output=True, text=True, timeout=60)
    pictures = [line.split() for line in listed.stdout.splitlines()[2:]]
    assert {row[0] for row in pictures} == {"2", "3", "4"}, "the key images stand on paper, not the canvases"
    assert {row[3] for row in pictures} == {"360"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_and_controls_have_the_contrast_of_wcag_aa(browser, report, scheme):
    contrast = Path(__file__).with_name("contrast.js").read_text()
    with opened(browser, report, color_scheme=scheme) as page:
        live(page, 1)
        page.keyboard.press("c")
        live(page, 2)
        page.keyboard.press("a")
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        poor = page.evaluate(contrast)
        page.keyboard.press("?")
        poor += page.evaluate(contrast)
    assert poor == []


def test_the_labels_of_a_correction_are_not_covered_by_their_fields(browser, report):
    beside = """[...document.querySelectorAll('#nodule-f2 .corrections label')].filter(label => {
        const words = document.createRange(); words.selectNode(label.firstChild);
        const field = label.querySelector('input, select').getBoundingClientRect();
        const covered = words.getBoundingClientRect().right > field.left;
        return covered || words.getClientRects().length > 1 || field.width < 60;
    }).map(label => label.textContent.trim())"""
    with opened(browser, report) as page:
        for width in (1280, 820, 390):
            page.set_viewport_size({"width": width, "height": 900})
            live(page, 1)
            page.keyboard.press("c")
            assert page.evaluate(beside) == [], width


def test_everything_one_can_reach_has_a_name_and_a_place(browser, report):
    with opened(browser, report) as page:
        live(page, 1)
        page.keyboard.press("c")
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, input, select, textarea, canvas, summary, a, dialog')]"
            ".filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()"
            " || (e.labels && [...e.labels].some(label => label.textContent.trim())))).map(e => e.outerHTML)"
        )
        assert nameless == []
        assert page.evaluate("[...document.images].filter(image => !image.alt).length") == 0
        assert (
            page.evaluate('document.querySelectorAll(\'[tabindex]:not([tabindex="0"]):not([tabindex="-1"])\').length')
            == 0
        )
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        levels = page.evaluate(
            "[...document.querySelectorAll('main h1, main h2, main h3')].map(h => Number(h.tagName[1]))"
        )
        assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
        assert page.evaluate("document.documentElement.lang") == "en"
        # Whatever has the focus shows it.
        page.keyboard.press("Tab")
        for _ in range(25):
            page.keyboard.press("Tab")
            outline = page.evaluate(
                "(e => e.matches('input[type=radio]') ? getComputedStyle(e.nextElementSibling).outlineStyle"
                " : getComputedStyle(e).outlineStyle)(document.activeElement)"
            )
            assert outline != "none"


def test_without_scripts_the_key_images_and_figures_are_there(browser, report):
    with opened(browser, report, java_script_enabled=False) as page:
        assert page.is_visible("#nodule-f2 .tile img >> nth=0")
        assert "Scripts are off" in page.text_content("noscript")


@pytest.mark.slow
def test_two_hundred_findings_open_and_work(browser, told_review, key_images, make_nodule, stacks, tmp_path):
    volume, center = make_nodule((4, 4, 4))
    small = render_key_images(volume, center, 8.0, ReviewParams(), SMALL_IMAGE_PX)
    images = key_images | {key_image_name("many", view): png for view, png in small.items()}
    many = []
    for number in range(200):
        finding = told_review.findings[number % 2]
        update = {"finding_id": f"m{number}", "probability": 0.9 - number / 300}
        if number > 3:
            update |= {"stack": "", "key_images": tuple(name for name in images if name.startswith("key-many-"))}
        many.append(finding.model_copy(update=update))
    review = told_review.model_copy(update={"findings": tuple(many)})
    with opened(browser, written(render_study(review, images, stacks), tmp_path)) as page:
        assert "Neighbouring slices can be scrolled for the 4 most suspicious findings" in page.text_content(
            "#findings"
        )
        live(page, 2)
        page.evaluate("document.getElementById('nodule-m199').focus()")
        page.evaluate("document.getElementById('nodule-m199').scrollIntoView()")
        page.keyboard.press("a")
        page.keyboard.press("x")
        assert page.text_content("#state-199") == "accepted"
        assert "1 of 200 answered" in page.text_content("#progress")
        assert page.complaints == []


def test_the_evaluation_and_the_model_card_fit_a_tablet_and_ask_no_one(browser, tmp_path):
    pages = {
        "evaluation": render_evaluation(full_report(), predictions()),
        "model card": render_disclosure(build_disclosure(full_report(), evaluated_card(), None, {}, {})),
    }
    for name, html in pages.items():
        with opened(browser, written(html, tmp_path)) as page:
            for width in (390, 820, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") == width, (name, width)
            wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
            assert page.evaluate(wide) == 0, name  # at 1280 no table needs to be pushed
            assert page.complaints == []

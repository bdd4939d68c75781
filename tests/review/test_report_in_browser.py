"""The review page in a real Chromium, driven over its debugging port: it shows, answers, saves and asks no one."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_report import evaluated_card, full_report, predictions
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from pipeline.review.disclosure import build_disclosure
from pipeline.review.disclosure_page import render_disclosure
from pipeline.review.evaluation_page import render_evaluation
from pipeline.review.feedback import check_feedback, feedback_labels, read_feedback
from pipeline.review.html import render_study

pytestmark = pytest.mark.server

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-color-profile=srgb", "--remote-debugging-port=0", "--window-size=1280,900",
)  # fmt: skip


class Browser:
    """One page of a Chromium, spoken to in the Chrome DevTools Protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session = ""

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            code = 190 if key == "." else ord(key.upper())
            self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=key)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self) -> np.ndarray:
        content = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian package chromium)")
    profile = tmp_path / "profile"
    command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(tmp_path)}
    )
    try:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and len(port_file.read_text().splitlines()) == 2):
            assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        port, path = port_file.read_text().splitlines()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=30) as socket:
            page = Browser(socket)
            downloads = tmp_path / "downloads"
            page.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            target = page.ask("Target.createTarget", url="about:blank")["targetId"]
            page.session = page.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.ask(f"{domain}.enable")
            yield page
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _open(browser: Browser, html: str, folder: Path) -> None:
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    browser.ask("Page.navigate", url=file.as_uri())
    _wait_for(browser, "document.readyState === 'complete' && location.protocol === 'file:'")


def _wait_for(browser: Browser, condition: str) -> None:
    deadline = time.monotonic() + 30
    while not browser.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.1)


def _complaints(browser: Browser) -> list[dict[str, Any]]:
    """Console messages, policy violations and requests to anywhere but the page and its inline pictures."""
    browser.evaluate("0")
    found = []
    for event in browser.events:
        url = event.get("params", {}).get("request", {}).get("url", "file:")
        asked = event["method"] == "Network.requestWillBeSent" and not url.startswith(("file:", "data:", "blob:"))
        if asked or event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            found.append(event)
    return found


def test_a_reader_answers_with_the_keyboard_alone_and_saves(browser, study_review, key_images, tmp_path):
    _open(browser, render_study(study_review, key_images), tmp_path)
    browser.press("j")
    _wait_for(browser, "document.activeElement.id === 'nodule-1'")
    browser.press("a", "m", "j")
    _wait_for(browser, "document.activeElement.id === 'nodule-2'")
    browser.press("c")
    browser.evaluate("document.querySelector('#nodule-2 input[name=diameter]').focus()")
    browser.press("6", ".", "5")
    browser.evaluate("document.activeElement.blur()")
    browser.press("j")
    _wait_for(browser, "document.activeElement.id === 'nodule-3'")
    browser.press("r", "s")
    assert "fill in the reader" in browser.evaluate("document.getElementById('progress').textContent")
    browser.ask("Input.insertText", text="AB")
    browser.evaluate("document.activeElement.blur()")
    assert browser.evaluate("document.getElementById('state-0').textContent") == "accepted"
    browser.press("s")
    saved = tmp_path / "downloads" / "feedback.json"
    deadline = time.monotonic() + 30
    while not saved.exists():
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.1)
    feedback = read_feedback(saved)
    check_feedback(feedback, study_review)
    labels = feedback_labels(feedback, study_review).set_index("finding_id")
    assert labels["answer"].to_dict() == {"f2": "accept", "f1": "correct", "f3": "reject"}
    assert labels.loc["f2", "malignant"] == 1
    assert labels.loc["f1", "diameter_mm"] == 6.5
    assert feedback.reader == "AB"
    assert _complaints(browser) == []


def test_an_answer_that_is_not_complete_is_not_saved_and_says_why(browser, study_review, key_images, tmp_path):
    _open(browser, render_study(study_review, key_images), tmp_path)
    browser.evaluate("document.getElementById('reader').value = 'AB'")
    browser.press("s")
    assert "Answer at least one" in browser.evaluate("document.getElementById('progress').textContent")
    browser.press("j")
    _wait_for(browser, "document.activeElement.id === 'nodule-1'")
    browser.press("c", "s")
    assert "needs a diameter" in browser.evaluate("document.querySelector('#nodule-1 .error').textContent")
    assert not (tmp_path / "downloads" / "feedback.json").exists()


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_page_shows_its_pictures_and_fits_the_screen(browser, study_review, key_images, tmp_path, width):
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    _open(browser, render_study(study_review, key_images), tmp_path)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    _wait_for(browser, "Array.from(document.images).every((image) => image.complete && image.naturalWidth === 360)")
    browser.evaluate("document.querySelector('#nodule-1 img').scrollIntoView({block: 'center'})")
    box = browser.evaluate(
        "(() => { const b = document.querySelector('#nodule-1 img').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    column, row = (round(value) for value in box)
    shown = browser.screenshot()
    assert shown.shape[1] == width
    # The phantom's nodule is about 30 HU: bright in the lung window, in the middle of the picture.
    assert np.median(shown[row - 3 : row + 4, column - 3 : column + 4]) > 220
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 200, "the screenshot is not blank"
    assert _complaints(browser) == []


def test_hostile_strings_run_nothing(browser, study_review, key_images, tmp_path):
    attack = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    series = study_review.series[0].model_copy(update={"kernel": attack, "manufacturer": attack, "site": attack})
    findings = tuple(
        item.model_copy(update={"nodule_id": attack, "note": attack, "source": attack, "side": attack})
        for item in study_review.findings
    )
    review = study_review.model_copy(update={"series": (series,), "findings": findings, "study_key": attack})
    _open(browser, render_study(review, key_images), tmp_path)
    assert browser.evaluate("document.title") == f"Nodule review {attack}".replace("  ", " ")
    assert browser.evaluate("document.querySelectorAll('script').length") == 2
    assert _complaints(browser) == []


def test_the_printed_page_gives_every_nodule_a_page_of_its_own(browser, study_review, key_images, tmp_path):
    _open(browser, render_study(study_review, key_images), tmp_path)
    content = browser.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)["data"]
    pdf = base64.b64decode(content)
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") in (0, 4)
    (tmp_path / "print.pdf").write_bytes(pdf)
    if shutil.which("pdfinfo"):
        text = subprocess.run(
            ["pdfinfo", "print.pdf"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
        ).stdout
        assert "Pages:           4" in text


def test_the_evaluation_and_the_model_card_fit_a_tablet_and_ask_no_one(browser, tmp_path):
    pages = {
        "evaluation": render_evaluation(full_report(), predictions()),
        "model card": render_disclosure(build_disclosure(full_report(), evaluated_card(), None, {}, {})),
    }
    for name, page in pages.items():
        _open(browser, page, tmp_path)
        for width in (390, 820, 1280):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.ask("Emulation.setDeviceMetricsOverride", **size)
            assert browser.evaluate("document.documentElement.scrollWidth") == width, (name, width)
        wide = "[...document.querySelectorAll('.scroll')].filter(table => table.scrollWidth > table.clientWidth).length"
        assert browser.evaluate(wide) == 0, name  # at 1280 no table needs to be pushed
    assert not _complaints(browser)

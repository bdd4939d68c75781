"""The PDF: one nodule a page, the same bytes for the same input, nothing of the patient in it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pipeline.review.pdf import render_study_pdf


@pytest.fixture(scope="module")
def pdf(study_review, key_images) -> bytes:
    return render_study_pdf(study_review, key_images)


def _text(content: bytes, tmp_path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed (Debian package poppler-utils)")
    (tmp_path / "report.pdf").write_bytes(content)
    command = ["pdftotext", "-layout", "report.pdf", "-"]
    return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_same_review_gives_the_same_bytes(pdf, study_review, key_images):
    assert pdf == render_study_pdf(study_review, key_images)


def test_a_summary_and_then_one_page_a_nodule(pdf, tmp_path):
    pages = _text(pdf, tmp_path).split("\f")[:-1]
    assert len(pages) == 4
    assert "87 %" in pages[0] and "Not for diagnostic use" in pages[0] and "B70f" in pages[0]
    for number, page in enumerate(pages[1:], start=1):
        assert f"Nodule {number} of 3" in page
    assert "268 mm³" in pages[1] and "8.4 mm, 7.8 mm" in pages[1]
    assert all("Not for diagnostic use" in page for page in pages)


def test_metadata_name_the_study_key_and_no_patient(pdf, study_review):
    assert study_review.study_key.encode() in pdf
    assert study_review.patient_key.encode() not in pdf


@pytest.mark.parametrize(
    "text",
    ["<b>bold</b> & </para><img src='x'/>", "A" * 70_000, "肺結節 كتلة \u202e\x00\x07", "x\ny\tz", ""],
    ids=["markup", "64 KB", "other scripts", "control", "empty"],
)
def test_hostile_strings_are_set_as_text_and_fill_no_pages(study_review, key_images, tmp_path, text):
    series = study_review.series[0].model_copy(update={"kernel": text, "manufacturer": text, "site": text})
    findings = tuple(item.model_copy(update={"note": text, "source": text}) for item in study_review.findings)
    review = study_review.model_copy(update={"series": (series,), "findings": findings, "warnings": (text,)})
    content = render_study_pdf(review, key_images)
    pages = _text(content, tmp_path).split("\f")[:-1]
    assert len(pages) <= 8
    if text.startswith("<b>"):
        assert "<b>bold</b> &" in pages[0]


def test_a_study_without_findings_is_one_page(study_review, tmp_path):
    review = study_review.model_copy(update={"findings": ()})
    assert _text(render_study_pdf(review, {}), tmp_path).count("\f") == 1

"""The PDF: one nodule a page, the same bytes for the same input, nothing of the patient in it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pipeline.review import pdf as pdf_module
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


def test_a_summary_then_one_page_a_nodule_then_technique_and_model(pdf, tmp_path):
    pages = _text(pdf, tmp_path).split("\f")[:-1]
    assert len(pages) == 5
    assert "87 %" in pages[0] and "Not for diagnostic use" in pages[0]
    assert "B70f" in pages[4] and "What the program did not look at".upper() in pages[4]
    for number, page in enumerate(pages[1:4], start=1):
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


def test_the_paper_says_what_the_page_says(told_review, key_images, tmp_path):
    pages = _text(render_study_pdf(told_review, key_images), tmp_path).split("\f")[:-1]
    assert len(pages) == 5
    text = " ".join("".join(pages).split())
    first = text.index("Outside what the model was judged on")
    assert first < text.index("Not for diagnostic use")
    for words in (
        "95 % interval 8 % to 44 %.", "Call: uncertain", "8.1 mm (7.3 to 8.9)", "part-solid", "left upper lobe",
        "series 3, image 91", "6.5 mm, 150 mm³, ground glass", "nothing of its size within 15 mm", "Compared with",
        "Fleischner 2017", "Brock needs", "doi 10.1016/j.jacr.2023.09.009", "score 0.41 of 1",
    ):  # fmt: skip
        assert words in text, words
    assert "nodule f2" not in text


def test_the_paper_says_to_the_end_what_the_program_says_and_cuts_headers_alone(told_review, key_images, tmp_path):
    origin = (
        f"The lungs were searched. {'It found 9 of 10 nodules at 1.0 false marks a scan. ' * 12}No reader has looked."
    )
    series = told_review.series[0].model_copy(update={"kernel": "B70f" * 200})
    study = told_review.guidelines.lung_rads.model_copy(update={"notes": ("Read it with the scan of before.",)})
    guidelines = told_review.guidelines.model_copy(update={"lung_rads": study})
    update = {"origin_of_findings": origin, "series": (series,), "guidelines": guidelines}
    review = told_review.model_copy(update=update)
    text = " ".join(_text(render_study_pdf(review, key_images), tmp_path).split())
    assert "No reader has looked." in text
    assert text.count("B70f") <= 26
    assert "Read it with the scan of before." in text and "Not assessed:" in text


def test_two_hundred_findings_are_a_table_twenty_pages_and_several_a_page(told_review, key_images, tmp_path):
    many = []
    for number in range(200):
        finding = told_review.findings[1]
        update = {"finding_id": f"m{number}", "probability": 0.95 - number / 300, "key_images": finding.key_images}
        many.append(finding.model_copy(update=update))
    review = told_review.model_copy(update={"findings": tuple(many), "guidelines": None})
    pages = _text(render_study_pdf(review, key_images), tmp_path).split("\f")[:-1]
    assert len(pages) <= 80
    assert "share pages" in " ".join(pages)
    assert sum(f"Nodule {number} of 200" in "".join(pages) for number in (1, 20, 21, 200)) == 4


def test_a_finding_that_shares_a_page_is_told_as_fully_as_one_with_a_page_of_its_own(
    told_review, key_images, tmp_path, monkeypatch
):
    whole = " ".join(_text(render_study_pdf(told_review, key_images), tmp_path).split())
    monkeypatch.setattr(pdf_module, "FULL_PAGES", 0)
    strips = " ".join(_text(render_study_pdf(told_review, key_images), tmp_path).split())
    for words in (
        "21 % (8 % to 44 %), call: uncertain", "8.1 mm (7.3 to 8.9)", "268 mm³ (190 to 350)", "8.4 mm, 7.8 mm",
        "5.5 mm, 87 mm³", "-12 HU", "left upper lobe", "series 3, image 91", "L 10.0 P -20.0 S -130.5",
        "6.5 mm, 150 mm³, ground glass",
        "none in the study before", "Size alone", "Fleischner 2017", "BTS 2015", "Brock", "score 0.41 of 1", "4.2 of 5",
        "No reliable explanation", "Marked by: lidc-xml",
    ):  # fmt: skip
        assert words in strips, words
        assert words in whole or "call:" in words, words

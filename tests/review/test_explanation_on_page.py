"""A page shows where the network looked only with a verdict, lays a map where it belongs, and calls read-outs so."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from data_contracts.evaluation import ConceptFigures, EvaluationReport, Figure
from data_contracts.review import StudyReview
from pipeline.review.evaluation_page import render_evaluation
from pipeline.review.html import render_study
from pipeline.review.key_images import KEY_IMAGE_PX, key_image_name
from pipeline.review.map_images import map_planes, render_map_images
from pipeline.review.pdf import render_study_pdf

REFUSED = "No reliable explanation. Sanity tests of this version's maps: failed: localisation."


def with_findings(review: StudyReview, **changes: object) -> StudyReview:
    return review.model_copy(
        update={"findings": tuple(finding.model_copy(update=changes) for finding in review.findings)}
    )


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.replace("&#39;", "'")).split())


def reddest(png: bytes) -> tuple[float, float]:
    """(row, column) of the middle of what is red, in pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
    red = pixels[..., 0] - pixels[..., 2]
    rows, columns = np.nonzero(red > 0.8 * red.max())
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize(
    ("view", "plane", "at", "shown"),
    [
        ("map-axial", 0, (8, 24), (8, 24)),
        ("map-coronal", 1, (8, 24), (8, 24)),
        ("map-sagittal", 2, (20, 4), (20, 4)),
    ],
)
def test_a_hot_place_of_a_plane_is_red_at_that_place_of_the_picture(make_nodule, view, plane, at, shown):
    volume, center = make_nodule((4, 4, 4))
    maps = np.zeros((3, 32, 32), dtype=np.float32)
    maps[plane, at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2] = 1
    images = render_map_images(volume, center, maps, "2.5d", 1.0)
    row, column = reddest(images[view])
    px = KEY_IMAGE_PX / 32
    assert abs(row - (shown[0] + 0.5) * px) < 0.6 * px
    assert abs(column - (shown[1] + 0.5) * px) < 0.6 * px


def test_a_map_of_zeros_leaves_the_picture_grey(make_nodule):
    volume, center = make_nodule((4, 4, 4))
    images = render_map_images(volume, center, np.zeros((1, 16, 16), dtype=np.float32), "2d", 1.0)
    assert list(images) == ["map-axial"]
    pixels = np.asarray(Image.open(io.BytesIO(images["map-axial"])).convert("RGB"), dtype=int)[40:320, 40:300]
    assert np.abs(pixels[..., 0] - pixels[..., 2]).max() < 20


def test_the_head_is_at_the_top_of_a_volumes_coronal_and_sagittal_maps():
    maps = np.zeros((8, 8, 8), dtype=np.float32)
    maps[7, 4, 2] = 1  # the highest slice
    planes = map_planes(maps, "3d")
    assert planes["map-coronal"][0, 2] == 1
    maps = np.zeros((8, 8, 8), dtype=np.float32)
    maps[0, 6, 4] = 1
    assert map_planes(maps, "3d")["map-sagittal"][7, 6] == 1
    assert map_planes(maps[:3] * 0 + 1, "3d")["map-axial"].shape == (8, 8)


def test_a_nodule_that_was_not_explained_is_said_to_have_no_reliable_explanation(study_review, key_images):
    page = text_of(render_study(study_review, key_images))
    assert page.count("No reliable explanation: none was made for this nodule.") == len(study_review.findings)


def test_the_sentence_stands_in_the_place_of_the_map_on_page_and_paper(study_review, key_images):
    review = with_findings(study_review, explanation=REFUSED)
    page = text_of(render_study(review, key_images))
    assert page.count(REFUSED) == len(review.findings)
    assert "Where the network looked, axial" not in page
    assert render_study_pdf(review, key_images) != render_study_pdf(study_review, key_images)


def test_a_map_that_may_be_shown_stands_among_the_pictures(study_review, key_images, make_nodule):
    volume, center = make_nodule((4, 4, 4))
    picture = render_map_images(volume, center, np.ones((1, 16, 16), dtype=np.float32), "2d", 1.0)["map-axial"]
    name = key_image_name("f2", "map-axial")
    findings = tuple(
        finding.model_copy(update={"key_images": (*finding.key_images, name), "explanation": "Grad-CAM."})
        if finding.finding_id == "f2"
        else finding
        for finding in study_review.findings
    )
    review = study_review.model_copy(update={"findings": findings})
    images = {**key_images, name: picture}
    assert "Where the network looked, axial" in text_of(render_study(review, images))
    assert len(render_study_pdf(review, images)) > len(render_study_pdf(study_review, key_images)) + 1000


def test_concepts_are_called_predictions_and_stand_beside_the_readers_ratings(study_review, key_images):
    review = with_findings(study_review, concepts={"spiculation": 3.21, "log_diameter": 8.14})
    card = review.model.model_copy(update={"concept_figures": {"spiculation": {"spearman": 0.4123}}})
    page = text_of(render_study(review.model_copy(update={"model": card}), key_images))
    assert "Predicted by the network, not rated" in page
    assert "3.2 of 5 (1 none, 5 marked), Spearman 0.41 with readers" in page
    assert "Diameter 8.1 mm" in page
    assert "Ratings of 4 readers" in page
    assert "Predicted by the network" not in text_of(render_study(study_review, key_images))


def test_the_evaluation_page_has_a_table_of_concepts():
    figure = Figure(value=0.41, low=0.3, high=0.5, n=99)
    report = EvaluationReport(
        run_id="r",
        dataset_id="d",
        backbone="resnet18",
        weights="none",
        pretrained=True,
        protocol="held out",
        n_patients=1,
        n_nodules=1,
        figures=(),
        concepts=(
            ConceptFigures(
                concept="internal_structure", unit="1-4", spearman=figure, kappa=figure, mean_absolute_error=figure
            ),
        ),
    )
    page = text_of(render_evaluation(report))
    assert "Internal structure 1-4 0.41 [0.30-0.50]" in page
    assert "These are predictions" in page
    assert "Predicted concepts" not in text_of(render_evaluation(report.model_copy(update={"concepts": ()})))

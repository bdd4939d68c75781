"""Real studies through the demo's champion: ingest, annotate, review, as a person would type it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.realdata]


@pytest.fixture(scope="module")
def workspace(demo: dict[str, Any], demo_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's workspace, with its champion; the demo's own stays as it is."""
    copy = tmp_path_factory.mktemp("real") / "workspace"
    shutil.copytree(demo_workspace, copy, ignore=shutil.ignore_patterns("prefect", "scratch", ".locks", ".users"))
    return copy


def noduleflow(workspace: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def lidc_review(workspace: Path, lidc_0001_dicom: Path) -> tuple[dict[str, Any], Path]:
    taken = noduleflow(workspace, "ingest", str(lidc_0001_dicom), "--site", "lidc")
    assert taken["accepted"] == 1
    xml = next(lidc_0001_dicom.rglob("*.xml"))
    noduleflow(workspace, "annotate", str(xml), "--format", "lidc-xml")
    report = Path(noduleflow(workspace, "review", taken["study_keys"][0])["reports"][0]["report"])
    return json.loads((report.parent / "review.json").read_text()), report.parent


def test_the_report_of_lidc_0001_shows_its_nodule_as_four_readers_outlined_it(
    lidc_review: tuple[dict[str, Any], Path],
) -> None:
    review, folder = lidc_review
    (finding,) = review["findings"]
    assert finding["n_readers"] == 4
    assert finding["ratings"]["malignancy"] == pytest.approx(4.75)
    assert 0 <= finding["probability"] <= 1
    # Readers give the largest diameter of their outlines, 30 to 36 mm; the mean of long and short axis is less.
    assert 18 <= finding["measurement"]["mean_diameter_mm"] <= 36
    pictures = {
        name: np.asarray(Image.open(io.BytesIO((folder / name).read_bytes())).convert("L"))
        for name in finding["key_images"]
    }
    axial = next(picture for name, picture in pictures.items() if "axial" in name and "lung" in name)
    rows, columns = (size // 2 for size in axial.shape)
    core = axial[rows - 12 : rows + 12, columns - 12 : columns + 12]
    assert np.median(core) > 120, "the centre of the picture is the solid nodule, not lung"


def test_padding_of_lidc_0001_has_a_stated_value(lidc_review: tuple[dict[str, Any], Path], workspace: Path) -> None:
    review, _ = lidc_review
    series = (
        pd.read_parquet(workspace / "series.parquet").set_index("series_key").loc[review["series"][0]["series_key"]]
    )
    assert "padding_replaced" in list(series["findings"])
    assert series["padding_voxels"] > 0
    assert np.asarray(nib.load(workspace / series["volume_path"]).dataobj).min() == series["padding_hu"] == -1024


def test_the_siemens_pair_with_its_boxes_is_reviewed_series_by_series(
    workspace: Path, kernel_pair_dicom: Path, shared_data: Path
) -> None:
    taken = noduleflow(workspace, "ingest", str(kernel_pair_dicom), "--site", "siemens")
    assert taken["accepted"] == 2
    boxes = sorted(str(file) for file in (shared_data / "dicom/annotations/Lung_Dx-A0002").glob("*.xml"))
    assert noduleflow(workspace, "annotate", *boxes, "--format", "voc-xml")["marks"] >= 1
    report = noduleflow(workspace, "review", taken["study_keys"][0])["reports"][0]
    assert report["n_findings"] >= 1


def test_the_nlst_chest_without_annotations_is_searched_and_the_report_says_how(workspace: Path, traps: Path) -> None:
    report = noduleflow(workspace, "review", str(traps / "chest_nlst_143_jpegls"))["reports"][0]
    page = Path(report["report"]).read_text()
    assert report["n_findings"] <= 20
    assert "The lungs were searched" in page
    assert "a nodule may have been missed" in page
    # The head's own threshold may leave nothing of this chest, whose nodules nobody marked; a lower one must not.
    report = noduleflow(workspace, "review", report["study_key"], "--set", "detection_threshold=0.5")["reports"][0]
    review = json.loads((Path(report["report"]).parent / "review.json").read_text())
    assert 0 < report["n_findings"] <= 20
    assert {finding["source"] for finding in review["findings"]} == {"candidate"}
    assert all(0 < finding["detection_score"] <= 1 for finding in review["findings"])
    again = noduleflow(workspace, "review", report["study_key"], "--set", "detector=none")["reports"][0]
    assert again["n_findings"] == 0
    assert "the search for nodules is turned off" in Path(again["report"]).read_text()

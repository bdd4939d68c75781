"""Reviewed studies with outlined nodules, as far as their results in DICOM need them; and the checkers of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from card_factory import resnet50_card
from pydicom.dataset import Dataset

from data_contracts.review import Finding, Measurement, StudyReview
from data_contracts.series import SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.review.measure import OUTLINED, Outline

PSEUDONYMS = Pseudonymizer(b"secret")
STUDY_UID, PATIENT_ID = "1.2.826.0.1.3680043.8.498.1", "MR-17"
PATIENT_KEY = PSEUDONYMS.patient_key(PATIENT_ID)
#: slices of 2 mm, rows of 0.8 mm, columns of 0.7 mm, in the usual directions
UPRIGHT = np.array([[0, 0, 0.7, -30.0], [0, 0.8, 0, -25.0], [2.0, 0, 0, -60.0], [0, 0, 0, 1]])
#: the same under a gantry tilted by about 15 degrees
TILTED = UPRIGHT + np.array([[0, 0, 0, 0], [0.5, 0, 0, 0], [0, -0.2, 0, 0], [0, 0, 0, 0]])
SHAPE = (40, 64, 80)


def record_of(
    affine: np.ndarray = UPRIGHT, shape: tuple[int, int, int] = SHAPE, number: int = 1, **values: object
) -> SeriesRecord:
    """An accepted series with its images on its own grid."""
    return SeriesRecord(
        **{
            "series_key": f"{number:016x}",
            "study_key": PSEUDONYMS.uid_key(STUDY_UID),
            "patient_key": PATIENT_KEY,
            "site": "a",
            "volume_path": "series/x/volume.nii",
            "n_slices": shape[0],
            "shape_kji": shape,
            "spacing_kji_mm": tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist()),
            "affine_lps": tuple(tuple(line) for line in affine.tolist()),
            "series_uid_key": PSEUDONYMS.uid_key(f"{STUDY_UID}.{number}"),
            "frame_of_reference_key": PSEUDONYMS.uid_key(f"{STUDY_UID}.9"),
            "sop_uid_keys": tuple(PSEUDONYMS.uid_key(f"{STUDY_UID}.{number}.{k}") for k in range(shape[0])),
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "pixel_sha256": "0",
            "source_path": "x",
            "slice_thickness_mm": 2.0,
            "patient_sex": "F",
            "study_date_shifted": "20150304",
            **values,
        }
    )


def ball(center_lps_mm: np.ndarray, radius_mm: float, spacing_mm: float = 0.5) -> Outline:
    """A ball of whose axes the long one lies along x and the short one along y."""
    n = int(np.ceil(radius_mm / spacing_mm)) + 1
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[::-1] * spacing_mm
    affine[:3, 3] = center_lps_mm - n * spacing_mm
    offsets = (np.indices((2 * n + 1,) * 3) - n) * spacing_mm
    arms = np.array([[-1.0, 0, 0], [1.0, 0, 0]]) * radius_mm
    return Outline(
        np.linalg.norm(offsets, axis=0) <= radius_mm, affine, center_lps_mm + arms, center_lps_mm + arms[:, [1, 0, 2]]
    )


def finding(
    number: int, record: SeriesRecord, center_lps_mm: np.ndarray, radius_mm: float, **values: object
) -> Finding:
    """A finding as it comes with an outline."""
    kji = np.linalg.solve(np.array(record.affine_lps), [*center_lps_mm, 1.0])[:3]
    size = Measurement(
        mean_diameter_mm=round(2 * radius_mm, 1),
        long_axis_mm=round(2 * radius_mm, 1),
        short_axis_mm=round(2 * radius_mm, 1),
        volume_mm3=round(4 / 3 * np.pi * radius_mm**3),
        mean_hu=-35,
        method=OUTLINED,
    )
    return Finding(
        **{
            "finding_id": f"{number:08x}",
            "nodule_id": f"nodule-{number}",
            "series_key": record.series_key,
            "lps_mm": tuple(center_lps_mm.tolist()),
            "kji": tuple(kji.tolist()),
            "slice_number": round(float(kji[0])) + 1,
            "side": "left",
            "measurement": size,
            "probability": 0.8712,
            "probability_size_only": 0.5,
            "probability_image_only": 0.75,
            "n_readers": 2,
            "ratings": {"malignancy": 4.0},
            "concepts": {"texture": 4.6, "spiculation": 2.25, "log_diameter": 9.9},
            "source": "lidc-xml",
            **values,
        }
    )


def unmeasured(reason: str = "no lung around the mark") -> Measurement:
    """A size that is the mark's."""
    return Measurement(mean_diameter_mm=5.0, method=f"diameter of the mark (not outlined: {reason})")


def review_of(record: SeriesRecord, *findings: Finding, **values: object) -> StudyReview:
    """A review of one study."""
    card = resnet50_card()
    return StudyReview(
        **{
            "study_key": record.study_key,
            "patient_key": record.patient_key,
            "created_utc": "2026-11-21T04:30:00+00:00",
            "model_name": "noduleflow",
            "model_version": "3",
            "model": card,
            "series": (),
            "findings": findings,
            "origin_of_findings": "Marks of 2 readers.",
            "not_examined": (),
            **values,
        }
    )


def saved(objects: dict[str, Dataset], folder: Path) -> list[Path]:
    """The objects as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in objects.items():
        made.save_as(folder / name, enforce_file_format=True)
    return [folder / name for name in objects]


def program(name: str, package: str) -> str:
    """Path of a checker; skips where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed ({package})")
    return found


def verified(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    command = [program("dciodvfy", "the Python package dicom3tools"), "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert said, "dciodvfy says what kind of object it is"
    return [line for line in said if line.startswith("Error")]

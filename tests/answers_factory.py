"""Reviewed studies without a model: volumes, annotations, review.json and report.html; and answers to them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from card_factory import resnet50_card

from data_contracts.feedback import FindingAnswer, ReaderFeedback
from data_contracts.nodules import NODULE_TABLE, RATINGS
from data_contracts.params import ReviewParams
from data_contracts.review import Finding, Measurement, SeriesSummary, StudyReview
from data_contracts.series import SeriesRecord
from data_contracts.volume import CTVolume
from flows.reviewing.answers import keep_answerable
from flows.workspace import Workspace
from pipeline.imaging.nifti import write_nifti
from pipeline.review.html import render_study
from pipeline.review.key_images import key_image_name, render_key_images

SHAPE_KJI, SPACING_KJI_MM = (40, 96, 96), (1.5, 0.8, 0.8)
AFFINE = np.array([[0, 0, 0.8, 0], [0, 0.8, 0, 0], [1.5, 0, 0, 0], [0, 0, 0, 1.0]])
#: of the nodules of every study, LPS mm
PLACES = ((20.0, 20.0, 15.0), (40.0, 30.0, 30.0), (55.0, 60.0, 45.0))
#: where no study has an annotation
ELSEWHERE = (60.0, 15.0, 30.0)
DIAMETER_MM = 8.0


def study_key(number: int) -> str:
    """Of study `number`; its series has the same key."""
    return f"{number:016x}"


def finding_id(number: int, nodule: int) -> str:
    """Of nodule `nodule` of study `number`."""
    return f"{number:04x}{nodule:04x}"


def reviewed_workspace(
    root: Path, n_studies: int = 2, n_findings: int = 3, version: str = "3", *, pictures: bool = True
) -> Workspace:
    """Studies 0, 1, ... of a patient each, all nodules marked by one reader of LIDC and reported."""
    workspace = Workspace(root).create()
    workspace.secret_file.write_text("a key of these tests\n")
    rows: list[dict[str, object]] = []
    for number in range(n_studies):
        record = _series(workspace, number)
        review_study(workspace, number, n_findings, version, pictures=pictures)
        for nodule in range(n_findings):
            x_mm, y_mm, z_mm = PLACES[nodule]
            rows.append(
                {
                    "nodule_id": f"nodule-{finding_id(number, nodule)}",
                    "series_key": record.series_key,
                    "reader": "lidc-1",
                    "x_mm": x_mm,
                    "y_mm": y_mm,
                    "z_mm": z_mm,
                    "diameter_mm": DIAMETER_MM,
                    **dict.fromkeys(RATINGS, 2.0),
                    "label": pd.NA,
                    "source": "lidc-xml",
                }
            )
    NODULE_TABLE.write(workspace.annotation_parts / "marks.parquet", pd.DataFrame(rows))
    workspace.rebuild_nodule_table()
    return workspace


def review_study(
    workspace: Workspace, number: int, n_findings: int = 3, version: str = "3", *, pictures: bool = True
) -> StudyReview:
    """The report of one study."""
    key = study_key(number)
    folder = workspace.reviews_root / key
    folder.mkdir(parents=True, exist_ok=True)
    images: dict[str, bytes] = {}
    if pictures:
        drawn = render_key_images(_volume(number), np.array(PLACES[0]), DIAMETER_MM, ReviewParams(), 80)
        names = [key_image_name(finding_id(number, nodule), view) for nodule in range(n_findings) for view in drawn]
        images = dict(zip(names, [*drawn.values()] * n_findings, strict=True))
    findings = tuple(_finding(number, nodule, tuple(images)) for nodule in range(n_findings))
    series = SeriesSummary(
        series_key=key, site="a", n_slices=SHAPE_KJI[0], spacing_kji_mm=SPACING_KJI_MM, slice_thickness_mm=1.5,
        kernel="B70f", manufacturer="SIEMENS", kvp=120, contrast=None,
    )  # fmt: skip
    review = StudyReview(
        study_key=key,
        patient_key=f"patient{number:09d}",
        created_utc="2026-11-20T04:30:00+00:00",
        model_name="noduleflow",
        model_version=version,
        model=resnet50_card(),
        series=(series,),
        findings=findings,
        origin_of_findings="Marks of 1 reader.",
        not_examined=("Lymph nodes.",),
    )
    for name, content in images.items():
        (folder / name).write_bytes(content)
    (folder / "report.html").write_text(render_study(review, images))
    keep_answerable(folder, review)
    review.write(folder / "review.json")
    return review


def answers(
    number: int, reader: str, said: dict[int, dict[str, object]] | None = None, **values: object
) -> ReaderFeedback:
    """What a reader says of study `number`: by nodule, accepted where nothing else is given."""
    given = said if said is not None else {0: {}, 1: {}, 2: {}}
    return ReaderFeedback.model_validate(
        {
            "study_key": study_key(number),
            "model_version": "3",
            "reader": reader,
            "time_utc": "2026-11-20T09:00:00+00:00",
            "model_visible_first": True,
            "answers": tuple(
                FindingAnswer.model_validate(
                    {
                        "finding_id": finding_id(number, nodule),
                        "nodule_id": f"nodule-{finding_id(number, nodule)}",
                        "answer": "accept",
                        **more,
                    }
                )
                for nodule, more in given.items()
            ),
            **values,
        }
    )


def _volume(number: int) -> CTVolume:
    rng = np.random.default_rng(number)
    return CTVolume(rng.normal(-700, 60, SHAPE_KJI).astype(np.int16), AFFINE)


def _series(workspace: Workspace, number: int) -> SeriesRecord:
    key, volume = study_key(number), _volume(number)
    folder = workspace.series_root / key
    folder.mkdir(parents=True)
    write_nifti(folder / "volume.nii", volume)
    record = SeriesRecord(
        series_key=key,
        study_key=key,
        patient_key=f"patient{number:09d}",
        site="a",
        volume_path=f"series/{key}/volume.nii",
        n_slices=SHAPE_KJI[0],
        shape_kji=SHAPE_KJI,
        spacing_kji_mm=SPACING_KJI_MM,
        affine_lps=tuple(tuple(line) for line in AFFINE.tolist()),
        series_uid_key=key,
        frame_of_reference_key=key,
        sop_uid_keys=tuple(hashlib.sha256(f"{key}.{k}".encode()).hexdigest()[:16] for k in range(SHAPE_KJI[0])),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        pixel_sha256=hashlib.sha256(volume.hu.tobytes()).hexdigest(),
        source_path="x",
    )
    record.write(folder / "series.json")
    return record


def _finding(number: int, nodule: int, images: tuple[str, ...]) -> Finding:
    place = PLACES[nodule]
    own = finding_id(number, nodule)
    kji = np.linalg.solve(AFFINE, [*place, 1.0])[:3]
    return Finding(
        finding_id=own,
        nodule_id=f"nodule-{own}",
        series_key=study_key(number),
        lps_mm=place,
        kji=tuple(kji.tolist()),
        slice_number=round(float(kji[0])) + 1,
        side="left",
        measurement=Measurement(mean_diameter_mm=DIAMETER_MM, nodule_type="solid", method="outlined"),
        probability=0.7312,
        probability_size_only=0.41,
        n_readers=1,
        ratings={"malignancy": 2.0},
        concepts={"spiculation": 2.25},
        source="lidc-xml",
        key_images=tuple(name for name in images if name.startswith(f"key-{own}-")),
    )

"""The folder of a study's report holds the files of the last report and none of an earlier one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_factory import ball, finding, record_of, review_of

from data_contracts.params import ReviewParams
from data_contracts.review import StudyReview
from data_contracts.series import SeriesRecord
from flows.reviewing.reading import StudyReading
from flows.reviewing.review import write_report
from flows.workspace import Workspace
from pipeline.review.key_images import VIEWS, key_image_name

PLACES = (np.array([-5.0, 2.0, -20.0]), np.array([12.0, 8.0, -8.0]))
FIRST, SECOND = (f"{number:08x}" for number in (1, 2))
#: what others keep there
KEPT = ("facts.json", "pacs.json", "answers/0123.json")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "w").create()
    workspace.secret()
    return workspace


@pytest.fixture(scope="module")
def record() -> SeriesRecord:
    return record_of()


def write(
    workspace: Workspace,
    record: SeriesRecord,
    numbers: tuple[int, ...],
    picture: bytes,
    views: tuple[str, ...] = tuple(VIEWS),
    **params: object,
) -> Path:
    """A report of some findings, each with a picture of each view; returns its folder."""
    reading = StudyReading(pd.DataFrame(), None)
    findings = []
    for number in numbers:
        made = finding(number, record, PLACES[number - 1], 4.0)
        names = tuple(key_image_name(made.finding_id, view) for view in views)
        reading.images |= dict.fromkeys(names, picture)
        reading.drawn.add(made.finding_id, ball(PLACES[number - 1], 4.0), 60.0)
        findings.append(made.model_copy(update={"key_images": names}))
    review = review_of(record, *findings)
    write_report(workspace, review, [record], reading, ReviewParams.model_validate(params))
    return workspace.reviews_root / review.study_key


def pictures(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


def named(folder: Path) -> set[str]:
    return {name for item in StudyReview.read(folder / "review.json").findings for name in item.key_images}


@pytest.fixture
def picture(key_images: dict[str, bytes]) -> bytes:
    return next(iter(key_images.values()))


def test_a_report_of_other_findings_leaves_no_picture_and_no_object_of_the_one_before(
    workspace: Workspace, record: SeriesRecord, picture: bytes
) -> None:
    folder = write(workspace, record, (1, 2), picture)
    for name in KEPT:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert pictures(folder) == named(folder)
    assert {name.split("-")[1] for name in pictures(folder)} == {FIRST, SECOND}
    assert write(workspace, record, (2,), picture) == folder
    assert pictures(folder) == named(folder)
    assert not [path for path in folder.rglob("*") if FIRST in path.name]
    assert all((folder / name).is_file() for name in KEPT)


def test_a_report_without_heat_maps_and_without_a_pdf_leaves_none_of_the_one_before(
    workspace: Workspace, record: SeriesRecord, picture: bytes
) -> None:
    folder = write(workspace, record, (1,), picture)
    assert (folder / "report.pdf").is_file() and (folder / "report.dcm").is_file()
    plain = tuple(view for view in VIEWS if not view.startswith("map-"))
    write(workspace, record, (1,), picture, plain, pdf=False)
    assert pictures(folder) == named(folder)
    assert not [name for name in pictures(folder) if "-map-" in name]
    assert not (folder / "report.pdf").exists() and not (folder / "report.dcm").exists()


def test_a_study_without_findings_keeps_no_picture(workspace: Workspace, record: SeriesRecord, picture: bytes) -> None:
    folder = write(workspace, record, (1, 2), picture)
    write(workspace, record, (), picture)
    assert pictures(folder) == set()
    assert StudyReview.read(folder / "review.json").findings == ()


def test_a_review_that_is_killed_takes_nothing_that_the_report_names_and_the_next_one_clears_up(
    workspace: Workspace, record: SeriesRecord, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(workspace, record, (1,), picture)

    def killed(self: StudyReview, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StudyReview, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            write(workspace, record, (2,), picture)
    assert named(folder) <= pictures(folder)
    write(workspace, record, (2,), picture)
    assert pictures(folder) == named(folder)

"""Annotate by command: the same twice changes nothing, a corrected file corrects its marks, two at once lose none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import annotation_factory as factory
import highdicom as hd
import numpy as np
import pandas as pd
import pytest
from annotation_factory import (
    MALIGNANCY,
    PSEUDONYMS,
    affine_of,
    ball,
    code,
    evaluation,
    record_of,
    report,
    saved,
    segment_group,
    segmentation,
)
from pydicom.uid import generate_uid

from data_contracts.errors import AnnotationError, NothingUsableError
from flows.intake.annotation import take_files
from flows.intake.sources import PrivatePaths
from flows.workspace import Workspace

TRUTH, DATASETS = factory.oblique_series()
RECORD = record_of(TRUTH, DATASETS)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    RECORD.write(root / "series" / RECORD.series_key / "series.json")
    return root


def annotate(workspace: Path, *files: Path, file_format: str = "csv") -> dict[str, Any]:
    return take_files(Workspace(workspace), PrivatePaths(paths=files), file_format, PSEUDONYMS)


def table(folder: Path, kji: list[tuple[float, float, float]], name: str = "marks.csv") -> Path:
    points = np.array(kji) @ affine_of(TRUTH)[:3, :3].T + affine_of(TRUTH)[:3, 3]
    lines = ["series_key,x_mm,y_mm,z_mm,diameter_mm,reader"]
    lines += [f"{RECORD.series_key},{','.join(map(str, point))},6,anna" for point in points.tolist()]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def nodules(workspace: Path) -> pd.DataFrame:
    return pd.read_parquet(workspace / "nodules.parquet")


def test_a_corrected_file_replaces_its_marks_and_its_refusals_and_no_others(workspace: Path, tmp_path: Path) -> None:
    file = table(tmp_path, [(3, 12, 9), (10, 30, 25), (99, 0, 0)])
    other = saved(segmentation(DATASETS, [ball((5, 20, 18), 4, TRUTH)], ["one"], [None]), tmp_path, "seg.dcm")
    assert annotate(workspace, other, file_format="dicom-seg")["nodules"] == 1
    first = annotate(workspace, file)
    assert (first["marks"], first["nodules"], first["n_refused"], first["replaced"]) == (2, 3, 1, 0)
    before = nodules(workspace)
    again = annotate(workspace, file)
    assert (again["marks"], again["nodules"], again["replaced"]) == (2, 3, 2)
    pd.testing.assert_frame_equal(before, nodules(workspace))
    table(tmp_path, [(3, 12, 9), (10, 31, 25)])
    # with another file beside it, it is the same file
    corrected = annotate(workspace, file, table(tmp_path, [(12, 40, 33)], "more.csv"))
    assert (corrected["marks"], corrected["nodules"], corrected["replaced"]) == (3, 4, 2)
    assert len(pd.read_parquet(workspace / "rejected.parquet")) == 0
    assert sorted(nodules(workspace)["source"]) == ["csv", "csv", "csv", "dicom-seg"]


def test_a_file_of_which_nothing_fits_any_more_takes_its_marks_along_and_an_unreadable_one_does_not(
    workspace: Path, tmp_path: Path
) -> None:
    file = table(tmp_path, [(3, 12, 9)])
    annotate(workspace, file)
    file.write_text("what is this\n")
    with pytest.raises(AnnotationError):
        annotate(workspace, file)
    assert len(nodules(workspace)) == 1
    table(tmp_path, [(99, 0, 0)])
    with pytest.raises(NothingUsableError, match="1 x annotation_outside_volume"):
        annotate(workspace, file)
    assert len(nodules(workspace)) == 0
    refused = pd.read_parquet(workspace / "rejected.parquet")
    assert refused["reason"].tolist() == ["annotation_outside_volume"]
    assert not refused["path"].str.contains("marks").any()


def test_a_report_finds_its_segment_of_an_earlier_run_and_keeps_to_it(workspace: Path, tmp_path: Path) -> None:
    uid = generate_uid()

    def seg(column: float) -> hd.seg.Segmentation:
        made = segmentation(DATASETS, [ball((5, 20, column), 4, TRUTH)], ["one"], [uid])
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "2.25.4711"
        return made

    value = code("904", "99LIDCQIICR", "4 out of 5 (Moderately Suspicious for Cancer)")
    group = segment_group(seg(18), 1, DATASETS, "one", uid, [evaluation(MALIGNANCY, value)], 9.5, 300)
    segment, told = (
        saved(seg(18), tmp_path, "seg.dcm"),
        saved(report([*DATASETS, seg(18)], [group]), tmp_path, "sr.dcm"),
    )
    with pytest.raises(NothingUsableError, match="its segmentation was not read"):
        annotate(workspace, told, file_format="dicom-sr")
    for file, file_format in [(segment, "dicom-seg"), (told, "dicom-sr"), (segment, "dicom-seg"), (told, "dicom-sr")]:
        annotate(workspace, file, file_format=file_format)
    (row,) = nodules(workspace).itertuples()
    assert (row.malignancy, row.diameter_mm, row.volume_mm3) == (4, 9.5, 300)
    # the segment is corrected: its evaluation moves with it
    saved(seg(22), tmp_path, "seg.dcm")
    annotate(workspace, segment, file_format="dicom-seg")
    (moved,) = nodules(workspace).itertuples()
    assert (moved.malignancy, moved.diameter_mm) == (4, 9.5)
    assert np.linalg.norm([moved.x_mm - row.x_mm, moved.y_mm - row.y_mm]) == pytest.approx(4 * 0.9, abs=0.3)


def test_boxes_of_a_folder_are_replaced_with_the_folder(workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "boxes"
    folder.mkdir()
    box = "<bndbox><xmin>{0}</xmin><ymin>10</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    for left in (10, 8):
        for k in (4, 5):
            text = f"<annotation><object><name>A</name>{box.format(left)}</object></annotation>"
            (folder / f"{DATASETS[k].SOPInstanceUID}.xml").write_text(text)
        record = annotate(workspace, folder, file_format="voc-xml")
        assert (record["marks"], record["nodules"]) == (1, 1)
    assert nodules(workspace)["diameter_mm"].tolist() == [pytest.approx(12 * 0.9)]


_ALONE = """
import sys
from pathlib import Path
from flows.intake.annotation import take_files
from flows.intake.sources import PrivatePaths
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
take_files(Workspace(Path(sys.argv[1])), PrivatePaths(paths=(Path(sys.argv[2]),)), "csv", Pseudonymizer(b"secret"))
"""


@pytest.mark.slow
def test_several_at_once_on_one_workspace_lose_nothing(workspace: Path, tmp_path: Path) -> None:
    files = [table(tmp_path, [(3, 12, 9 + 4 * n), (10, 30, 9 + 4 * n)], f"{n}.csv") for n in range(3)]
    runs = [subprocess.Popen([sys.executable, "-c", _ALONE, str(workspace), str(file)]) for file in files]
    assert [process.wait(timeout=120) for process in runs] == [0] * 3
    assert len(nodules(workspace)) == 6


@pytest.mark.server
@pytest.mark.slow
def test_a_wrong_format_is_status_2_and_files_of_which_nothing_fits_are_status_3(
    workspace: Path, tmp_path: Path
) -> None:
    file = table(tmp_path, [(99, 0, 0)])
    # the keys of the factory's record are of this secret
    environment = {**os.environ, "NODULEFLOW_SECRET": "secret"}
    for words, status, said in [
        (("--format", "excel"), 2, "unknown annotation format"),
        (("--format", "csv", "--coordinates", "mni"), 2, "cannot be chosen"),
        (("--format", "csv"), 3, "1 x annotation_outside_volume"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "flows", "--workspace", str(workspace), "annotate", str(file), *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment,
        )
        assert done.returncode == status, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr

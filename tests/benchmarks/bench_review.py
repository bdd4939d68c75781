"""How long the report of one study takes, whole command: few, many and very many nodules in a real chest.

    python tests/benchmarks/bench_review.py [--nodules 1,20,200] [--work DIR]

The marks lie at random places in the lungs of LIDC-IDRI-0001, the most work for what follows them: nothing there is
a nodule's shape. The version is the demo's; DIR keeps its workspace for the next time.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from paired import Row, publish, value_row  # noqa: E402

from flows.workspace import Workspace  # noqa: E402
from pipeline.imaging.lungs import segment_lungs  # noqa: E402
from pipeline.imaging.nifti import read_nifti  # noqa: E402

STUDY = REPOSITORY.parent / "shared" / "data" / "dicom" / "LIDC-IDRI-0001.tar.xz"
#: seconds that a study may take on two cores, and bytes of a nodule's page
AT_MOST_S, AT_MOST_BYTES = 60, 1_500_000


def main() -> None:
    """Make the workspace where it is missing, review, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodules", default="1,20,200")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-review-") as scratch:
        work = arguments.work or Path(scratch)
        if not (work / "study.json").is_file():
            begin(work)
        study = json.loads((work / "study.json").read_text())
        rows: list[Row] = []
        for n in map(int, arguments.nodules.split(",")):
            rows += review_rows(work, study, n)
    publish("review", rows)


def noduleflow(work: Path, *words: str) -> dict[str, object]:
    """One command in a process of its own; its record."""
    command = [sys.executable, "-m", "flows", "--workspace", str(work / "workspace"), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def begin(work: Path) -> None:
    """The demo's workspace with the chest in it."""
    noduleflow(work, "demo", "--fast", "--weights", "none")
    shutil.unpack_archive(STUDY, work / "dicom", filter="data")
    noduleflow(work, "ingest", str(work / "dicom"), "--site", "lidc")
    workspace = Workspace(work / "workspace")
    (record,) = [record for record in workspace.series_records() if record.site == "lidc"]
    (work / "study.json").write_text(json.dumps({"study": record.study_key, "series": record.series_key}))


def write_marks(work: Path, series_key: str, n: int) -> Path:
    """Marks of 4 to 20 mm at n places in the lungs; the file is always one, so that they replace those before."""
    workspace = Workspace(work / "workspace")
    (record,) = [record for record in workspace.series_records() if record.series_key == series_key]
    lungs = segment_lungs(read_nifti(workspace.root / record.volume_path))
    random = np.random.default_rng(n)
    inside = np.argwhere(lungs.sides > 0)
    places = inside[random.choice(len(inside), n, replace=False)] @ lungs.affine[:3, :3].T + lungs.affine[:3, 3]
    path = work / "marks.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["series_key", "x_mm", "y_mm", "z_mm", "diameter_mm"])
        for (x, y, z), diameter_mm in zip(places, random.uniform(4, 20, n), strict=True):
            table.writerow([series_key, x, y, z, round(diameter_mm, 1)])
    return path


def review_rows(work: Path, study: dict[str, str], n: int) -> list[Row]:
    """Seconds of the command on n nodules, and bytes of its page for each of them."""
    workspace = Workspace(work / "workspace")
    noduleflow(work, "annotate", str(write_marks(work, study["series"], n)), "--format", "csv")
    shutil.rmtree(workspace.reviews_root / study["study"], ignore_errors=True)
    started = time.perf_counter()
    noduleflow(work, "review", study["study"], "--version", "1")
    seconds = time.perf_counter() - started
    folder = workspace.reviews_root / study["study"]
    found = len(json.loads((folder / "review.json").read_text())["findings"])
    page = (folder / "report.html").stat().st_size / found
    title = f"review of {found} nodule{'s' if found > 1 else ''}"
    return [
        value_row(title, seconds, "s", at_most=AT_MOST_S),
        value_row(f"{title}, page of one", page, "bytes", at_most=AT_MOST_BYTES),
    ]


if __name__ == "__main__":
    main()

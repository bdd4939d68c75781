"""The real prepare command: the same bytes with one worker, with eight, and after kills."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_contracts.nodules import NODULE_TABLE, RATINGS
from data_contracts.series import SeriesRecord
from data_contracts.volume import CTVolume
from flows.engine import engine
from flows.workspace import Workspace
from pipeline.imaging.nifti import write_nifti

N_SERIES, SHAPE_KJI, SPACING_KJI_MM = 12, (40, 96, 96), (1.5, 0.8, 0.8)
WANTED = ("--kind", "2.5d", "--kind", "3d", "--set", "size_mm=24", "--set", "jitter_copies=2")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with engine(Workspace(tmp_path_factory.mktemp("server"))) as address:
        yield {**os.environ, "NODULEFLOW_PREFECT_API_URL": address, "NODULEFLOW_SECRET": "a key of these tests"}


def fill(workspace: Path) -> Path:
    """A workspace as ingest and annotate leave it: volumes of noise, three nodules in each."""
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = SPACING_KJI_MM
    rows = []
    for number in range(N_SERIES):
        rng = np.random.default_rng(number)
        key = f"{number:016x}"
        folder = workspace / "series" / key
        folder.mkdir(parents=True)
        hu = rng.normal(-700, 60, SHAPE_KJI).astype(np.int16)
        write_nifti(folder / "volume.nii", CTVolume(hu, affine))
        SeriesRecord(
            series_key=key,
            study_key=key,
            patient_key=f"patient{number:09d}",
            site="a" if number % 2 else "b",
            volume_path=f"series/{key}/volume.nii",
            n_slices=SHAPE_KJI[0],
            shape_kji=SHAPE_KJI,
            spacing_kji_mm=SPACING_KJI_MM,
            affine_lps=tuple(tuple(line) for line in affine.tolist()),
            series_uid_key=key,
            frame_of_reference_key=key,
            sop_uid_keys=tuple(f"{key}.{k}" for k in range(SHAPE_KJI[0])),
            pixel_sha256=hashlib.sha256(hu.tobytes()).hexdigest(),
            source_path="x",
        ).write(folder / "series.json")
        for nodule in range(3):
            kji = rng.uniform((2, 10, 10), (38, 86, 86))
            x_mm, y_mm, z_mm = (affine @ [*kji, 1.0])[:3]
            rating = {name: 1.0 + (number + nodule) % top for name, top in RATINGS.items()}
            place = {"nodule_id": f"{key}-{nodule}", "series_key": key, "x_mm": x_mm, "y_mm": y_mm, "z_mm": z_mm}
            rows.append({**place, **rating, "reader": "r", "diameter_mm": 8.0, "label": nodule % 2, "source": "csv"})
    NODULE_TABLE.write(workspace / "nodules.parquet", pd.DataFrame(rows))
    return workspace


def prepare(workspace: Path, environment: dict[str, str], workers: int, wait: bool = True) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "prepare", "--name", "n", *WANTED]
    running = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "NODULEFLOW_WORKERS": str(workers)},
    )
    if wait:
        _, errors = running.communicate(timeout=300)
        assert running.returncode == 0, errors
    return running


def digests(workspace: Path) -> dict[str, str]:
    files = [file for file in (workspace / "datasets").glob("[!.]*/*") if file.is_file()]
    return {str(file.relative_to(workspace)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_one_worker_eight_workers_and_kills_leave_the_same_bytes(environment: dict[str, str], tmp_path: Path) -> None:
    one, eight, killed = (fill(tmp_path / name) for name in ("one", "eight", "killed"))
    prepare(one, environment, 1)
    prepare(eight, environment, 8)
    expected = digests(one)
    assert len({name.split("/")[1] for name in expected}) == 2
    card = json.loads(next((one / "datasets").glob("*/dataset.json")).read_text())
    assert card["counts"]
    assert digests(eight) == expected
    for parts in (1, 6, 14):
        running = prepare(killed, environment, 2, wait=False)
        until = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < until:
            if len(list((killed / "scratch").glob("prepare-*/*.npy"))) >= parts:
                break
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.communicate()
    prepare(killed, environment, 3)
    assert digests(killed) == expected

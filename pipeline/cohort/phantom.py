"""A two-site phantom cohort as DICOM, with the real nodule shapes and ratings of LIDC, and its truth.

    out_dir/cohort.json             parameters, and which folder belongs to which site
    out_dir/nodules.csv             one row a nodule a reader; written last
    out_dir/site-a/<folder>/IM0001  CT Image Storage
    out_dir/truth/<folder>.csv      the rows of one patient

What it holds and what it cannot: shapes, sizes, textures, calcifications and labels are those of real nodules,
their surroundings are drawn. Nothing in it is pathology.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import StringIO
from pathlib import Path

import pandas as pd
from filelock import FileLock

from data_contracts.errors import UsageError
from data_contracts.params import PhantomParams
from data_contracts.records import Record, write_bytes_atomic
from pipeline.cohort.phantom_identity import invented_identities
from pipeline.cohort.phantom_patient import PhantomPatient
from pipeline.cohort.phantom_plan import builtin_reserved_patients, plan_cohort, site_of
from pipeline.cohort.phantom_volume import SphereNodule, phantom_volume

__all__ = [
    "CohortCard",
    "SphereNodule",
    "builtin_reserved_patients",
    "finish_cohort",
    "generate_cohort",
    "generate_patient",
    "invented_identities",
    "patient_folder",
    "phantom_volume",
]

_SITES = {"a": "site-a", "b": "site-b"}


class CohortCard(Record):
    """cohort.json: the parameters of a cohort and the folders of each site, relative to the cohort."""

    params: PhantomParams
    sites: dict[str, tuple[str, ...]]


def patient_folder(params: PhantomParams, index: int) -> str:
    """Folder of a patient relative to the cohort; it says nothing about who it is."""
    return f"{_SITES[site_of(params, index)]}/S{index + 1:04d}"


def generate_patient(params: PhantomParams, index: int, out_dir: Path) -> None:
    """Write one patient's series, whole or not at all; a finished folder is left alone.

    Raises
    ------
    UsageError: `out_dir` holds a cohort of other parameters, the database has too few nodules,
        or a nodule finds no place.
    """
    _claim(params, out_dir)
    folder = out_dir / patient_folder(params, index)
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    patient = PhantomPatient(params, plan_cohort(params)[index])
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=out_dir))
    try:
        patient.write(unfinished)
        # the truth is there before the images are, so a folder that is there is complete
        write_bytes_atomic(_truth_file(params, index, out_dir), patient.truth().to_csv(index=False).encode())
        unfinished.chmod(0o755)
        try:
            unfinished.rename(folder)
        except OSError:
            # another process finished the same patient meanwhile, with the same bytes
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def generate_cohort(
    params: PhantomParams,
    out_dir: Path,
    on_patient: Callable[[int], object] | None = None,
    *,
    workers: int = 2,
) -> None:
    """Write the whole cohort; what is finished already is left alone, leftovers of a killed run are removed.

    Parameters
    ----------
    on_patient: called in this thread with the number of each patient that is there, in any order.
    workers: patients made at once; the files do not depend on it.

    Raises
    ------
    UsageError: as for `generate_patient`.
    """
    _claim(params, out_dir)
    # a second run on the same folder waits, then finds everything there
    with FileLock(out_dir / ".lock"):
        for leftover in out_dir.glob(".S*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        _generate_missing(params, out_dir, on_patient, workers)
        finish_cohort(params, out_dir)


def _generate_missing(
    params: PhantomParams, out_dir: Path, on_patient: Callable[[int], object] | None, workers: int
) -> None:
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="phantom")
    try:
        running = {pool.submit(generate_patient, params, index, out_dir): index for index in range(params.n_patients)}
        for future in as_completed(running):
            future.result()
            if on_patient is not None:
                on_patient(running[future])
    finally:
        pool.shutdown(cancel_futures=True)


def finish_cohort(params: PhantomParams, out_dir: Path) -> None:
    """Join the patients' truth into nodules.csv.

    Raises
    ------
    UsageError: a patient of the cohort is not there yet.
    """
    parts = []
    for index in range(params.n_patients):
        path = _truth_file(params, index, out_dir)
        if not (out_dir / patient_folder(params, index)).is_dir() or not path.is_file():
            raise UsageError(
                f"the phantom cohort lacks patient {index + 1}", where=out_dir.name, todo="Generate it again."
            )
        parts.append(pd.read_csv(path))
    text = StringIO()
    pd.concat(parts).to_csv(text, index=False)
    write_bytes_atomic(out_dir / "nodules.csv", text.getvalue().encode())


def _truth_file(params: PhantomParams, index: int, out_dir: Path) -> Path:
    return out_dir / "truth" / f"{Path(patient_folder(params, index)).name}.csv"


def _claim(params: PhantomParams, out_dir: Path) -> None:
    """Mark the folder as this cohort's; a cohort of other parameters is never mixed with it."""
    path = out_dir / "cohort.json"
    folders = [patient_folder(params, index) for index in range(params.n_patients)]
    sites = {name: tuple(folder for folder in folders if folder.startswith(f"{name}/")) for name in _SITES.values()}
    card = CohortCard(params=params, sites=sites)
    if path.exists():
        # compared as JSON: a cohort of another version of the parameters is another cohort
        if json.loads(path.read_text()) != json.loads(card.to_json()):
            raise UsageError(
                "the folder holds a phantom cohort of other parameters",
                where=str(out_dir),
                todo="Choose another folder, or delete this one.",
            )
        return
    card.write(path)

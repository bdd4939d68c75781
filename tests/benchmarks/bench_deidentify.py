"""De-identification of files on one core: read, de-identify, write, beside dicom-anonymizer on the same files.

usage: python tests/benchmarks/bench_deidentify.py [FOLDER]     without a folder: phantom slices of 530 KB
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from dicom_factory import slices_of, truth_of, write_series
from paired import Row, publish, ratio_row, take_turns, value_row

from data_contracts.params import DeidentifyParams
from pipeline.deidentify.engine import Deidentifier
from pipeline.deidentify.files import deidentify_file
from pipeline.deidentify.pseudonyms import Pseudonymizer

_N_FILES, _ROUNDS = 100, 5


def phantom(folder: Path) -> None:
    """Slices of 512 x 512, 16 bit: 530 KB each."""
    hu = np.random.default_rng(1).integers(-1000, 1000, (_N_FILES, 512, 512), dtype=np.int16)
    write_series(folder, slices_of(truth_of(hu), "BENCH-1"))


def ours(files: list[Path], out: Path) -> None:
    """Every file through the engine into a fresh folder."""
    shutil.rmtree(out, ignore_errors=True)
    engine = Deidentifier(Pseudonymizer(b"bench"), DeidentifyParams())
    for path in files:
        assert deidentify_file(path, out, engine).state == "written"


def theirs(files: list[Path], out: Path) -> None:
    """The same files through dicom-anonymizer with its newest table."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in files:
        anonymize_dicom_file(
            str(path), str(out / path.name), base_rules_gen=lambda: initialize_actions("dicomfields_2026c")
        )


def _cpu_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def deidentify_rows(folder: Path | None = None) -> list[Row]:
    """Files a second of one core, and how many times faster than the peer."""
    with tempfile.TemporaryDirectory() as scratch:
        source = folder or Path(scratch) / "source"
        if folder is None:
            phantom(source)
        files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix in (".dcm", "")][
            :_N_FILES
        ]
        out = Path(scratch) / "out"
        variants = {"noduleflow": lambda: ours(files, out), "dicom-anonymizer": lambda: theirs(files, out)}
        seconds = take_turns(variants, _ROUNDS)
        size = sum(path.stat().st_size for path in files) / len(files) / 1e3
        work = f"de-identify {len(files)} files of {size:.0f} KB"
        # of one core: what other programs took of it meanwhile does not count
        rates = [len(files) / _cpu_seconds(variants["noduleflow"]) for _ in range(_ROUNDS)]
        return [
            value_row(
                work, max(rates), "files/s of a core", n=_ROUNDS, at_least=100.0, interval=(min(rates), max(rates))
            ),
            ratio_row(work, "dicom-anonymizer", seconds, own="noduleflow", of="dicom-anonymizer", at_least=2.0),
        ]


if __name__ == "__main__":
    publish("deidentify", deidentify_rows(Path(sys.argv[1]) if len(sys.argv) > 1 else None))

"""Finding what is in a folder, beside pydicom, and an ingest of thousands of series that are known.

    python tests/benchmarks/bench_scan.py [--rounds 7] [--series 10000] [--quick]

Files lie in the page cache. The memory of known series is measured by the whole command in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pydicom

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(Path(__file__).parent)]

from chest_series import chest_hu, write_chest  # noqa: E402
from dicom_factory import body_hu, save, slices_of, truth_of  # noqa: E402
from paired import Row, publish, ratio_row, take_turns, value_row  # noqa: E402

from data_contracts.params import IngestParams  # noqa: E402
from pipeline.deidentify.pseudonyms import Pseudonymizer  # noqa: E402
from pipeline.intake.discover import discover  # noqa: E402

PARAMS, PSEUDONYMS = IngestParams(), Pseudonymizer(b"bench")
SHARED = REPOSITORY.parent / "shared" / "data" / "dicom"
#: files a second that a folder is scanned at, and seconds that an ingest of 10 000 known series may take
FILES_A_SECOND, KNOWN_S = 1500, 10
_SLICES = 4


def scan_rows(*, rounds: int = 7, n_slices: int = 300, n_series: int = 10_000) -> list[Row]:
    """Every row of this file."""
    with tempfile.TemporaryDirectory(prefix="bench-scan-") as scratch:
        work = Path(scratch)
        return [*folder_rows(work, rounds, n_slices), *tiny_rows(work, rounds), *known_rows(work, n_series)]


def scan(folder: Path) -> int:
    """Scan a folder in full, grouping included; number of files."""
    return discover(folder, PSEUDONYMS, PARAMS, folder / "none").n_files


def by_pydicom(folder: Path) -> int:
    """Read every header of a folder as pydicom does it; number of files."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        pydicom.dcmread(path, stop_before_pixels=True, force=True)
    return len(paths)


def folder_rows(work: Path, rounds: int, n_slices: int) -> list[Row]:
    """One series a folder: of our own, and real ones where they are at hand."""
    own = work / "chest"
    write_chest(own, "uncompressed", chest_hu(n_slices, 512))
    folders = {f"scan of {n_slices} uncompressed slices": own}
    for name, archive in (("LIDC-IDRI-0001", "LIDC-IDRI-0001"), ("NLST, JPEG-LS", "traps")):
        if (SHARED / f"{archive}.tar.xz").is_file():
            target = work / archive
            shutil.unpack_archive(SHARED / f"{archive}.tar.xz", target, filter="data")
            inside = target / "shared_candidate" / "chest_nlst_143_jpegls"
            folders[f"scan of {name}"] = inside if inside.is_dir() else target
    rows = []
    for name, folder in folders.items():
        seconds = take_turns({"ours": lambda at=folder: scan(at), "pydicom": lambda at=folder: by_pydicom(at)}, rounds)
        n_files, best = scan(folder), min(seconds["ours"])
        rows.append(value_row(name, n_files / best, "files/s", n=rounds, at_least=FILES_A_SECOND))
        rows.append(ratio_row(name, "pydicom headers", seconds, own="ours", of="pydicom", at_least=5))
    return rows


def write_many(folder: Path, n_series: int) -> None:
    """Small series of four slices, each under UIDs and with a pixel of its own, two hours old."""
    blobs = []
    folder.mkdir(parents=True)
    for ds in slices_of(truth_of(body_hu(_SLICES, 32, 32)), "P1"):
        save(ds, folder / "one")
        blobs.append((folder / "one").read_bytes())
        (folder / "one").unlink()
    then = time.time() - 7200
    for number in range(n_series):
        below = folder / f"{number:05d}"
        below.mkdir()
        for index, content in enumerate(blobs):
            for tag in (b"\x08\x00\x18\x00UI", b"\x20\x00\x0d\x00UI", b"\x20\x00\x0e\x00UI"):
                place = content.index(tag)
                end = place + 8 + int.from_bytes(content[place + 6 : place + 8], "little")
                end -= content[end - 1 : end] == b"\0"
                content = content[: end - 5] + b"%05d" % number + content[end:]
            path = below / f"{index}.dcm"
            path.write_bytes(content[:-2] + (number % 500).to_bytes(2, "little"))
            os.utime(path, (then, then))


def tiny_rows(work: Path, rounds: int) -> list[Row]:
    """Many series of a few slices: nothing of one tells the next."""
    folder = work / "tiny"
    write_many(folder, 250)
    seconds = take_turns({"ours": lambda: scan(folder), "pydicom": lambda: by_pydicom(folder)}, rounds)
    best = 250 * _SLICES / min(seconds["ours"])
    return [value_row("scan of 250 series of 4 slices", best, "files/s", n=rounds, at_least=FILES_A_SECOND)]


def known_rows(work: Path, n_series: int) -> list[Row]:
    """The whole command on series that it ingested before, and again after one more came."""
    source, workspace = work / "many", work / "workspace"
    write_many(source, n_series)
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "ingest", str(source)]
    rows = []

    def run(title: str, new: int, at_most: float | None) -> None:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
        record = json.loads(done.stdout)
        assert record["new"] == new and record["accepted"] == len(list((workspace / "series").iterdir()))
        rows.append(value_row(title, seconds, "s", at_most=at_most))

    run(f"first ingest of {n_series} series", n_series, None)
    run(f"second ingest of {n_series} known series", 0, KNOWN_S)
    write_many(work / "more", n_series + 1)
    shutil.move(work / "more" / f"{n_series:05d}", source / "one more")
    run(f"ingest of one new series beside {n_series} known ones", 1, None)
    return rows


def main() -> int:
    """Measure, print, write bench/scan.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        publish("scan-quick", scan_rows(rounds=2, n_slices=20, n_series=40))
    else:
        publish("scan", scan_rows(rounds=options.rounds, n_series=options.series))
    return 0


if __name__ == "__main__":
    sys.exit(main())

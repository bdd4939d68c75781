"""Reading a series into a volume of HU, and a whole ingest, beside what users would take instead.

    python tests/benchmarks/bench_ingest.py [--rounds 7] [--slices 300] [--quick]
    pytest -o python_files='bench_*.py' tests/benchmarks/bench_ingest.py

Files lie in the page cache, and all variants of a work take turns in one process. Ours is the scan of the headers, all
checks of ingest and the decoded volume; the peers check nothing of it. MONAI's reader needs `itk`, which `make bench`
installs from requirements-bench.txt; without it its row is left out. The series of --quick is too short for figures.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from chest_series import SYNTAXES, chest_hu, write_chest  # noqa: E402
from paired import Row, publish, ratio_row, take_turns, value_row  # noqa: E402

from data_contracts.params import IngestParams  # noqa: E402
from data_contracts.series import SeriesRecord  # noqa: E402
from pipeline.deidentify.pseudonyms import Pseudonymizer  # noqa: E402
from pipeline.intake.check import Part, make_parts  # noqa: E402
from pipeline.intake.discover import discover  # noqa: E402
from pipeline.intake.ingest_series import ingest_series  # noqa: E402
from pipeline.intake.triage import triage  # noqa: E402
from pipeline.pixels.decode import DecodedVolume, decode_volume  # noqa: E402
from pipeline.pixels.plain_planes import load_kernel  # noqa: E402
from pipeline.pixels.volume_memory import VolumeMemory  # noqa: E402

NLST = REPOSITORY.parent / "shared" / "data" / "dicom" / "traps.tar.xz"
PARAMS, PSEUDONYMS = IngestParams(), Pseudonymizer(b"bench")
#: times SimpleITK that a compressed series must be read faster
BARS = {"JPEG-LS": 2.2, "lossless JPEG": 2.3, "JPEG 2000": 1.3, "RLE": 15.0}


def scanned(folder: Path) -> Part:
    """The one volume in a folder, its headers scanned and checked."""
    (raw,) = discover(folder, PSEUDONYMS, PARAMS, folder / "none").series
    (part,) = make_parts(triage(raw.slices, PARAMS)[0], PARAMS)
    assert isinstance(part, Part)
    return part


def read(folder: Path, memory: VolumeMemory | None = None) -> np.ndarray:
    """The volume of a folder: int16 HU (k, j, i); in memory of the volume before it, where given, as an ingest does."""
    volume = decode_volume(scanned(folder).slices, PARAMS, memory)
    assert isinstance(volume, DecodedVolume), volume.detail
    return volume.hu


def by_simpleitk(folder: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in sorted(folder.glob("*.dcm"))])
    return reader.Execute()


def by_pydicom(folder: Path) -> np.ndarray:
    planes = []
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        planes.append((ds.pixel_array * int(ds.RescaleSlope) + int(ds.RescaleIntercept)).astype(np.int16))
    return np.stack(planes)


def monai_reader() -> Callable[[Path], Any] | None:
    """MONAI's LoadImage with ITKReader, None where itk is not installed."""
    try:
        importlib.import_module("itk")
    except ImportError:
        return None
    from monai.data import ITKReader
    from monai.transforms import LoadImage

    load = LoadImage(reader=ITKReader(), image_only=True)
    return lambda folder: load(str(folder))


def decode_rows(work: Path, hu: np.ndarray, rounds: int) -> list[Row]:
    """Every transfer syntax beside its peers; the volumes are compared before they are measured."""
    rows: list[Row] = []
    monai, memory = monai_reader(), VolumeMemory()
    load_kernel()
    for name in SYNTAXES:
        folder = work / name.replace(" ", "-")
        write_chest(folder, name, hu)
        assert np.array_equal(read(folder), hu), name
        assert np.array_equal(SimpleITK.GetArrayFromImage(by_simpleitk(folder)), hu), name
        slices = scanned(folder).slices
        ours, alone, fresh = "noduleflow", "noduleflow, headers known", "noduleflow, fresh memory"
        variants: dict[str, Callable[[], object]] = {
            ours: lambda folder=folder: read(folder, memory),
            fresh: lambda folder=folder: read(folder),
            alone: lambda slices=slices: decode_volume(slices, PARAMS, memory),
            "SimpleITK": lambda folder=folder: by_simpleitk(folder),
        }
        native = name in ("uncompressed", "implicit VR")
        if native:
            variants["pydicom"] = lambda folder=folder: by_pydicom(folder)
        n = rounds if native else max(rounds // 2, 2)
        seconds = take_turns(variants, n)
        bar = 8.0 if native else BARS[name]
        label = f"{name}, {len(hu)} slices to HU"
        rows.append(ratio_row(label, "SimpleITK", seconds, own=ours, of="SimpleITK", at_least=bar))
        rows.append(ratio_row(f"{label}, headers known", "SimpleITK", seconds, own=alone, of="SimpleITK"))
        rows.append(ratio_row(f"{label}, fresh memory", "SimpleITK", seconds, own=fresh, of="SimpleITK"))
        if native:
            rows.append(ratio_row(label, "pydicom pixel_array", seconds, own=ours, of="pydicom", at_least=5.0))
        if native and monai is not None:
            variants = {ours: variants[ours], "MONAI": lambda folder=folder: monai(folder)}
            seconds = take_turns(variants, max(rounds // 2, 2))
            rows.append(ratio_row(label, "MONAI ITKReader", seconds, own=ours, of="MONAI", at_least=24.0))
        for path in folder.iterdir():
            path.unlink()
    if monai is None:
        print("itk is not installed: no row for MONAI (make bench installs it)", file=sys.stderr)
    return rows


def whole_ingest(source: Path, root: Path) -> SeriesRecord:
    """Scan, check, de-identify, decode and store into a fresh folder."""
    with tempfile.TemporaryDirectory(dir=root) as fresh:
        found = discover(source, PSEUDONYMS, PARAMS, Path(fresh) / "scratch")
        outcomes = [
            item for raw in found.series for item in ingest_series(raw, PSEUDONYMS, PARAMS, Path(fresh) / "series", "a")
        ]
    (record,) = (item for item in outcomes if isinstance(item, SeriesRecord))
    return record


def bare_decode(files: list[Path]) -> np.ndarray:
    """The code streams of a JPEG-LS series by imagecodecs on two threads, and nothing else."""
    from concurrent.futures import ThreadPoolExecutor

    import imagecodecs
    from pydicom.encaps import generate_fragments

    streams = [b"".join(list(generate_fragments(pydicom.dcmread(path).PixelData))[1:]) for path in files]
    return lambda: list(ThreadPoolExecutor(2).map(imagecodecs.jpegls_decode, streams))  # type: ignore[return-value]


def ingest_rows(work: Path, rounds: int) -> list[Row]:
    """A real screening chest, ingested whole, beside the bare decode of its pixels."""
    if not NLST.is_file():
        print("real data is absent: there is no ../shared/data beside the repository", file=sys.stderr)
        return []
    subprocess.run(["tar", "-xf", str(NLST), "-C", str(work), "shared_candidate/chest_nlst_143_jpegls"], check=True)
    source = work / "shared_candidate" / "chest_nlst_143_jpegls"
    decode: Any = bare_decode(sorted(source.glob("*.dcm")))
    variants = {"ingest": lambda: whole_ingest(source, work), "decode": decode, "volume": lambda: read(source)}
    seconds = take_turns(variants, max(rounds // 2, 2))
    each = np.array(seconds["ingest"]) / np.array(seconds["decode"])
    ratio = min(seconds["ingest"]) / min(seconds["decode"])
    spread = (float(each.min()), float(each.max()))
    work_name = "NLST chest, whole ingest in times its bare decode"
    milliseconds = {f"{name}_ms": round(1e3 * min(times), 1) for name, times in seconds.items()}
    return [value_row(work_name, ratio, "x", n=len(each), interval=spread, at_most=3.0, **milliseconds)]


MEMORY = """
import sys; sys.path[:0] = [{repository!r}, {benchmarks!r}]
from pathlib import Path
import bench_ingest
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
bench_ingest.whole_ingest(Path({small!r}), Path({work!r}))
open("/proc/self/clear_refs", "w").write("5")
before = peak()
record = bench_ingest.whole_ingest(Path({source!r}), Path({work!r}))
k, j, i = record.shape_kji
print((peak() - before) / (2 * k * j * i))
"""


def memory_rows(work: Path, hu: np.ndarray) -> list[Row]:
    """Peak memory of a whole ingest above that of the program, in times the volume; a process of its own each."""
    rows = []
    write_chest(work / "small", "JPEG-LS", hu[:4, 192:320, 128:256])
    for name in ("uncompressed", "JPEG-LS"):
        source = work / f"memory-{name}"
        write_chest(source, name, hu)
        values = {"repository": str(REPOSITORY), "benchmarks": str(Path(__file__).parent), "work": str(work)}
        script = MEMORY.format(small=str(work / "small"), source=str(source), **values)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        rows.append(value_row(f"{name}, peak memory of an ingest", float(done.stdout), "volumes", at_most=3.0))
    return rows


def sibling_rows() -> list[Row]:
    """Rows of the benchmarks beside this one that are parts of ingest, as far as they are there."""
    rows: list[Row] = []
    for module, function in (("bench_scan", "scan_rows"), ("bench_deidentify", "deidentify_rows")):
        if (Path(__file__).parent / f"{module}.py").exists():
            rows += getattr(importlib.import_module(module), function)()
    return rows


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, np.ndarray]]:
    folder, hu = tmp_path_factory.mktemp("series"), chest_hu(60, 512)
    for name in SYNTAXES:
        write_chest(folder / name, name, hu)
    yield folder, hu


@pytest.mark.parametrize("name", SYNTAXES)
def test_a_series_is_read_into_hu(benchmark: Any, series: tuple[Path, np.ndarray], name: str) -> None:
    folder, hu = series
    assert np.array_equal(benchmark.pedantic(read, args=(folder / name,), rounds=3, warmup_rounds=1), hu)


@pytest.mark.parametrize("name", SYNTAXES)
def test_simpleitk_reads_the_same_series(benchmark: Any, series: tuple[Path, np.ndarray], name: str) -> None:
    folder, hu = series
    image = benchmark.pedantic(by_simpleitk, args=(folder / name,), rounds=3, warmup_rounds=1)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), hu)


def main() -> int:
    """Measure, print, write bench/ingest.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    n = 12 if options.quick else options.slices
    rounds = 2 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as scratch:
        work, hu = Path(scratch), chest_hu(n, 512)
        rows = [*decode_rows(work, hu, rounds), *ingest_rows(work, rounds), *memory_rows(work, hu)]
    if not options.quick:
        rows += sibling_rows()
    publish("ingest-quick" if options.quick else "ingest", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fuzz of the header and pixel path: mutated series through the ingest, in a process that may not grow or hang.

Run as a program it is the worker of `fuzz`: cases START to STOP of a seed, one line each. A case is made again by
`python tests/trap_fuzz.py SEED START STOP`; nothing of it is random but the seed and the number.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import imagecodecs
import numpy as np
import pydicom
import trap_generator
from trap_files import enhanced_bytes, file_bytes
from trap_judge import HARMLESS, Reading, run_ingest
from trap_mutations import MUTATIONS, Place, places_of
from trap_series import Plan, Truth

from data_contracts.errors import NoduleflowError
from data_contracts.reasons import ReasonCode

#: kinds whose files are mutated, small and few
BASES = (
    "baseline", "implicit", "no_preamble_implicit", "big_endian", "deflated", "jpegls_lossless", "j2k_lossless", "rle",
    "jpeg_lossless_sv1", "htj2k_lossless", "private_and_nested", "enhanced", "enhanced_per_frame_rescale",
    "signed_padding", "twelve_bits",
)  # fmt: skip
#: of these, explicit little endian
_NATIVE = ("baseline", "private_and_nested", "signed_padding", "twelve_bits", "enhanced_per_frame_rescale")
CASE_S = 5.0
#: what a case may take beside its volume: interpreter, codecs, a file of the corpus
ROOM_BYTES = 192 << 20
_ADDRESS_BYTES = 1 << 30


@dataclass(frozen=True)
class Base:
    """A sound series: the files, what stands where in each, and the truth."""

    kind: str
    files: tuple[bytes, ...]
    places: tuple[tuple[Place, ...], ...]
    truth: Truth


@lru_cache(maxsize=len(BASES))
def base_of(kind: str) -> Base:
    """The sound series of a kind, always the same."""

    def small(plan: Plan) -> None:
        plan.n, plan.rows, plan.columns, plan.quirks = 8, 18, 21, plan.quirks[-2:]
        if kind in _NATIVE:
            plan.syntax = "1.2.840.10008.1.2.1"

    draft = trap_generator.draw(random.Random(f"fuzz {kind}"), kind, "case", change=small)
    for plane in draft.planes:
        plane.syntax = "1.2.840.10008.1.2.1" if kind in _NATIVE else plane.syntax
    files = tuple(enhanced_bytes(plane) if "frames" in plane.options else file_bytes(plane) for plane in draft.planes)
    return Base(kind, files, tuple(tuple(places_of(data)) for data in files), draft.truth)


def mutated(seed: int, number: int) -> tuple[Base, list[bytes], str]:
    """The files of one case, and what was done to them."""
    rng = random.Random(f"{seed} {number}")
    base = base_of(rng.choice(BASES))
    files = list(base.files)
    # one file, several alike, or all alike: what one slice refutes, all may confirm
    state = rng.getrandbits(64)
    which = rng.choice([[rng.randrange(len(files))], [rng.randrange(len(files))], list(range(len(files)))])
    names: list[str] = []
    for index in which:
        own = random.Random(state)
        data, names = files[index], []
        for _ in range(own.choice([1, 1, 1, 2, 3])):
            name = own.choice(sorted(MUTATIONS))
            # places are those of the sound file; a second mutation may miss them, which is one more mutation
            data = MUTATIONS[name](data, list(base.places[index]), own) if data else data
            names.append(name)
        files[index] = data
    return base, files, f"{base.kind}, {len(which)} of {len(files)} files: {', '.join(names)}"


def check(seed: int, number: int, folder: Path) -> str:
    """What is wrong with the ingest of one case; "" where nothing is."""
    base, files, what = mutated(seed, number)
    source = folder / "source"
    source.mkdir(parents=True)
    for index, data in enumerate(files):
        (source / f"{index:03d}").write_bytes(data)
    before = _peak_bytes(reset=True)
    begin = time.process_time()  # of all threads: another's load is not our hang
    try:
        outcome = run_ingest(source, folder / "workspace")
    except NoduleflowError as error:
        return f"{what}: an ingest of a folder ended with {error.line()}"
    except BaseException:
        return f"{what}: {traceback.format_exc(limit=-4)}"
    took = time.process_time() - begin
    grown = _peak_bytes() - before
    if took > CASE_S:
        return f"{what}: took {took:.1f} s"
    if grown > 3 * 2 * base.truth.hu.size + ROOM_BYTES:
        return f"{what}: grew by {grown >> 20} MiB"
    if any(item.reason is ReasonCode.INTERNAL_ERROR for item in outcome.rejected):
        return f"{what}: {outcome.told()}"
    quiet = [
        record
        for record in outcome.accepted
        if {one.code for one in record.findings} <= HARMLESS - {ReasonCode.HU_OUT_OF_RANGE}
    ]
    for record in quiet:
        if why := _unfounded(Reading.of(outcome.root / record.volume_path), base, files):
            return f"{what}: {why}; {outcome.told()}"
    if sum(record.n_slices for record in outcome.accepted) < len(base.truth.hu) and not outcome.rejected and quiet:
        return f"{what}: slices are gone without a word; {outcome.told()}"
    return ""


def _peak_bytes(*, reset: bool = False) -> int:
    """Most memory this process has held since the last reset (proc(5): clear_refs)."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _unfounded(volume: Reading, base: Base, files: list[bytes]) -> str:
    """Why a plane of a volume is neither of the sound series nor what an independent reader finds; "" if each is."""
    # (i, j, k) on disk; planes by their place, directions and spacing
    known = [*_planes_of_truth(base.truth), *(plane for data in files for plane in independent_planes(data))]
    for k in range(volume.hu.shape[2]):
        plane = volume.hu[:, :, k].T
        if not any(_same(plane, volume.lps, k, other) for other in known):
            return f"plane {k} of {volume.hu.shape[2]} is what no one reads"
    return ""


@dataclass(frozen=True)
class _PlaneTruth:
    hu: np.ndarray
    origin: np.ndarray
    along_i: np.ndarray
    along_j: np.ndarray
    padding: np.ndarray | None = field(default=None)


def _same(plane: np.ndarray, lps: np.ndarray, k: int, other: _PlaneTruth) -> bool:
    origin = lps[:3, 3] + k * lps[:3, 2]
    if plane.shape != other.hu.shape or np.abs(origin - other.origin).max() > 0.11:
        return False
    ends = (lps[:3, 0] - other.along_i) * plane.shape[1], (lps[:3, 1] - other.along_j) * plane.shape[0]
    if max(np.abs(end).max() for end in ends) > 0.05:
        return False
    off = np.abs(plane - other.hu.clip(-32768, 32767))
    # padding is set to a stated value: what was far below air, or what the header names
    off[(other.hu <= -1500) & (plane == -1024)] = 0
    if other.padding is not None:
        off[other.padding & (plane == -1024)] = 0
    return bool(off.max() <= 0.5 + 1e-3)


def _planes_of_truth(truth: Truth) -> Iterator[_PlaneTruth]:
    for k, hu in enumerate(truth.hu):
        padding = None if truth.mask is None else ~truth.mask
        row, column = truth.iop[k][:3], truth.iop[k][3:]
        yield _PlaneTruth(hu, truth.ipp[k], row * truth.ps[1], column * truth.ps[0], padding)


def independent_planes(data: bytes) -> list[_PlaneTruth]:
    """Planes of a file as pydicom reads them, by each decoder there is; [] where it cannot."""
    found = []
    with contextlib.suppress(Exception):
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        if not hasattr(ds, "file_meta") or "TransferSyntaxUID" not in ds.file_meta:
            implicit, _ = ds.original_encoding
            ds.file_meta = pydicom.dataset.FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
        for stored in _stored_by_each(ds):
            frames = stored if stored.ndim == 3 else stored[None]
            for index, frame in enumerate(frames):
                with contextlib.suppress(Exception):
                    found.append(_plane_of(ds, index, frame))
    return found


def _stored_by_each(ds: pydicom.Dataset) -> Iterator[np.ndarray]:
    """Stored values of all frames by every decoder and every reading of the bits that there is."""
    syntax, frames = ds.file_meta.TransferSyntaxUID, int(ds.get("NumberOfFrames", 1) or 1)
    allocated = int(ds.get("BitsAllocated", 16))
    stored = int(ds.get("BitsStored", allocated))
    high, signed = int(ds.get("HighBit", stored - 1)), ds.get("PixelRepresentation", 0) == 1
    raw: list[np.ndarray] = []
    if syntax.is_compressed and not syntax.is_deflated:
        high = stored - 1
        with contextlib.suppress(Exception):
            parts = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=frames))
            for decode in _DECODERS:
                with contextlib.suppress(Exception):
                    raw.append(np.stack([decode(part).reshape(ds.Rows, ds.Columns) for part in parts]).astype(np.int64))
    else:
        kind = f"{'>' if syntax == '1.2.840.10008.1.2.2' else '<'}u{allocated // 8}"
        size = frames * int(ds.Rows) * int(ds.Columns)
        with contextlib.suppress(Exception):
            values = np.frombuffer(ds.PixelData, kind, count=size).astype(np.int64)
            raw.append(values.reshape(frames, ds.Rows, ds.Columns))
    for bits, shift in {(stored, 0), (stored, high + 1 - stored), (allocated, 0)}:
        for values in raw if shift >= 0 else ():
            one = (values >> shift) & ((1 << bits) - 1)
            yield one - ((one >> (bits - 1)) << bits) if signed else one


def _rle(data: bytes) -> np.ndarray:
    return np.frombuffer(imagecodecs.dicomrle_decode(data, "<u2"), "<u2")


_DECODERS: tuple[Callable[[bytes], np.ndarray], ...] = (
    imagecodecs.ljpeg_decode,
    imagecodecs.jpegls_decode,
    imagecodecs.jpeg2k_decode,
    imagecodecs.htj2k_decode,
    _rle,
)


def _number(value: object) -> float:
    return float(str(value).replace(",", "."))


def _plane_of(ds: pydicom.Dataset, index: int, frame: np.ndarray) -> _PlaneTruth:
    def facts(keyword: str) -> pydicom.Dataset:
        for source in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            with contextlib.suppress(Exception):
                groups = ds[source].value
                return groups[index if source[0] == "P" else 0][keyword].value[0]
        return ds

    place = np.array([float(x) for x in facts("PlanePositionSequence").ImagePositionPatient])
    iop = np.array([float(x) for x in facts("PlaneOrientationSequence").ImageOrientationPatient])
    ps = [float(x) for x in facts("PixelMeasuresSequence").PixelSpacing]
    rescale = facts("PixelValueTransformationSequence")
    hu = frame * _number(rescale.RescaleSlope) + _number(rescale.RescaleIntercept)
    padding = None
    if "PixelPaddingValue" in ds:
        value = int.from_bytes(int(ds.PixelPaddingValue).to_bytes(8, "little", signed=True)[:2], "little")
        padding = (frame & 0xFFFF) == value
    return _PlaneTruth(hu, place, iop[:3] * ps[1], iop[3:] * ps[0], padding)


def main() -> None:
    """Worker: cases START to STOP of SEED."""
    seed, start, stop = (int(text) for text in sys.argv[1:4])
    for kind in BASES:
        base_of(kind)
    check(seed, start, Path(tempfile.mkdtemp()))  # everything is imported and every pool is started
    with Path("/proc/self/statm").open() as stream:
        size = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_BYTES, size + _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    room = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        for number in range(start, stop):
            print(f"start {number}", flush=True)
            why = check(seed, number, room / str(number))
            shutil.rmtree(room / str(number), ignore_errors=True)
            print(f"done {number} {' '.join(why.split())[:1500]}", flush=True)
    finally:
        shutil.rmtree(room, ignore_errors=True)


@dataclass
class FuzzReport:
    """cases: how many were run. failures: number of a case -> what was wrong."""

    seed: int
    cases: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def fuzz(seed: int, seconds: float, keep: Path | None = None, start: int = 0) -> FuzzReport:
    """Run cases in a worker for so many seconds; a crash, a hang or a wrong volume is a failure of its case.

    The files of each failing case are kept below `keep`.
    """
    report, number = FuzzReport(seed), start
    end = None
    while end is None or time.monotonic() < end:
        command = [sys.executable, str(Path(__file__)), str(seed), str(number), str(number + 1_000_000)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            number, end = _follow(worker, report, number, end, seconds)
        finally:
            worker.kill()
            worker.wait()
    for failed in report.failures if keep else ():
        folder = Path(keep or ".") / f"{seed}-{failed}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(mutated(seed, failed)[1]):
            (folder / f"{index:03d}").write_bytes(data)
    return report


def _follow(
    worker: subprocess.Popen[str], report: FuzzReport, number: int, end: float | None, seconds: float
) -> tuple[int, float]:
    """Read a worker's lines until the time is over or it fails; the next case to run, and when to end."""
    assert worker.stdout is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(worker.stdout, selectors.EVENT_READ)
        started = False
        while end is None or time.monotonic() < end:
            if not waiting.select(4 * CASE_S if started else 120):
                report.failures[number] = f"hangs: {mutated(report.seed, number)[2]}"
                report.cases += 1
                return number + 1, end or time.monotonic() + seconds
            line = worker.stdout.readline()
            if not line:
                assert worker.stderr is not None
                last = worker.stderr.read()[-400:]
                if not started:
                    raise RuntimeError(f"the worker does not start: {last}")
                code = worker.wait()
                report.failures[number] = f"ends the process ({code}): {mutated(report.seed, number)[2]} {last}"
                report.cases += 1
                return number + 1, end or time.monotonic() + seconds
            word, text, *rest = line.rstrip("\n").split(" ", 2)
            number = int(text)
            end = end or time.monotonic() + seconds
            started = True
            if word == "done":
                report.cases += 1
                if rest and rest[0]:
                    report.failures[number] = rest[0]
                number += 1
    return number, end or time.monotonic()


if __name__ == "__main__":
    main()

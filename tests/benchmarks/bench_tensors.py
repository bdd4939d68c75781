"""Tensors out of volumes, beside SimpleITK and MONAI, and beside what the memory of this machine allows.

    python tests/benchmarks/bench_tensors.py [--rounds 7] [--quick]

Prints a table and writes bench/tensors.json. MONAI's Spacing takes part in three rounds only: it needs seconds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from paired import Row, publish, ratio_row, take_turns, value_row  # noqa: E402

from data_contracts.params import IngestParams, PatchParams  # noqa: E402
from data_contracts.volume import CTVolume  # noqa: E402
from pipeline.imaging.grids import patient_grid  # noqa: E402
from pipeline.imaging.resample import resample, resample_onto  # noqa: E402


def noisy_chest(shape_kji: tuple[int, int, int], spacing_kji_mm: tuple[float, float, float]) -> CTVolume:
    """Smooth tissue with the noise of a scanner; what it looks like does not change the time."""
    random = np.random.default_rng(0)
    hu = random.normal(-300, 60, shape_kji).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_kji_mm)[::-1]
    return CTVolume(hu, affine)


def resampling_rows(work: str, volume: CTVolume, rounds: int, bars: tuple[float, float]) -> list[Row]:
    """One volume to 1.0 mm, int16 to int16, the output used again between volumes."""
    import SimpleITK
    import torch
    from monai.transforms import Spacing

    from pipeline.imaging.metatensor import to_metatensor

    affine, shape_kji = patient_grid(volume, 1.0)
    memory = np.zeros(shape_kji, np.int16)
    image = SimpleITK.GetImageFromArray(volume.hu)
    image.SetSpacing(volume.spacing_kji_mm[::-1])
    theirs = SimpleITK.ResampleImageFilter()
    theirs.SetOutputSpacing((1.0, 1.0, 1.0))
    theirs.SetSize(shape_kji[::-1])
    theirs.SetInterpolator(SimpleITK.sitkLinear)
    tensor = to_metatensor(volume)
    spacing = Spacing(pixdim=(1.0, 1.0, 1.0), mode="bilinear", padding_mode="border", dtype=torch.float32)
    variants: dict[str, Any] = {
        "noduleflow": lambda: resample_onto(volume, affine, shape_kji, out=memory),
        "noduleflow, fresh": lambda: resample_onto(volume, affine, shape_kji),
        "SimpleITK": lambda: theirs.Execute(image),
        "copy of the output": lambda: memory.copy(),
    }
    seconds = take_turns(variants, rounds)
    difference = np.abs(SimpleITK.GetArrayFromImage(theirs.Execute(image)).astype(np.int32) - memory).max()
    slow = take_turns({"noduleflow": variants["noduleflow"], "MONAI": lambda: spacing(tensor)}, 3)
    common = {"own": "noduleflow", "largest_difference_hu": int(difference)}
    return [
        ratio_row(work, "SimpleITK", seconds, of="SimpleITK", at_least=bars[0], **common),
        ratio_row(work, "MONAI Spacing", slow, own="noduleflow", of="MONAI", at_least=bars[1]),
        ratio_row(f"{work}, fresh output", "SimpleITK", seconds, own="noduleflow, fresh", of="SimpleITK"),
        ratio_row(
            f"{work}: limit, one copy of the output", "noduleflow", seconds, own="copy of the output", of="noduleflow"
        ),
    ]


def series_rows(work: Path, n_slices: int, n_pixels: int, rounds: int) -> list[Row]:
    """Files of a series to a volume of 1.0 mm in memory, scanned and checked, beside a reader and a resampler."""
    import SimpleITK
    import torch
    from bench_ingest import by_simpleitk, monai_reader, scanned
    from chest_series import chest_hu, write_chest
    from monai.transforms import Spacing

    from pipeline.pixels.decode import DecodedVolume, decode_volume
    from pipeline.pixels.volume_memory import VolumeMemory

    folder, decoded = work / "series", VolumeMemory()
    write_chest(folder, "uncompressed", chest_hu(n_slices, n_pixels))
    theirs = SimpleITK.ResampleImageFilter()
    theirs.SetInterpolator(SimpleITK.sitkLinear)
    theirs.SetOutputSpacing((1.0, 1.0, 1.0))
    monai = monai_reader()
    spacing = Spacing(pixdim=(1.0, 1.0, 1.0), mode="bilinear", padding_mode="border", dtype=torch.float32)
    memory: dict[str, np.ndarray] = {}

    def ours() -> CTVolume:
        part = scanned(folder)
        volume = decode_volume(part.slices, IngestParams(), decoded)
        assert isinstance(volume, DecodedVolume)
        series = CTVolume(volume.hu, part.grid.affine)
        affine, shape_kji = patient_grid(series, 1.0)
        out = memory.setdefault("out", np.zeros(shape_kji, np.int16))
        return resample_onto(series, affine, shape_kji, out=out)

    def by_their_filter() -> SimpleITK.Image:
        image = by_simpleitk(folder)
        extent = [size * mm for size, mm in zip(image.GetSize(), image.GetSpacing(), strict=True)]
        theirs.SetSize([round(mm) for mm in extent])
        theirs.SetOutputOrigin(image.GetOrigin())
        theirs.SetOutputDirection(image.GetDirection())
        return theirs.Execute(image)

    name = f"uncompressed series of {n_slices} slices to 1.0 mm in memory"
    seconds = take_turns({"noduleflow": ours, "SimpleITK": by_their_filter}, rounds)
    rows = [ratio_row(name, "SimpleITK", seconds, own="noduleflow", of="SimpleITK", at_least=8)]
    if monai is None:
        print("itk is not installed: no row for MONAI (make bench installs it)", file=sys.stderr)
        return rows
    slow = take_turns({"noduleflow": ours, "MONAI": lambda: spacing(monai(folder)[None])}, 3)
    return [*rows, ratio_row(name, "MONAI reader and Spacing", slow, own="noduleflow", of="MONAI", at_least=35)]


def growth_rows() -> list[Row]:
    """Time a voxel and a series as volumes and cohorts grow."""
    rows = []
    for n_slices in (50, 100, 200, 400):
        volume = noisy_chest((n_slices, 256, 256), (1.0, 0.7, 0.7))
        affine, shape_kji = patient_grid(volume, 1.0)
        memory = np.zeros(shape_kji, np.int16)
        seconds = take_turns(
            {"own": lambda v=volume, a=affine, s=shape_kji, m=memory: resample_onto(v, a, s, out=m)}, 5
        )
        value = 1e9 * min(seconds["own"]) / memory.size
        rows.append(value_row(f"resample {n_slices} slices 256x256", value, "ns a new voxel", n=5))
    small = noisy_chest((16, 64, 64), (2.0, 1.5, 1.5))
    for n_series in (1, 10, 100, 1000):
        started = time.perf_counter()
        for _ in range(n_series):
            resample(small, 1.5)
        value = 1e6 * (time.perf_counter() - started) / n_series
        rows.append(value_row(f"resample {n_series} series of 16x64x64", value, "us a series"))
    return rows


def dataset_rows(work: Path, n_volumes: int, nodules_each: int) -> list[Row]:
    """2.5D and 3D patches of many nodules out of one opening of each volume, beside reading the volumes once."""
    import pandas as pd

    from data_contracts.manifest import Split
    from pipeline.cohort.dataset import extract_series_patches
    from pipeline.cohort.places import series_places
    from pipeline.imaging.nifti import read_nifti, write_nifti

    random = np.random.default_rng(1)
    volume = noisy_chest((120, 256, 256), (2.0, 1.2, 1.2))
    for number in range(n_volumes):
        write_nifti(work / f"{number}.nii", volume)

    def nodules(number: int) -> pd.DataFrame:
        kji = random.uniform((20, 40, 40), (100, 216, 216), (nodules_each, 3))
        rows = pd.DataFrame(volume.to_lps_mm(kji), columns=["x_mm", "y_mm", "z_mm"])
        rows["nodule_id"] = [f"{number}-{n}" for n in range(nodules_each)]
        return rows

    tables = [nodules(number) for number in range(n_volumes)]

    def read_once() -> None:
        for number in range(n_volumes):
            np.fromfile(work / f"{number}.nii", dtype=np.uint8)

    def cut() -> None:
        for number, table in enumerate(tables):
            opened = read_nifti(work / f"{number}.nii")
            for kind in ("2.5d", "3d"):
                params = PatchParams(kind=kind, spacing_mm=1.0)
                extract_series_patches(opened, series_places(opened, table, params, Split.TEST), params)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cut()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / volume.hu.nbytes
    seconds = take_turns({"read": read_once, "cut": cut}, 3, warm_up=0)
    title = f"{n_volumes * nodules_each} nodules in {n_volumes} volumes to 2.5D and 3D patches"
    return [
        value_row(f"{title}: reading the volumes", 1e3 * min(seconds["read"]), "ms", n=3),
        value_row(title, 1e3 * min(seconds["cut"]), "ms", n=3),
        value_row(f"{title}, a nodule", 1e3 * min(seconds["cut"]) / (n_volumes * nodules_each), "ms", n=3),
        value_row(f"{title}: peak above the start", peak, "volumes", at_most=2.0),
    ]


def first_call_row() -> Row:
    """What the first resampling of a process costs beside the second: loading the compiled loops."""
    import subprocess

    script = (
        "import time, numpy as np; from data_contracts.volume import CTVolume; "
        "from pipeline.imaging.resample import resample; v = CTVolume(np.zeros((8, 32, 32), np.int16), np.eye(4)); "
        "t = time.perf_counter(); resample(v, 1.5); a = time.perf_counter() - t; "
        "t = time.perf_counter(); resample(v, 1.5); print(a - (time.perf_counter() - t))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return value_row("first resampling of a process, compiled before", 1e3 * float(found.stdout), "ms")


def main() -> int:
    """Measure, print, write bench/tensors.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small volumes: shows only that everything runs")
    options = parser.parse_args()
    n_slices, n_pixels = (20, 96) if options.quick else (300, 512)
    thin = noisy_chest((n_slices, n_pixels, n_pixels), (1.0, 0.7, 0.7))
    rows = resampling_rows(
        f"{n_pixels}x{n_pixels}x{n_slices} at 0.7x0.7x1.0 mm to 1.0 mm", thin, options.rounds, (9, 60)
    )
    thick = noisy_chest((n_slices * 2 // 5, n_pixels, n_pixels), (2.5, 0.7, 0.7))
    rows += resampling_rows("2.5 mm slices to 1.0 mm, three axes", thick, options.rounds, (9, 40))
    del thin, thick
    rows += growth_rows()
    with tempfile.TemporaryDirectory(prefix="bench-tensors-") as scratch:
        rows += series_rows(Path(scratch), n_slices, n_pixels, options.rounds)
        rows += dataset_rows(Path(scratch), 5 if options.quick else 100, 10)
    rows.append(first_call_row())
    publish("tensors-quick" if options.quick else "tensors", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

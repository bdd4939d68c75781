"""What a sharp kernel does to a soft one: the constants of models/augmentation/style.py, measured on real raw data.

    python tests/benchmarks/measure_kernels.py

The study ../shared/data/dicom/Lung_Dx-A0002.tar.xz (Lung-PET-CT-Dx, TCIA, CC BY 4.0, doi
10.7937/TCIA.2020.NNC2-0461) is one Siemens Sensation 10 acquisition, reconstructed with B40f and with B70f. Both are
ingested by this program. The same raw data stand behind both, so their cross-spectrum gives the transfer function from
one to the other, noise included:
H(f) = |<B70f B40f*>| / <|B40f|^2>, averaged over Hann-windowed squares of the body and over rings of spatial frequency.
The noise of B40f is what is left in flat soft tissue after a quadratic surface is taken away.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from data_contracts.params import IngestParams, PatchParams  # noqa: E402
from data_contracts.series import SeriesRecord  # noqa: E402
from data_contracts.volume import CTVolume  # noqa: E402
from pipeline.deidentify.pseudonyms import Pseudonymizer  # noqa: E402
from pipeline.imaging.nifti import read_nifti  # noqa: E402
from pipeline.imaging.patches import extract_patch  # noqa: E402
from pipeline.intake.discover import discover  # noqa: E402
from pipeline.intake.ingest_series import ingest_series  # noqa: E402

ARCHIVE = ROOT.parent / "shared" / "data" / "dicom" / "Lung_Dx-A0002.tar.xz"
RINGS = np.arange(16) * 0.05
_SQUARE, _FLAT = 64, 24
_PATCH = PatchParams(kind="2d", size_mm=48.0, spacing_mm=0.75)

Array = NDArray[np.float64]


def kernel_pair(folder: Path, scratch: Path) -> dict[str, CTVolume]:
    """Volumes by kernel, ingested from a folder of DICOM files."""
    pseudonymizer, params = Pseudonymizer(b"kernels", keep_identity=True), IngestParams()
    found = discover(folder, pseudonymizer, params, scratch / "scratch")
    records = [
        item
        for raw in found.series
        for item in ingest_series(raw, pseudonymizer, params, scratch / "series", "pair")
        if isinstance(item, SeriesRecord)
    ]
    return {record.kernel: read_nifti(scratch / record.volume_path) for record in records}


def squares(hu: NDArray[np.int16], size: int, step: int) -> list[tuple[slice, slice, slice]]:
    """Places of squares in the middle of every slice."""
    middle = range(hu.shape[1] // 8, hu.shape[1] * 7 // 8 - size, step)
    return [
        (slice(k, k + 1), slice(j, j + size), slice(i, i + size))
        for k in range(len(hu))
        for j in middle
        for i in middle
    ]


def spectrum(values: Array, spacing_mm: float) -> NDArray[np.complex128]:
    """Windowed spectrum; the mean of its squared size over squares is a power density in HU^2 mm^2."""
    window = np.hanning(len(values))[:, None] * np.hanning(len(values))
    return np.asarray(np.fft.fft2((values - values.mean()) * window) * spacing_mm / np.sqrt((window**2).sum()))


def rings_of(size: int, spacing_mm: float) -> list[NDArray[np.bool_]]:
    """Masks (size, size) of the rings of frequency, in cycles a mm."""
    axis = np.fft.fftfreq(size, spacing_mm)
    radius = np.hypot(*np.meshgrid(axis, axis))
    return [np.abs(radius - ring) <= 0.025 for ring in RINGS]


def transfer(soft: NDArray[np.int16], sharp: NDArray[np.int16], spacing_mm: float) -> tuple[Array, Array, int]:
    """H and coherence by ring, and how many squares of the body they are the mean of."""
    power = np.zeros((2, _SQUARE, _SQUARE))
    cross = np.zeros((_SQUARE, _SQUARE), dtype=np.complex128)
    n = 0
    for place in squares(soft, _SQUARE, 32):
        one, other = soft[place][0].astype(np.float64), sharp[place][0].astype(np.float64)
        # Air outside, and values that the scanner clipped, have no spectrum of their own.
        if one.mean() < -1000 or one.max() > 300 or other.min() <= -1024 or other.max() >= 3071:
            continue
        first, second = spectrum(one, spacing_mm), spectrum(other, spacing_mm)
        power += np.abs(first) ** 2, np.abs(second) ** 2
        cross += second * first.conj()
        n += 1
    masks = rings_of(_SQUARE, spacing_mm)
    # A ring spans frequencies of very different power, so each of its points counts by itself.
    gain, coherent = np.abs(cross) / power[0], np.abs(cross) / np.sqrt(power[0] * power[1])
    return np.array([gain[mask].mean() for mask in masks]), np.array([coherent[mask].mean() for mask in masks]), n


def flat_noise(volumes: tuple[NDArray[np.int16], NDArray[np.int16]], spacing_mm: float) -> tuple[Array, Array, int]:
    """Standard deviation (2,) and power density (2, rings) in the flattest tenth of the squares of soft tissue."""
    j, i = (np.mgrid[:_FLAT, :_FLAT] - (_FLAT - 1) / 2).reshape(2, -1)
    surface, _ = np.linalg.qr(np.stack([np.ones_like(j), j, i, j * j, i * i, i * j], axis=1))
    found = []
    for place in squares(volumes[0], _FLAT, 8):
        if not 0 < volumes[0][place].mean() < 120:
            continue
        values = np.stack([volume[place].astype(np.float64).ravel() for volume in volumes])
        found.append(values - (values @ surface) @ surface.T)
    found.sort(key=lambda rest: float(rest[0].std()))
    flat = found[: len(found) // 10]
    planes = [rest.reshape(2, _FLAT, _FLAT) for rest in flat]
    power = np.mean([[np.abs(spectrum(one, spacing_mm)) ** 2 for one in rest] for rest in planes], axis=0)
    masks = rings_of(_FLAT, spacing_mm)
    std = np.sqrt(np.mean([rest.var(axis=1) for rest in flat], axis=0))
    return std, np.array([[one[mask].mean() for mask in masks] for one in power]), len(flat)


def lung_patches(volume: CTVolume, places_mm: list[Array]) -> NDArray[np.int16]:
    """The axial plane (n, H, W) of a patch around each place."""
    return np.stack([extract_patch(volume, place, _PATCH)[0][1] for place in places_mm])


def lung_places(volume: CTVolume, n: int = 64, seed: int = 0) -> list[Array]:
    """Centres in the lungs, in LPS mm."""
    inside = np.argwhere((volume.hu > -950) & (volume.hu < -600))
    middle = np.array(volume.shape_kji) / 2
    inside = inside[(np.abs(inside - middle) < 0.55 * middle).all(axis=1)]
    rows = np.random.default_rng(seed).choice(len(inside), n, replace=False)
    return list(volume.to_lps_mm(inside[rows].astype(np.float64)))


def main() -> None:
    """Print every figure that stands in models/augmentation/style.py."""
    from models.augmentation.style import sharpness_index

    with tempfile.TemporaryDirectory() as name:
        with tarfile.open(ARCHIVE) as members:
            members.extractall(Path(name) / "dicom", filter="data")
        pair = kernel_pair(Path(name) / "dicom", Path(name))
        soft, sharp = pair["B40f"], pair["B70f"]
        soft_hu, sharp_hu = np.asarray(soft.hu), np.asarray(sharp.hu)
        spacing_mm = float(np.linalg.norm(soft.affine[:3, 2]))
        ratio, coherence, n_squares = transfer(soft_hu, sharp_hu, spacing_mm)
        std, power, n_flat = flat_noise((soft_hu, sharp_hu), spacing_mm)
        places = lung_places(soft)
        index = [sharpness_index(lung_patches(volume, places), _PATCH.spacing_mm) for volume in (soft, sharp)]
    print(f"pixel {spacing_mm:.4f} mm; {n_squares} squares of the body, {n_flat} flat squares of soft tissue")
    print(f"noise of B40f {std[0]:.1f} HU, of B70f {std[1]:.1f} HU; sharpness index {index[0]:.2f}, {index[1]:.2f}")
    print("cycles/mm  H      coherence  noise of B40f (HU^2 mm^2)  root of the noise ratio B70f / B40f")
    for row in zip(RINGS, ratio, coherence, power[0], np.sqrt(power[1] / power[0]), strict=True):
        print("{:<10.2f} {:<6.3f} {:<10.3f} {:<26.1f} {:.2f}".format(*row))
    print("SHARPENING =", tuple(float(f"{value:.3f}") for value in ratio))
    print("SOFT_NOISE =", tuple(float(f"{value:.1f}") for value in power[0]))


if __name__ == "__main__":
    main()

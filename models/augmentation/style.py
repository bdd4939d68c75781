"""Kernel and dose as augmentation: patches sharpened or softened between two real kernels, and noise of their grain.

Part of any training by `style=true`, and as one network beside others the plain alternative to adaptation. A Siemens
Sensation 10 study was reconstructed with B40f (soft) and B70f (sharp) from the same raw data (Lung-PET-CT-Dx A0002,
TCIA, CC BY 4.0, doi 10.7937/TCIA.2020.NNC2-0461), so the ratio of their spectra is what the sharp kernel does, to
anatomy and noise alike. `python tests/benchmarks/measure_kernels.py` prints the figures that stand below.

A kernel acts in the plane of the gantry. So the filter and the grain of the noise depend on the part of the spatial
frequency that lies in the axial plane, and a coronal plane is sharpened along its columns alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from models.augmentation.kernels import add_noise

#: cycles a mm from one value of the tables below to the next, which start at 0
RING = 0.05
#: |B70f| / |B40f| by frequency, from their cross-spectrum over the body (coherence above 0.95 throughout)
SHARPENING = (
    1.002,
    1.005,
    1.039,
    1.13,
    1.282,
    1.498,
    1.791,
    2.167,
    2.647,
    3.235,
    3.929,
    4.757,
    5.693,
    6.758,
    7.896,
    8.941,
)
#: power density of the noise of B40f in flat soft tissue, HU^2 mm^2
SOFT_NOISE = (24.6, 85.8, 107.8, 113.5, 113.2, 113.8, 111.6, 105.3, 89.5, 68.5, 49.4, 38.7, 26.4, 16.2, 10.0, 6.7)
#: `sharpness_index` of axial patches of the lungs at 0.75 mm, B40f and B70f
SOFT_INDEX, SHARP_INDEX = -5.06, -3.24
#: The slices of the pair are 8 mm thick; a slice of 1.25 mm has sqrt(8 / 1.25) times their noise.
NOISE_MOST = 2.5
#: variants of each patch where no more were asked for
LEAST_VARIANTS = 4

_MARGIN_PX = 8
_USUAL_SPACING_MM = 0.7
_HU_RANGE = (-1024.0, 3071.0)
#: How rows and columns of a plane share in the axial plane (squared cosines): axial, coronal, sagittal, six diagonals.
_AXIAL = (1.0, 1.0)
_PLANES = (_AXIAL, (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 1.0))
_LOW_BAND, _HIGH_BAND = (0.10, 0.20), (0.35, 0.50)
_SAMPLE_PATCHES = 128


def is_styled(params: TrainParams) -> bool:
    """Whether the patches that a network learns from are augmented by style."""
    return params.style or "style" in params.adaptation


def variant_count(params: TrainParams) -> int:
    """How many variants of each patch a network learns from; without any but the patch itself there is no style."""
    return max(params.augmentations, LEAST_VARIANTS) if is_styled(params) else params.augmentations


@dataclass(frozen=True)
class StyleDraws:
    """Random numbers of one variant, one a patch.

    strength: (N,), 1 turns B40f into B70f, -1 the other way round, 0 changes nothing.
    noise: (N,), standard deviation in units of B40f's own noise.
    noise_keys: (N, 2), what the noise is drawn from.
    """

    strength: Tensor
    noise: Tensor
    noise_keys: Tensor

    def rows(self, index: Tensor) -> StyleDraws:
        """The draws of some patches."""
        return StyleDraws(self.strength[index], self.noise[index], self.noise_keys[index])


class Style:
    """Draws styles for a set of patches: from where they are between soft and sharp to anywhere between.

    patches: (N, *patch_shape), int16 HU or uint8 grey. Grey ones get no noise: their scale in HU is lost.
    """

    def __init__(self, patches: NDArray[np.generic], spec: InputSpec, *, seed: int) -> None:
        self.n_patches = len(patches)
        self._seed = seed
        self._weights = plane_weights(spec)
        self._spacing_mm = spec.spacing_mm or _USUAL_SPACING_MM
        self._noisy = spec.value_unit == "HU"
        self._range = _HU_RANGE if self._noisy else (0.0, 255.0)
        self.position = self._position(patches)

    def _position(self, patches: NDArray[np.generic]) -> float:
        """Where the patches are between B40f (0) and B70f (1), by their median over a sample."""
        some = _stacked(patches[:_SAMPLE_PATCHES])
        if not len(some):
            return 0.0
        index = sharpness_index(some[:, _axial_plane(self._weights, some.shape[1])], self._spacing_mm)
        return float(np.clip((index - SOFT_INDEX) / (SHARP_INDEX - SOFT_INDEX), 0, 1))

    def draws(self, variant: int) -> StyleDraws:
        """The styles of one variant; they follow from the seed and the variant."""
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + variant * 6151 + 29) % (2**63))
        wanted = torch.rand(self.n_patches, generator=generator)
        noise = torch.rand(self.n_patches, generator=generator) * (NOISE_MOST if self._noisy else 0.0)
        keys = torch.randint(0, 2**32, (self.n_patches, 2), generator=generator)
        return StyleDraws(wanted - self.position, noise, keys)

    def apply(self, patches: NDArray[np.generic], draws: StyleDraws) -> Tensor:
        """Patches (n, *patch_shape) in the styles drawn for them, float32, in their own unit and range."""
        restyled = restyle(_stacked(patches), draws, self._weights, self._spacing_mm)
        return restyled.clamp(*self._range).reshape(patches.shape)


def restyle(
    planes: NDArray[np.generic], draws: StyleDraws, weights: tuple[tuple[float, float], ...], spacing_mm: float
) -> Tensor:
    """Planes (N, P, H, W) with noise of B40f's grain added, then filtered from kernel to kernel, float32.

    weights: of each plane, as `plane_weights` gives them; one pair serves them all. Borders are mirrored.
    """
    values = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))
    height, width = values.shape[-2:]
    margin = min(_MARGIN_PX, height - 1, width - 1)
    padded = functional.pad(values, (margin,) * 4, mode="reflect")
    size = (padded.shape[-2], padded.shape[-1])
    log_gain = torch.stack([_tables(size, spacing_mm, pair)[0] for pair in weights])
    spectrum = torch.fft.rfft2(padded)
    if bool((draws.noise > 0).any()):
        grain = torch.stack([_tables(size, spacing_mm, pair)[1] for pair in weights])
        spectrum = spectrum + torch.fft.rfft2(_white(padded.shape, draws)) * grain
    spectrum = spectrum * torch.exp(draws.strength.to(torch.float32).view(-1, 1, 1, 1) * log_gain)
    changed = torch.fft.irfft2(spectrum, s=size)
    return changed[..., margin : margin + height, margin : margin + width]


def plane_weights(spec: InputSpec) -> tuple[tuple[float, float], ...]:
    """How rows and columns of each plane of a patch share in the axial plane."""
    return _PLANES[: spec.patch_shape[0]] if spec.kind == "2.5d" else (_AXIAL,)


def sharpness_index(planes: NDArray[np.generic], spacing_mm: float) -> float:
    """ln of the power at 0.35-0.5 over that at 0.1-0.2 cycles/mm, the median over axial planes (N, H, W)."""
    values = np.asarray(planes, dtype=np.float64)
    height, width = values.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)
    centred = (values - values.mean(axis=(1, 2), keepdims=True)) * window
    power = np.abs(np.fft.fft2(centred)) ** 2
    radius = np.hypot(np.fft.fftfreq(height, spacing_mm)[:, None], np.fft.fftfreq(width, spacing_mm))
    bands = [(radius >= low) & (radius < high) for low, high in (_LOW_BAND, _HIGH_BAND)]
    if not all(band.any() for band in bands):
        return SOFT_INDEX
    below, above = (power[:, band].mean(axis=1) for band in bands)
    known = (below > 0) & (above > 0)
    return float(np.median(np.log(above[known] / below[known]))) if known.any() else SOFT_INDEX


def _stacked(patches: NDArray[np.generic]) -> NDArray[np.generic]:
    """Patches as planes (N, P, H, W)."""
    return patches[:, None] if patches.ndim == 3 else patches


def _axial_plane(weights: tuple[tuple[float, float], ...], n_planes: int) -> int:
    return 0 if len(weights) > 1 else n_planes // 2


@lru_cache(maxsize=64)
def _tables(size: tuple[int, int], spacing_mm: float, weights: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """ln H and the amplitude of B40f's noise, (H, W // 2 + 1), for planes of this size and kind."""
    rows = np.fft.fftfreq(size[0], spacing_mm)[:, None]
    columns = np.fft.rfftfreq(size[1], spacing_mm)[None]
    rings = np.arange(len(SHARPENING)) * RING
    radius = np.sqrt(weights[0] * rows**2 + weights[1] * columns**2)
    log_gain = np.interp(radius, rings, np.log(SHARPENING))
    axial = np.sqrt(rows**2 + np.fft.fftfreq(size[1], spacing_mm)[None] ** 2)
    # The noise of a slice is as large whichever plane it is seen in; its grain is not.
    std = np.sqrt(np.interp(axial, rings, SOFT_NOISE).mean()) / spacing_mm
    whole = np.sqrt(weights[0] * rows**2 + weights[1] * np.fft.fftfreq(size[1], spacing_mm)[None] ** 2)
    grain = std * np.sqrt(np.interp(radius, rings, SOFT_NOISE) / np.interp(whole, rings, SOFT_NOISE).mean())
    return torch.from_numpy(log_gain).to(torch.float32), torch.from_numpy(grain).to(torch.float32)


def _white(shape: torch.Size, draws: StyleDraws) -> Tensor:
    """White noise (N, P, H, W) with a standard deviation a patch; every number follows from the patch's keys."""
    noise = np.zeros((shape[0], shape[1] * shape[2] * shape[3]), dtype=np.float32)
    for row, (first, second) in zip(noise, draws.noise_keys.numpy().astype(np.uint32), strict=True):
        add_noise(row, np.float32(1), first, second)
    return torch.from_numpy(noise).reshape(shape) * draws.noise.to(torch.float32).view(-1, 1, 1, 1)

"""Whether the values of a volume can be HU of a patient: where air and tissue peak, and whether a scale slips midway.

Everything is judged on a coarse grid of every slice. Air is -1000 HU and water 0 HU by definition; soft tissue lies
within 100 HU of water. An intercept that was forgotten or added twice moves both by 1000 or 1024, a wrong slope moves
them apart. What is certain refuses a series, what is only odd is a note.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note, Refusal
from pipeline.pixels.padding import UNREAL_HU
from pipeline.pixels.scale_jumps import off_scale_slices

#: in samples: a voxel that the header calls padding
PADDED = np.iinfo(np.int16).min

#: more than this share of noise below every tissue is another scale
_NOISY_SHARE = 0.02
_HIGHEST_HU = 32767


def judge_hounsfield(samples: NDArray[np.int16], slices: Sequence[SliceHeader]) -> tuple[Note, ...] | Refusal:
    """Notes on a volume's values, or why they are no HU.

    samples: HU of every slice on a coarse grid, (k, j, i), before padding was replaced; PADDED where the header names
    padding.
    """
    measured: NDArray[np.bool_] | None = None
    noisy = np.zeros(len(samples), dtype=np.int64)
    if int(samples.min()) <= UNREAL_HU:
        noisy = _noisy(samples)
        # what lies below every tissue is padding where it is a constant field, and a wrong scale where it has noise
        is_padding = (samples <= UNREAL_HU) & (noisy < _NOISY_SHARE * samples[0].size)[:, None, None]
        measured = ~is_padding & (samples != PADDED)
    if found := off_scale_slices(samples, measured, slices):
        return Refusal(ReasonCode.IMPLAUSIBLE_HU, found.detail, tuple(slices[index] for index in found.indices))
    odd = np.flatnonzero(noisy > _NOISY_SHARE * samples[0].size)
    if len(odd) or noisy.sum() > _NOISY_SHARE * samples.size:
        detail = f"{100 * noisy.sum() / samples.size:.1f} % of the voxels lie below {UNREAL_HU} HU and are no padding"
        named = tuple(slices[index] for index in odd.tolist())
        return Refusal(ReasonCode.IMPLAUSIBLE_HU, detail, named or tuple(slices))
    histogram = _Histogram(samples)
    if why := _implausible(histogram, samples):
        return Refusal(ReasonCode.IMPLAUSIBLE_HU, why, tuple(slices))
    doubt = _doubt(histogram)
    return (Note(ReasonCode.HU_OFFSET_SUSPECTED, doubt),) if doubt else ()


class _Histogram:
    """How many samples have each HU, padding left out."""

    def __init__(self, samples: NDArray[np.int16]) -> None:
        counts = np.bincount(samples.reshape(-1).astype(np.intp) + 32768, minlength=65536)
        #: from the lowest HU that is no padding on
        self.counts = counts[UNREAL_HU + 1 + 32768 :]
        self.below = np.concatenate(([0], np.cumsum(self.counts)))
        self.total = int(self.below[-1])

    def share(self, low_hu: int, high_hu: int) -> float:
        """Share of the samples from `low_hu` to below `high_hu`."""
        first, last = (min(max(hu - UNREAL_HU - 1, 0), len(self.counts)) for hu in (low_hu, high_hu))
        return float(self.below[last] - self.below[first]) / max(self.total, 1)

    def percentile_hu(self, percent: float) -> int:
        """The HU that this part of the samples does not exceed."""
        return int(np.searchsorted(self.below, self.total * percent / 100)) + UNREAL_HU

    def deviation_hu(self) -> float:
        """Standard deviation of all samples."""
        hu = np.arange(len(self.counts)) + (UNREAL_HU + 1)
        mean = float((self.counts * hu).sum()) / self.total
        return float(np.sqrt((self.counts * (hu - mean) ** 2).sum() / self.total))

    def commonest(self, high_hu: int) -> float:
        """Share of the samples that have the one commonest value below `high_hu`."""
        return float(self.counts[: high_hu - UNREAL_HU - 1].max()) / self.total

    def peak_hu(self, low_hu: int, high_hu: int) -> int:
        """HU of the highest place of the histogram in a range, smoothed over 51 HU."""
        first, last = low_hu - UNREAL_HU - 1, high_hu - UNREAL_HU - 1
        return low_hu + int((self.below[first + 26 : last + 26] - self.below[first - 25 : last - 25]).argmax())


def _implausible(histogram: _Histogram, samples: NDArray[np.int16]) -> str:
    """Why the values of a volume cannot be HU of a patient, or ""."""
    if histogram.total == 0:
        return "nothing but padding"
    if np.count_nonzero(histogram.counts) == 1:
        return "all voxels are equal"
    dense = histogram.share(-500, _HIGHEST_HU)
    if dense < 0.002:
        return f"{100 * dense:.2f} % of the voxels are above -500 HU"
    if (beyond := histogram.share(3100, _HIGHEST_HU)) > 0.1:
        return f"{100 * beyond:.0f} % of the voxels are above 3100 HU"
    if why := _displaced(histogram):
        return why
    if histogram.deviation_hu() >= 200 and _structure(samples) < 0.2:
        return "neighbouring voxels have nothing in common: noise"
    return ""


def _displaced(histogram: _Histogram) -> str:
    """Whether tissue peaks where an intercept or slope that is wrong would put it."""
    first, median, last = (histogram.percentile_hu(percent) for percent in (1, 50, 99))
    tissue = histogram.share(-200, 200)
    if median > 700 and tissue < 0.05:
        return f"the median is {median} HU"
    # one value that many voxels share is air clipped at the end of a range, or a rim that padding left behind
    spike = histogram.commonest(-200)
    share_low = histogram.share(UNREAL_HU, -200) - (spike if spike > 0.02 else 0.0)
    body = histogram.share(850, 1250)
    if share_low < 0.005 and body >= 0.1:
        return f"no air, and {100 * body:.0f} % of the voxels around 1024 HU, where tissue without its intercept lies"
    if histogram.share(UNREAL_HU, -50) < 0.002 and last - first > 500 and histogram.share(850, _HIGHEST_HU) > 0.01:
        return f"no voxel below 0 HU, and {last - first} HU between the lowest and the highest"
    high = histogram.share(700, 1400)
    if high > 0.15 and tissue < 0.5 * high:
        return f"{100 * high:.0f} % of the voxels between 700 and 1400 HU, {100 * tissue:.0f} % around 0 HU"
    half, narrow = histogram.share(-700, -300), histogram.share(-560, -420)
    if tissue < 0.02 and half > 0.1 and narrow > 0.6 * half:
        return f"{100 * narrow:.0f} % of the voxels around -490 HU, {100 * tissue:.1f} % around 0 HU"
    return ""


def _doubt(histogram: _Histogram) -> str:
    """What is odd about the place of soft tissue, or ""."""
    peak = histogram.peak_hu(-400, 600)
    if -180 <= peak <= 180:
        return ""
    there, expected = histogram.share(peak - 65, peak + 65), histogram.share(-150, 150)
    if there > 0.1 and expected < 0.5 * there:
        return f"tissue peaks at {peak} HU, not near 0 HU"
    return ""


def _noisy(samples: NDArray[np.int16]) -> NDArray[np.int64]:
    """For each slice, its samples below UNREAL_HU beside the three commonest values there.

    Padding is a field of one or two values; air that was rescaled twice has noise.
    """
    below = (samples <= UNREAL_HU) & (samples != PADDED)
    counts = np.zeros(len(samples), dtype=np.int64)
    for k in np.flatnonzero(below.any(axis=(1, 2))).tolist():
        values = samples[k][below[k]]
        left = values
        for _ in range(3):
            if left.size == 0:
                break
            left = left[left != left[0]]
        if left.size:
            _, sizes = np.unique(values, return_counts=True)
            counts[k] = sizes.sum() - np.sort(sizes)[-3:].sum()
    return counts


def _structure(samples: NDArray[np.int16]) -> float:
    """The largest of the correlations of neighbouring samples, within slices and between them; 0.2 is enough."""
    best = 0.0
    for one, other in ((samples[:, :, :-1], samples[:, :, 1:]), (samples[:, :-1], samples[:, 1:])):
        best = max(best, _correlation(one[:: max(len(one) // 16, 1)], other[:: max(len(one) // 16, 1)]))
    return best if best >= 0.2 else max(best, _correlation(samples[:-1], samples[1:]))


def _correlation(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    both = (one > UNREAL_HU) & (other > UNREAL_HU)
    first, second = one[both].astype(np.float32), other[both].astype(np.float32)
    if first.size < 16 or first.std() == 0 or second.std() == 0:
        return 1.0
    return float(np.corrcoef(first, second)[0, 1])

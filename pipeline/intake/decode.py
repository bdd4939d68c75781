"""The planes of one volume decoded side by side into HU, with what was counted on the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import DecodeError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.intake.codecs import read_stored
from pipeline.intake.geometry import Refusal
from pipeline.intake.headers import SliceHeader
from pipeline.intake.hounsfield import jumping_slice, to_hounsfield

#: decoders release the GIL; more threads only cost memory
_MAX_THREADS = 4


@dataclass(frozen=True)
class DecodedVolume:
    """hu: int16 (k, j, i), padding replaced. padding_voxels, clipped: how many values were changed.

    noisy_voxels: how many values no scanner writes, and no padding is.
    """

    hu: NDArray[np.int16]
    padding_voxels: int
    clipped: int
    noisy_voxels: int


def decode_volume(slices: Sequence[SliceHeader], params: IngestParams) -> DecodedVolume | Refusal:
    """All planes as HU, or the first one that cannot be had."""
    if float(len(slices)) * slices[0].rows * slices[0].columns > 2**33:
        return Refusal(ReasonCode.PIXEL_DECODE_FAILED, "larger than any CT volume", tuple(slices))
    hu: NDArray[np.int16] = np.empty((0, 0, 0), dtype=np.int16)
    padding = np.zeros(len(slices), dtype=np.int64)
    clipped = np.zeros(len(slices), dtype=np.int64)
    noisy = np.zeros(len(slices), dtype=np.int64)
    samples: list[NDArray[np.float32]] = [np.empty((0, 0), dtype=np.float32)] * len(slices)

    def decode(index: int) -> NDArray[np.int16] | Refusal:
        header = slices[index]
        try:
            plane = to_hounsfield(read_stored(header), header, params.padding_hu)
        except (DecodeError, OSError) as error:
            why = error.what if isinstance(error, DecodeError) else "the file cannot be read"
            return Refusal(ReasonCode.PIXEL_DECODE_FAILED, f"slice {index + 1} of {len(slices)}: {why}", (header,))
        padding[index], clipped[index] = plane.padding_voxels, plane.clipped
        samples[index], noisy[index] = plane.sample, plane.noisy_voxels
        return plane.hu

    # the first plane alone: a header that lies about its size is caught before memory is asked for
    first = decode(0)
    if isinstance(first, Refusal):
        return first
    hu = np.empty((len(slices), *first.shape), dtype=np.int16)
    hu[0] = first

    def fill(index: int) -> Refusal | None:
        plane = decode(index)
        if isinstance(plane, Refusal):
            return plane
        hu[index] = plane
        return None

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        for failure in pool.map(fill, range(1, len(slices))):
            if failure is not None:
                pool.shutdown(wait=True, cancel_futures=True)
                return failure
    if (jump := jumping_slice(samples)) is not None:
        index, amount = jump
        detail = f"all values of slice {index + 1} stand {amount:+.0f} HU off those of slice {index}"
        return Refusal(ReasonCode.IMPLAUSIBLE_HU, detail, (slices[index - 1], slices[index]))
    return DecodedVolume(hu, int(padding.sum()), int(clipped.sum()), int(noisy.sum()))

"""The planes of one volume decoded side by side into HU, with what was found on the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import DecodeError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note, Refusal
from pipeline.imaging.padding_mask import PaddingMask, mask_of_planes, pack_plane
from pipeline.pixels.codecs import Plane
from pipeline.pixels.hounsfield import PADDED, judge_hounsfield
from pipeline.pixels.padding import find_padding, replace_padding
from pipeline.pixels.pixel_file import PixelFile, SampleFormat
from pipeline.pixels.plain_planes import read_plain
from pipeline.pixels.rescale import Tables, already_added, rescale
from pipeline.pixels.volume_memory import VolumeMemory

#: decoders release the GIL; more threads only cost memory
_MAX_THREADS = 4
#: planes that a thread takes at once: neighbours share pages of memory, and two threads on one page wait for each other
_RUN = 8
#: samples a side that plausibility is judged by, in a volume of many slices and in one of few
_SAMPLES, _SAMPLES_OF_FEW, _MANY = 32, 64, 64


@dataclass(frozen=True)
class DecodedVolume:
    """A series as HU.

    hu: int16 (k, j, i), padding replaced. padding_voxels, clipped: how many values were changed.
    padding: which voxels hold no measured value, None where all do.
    codecs: transfer syntaxes that the pixels had in truth. lossy_slices: those whose code stream is not reversible.
    notes: what is doubtful about the values.
    """

    hu: NDArray[np.int16]
    padding_voxels: int
    clipped: int
    padding: PaddingMask | None = None
    codecs: tuple[str, ...] = ()
    lossy_slices: tuple[SliceHeader, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(slots=True)
class _Plane:
    padding_voxels: int
    clipped: int
    packed: bytes | None
    codec: str
    lossy: bool


def decode_volume(
    slices: Sequence[SliceHeader], params: IngestParams, memory: VolumeMemory | None = None
) -> DecodedVolume | Refusal:
    """All planes as HU, or the first one that cannot be had, or why their values are no HU of a patient.

    memory: where the volume is put; it lasts until the next volume there. Its own pages where none is given.
    """
    first = slices[0]
    shape = (len(slices), first.rows, first.columns)
    odd = next((header for header in slices if (header.rows, header.columns) != shape[1:]), None)
    if odd is not None:
        return Refusal(ReasonCode.MIXED_MATRIX, "slices of one volume differ in their number of pixels", (odd,))
    samples_a_side = _SAMPLES if len(slices) >= _MANY else _SAMPLES_OF_FEW
    steps = max(shape[1] // samples_a_side, 1), max(shape[2] // samples_a_side, 1)
    try:
        # a header that lies about its size costs nothing: no page is touched before a plane's own lengths were checked
        hu = (memory or VolumeMemory()).array(shape)
        samples = np.empty((shape[0], -(-shape[1] // steps[0]), -(-shape[2] // steps[1])), dtype=np.int16)
    except (MemoryError, ValueError):
        detail = f"{shape[0]} x {shape[1]} x {shape[2]} voxels do not fit into memory"
        return Refusal(ReasonCode.PIXEL_DECODE_FAILED, detail, tuple(slices))
    planes: list[_Plane | None] = [None] * len(slices)
    tables: Tables = {}
    failures: list[Refusal] = []

    def fill(run: Sequence[tuple[int, PixelFile | None]]) -> None:
        for index, file in run:
            if failures:
                return
            try:
                codec, lossy = slices[index].transfer_syntax, False
                rescaled = already_added(slices[index], hu[index], *plain[index]) if index in plain else None
                is_sampled = rescaled is not None and rescaled.named is None
                if rescaled is None:
                    values, layout = _samples(slices[index], file, hu[index])
                    rescaled = rescale(values, layout, slices[index], hu[index], tables)
                    codec, lossy = layout.codec, layout.lossy
                if not is_sampled:
                    _take(hu[index], rescaled.named, steps, samples[index])
                mask = find_padding(hu[index], rescaled.lowest, rescaled.named)
                changed = 0 if mask is None else replace_padding(hu[index], mask, params.padding_hu)
                packed = None if mask is None else pack_plane(mask)
                planes[index] = _Plane(changed, rescaled.clipped, packed, codec, lossy)
            except (DecodeError, OSError, MemoryError) as error:
                why = error.what if isinstance(error, DecodeError) else "the file cannot be read"
                detail = f"slice {index + 1} of {len(slices)}: {why}"
                failures.append(Refusal(ReasonCode.PIXEL_DECODE_FAILED, detail, (slices[index],)))

    n_threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ExitStack() as stack, ThreadPoolExecutor(n_threads) as pool:
        plain = read_plain(slices, hu, samples, steps, lambda each, items: list(pool.map(each, items)), n_threads)
        try:
            order = _opened(slices, stack)
        except (DecodeError, OSError) as error:
            why = error.what if isinstance(error, DecodeError) else "the file cannot be read"
            return Refusal(ReasonCode.PIXEL_DECODE_FAILED, why, tuple(slices))
        for index, extremes in plain.items():
            planes[index] = _finished(slices[index], hu[index], *extremes)
        left = [item for item in order if planes[item[0]] is None]
        # the first plane alone: most broken series end here
        fill(left[:1])
        list(pool.map(fill, [left[start : start + _RUN] for start in range(1, len(left), _RUN)]))
    if failures:
        return failures[0]
    done = [plane for plane in planes if plane is not None]
    verdict = judge_hounsfield(samples, slices)
    if isinstance(verdict, Refusal):
        return verdict
    return DecodedVolume(
        hu,
        sum(plane.padding_voxels for plane in done),
        sum(plane.clipped for plane in done),
        mask_of_planes([plane.packed for plane in done], shape),
        tuple(sorted({plane.codec for plane in done})),
        tuple(header for header, plane in zip(slices, done, strict=True) if plane.lossy),
        verdict,
    )


def _finished(header: SliceHeader, hu: NDArray[np.int16], lowest: int, highest: int) -> _Plane | None:
    """A plane that was read the plain way, where nothing is left to do to it: no padding, nothing to mask or clip."""
    rescaled = already_added(header, hu, lowest, highest)
    if rescaled is None or rescaled.named is not None or find_padding(hu, rescaled.lowest, None) is not None:
        return None
    return _Plane(0, 0, None, header.transfer_syntax, False)


def _opened(slices: Sequence[SliceHeader], stack: ExitStack) -> list[tuple[int, PixelFile | None]]:
    """Each index with its open file where several slices share one; a file of its own is opened when it is read."""
    if all(header.n_frames == 1 for header in slices):
        return [(index, None) for index in range(len(slices))]
    files: dict[object, PixelFile] = {}
    opened: list[tuple[int, PixelFile | None]] = []
    for path, group in groupby(enumerate(slices), key=lambda item: item[1].path):
        members = list(group)
        if members[0][1].n_frames > 1 and path not in files:
            files[path] = stack.enter_context(PixelFile(members[0][1]))
        opened += [(index, files.get(path)) for index, _ in members]
    return opened


def _samples(header: SliceHeader, file: PixelFile | None, plane: NDArray[np.int16]) -> tuple[Plane, SampleFormat]:
    if file is not None:
        return file.samples(header, plane)
    with PixelFile(header) as own:
        return own.samples(header, plane)


def _take(
    hu: NDArray[np.int16], named: NDArray[np.bool_] | None, steps: tuple[int, int], sample: NDArray[np.int16]
) -> None:
    """A coarse grid of one plane before its padding is replaced; PADDED where the header names padding."""
    sample[...] = hu[:: steps[0], :: steps[1]]
    if named is not None:
        sample[named[:: steps[0], :: steps[1]]] = PADDED

"""The HU around a nodule, small enough to stand in a page and to be scrolled through there.

A stack is a little-endian uint32 (length of the head in bytes), the head as JSON (StackHead), and zlib of the values.
Values are int16 in units of `step_hu`, each the difference to its left neighbour (0 before the first of a row) modulo
2**16, folded so that small differences of either sign are small numbers (zigzag); all low bytes come first, then all
high bytes. Noise keeps what a general compressor can do near half; this order does about a quarter better than none.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import ContractError
from data_contracts.params import ReviewParams
from data_contracts.records import Record
from data_contracts.volume import CTVolume
from pipeline.review.key_images import close_up_mm
from pipeline.review.planes import LpsPoint, sample_hu

#: Most values a stack has, most pixels a side of a slice, and most bytes; in base64 a third more stand in the page.
MAX_VALUES, MAX_SIDE_PX, MAX_BYTES = 440_000, 100, 420_000

#: No coarser step than this is tried to make a stack small enough; noise that needs it hides it.
_COARSEST_HU = 32

_LENGTH = struct.Struct("<I")

#: Slices are left out at the rim rather than within this distance of the nodule's surface.
_MARGIN_MM = 6.0

#: Cosine from which an index axis counts as lying along an axis of the patient.
_ALONG = 1 - 1e-6


class StackHead(Record):
    """Where the values of a stack lie.

    shape: (z, y, x); x grows to the patient's left, y to the back, z to the head.
    spacing_mm, origin_lps_mm: of (x, y, z); the origin is the centre of value (0, 0, 0).
    center_lps_mm, diameter_mm: of the nodule. field_mm: side of the square that a view shows around it.
    slice_numbers: of the volume, from 1, for each z; empty where its slices do not lie across the patient.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_lps_mm: tuple[float, float, float]
    center_lps_mm: tuple[float, float, float]
    diameter_mm: float
    field_mm: float
    step_hu: int = 1
    slice_numbers: tuple[int, ...] = ()


def stack_name(finding_id: str) -> str:
    """The name by which a finding's `stack` and the page's `stacks` know it."""
    return f"stack-{finding_id}"


def pack_stack(volume: CTVolume, center_lps_mm: LpsPoint, diameter_mm: float, params: ReviewParams) -> bytes:
    """The surroundings of a nodule along the patient's axes, as wide as its key images, in about MAX_BYTES at most.

    Slices that lie across the patient are taken as they were scanned; any other grid (tilted, oblique, coronal) is
    sampled by cubic splines. Where the whole would be too large, pixels become coarser, then slices at the rim are
    left out, of a large nodule every second slice too, and at last the grey steps become coarser.
    """
    center = np.asarray(center_lps_mm, dtype=np.float64)
    field_mm = close_up_mm(diameter_mm, params)
    axes = [_axis(volume, axis, float(center[axis]), field_mm) for axis in range(3)]
    most = MAX_VALUES // (len(axes[0].mm) * len(axes[1].mm))
    wanted = math.ceil((diameter_mm + 2 * _MARGIN_MM) / axes[2].step_mm)
    axes[2] = axes[2].near(float(center[2]), most, math.ceil(wanted / most))
    x, y, z = axes
    if all(axis.is_native for axis in axes):
        hu = volume.hu[np.ix_(z.index, y.index, x.index)]
    else:
        grid = np.stack(np.broadcast_arrays(x.mm, y.mm[:, None], z.mm[:, None, None]), axis=-1)
        # Where pixels become coarser, linear interpolation is as good, and a large nodule takes no seconds.
        order: Literal[1, 3] = 1 if x.step_mm > 1.01 * min(volume.spacing_kji_mm) else 3
        hu = np.rint(np.clip(sample_hu(volume, grid, order=order), -32768, 32767)).astype(np.int16)
    head = StackHead(
        shape=(len(z.mm), len(y.mm), len(x.mm)),
        spacing_mm=(x.step_mm, y.step_mm, z.step_mm),
        origin_lps_mm=(float(x.mm[0]), float(y.mm[0]), float(z.mm[0])),
        center_lps_mm=(float(center[0]), float(center[1]), float(center[2])),
        diameter_mm=float(diameter_mm),
        field_mm=float(field_mm),
        slice_numbers=tuple(int(index) + 1 for index in z.index) if z.is_native else (),
    )
    return _packed(hu, head)


def unpack_stack(content: bytes) -> tuple[StackHead, NDArray[np.int16]]:
    """Head and HU (z, y, x) of a stack, to `step_hu`.

    Raises
    ------
    ContractError: the bytes are no stack.
    """
    try:
        length = int(_LENGTH.unpack_from(content)[0])
        head = StackHead.from_json(content[_LENGTH.size : _LENGTH.size + length])
        planes = np.frombuffer(zlib.decompress(content[_LENGTH.size + length :]), dtype=np.uint8)
        folded = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2").reshape(head.shape).astype(np.uint16)
    except (struct.error, zlib.error, ValueError) as error:
        raise ContractError("not a stack of a nodule", todo="Run `noduleflow review` again.") from error
    difference = (folded >> 1) ^ (0 - (folded & 1)).astype(np.uint16)
    values = np.add.accumulate(difference, axis=2, dtype=np.uint16).view(np.int16)
    return head, (values.astype(np.int32) * head.step_hu).clip(-32768, 32767).astype(np.int16)


def _packed(hu: NDArray[np.int16], head: StackHead) -> bytes:
    step_hu = 1
    while True:
        body = _compressed(hu, step_hu)
        if len(body) <= MAX_BYTES or step_hu >= _COARSEST_HU:
            break
        # Every doubling of the step saves about a bit a value.
        bits = 8 * (len(body) - MAX_BYTES) / hu.size
        step_hu *= 2 ** max(1, math.ceil(bits))
    text = head.model_copy(update={"step_hu": step_hu}).model_dump_json().encode()
    return _LENGTH.pack(len(text)) + text + body


def _compressed(hu: NDArray[np.int16], step_hu: int) -> bytes:
    values = np.floor_divide(hu.astype(np.int32) + step_hu // 2, step_hu).astype(np.int16)
    difference = np.diff(values.view(np.uint16), axis=2, prepend=np.uint16(0)).view(np.int16)
    folded = ((difference << 1) ^ (difference >> 15)).astype("<i2")
    return zlib.compress(np.ascontiguousarray(folded.view(np.uint8).reshape(-1, 2).T).tobytes(), 6)


@dataclass(frozen=True)
class _Axis:
    """Positions along an axis of the patient, growing; index: of the volume's own voxels there, where these are it."""

    mm: NDArray[np.float64]
    step_mm: float
    index: NDArray[np.intp]

    @property
    def is_native(self) -> bool:
        return len(self.index) > 0

    def near(self, center_mm: float, most: int, stride: int) -> _Axis:
        """Every stride-th position, at most so many, around a place and with the one that is nearest to it."""
        middle = int(np.abs(self.mm - center_mm).argmin())
        first = max(middle % stride, middle - most // 2 * stride)
        kept = slice(first, min(len(self.mm), first + most * stride), stride)
        return _Axis(self.mm[kept], self.step_mm * stride, self.index[kept])


def _axis(volume: CTVolume, axis: int, center_mm: float, field_mm: float) -> _Axis:
    """Where a stack has its values along x, y or z (0, 1, 2)."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    along = int(np.abs(directions[axis]).argmax())
    step_mm = volume.spacing_kji_mm[along]
    is_axial = bool((np.abs(directions[[0, 1, 2], [2, 1, 0]]) > _ALONG).all())
    if is_axial and (axis == 2 or field_mm <= step_mm * MAX_SIDE_PX):
        positions = volume.affine[axis, 3] + np.arange(volume.shape_kji[along]) * volume.affine[axis, along]
        index = np.flatnonzero(np.abs(positions - center_mm) <= field_mm / 2)
        index = index[np.argsort(positions[index])]
        if len(index):
            return _Axis(positions[index], step_mm, index)
    n = max(1, min(int(field_mm / step_mm), MAX_SIDE_PX))
    step_mm = max(step_mm, field_mm / n) if n == MAX_SIDE_PX else step_mm
    middle = (n - 1) / 2
    positions = np.asarray(center_mm + (np.arange(n) - middle) * step_mm, dtype=np.float64)
    return _Axis(positions, step_mm, np.zeros(0, dtype=np.intp))

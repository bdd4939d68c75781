"""CTVolume to NIfTI and back: the only place where LPS becomes RAS.

The file holds the array as (i, j, k), i fastest, which is the memory of a C-ordered (k, j, i) array byte for byte,
so nothing is copied or converted. The sform has the affine in float32, as NIfTI-1 wants; a header extension
carries it in float64, so that reading gives back exactly what was written.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import ContractError, GeometryError
from data_contracts.volume import CTVolume

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: (k, j, i) columns of an affine as (i, j, k), and back
_REVERSED = [2, 1, 0, 3]
_COMMENT = "comment"
_SCANNER = 1
_MILLIMETRE = 2


def write_nifti(path: Path, volume: CTVolume) -> None:
    """Write int16 HU to `path`; `.gz` compresses. The same volume gives the same bytes."""
    header = _header(volume)
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            _write(raw, header, volume.hu)
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=3, mtime=0) as packed:
            _write(packed, header, volume.hu)


def _write(stream: IO[bytes] | gzip.GzipFile, header: Any, hu: NDArray[np.int16]) -> None:
    header.write_to(stream)
    stream.write(b"\0" * (int(header["vox_offset"]) - stream.tell()))
    stream.write(np.ascontiguousarray(hu, dtype="<i2").data.cast("B"))


def _header(volume: CTVolume) -> Any:
    k, j, i = volume.shape_kji
    header: Any = nibabel.nifti1.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
    header.set_data_dtype("<i2")
    header.set_data_shape((i, j, k))
    affine = to_ras(volume.affine)
    if volume.is_orthogonal:
        header.set_qform(affine, code=_SCANNER)
    else:
        # a quaternion cannot shear: the sform alone says where the voxels are
        header.set_zooms(volume.spacing_kji_mm[::-1])
    header.set_sform(affine, code=_SCANNER)
    header.set_slope_inter(1.0, 0.0)
    header["xyzt_units"] = _MILLIMETRE
    note = {"affine_lps": volume.affine.tolist(), "frame_of_reference_key": volume.frame_of_reference_key}
    extension = nibabel.nifti1.Nifti1Extension(_COMMENT, json.dumps(note, separators=(",", ":")).encode())
    header.extensions.append(extension)
    header["vox_offset"] = 352 + header.extensions.get_sizeondisk()
    header["magic"] = b"n+1"
    return header


def read_nifti(path: Path) -> CTVolume:
    """Read int16 HU written by anyone, voxels in any axis order kept as they lie in the file.

    Raises
    ------
    ContractError: the file is missing, torn, or does not hold a 3-D volume of int16 HU.
    GeometryError: its affine is singular.
    """
    try:
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except FileNotFoundError:
        raise ContractError("the volume is not there", where=path.name, todo="Ingest the series again.") from None
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError):
        raise ContractError("the volume cannot be read", where=path.name, todo="Ingest the series again.") from None
    if values.ndim != 3 or values.dtype.kind not in "iuf":
        raise ContractError(f"a volume of HU has three axes, not {values.ndim}", where=path.name)
    hu = values.astype(np.int16, copy=False)
    if values.dtype != np.int16 and not np.array_equal(hu, values):
        raise ContractError("the volume does not hold whole HU within int16", where=path.name)
    if image.affine is None:  # type: ignore[attr-defined]
        raise GeometryError("the volume says not where it lies", where=path.name)
    affine, frame = _exact_affine(image)
    return CTVolume(np.ascontiguousarray(hu.transpose(2, 1, 0)), affine, frame)


def to_ras(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k, j, i) -> LPS as (i, j, k) -> RAS."""
    return np.asarray(_LPS_RAS @ affine_lps[:, _REVERSED])


def to_lps(affine_ras: NDArray[np.float64]) -> NDArray[np.float64]:
    """(i, j, k) -> RAS as (k, j, i) -> LPS."""
    return np.asarray((_LPS_RAS @ affine_ras)[:, _REVERSED])


def _exact_affine(image: nibabel.filebasedimages.FileBasedImage) -> tuple[NDArray[np.float64], str]:
    """The affine of the extension where it agrees with the sform (someone may have moved the image), and its frame."""
    stated = to_lps(np.asarray(image.affine, dtype=np.float64))  # type: ignore[attr-defined]
    for extension in getattr(image.header, "extensions", ()):
        try:
            content = extension.get_content()
            note = json.loads(content.decode() if isinstance(content, bytes) else content)
            exact = np.array(note["affine_lps"], dtype=np.float64)
            if exact.shape == (4, 4) and np.allclose(exact, stated, atol=1e-3, rtol=1e-6):
                return exact, str(note.get("frame_of_reference_key", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return stated, ""

"""One folder a series, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
from pathlib import Path

from data_contracts.errors import ContractError
from data_contracts.series import SeriesRecord
from data_contracts.volume import CTVolume
from pipeline.imaging.nifti import write_nifti
from pipeline.imaging.padding_mask import PADDING_NAME, PaddingMask, write_padding_mask
from pipeline.intake.volume_file import HEADER_BYTES, NAMES, least_volume_bytes

RECORD_NAME = "series.json"
#: where a NIfTI-1 file says at which byte its voxels begin (float32)
_OFFSET_AT = 108


def volume_name(compress: bool) -> str:
    """File name of a volume."""
    return NAMES[compress]


def has_volume(folder: Path, record: SeriesRecord) -> bool:
    """Whether the volume of a stored series lies in its folder, neither emptied nor cut."""
    path = folder / Path(record.volume_path).name
    least = least_volume_bytes(path.name, record.shape_kji)
    try:
        if path.suffix == ".gz":
            return path.stat().st_size >= least
        with path.open("rb") as file:
            (offset,) = struct.unpack_from("<f", file.read(_OFFSET_AT + 4), _OFFSET_AT)
            return os.fstat(file.fileno()).st_size >= least - HEADER_BYTES + max(int(offset), HEADER_BYTES)
    except (OSError, ValueError, struct.error):
        return False


def store_series(
    series_root: Path, record: SeriesRecord, volume: CTVolume, padding: PaddingMask | None = None
) -> SeriesRecord:
    """Write volume, record and mask below `series_root`/<series_key>; a series that is already there stays as it is.

    Two processes may store the same series at once: one rename wins, both see a whole folder. What is renamed is on
    the disk, so that neither a kill nor a loss of power leaves a folder that only looks whole.

    Raises
    ------
    OSError: the disk is full or cannot be written; nothing is left behind.
    """
    target = series_root / record.series_key
    if (kept := _kept(target, record)) is not None:
        return kept
    series_root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{record.series_key}.", suffix=".tmp", dir=series_root))
    try:
        name = Path(record.volume_path).name
        write_nifti(temporary / name, volume)
        if padding is not None:
            write_padding_mask(temporary / PADDING_NAME, padding)
        (temporary / RECORD_NAME).write_bytes(record.to_json().encode())
        for path in sorted(temporary.iterdir()):
            _sync(path)
        temporary.chmod(0o755)
        _sync(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if (kept := _kept(target, record)) is not None:
                return kept
            # what stands there is not a series: half deleted, or by another program
            broken = Path(tempfile.mkdtemp(prefix=f".{record.series_key}.", suffix=".tmp", dir=series_root))
            with contextlib.suppress(FileNotFoundError):
                target.replace(broken)
            temporary.rename(target)
            shutil.rmtree(broken, ignore_errors=True)
        _sync(series_root)
        return record
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _kept(target: Path, record: SeriesRecord) -> SeriesRecord | None:
    """The stored record, its identity and UIDs in the form now asked for; None where the series is not whole."""
    try:
        stored = SeriesRecord.read(target / RECORD_NAME)
    except ContractError:
        return None
    if not has_volume(target, stored):
        return None
    # the same voxels: what may differ is where they came from, and in which form findings name their slices
    now = {name: getattr(record, name) for name in ("identity", "source_path", "findings")}
    if stored.identity != record.identity or stored.findings != record.findings:
        stored = stored.model_copy(update=now)
        stored.write(target / RECORD_NAME)
    return stored


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

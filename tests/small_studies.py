"""Many small CT studies as DICOM, written quickly: one header a slice with its own UIDs, and noise for pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dicom_factory import body_hu, slices_of, truth_of
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

#: width of what stands in for numbers in the template
_DIGITS = 8


def write_studies(folder: Path, n: int, *, n_slices: int = 4, rows: int = 32, columns: int = 32) -> Path:
    """`n` studies of one series each, <folder>/<study>/<slice>.dcm; pixels of two studies differ."""
    hu = body_hu(n_slices, rows, columns)
    marks = {"study": "1" + "7" * (_DIGITS - 1), "patient": "P" + "5" * _DIGITS}
    templates = []
    for number, dataset in enumerate(slices_of(truth_of(hu), marks["patient"], study=f"2.25.{marks['study']}1")):
        dataset.SeriesInstanceUID = f"2.25.{marks['study']}2"
        dataset.FrameOfReferenceUID = f"2.25.{marks['study']}3"
        dataset.SOPInstanceUID = f"2.25.{marks['study']}4{number:03d}"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = folder / "template.dcm"
        folder.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        path.unlink()
        templates.append((content, content.index(dataset.PixelData)))
    noise = np.random.default_rng(0).integers(0, 40, (n, columns), dtype=np.int16)
    for study in range(n):
        place = folder / f"{study:06d}"
        place.mkdir()
        for number, (content, start) in enumerate(templates):
            own = bytearray(content)
            first = np.frombuffer(own, "<i2", columns, start)
            first += noise[study]  # the first row of pixels
            del first
            named = bytes(own[:start]).replace(marks["study"].encode(), f"1{study:0{_DIGITS - 1}d}".encode())
            named = named.replace(marks["patient"].encode(), f"P{study:0{_DIGITS}d}".encode())
            (place / f"{number:03d}.dcm").write_bytes(named + bytes(own[start:]))
    return folder

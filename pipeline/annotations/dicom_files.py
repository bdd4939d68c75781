"""Open DICOM segmentations and reports among other files, within bounds that no file can exceed."""

from __future__ import annotations

import zlib
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from data_contracts.errors import AnnotationError

_MAX_BYTES = 2**30
_CHUNK_BYTES = 2**20
#: of a report or a segmentation that is deflated; they are small
_MAX_INFLATED_BYTES = 2**28
#: preamble, "DICM" and the element that tells the length of the file meta information (PS3.10 7.1)
_META_START = 144


def open_object(path: Path, classes: tuple[str, ...]) -> Dataset | None:
    """The object of a file if its SOP class is one of `classes`; None for another class.

    Raises
    ------
    AnnotationError: no DICOM file, cut short, or too large.
    """
    try:
        _check_size(path)
        # the class alone first: a folder may hold thousands of images
        head = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        if str(head.get("SOPClassUID", "")) not in classes:
            return None
        ds = pydicom.dcmread(path)
        # pydicom converts a value when it is asked for it: what every reader asks for is asked for here
        return ds if str(ds.SOPInstanceUID) and str(ds.SOPClassUID) in classes else None
    except AnnotationError:
        raise
    except Exception as error:  # pydicom meets a hostile file with any error
        raise AnnotationError(f"not a DICOM file that can be read ({type(error).__name__})") from None


def _check_size(path: Path) -> None:
    if path.stat().st_size > _MAX_BYTES:
        raise AnnotationError("the DICOM file is larger than 1 GiB")
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as stream:
        stream.seek(_META_START + int(meta.FileMetaInformationGroupLength))
        data = stream.read(_CHUNK_BYTES)
        while data and size <= _MAX_INFLATED_BYTES:
            size += len(inflate.decompress(data, _CHUNK_BYTES))
            data = inflate.unconsumed_tail or stream.read(_CHUNK_BYTES)
    if size > _MAX_INFLATED_BYTES:
        raise AnnotationError("the deflated DICOM file grows beyond 256 MiB")

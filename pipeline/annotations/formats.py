"""Annotation files of every format to marks.

csv, luna16               tables: pipeline.annotations.tables
lidc-xml, voc-xml         pipeline.annotations.xml_files
dicom-seg, dicom-sr       DICOM segmentations and reports, together or alone: pipeline.annotations.dicom_marks
grand-challenge           pipeline.annotations.grand_challenge

Every position ends as LPS millimetres. What cannot be read of a file stands as a mark with its problem, so that it is
refused by name and nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.errors import AnnotationError, UsageError
from data_contracts.nodules import NoduleAnnotation
from pipeline.annotations.grand_challenge import read_grand_challenge
from pipeline.annotations.tables import COORDINATES, read_csv, read_luna16
from pipeline.annotations.xml_files import read_lidc_xml, read_voc_xml

#: format -> the coordinate systems that its positions may be in, the first unless told otherwise
FORMATS: dict[str, tuple[str, ...]] = {
    "csv": COORDINATES,
    "luna16": ("lps", "ras"),
    "lidc-xml": ("voxel",),
    "voc-xml": ("voxel",),
    "dicom-seg": ("lps",),
    "dicom-sr": ("lps",),
    "grand-challenge": ("lps", "ras"),
}
_SUFFIXES = {"csv": ".csv", "luna16": ".csv", "lidc-xml": ".xml", "voc-xml": ".xml", "grand-challenge": ".json"}


@dataclass
class AnnotationReading:
    """What a set of files holds.

    Attributes
    ----------
    marks: each with the number of its file.
    left_out: what the files hold beside nodules, and how many of it.
    """

    marks: list[NoduleAnnotation] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def check_format(file_format: str, coordinates: str = "") -> None:
    """Raises UsageError for a format that is not known, or coordinates that it does not have."""
    if file_format not in FORMATS:
        raise UsageError(f"unknown annotation format {file_format!r}", todo=f"Known: {', '.join(FORMATS)}.")
    if coordinates and coordinates not in FORMATS[file_format]:
        known = " or ".join(FORMATS[file_format])
        raise UsageError(f"coordinates {coordinates!r} cannot be chosen for {file_format}", todo=f"It is in {known}.")


def read_annotations(path: Path, file_format: str) -> list[NoduleAnnotation]:
    """The marks of one file, or of every file of the format in a folder; see read_annotation_files."""
    return read_annotation_files([path], file_format).marks


def read_annotation_files(
    paths: Sequence[Path], file_format: str, *, coordinates: str = "", series: str = ""
) -> AnnotationReading:
    """The marks of files that belong together.

    file_format: a key of FORMATS. coordinates: "lps", "ras" or "voxel" where the format leaves a choice; "" for what it
    says itself. series: UID or key of the series for files that name none (grand-challenge).

    Raises
    ------
    UsageError: no such file, an unknown format, or coordinates that the format does not have.
    AnnotationError: one file was given and it is not of that format; of several, such a file becomes a mark with this
        problem.
    """
    check_format(file_format, coordinates)
    for path in paths:
        if not path.exists():
            raise UsageError("the annotation file is not there")
    reading = AnnotationReading()
    if file_format.startswith("dicom"):
        from pipeline.annotations.dicom_marks import read_dicom_marks

        reading.marks = read_dicom_marks(paths)
        if not reading.marks:
            raise AnnotationError("there is no DICOM segmentation or report of a nodule in the files")
    else:
        for number, path in enumerate(paths, start=1):
            _read_path(path, number, len(paths) == 1, file_format, coordinates, series, reading)
    if len(paths) > 1:
        reading.marks = [_placed(mark, f"file {mark.file_number}") for mark in reading.marks]
    elif paths[0].is_file() and len(reading.marks) == 1 and reading.marks[0].whole_file:
        raise AnnotationError(reading.marks[0].problem)
    return reading


def _read_path(
    path: Path,
    number: int,
    alone: bool,
    file_format: str,
    coordinates: str,
    series: str,
    reading: AnnotationReading,
) -> None:
    files = [path]
    if path.is_dir():
        files = sorted(item for item in path.rglob(f"*{_SUFFIXES[file_format]}") if item.is_file())
        if not files:
            raise AnnotationError(f"the folder holds no {file_format} file")
    for position, file in enumerate(files, start=1):
        try:
            marks = _read_file(file, file_format, coordinates, series, reading.left_out)
        except AnnotationError as error:
            if alone and file == path:
                raise
            marks = [NoduleAnnotation(reader="", source=file_format, problem=error.line(), whole_file=True)]
        # a file's name may hold a patient's, so its position stands for it
        where = f"file {position} of the folder" if path.is_dir() else ""
        reading.marks += [_placed(mark.model_copy(update={"file_number": number}), where) for mark in marks]


def _read_file(
    file: Path, file_format: str, coordinates: str, series: str, left_out: Counter[str]
) -> list[NoduleAnnotation]:
    if file_format == "csv":
        return read_csv(file, coordinates)
    if file_format == "luna16":
        return read_luna16(file, coordinates)
    if file_format == "grand-challenge":
        return read_grand_challenge(file, coordinates=coordinates, series=series)
    if file_format == "voc-xml":
        return read_voc_xml(file)
    reading = read_lidc_xml(file)
    counts = {"nodules below 3 mm": reading.n_small, "marks of no nodule": reading.n_non_nodules}
    left_out.update({name: count for name, count in counts.items() if count})
    return list(reading.marks)


def _placed(mark: NoduleAnnotation, where: str) -> NoduleAnnotation:
    return mark.model_copy(update={"place": ", ".join(part for part in (where, mark.place) if part)})

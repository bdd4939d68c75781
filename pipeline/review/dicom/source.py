"""The images that results refer to, and whose they are: what every object of a study takes over from its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from data_contracts.series import SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer

#: furthest from a right angle that an image's rows and columns may be
_SQUARE = 1e-4


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """One series of images.

    Attributes
    ----------
    affine: (4, 4), (slice, row, column, 1) of the images as they were sent -> LPS mm.
    shape_kji: slices, rows and columns of them; rows and columns are 0 where an old record does not tell them.
    sop_uids: of slice k, "" for one that was interpolated. frame_numbers: of slice k in its object, from 1; () where
        every object is one slice.
    frame_of_reference_uid: "" where the images state none.
    """

    series_key: str
    series_uid: str
    sop_class_uid: str
    sop_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    frame_of_reference_uid: str
    affine: NDArray[np.float64]
    shape_kji: tuple[int, int, int]
    slice_thickness_mm: float | None

    @property
    def problem(self) -> str:
        """Why nothing can be drawn on these images; "" where it can."""
        row, column = self.affine[:3, 1], self.affine[:3, 2]
        angle = abs(row @ column) / (np.linalg.norm(row) * np.linalg.norm(column))
        if angle > _SQUARE:
            return "the rows and columns of its images are not at right angles"
        if 0 in self.shape_kji:
            return "its volume was resampled, and how large its images were is not kept: ingest its source again"
        if not any(self.sop_uids):
            return "the UIDs of its images are not kept: ingest its source again"
        return ""

    def image_at(self, k: float) -> int:
        """The slice with an image of its own that is nearest to slice number `k`, from 0."""
        known = np.flatnonzero([bool(uid) for uid in self.sop_uids])
        return int(known[np.abs(known - k).argmin()])

    def images_of(self, k: int) -> tuple[int, ...]:
        """The slices that slice `k` was made from: itself, or the neighbours of one that was interpolated."""
        if self.sop_uids[k]:
            return (k,)
        known = [number for number, uid in enumerate(self.sop_uids) if uid]
        before, after = [n for n in known if n < k], [n for n in known if n > k]
        return (*before[-1:], *after[:1])

    def frame_of(self, k: int) -> list[int] | None:
        """The frame number to refer to with the UID of slice `k`; None where its object is one slice."""
        return [self.frame_numbers[k]] if self.frame_numbers else None

    def reference_to(self, k: int) -> Dataset:
        """The item by which another object refers to the image of slice `k` (PS3.3 table 10-3)."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.sop_class_uid, self.sop_uids[k]
        if (frame := self.frame_of(k)) is not None:
            item.ReferencedFrameNumber = frame
        return item


@dataclass(frozen=True, eq=False)
class SourceStudy:
    """A study, as its pseudonymous or its true self. names: keyword -> value of patient and study."""

    study_uid: str
    values: dict[str, str] = field(repr=False)
    series: tuple[SourceSeries, ...]


def pseudonymous_study(records: Sequence[SeriesRecord], pseudonymizer: Pseudonymizer) -> SourceStudy:
    """The study of some records under the pseudonyms that `noduleflow deidentify` gives it.

    records: of one study and patient, at least one.
    """
    first = records[0]
    values = {
        "PatientID": first.patient_key,
        "PatientName": first.patient_key,
        "PatientSex": first.patient_sex,
        "PatientBirthDate": "",
        "StudyDate": first.study_date_shifted,
        "StudyTime": "",
        "StudyID": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
    }
    series = tuple(_series(record, pseudonymizer) for record in records)
    return SourceStudy(pseudonymizer.uid_of_key(first.study_key), values, series)


def _series(record: SeriesRecord, pseudonymizer: Pseudonymizer) -> SourceSeries:
    def uid(key: str) -> str:
        return pseudonymizer.uid_of_key(key) if key else ""

    n_slices, rows, columns = record.shape_kji
    if record.slice_affine_lps is not None:
        rows, columns = record.slice_shape or (0, 0)
    return SourceSeries(
        series_key=record.series_key,
        series_uid=uid(record.series_uid_key),
        sop_class_uid=record.sop_class_uid or str(CTImageStorage),
        sop_uids=tuple(uid(key) for key in record.sop_uid_keys),
        frame_numbers=record.frame_numbers,
        frame_of_reference_uid=uid(record.frame_of_reference_key),
        affine=np.array(record.slice_affine_lps or record.affine_lps, dtype=np.float64),
        shape_kji=(n_slices, rows, columns),
        slice_thickness_mm=record.slice_thickness_mm,
    )


def source_image(study: SourceStudy, series: SourceSeries, k: int) -> Dataset:
    """The header of one source image, as far as a derived object takes it over or refers to it."""
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in study.values.items():
        setattr(image, keyword, value)
    image.StudyInstanceUID, image.SeriesInstanceUID = study.study_uid, series.series_uid
    image.SOPClassUID, image.SOPInstanceUID = series.sop_class_uid, series.sop_uids[k]
    image.Modality = "CT"
    image.Rows, image.Columns = series.shape_kji[1:]
    if series.frame_of_reference_uid:
        image.FrameOfReferenceUID = series.frame_of_reference_uid
        image.PositionReferenceIndicator = ""
    return image

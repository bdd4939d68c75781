"""CT Image Storage files of one phantom series."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from data_contracts.params import PhantomParams
from pipeline.cohort.phantom_anatomy import AxialGrid
from pipeline.cohort.phantom_identity import UID_PREFIX, PhantomIdentity, uid
from pipeline.cohort.phantom_scanner import Scanner

_RESCALE_INTERCEPT = -1024
_IMPLEMENTATION_UID = f"{UID_PREFIX}1.1"
#: placeholders as long as the longest value; generate_uid always fills the 64 characters that a UID may have
_ANY_UID = UID_PREFIX + "7" * (64 - len(UID_PREFIX))
_ANY_NUMBER = "1999999973"
_ANY_POSITION = ("77777.1111111111", "77777.2222222222", "77777.3333333333")
_ANY_LOCATION = "77777.4444444444"


class SeriesWriter:
    """Writes the slices of one series; what all share is built once.

    Parameters
    ----------
    origin_mm: (x, y, z) LPS of the body frame's origin, fixed for the patient.
    head_first: instance 1 is the slice nearest the head.
    """

    def __init__(
        self,
        params: PhantomParams,
        index: int,
        identity: PhantomIdentity,
        scanner: Scanner,
        grid: AxialGrid,
        origin_mm: tuple[float, float, float],
        head_first: bool,
    ) -> None:
        self._params, self._index, self._scanner, self._grid = params, index, scanner, grid
        self._origin_mm, self._head_first = origin_mm, head_first
        self._header = _encoded(_common(identity, scanner, grid))
        radius = grid.field_of_view_mm / 2
        self._outside = np.hypot(grid.axis_mm[None, :], grid.axis_mm[:, None]) > radius

    def write(self, folder: Path, number: int, slices: int, hu: NDArray[np.float32]) -> None:
        """Write slice `number` (from 0 at the feet) of `slices`; `hu` is float32 (row, column)."""
        instance = slices - number if self._head_first else number + 1
        x, y, z = self._origin_mm
        corner = float(self._grid.axis_mm[0])
        height = z + (number + 0.5) * self._scanner.spacing_mm
        header = self._header
        for placeholder, value in zip(
            (_ANY_UID, _ANY_NUMBER, *_ANY_POSITION, _ANY_LOCATION),
            (
                uid(self._params, self._index, "instance", number),
                str(instance),
                *(f"{value:.9g}" for value in (x + corner, y + corner, height)),
                f"{height:.9g}",
            ),
            strict=True,
        ):
            # blanks after a number are padding that the standard allows
            header = header.replace(placeholder.encode(), value.ljust(len(placeholder)).encode())
        pixels = self._stored(hu).tobytes()
        element = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, len(pixels))
        (folder / f"IM{instance:04d}").write_bytes(header + element + pixels)

    def _stored(self, hu: NDArray[np.float32]) -> NDArray[np.generic]:
        stored = np.clip(np.rint(hu), -1024, 3071).astype(np.int32) - _RESCALE_INTERCEPT
        if self._scanner.padding_stored is not None:
            stored[self._outside] = self._scanner.padding_stored
        return stored.astype("<i2" if self._scanner.signed else "<u2")


def _encoded(common: Dataset) -> bytes:
    """A whole file up to its pixels, with placeholders for what differs from slice to slice.

    pydicom needs 10 ms to encode a header of 70 attributes; filling in placeholders takes a few microseconds.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(_ANY_UID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "NODULEFLOW"
    data = FileDataset("", common, file_meta=meta, preamble=b"\0" * 128)
    data.SOPInstanceUID = _ANY_UID
    data.InstanceNumber = _ANY_NUMBER
    data.ImagePositionPatient = list(_ANY_POSITION)
    data.SliceLocation = _ANY_LOCATION
    encoded = BytesIO()
    data.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


def _common(identity: PhantomIdentity, scanner: Scanner, grid: AxialGrid) -> Dataset:
    """All attributes that the slices of a series share."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SOPClassUID = CTImageStorage
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = identity.study_date
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = identity.study_time
    data.AccessionNumber = identity.accession_number
    data.Modality = "CT"
    data.Manufacturer, data.ManufacturerModelName = scanner.manufacturer, scanner.model_name
    data.InstitutionName, data.InstitutionAddress = identity.institution, identity.address
    data.ReferringPhysicianName = data.PerformingPhysicianName = identity.physician
    data.OperatorsName = identity.operator
    data.StationName, data.DeviceSerialNumber = identity.station, identity.serial_number
    data.SoftwareVersions = scanner.software
    data.StudyDescription, data.SeriesDescription = "CT Thorax", f"Thorax {scanner.spacing_mm:g} mm {scanner.kernel}"
    data.ProtocolName = "Thorax"
    data.PatientName, data.PatientID = identity.patient_name, identity.patient_id
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = identity.other_patient_id, "TEXT"
    data.OtherPatientIDsSequence = [other]
    data.PatientBirthDate, data.PatientSex, data.PatientAge = identity.birth_date, identity.sex, identity.age
    data.BodyPartExamined = "CHEST"
    data.StudyInstanceUID, data.SeriesInstanceUID = identity.study_uid, identity.series_uid
    data.FrameOfReferenceUID = identity.frame_uid
    data.PositionReferenceIndicator = ""
    data.StudyID, data.SeriesNumber, data.AcquisitionNumber = identity.study_id, 2, 1
    data.PatientPosition = "HFS"
    data.ScanOptions = "HELICAL MODE"
    data.KVP = f"{scanner.kvp:g}"
    data.SliceThickness = f"{scanner.spacing_mm:g}"
    data.SpacingBetweenSlices = f"{scanner.spacing_mm:g}"
    data.DataCollectionDiameter = data.ReconstructionDiameter = f"{grid.field_of_view_mm:g}"
    data.GantryDetectorTilt, data.TableHeight, data.RotationDirection = "0", "150", "CW"
    data.ExposureTime, data.XRayTubeCurrent, data.Exposure = 500, scanner.tube_current_ma, scanner.exposure_mas
    data.FilterType, data.FocalSpots, data.ConvolutionKernel = "BODY FILTER", "1.2", scanner.kernel
    data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    data.PixelSpacing = [f"{grid.pixel_mm:.9g}", f"{grid.pixel_mm:.9g}"]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows = data.Columns = grid.matrix
    bits = 16 if scanner.signed else 12
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(scanner.signed)
    if scanner.padding_stored is not None:
        data.PixelPaddingValue = scanner.padding_stored
    data.WindowCenter, data.WindowWidth = "-600", "1500"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = str(_RESCALE_INTERCEPT), "1", "HU"
    return data

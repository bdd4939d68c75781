"""Segmentations and reports as IDC holds LIDC's, written by highdicom over a small series, and the series' record."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from dicom_factory import Truth, slices_of, truth_of
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data_contracts.series import SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer

PSEUDONYMS = Pseudonymizer(b"secret")
#: a double oblique orientation, pixels that are not square, and rows that do not fill whole bytes
OBLIQUE = (0.936293364, -0.289629478, 0.198669331, 0.275095847, 0.956425086, 0.097843395)
SHAPE = (14, 45, 37)


def oblique_series() -> tuple[Truth, list[Dataset]]:
    """A series with its slices in head order."""
    truth = truth_of(np.zeros(SHAPE, dtype=np.int16), iop=OBLIQUE, ps=(0.6, 0.9))
    datasets = slices_of(truth, "patient")
    for ds in datasets:
        ds.is_implicit_VR, ds.is_little_endian = False, True
    return truth, datasets


def affine_of(truth: Truth) -> np.ndarray:
    """(4, 4): (k, j, i, 1) to LPS mm."""
    affine = np.eye(4)
    affine[:3, 0] = truth.ipp[1] - truth.ipp[0]
    affine[:3, 1] = truth.iop[0][3:] * truth.ps[0]
    affine[:3, 2] = truth.iop[0][:3] * truth.ps[1]
    affine[:3, 3] = truth.ipp[0]
    return affine


def record_of(truth: Truth, datasets: list[Dataset], number: int = 1) -> SeriesRecord:
    """The record that an ingest of the series gives, as far as annotations need it."""
    affine = affine_of(truth)
    key = PSEUDONYMS.uid_key
    return SeriesRecord(
        series_key=f"{number:016x}",
        study_key="study",
        patient_key="patient",
        site="a",
        volume_path="series/x/volume.nii",
        n_slices=len(datasets),
        shape_kji=truth.hu.shape,
        spacing_kji_mm=tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist()),
        affine_lps=tuple(tuple(line) for line in affine.tolist()),
        series_uid_key=key(datasets[0].SeriesInstanceUID),
        frame_of_reference_key=key(datasets[0].FrameOfReferenceUID),
        sop_uid_keys=tuple(key(ds.SOPInstanceUID) for ds in datasets),
        pixel_sha256="0",
        source_path="x",
    )


def ball(center_kji: tuple[float, float, float], radius_mm: float, truth: Truth) -> np.ndarray:
    """Voxels within a radius, bool (k, j, i)."""
    spacing = np.linalg.norm(affine_of(truth)[:3, :3], axis=0)
    kji = np.stack(np.mgrid[tuple(slice(0, n) for n in truth.hu.shape)], axis=-1)
    return (((kji - center_kji) * spacing) ** 2).sum(axis=-1) <= radius_mm**2


def description(number: int, text: str, tracking_uid: str | None) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=text[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_uid=tracking_uid,
        tracking_id=text if tracking_uid else None,
    )


def segmentation(
    datasets: list[Dataset],
    masks: list[np.ndarray],
    texts: list[str],
    tracking_uids: list[str | None],
    kind: str = "BINARY",
    syntax: str = ExplicitVRLittleEndian,
) -> hd.seg.Segmentation:
    """One segment a mask."""
    stacked = np.stack(masks, axis=-1)
    pixels = stacked.astype(np.float32) if kind == "FRACTIONAL" else stacked.astype(np.uint8)
    if kind == "LABELMAP":
        pixels = sum(mask.astype(np.uint8) * number for number, mask in enumerate(masks, start=1))
    return hd.seg.Segmentation(
        source_images=datasets,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[
            description(number, text, uid)
            for number, (text, uid) in enumerate(zip(texts, tracking_uids, strict=True), start=1)
        ],
        series_instance_uid=generate_uid(),
        series_number=5,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="QIICR",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        content_creator_name="Quacksalber^Egon",
        transfer_syntax_uid=syntax,
    )


def code(value: str, scheme: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def evaluation(name: CodedConcept, value: CodedConcept) -> hd.sr.QualitativeEvaluation:
    return hd.sr.QualitativeEvaluation(name=name, value=value)


SUBTLETY = code("C45992", "NCIt", "Subtlety score")
MALIGNANCY = code("RID36042", "RadLex", "Malignancy")
TEXTURE = code("C41144", "NCIt", "Texture")
CALCIFICATION = code("C3672", "NCIt", "Calcification")


def report(
    evidence: list[Dataset], groups: list[hd.sr.MeasurementsAndQualitativeEvaluations]
) -> hd.sr.ComprehensiveSR | hd.sr.Comprehensive3DSR:
    """A TID 1500 report of measurement groups."""
    person = hd.sr.ObserverContext(
        observer_type=codes.DCM.Person,
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="Quacksalber^Egon"),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=person),
        procedure_reported=code("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=evidence,
        content=content,
        series_number=6,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="QIICR",
    )


def segment_group(
    segmented: hd.seg.Segmentation,
    number: int,
    datasets: list[Dataset],
    identifier: str,
    uid: str,
    evaluations: list[hd.sr.QualitativeEvaluation],
    diameter_mm: float,
    volume_mm3: float,
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411 as lidc2dicom fills it."""
    reference = hd.sr.ReferencedSegment(
        sop_class_uid=segmented.SOPClassUID,
        sop_instance_uid=segmented.SOPInstanceUID,
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(datasets[0].SeriesInstanceUID),
    )
    measurements = [
        hd.sr.Measurement(name=codes.SCT.Volume, value=volume_mm3, unit=codes.UCUM.CubicMillimeter),
        hd.sr.Measurement(name=codes.SCT.Diameter, value=diameter_mm, unit=codes.UCUM.Millimeter),
    ]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=identifier),
        referenced_segment=reference,
        finding_type=codes.SCT.Nodule,
        measurements=measurements,
        qualitative_evaluations=evaluations,
    )


def saved(ds: Dataset, folder: Path, name: str) -> Path:
    path = folder / name
    ds.save_as(path)
    return path

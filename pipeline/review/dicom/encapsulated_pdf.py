"""report.pdf as an Encapsulated PDF object (PS3.3 A.45.1)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from pipeline.review.dicom.maker import SERIES_NUMBERS, Maker
from pipeline.review.dicom.source import SourceSeries
from pipeline.review.wording import NOT_DIAGNOSTIC


def encapsulated_pdf(pdf: bytes, sources: Sequence[tuple[SourceSeries, int]], maker: Maker) -> Dataset:
    """The report as one object. sources: the images that it is about, as (series, slice number)."""
    made = hd.base.SOPClass(
        study_instance_uid=maker.study.study_uid,
        series_instance_uid=maker.series_uid("PDF"),
        series_number=SERIES_NUMBERS["PDF"],
        sop_instance_uid=maker.instance_uid("PDF", sha256(pdf).hexdigest()),
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=maker.description("PDF"),
        specific_character_set="ISO_IR 192",
        **maker.equipment(),
    )
    for keyword, value in maker.study.values.items():
        setattr(made, keyword, value)
    made.ConversionType = "SYN"
    made.AcquisitionDateTime = ""
    made.BurnedInAnnotation = "NO"
    made.DocumentTitle = f"Lung nodule review, {NOT_DIAGNOSTIC.lower()}"
    made.ConceptNameCodeSequence = [hd.sr.CodedConcept("18748-4", "LN", "Diagnostic imaging report")]
    made.VerificationFlag = "UNVERIFIED"
    made.SourceInstanceSequence = [series.reference_to(k) for series, k in sources]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    maker.sign(made)
    return made


def pdf_of(made: Dataset) -> bytes:
    """The PDF in an object of ours, without the byte that makes its length even."""
    return bytes(made.EncapsulatedDocument)[: int(made.EncapsulatedDocumentLength)]

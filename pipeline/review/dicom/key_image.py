"""Key images as Secondary Capture (PS3.3 A.8.1), which every viewer shows."""

from __future__ import annotations

import io
from hashlib import sha256

import highdicom as hd
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from data_contracts.review import Finding
from pipeline.review.dicom.maker import SERIES_NUMBERS, Maker
from pipeline.review.dicom.source import SourceSeries
from pipeline.review.dicom.text import valid_text
from pipeline.review.key_images import KEY_VIEWS
from pipeline.review.wording import NOT_DIAGNOSTIC

#: views that go to the PACS
PACS_VIEWS = ("axial-lung", "axial-mediastinal")
_SIDES = {"left": "L", "right": "R"}
_MARGIN_PX = 7


def key_image(
    png: bytes,
    view: str,
    finding: Finding,
    series: SourceSeries,
    k: int,
    maker: Maker,
    *,
    number: int,
    side_mm: float,
) -> Dataset:
    """One picture of a finding.

    png: as `render_key_images` draws it. view: a key of KEY_VIEWS. k: the source image that it shows. number: instance
    number. side_mm: what the picture covers, so that viewers measure on it.
    """
    pixels = _marked(png)
    caption = valid_text(f"{KEY_VIEWS[view].caption}, nodule {finding.finding_id}")
    made = hd.sc.SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=maker.study.study_uid,
        series_instance_uid=maker.series_uid("KEY"),
        series_number=SERIES_NUMBERS["KEY"],
        sop_instance_uid=maker.instance_uid("KEY", finding.finding_id, view, sha256(png).hexdigest()),
        instance_number=number,
        patient_orientation=("L", "P"),
        pixel_spacing=(side_mm / pixels.shape[0], side_mm / pixels.shape[1]),
        series_description=maker.description("KEY"),
        specific_character_set="ISO_IR 192",
        **maker.equipment(),
    )
    for keyword, value in maker.study.values.items():
        setattr(made, keyword, value)
    # Laterality of the series is type 2C: without a body part it must be there, and pictures of both sides share one
    # series; the chest is no paired organ, and each image says its own side
    made.BodyPartExamined = "CHEST"
    made.ImageLaterality = _SIDES.get(finding.side, "U")
    made.ConversionType = "SYN"
    made.PixelSpacingCalibrationType = "GEOMETRY"
    made.PixelSpacingCalibrationDescription = "Resampled in the patient"
    made.BurnedInAnnotation = "NO"
    made.DerivationDescription = caption
    made.ImageComments = NOT_DIAGNOSTIC
    made.SourceImageSequence = [series.reference_to(k)]
    maker.sign(made)
    return made


def _marked(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The picture with the words that must stand on it wherever it is shown alone: uint8 (row, column, 3)."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    ImageDraw.Draw(picture).text(
        (picture.width - _MARGIN_PX, _MARGIN_PX),
        NOT_DIAGNOSTIC,
        font=ImageFont.load_default(11),
        fill=(236, 240, 244),
        anchor="ra",
        stroke_width=2,
        stroke_fill=(0, 0, 0),
    )
    return np.asarray(picture, dtype=np.uint8)

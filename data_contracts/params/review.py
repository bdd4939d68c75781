"""Parameters of a report."""

from __future__ import annotations

from pydantic import Field

from data_contracts.params.detection import DetectionParams


class ReviewParams(DetectionParams):
    """What a report holds, and how a study that brings no marks is searched for nodules.

    key_image_size_mm: side of a key image.
    pdf: on writes report.pdf too.
    min_diameter_mm: smaller nodules are left out.
    stacks: of how many findings, the most suspicious first, the page holds the neighbouring slices to scroll through.
    maps: on shows where the network looked, if `noduleflow explain` found its maps reliable, else says why it does not.
    lung_segmenter: a folder of `segmenters/` in the workspace with a trained network; empty takes the classical mask.
    dicom: on writes the results as DICOM too: segmentation, measurements, key images and, with pdf, the report.
    dicom_key_images: of how many findings, the most suspicious first, key images are written as DICOM.
    """

    key_image_size_mm: float = Field(60.0, gt=0)
    pdf: bool = True
    dicom: bool = True
    dicom_key_images: int = Field(20, ge=0)
    stacks: int = Field(20, ge=0)
    maps: bool = False
    min_diameter_mm: float = Field(0.0, ge=0)
    lung_segmenter: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")

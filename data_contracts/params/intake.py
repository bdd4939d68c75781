"""Parameters of what comes through the door."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_contracts.params.base import Params
from data_contracts.volume import PADDING_HU


class IngestParams(Params):
    """Policies of ingest.

    min_slices: fewest slices of a volume.
    padding_hu: value given to voxels outside the field of view.
    spacing_tolerance_mm: how far a slice may lie from its place on an even grid.
    lossy: whether pixels compressed with loss are accepted with a finding, or refused.
    tilt: a tilted gantry's volume keeps its sheared affine, is resampled to an orthogonal grid, or is refused.
    missing: missing slices refuse the series, or are interpolated from their neighbours with a finding.
    max_missing: most neighbouring slices that may be interpolated.
    burned_in: text in the pixels (by the header, or by the rules of known scanners) refuses the series, is
        blanked with a finding, or is only flagged.
    preferred_kernel: which reconstruction of a study is chosen: the sharper, the softer, or either.
    preferred_thickness_mm: slice thickness that the choice tries to come near from below.
    compress: write volume.nii.gz in place of volume.nii.
    keep_vault: seal the original identifiers of accepted studies, so that holders of the key find the way back.
    """

    min_slices: int = Field(3, ge=2)
    padding_hu: int = PADDING_HU
    spacing_tolerance_mm: float = Field(0.1, gt=0)
    lossy: Literal["flag", "refuse"] = "flag"
    tilt: Literal["shear", "resample", "refuse"] = "shear"
    missing: Literal["refuse", "interpolate"] = "refuse"
    max_missing: int = Field(1, ge=1)
    burned_in: Literal["refuse", "blank", "flag"] = "refuse"
    preferred_kernel: Literal["any", "sharp", "soft"] = "any"
    preferred_thickness_mm: float = Field(1.25, gt=0)
    compress: bool = False
    keep_vault: bool = True


class DeidentifyParams(Params):
    """Options of the confidentiality profile (DICOM PS3.15 Annex E) for DICOM that leaves as DICOM.

    retain_dates: dates of a patient move together by a secret number of days and times stay, so that intervals hold;
        without it they are removed or emptied.
    retain_device: serial numbers, station names and calibration dates stay.
    retain_patient: sex, age (90 and more as 90), size, weight and the like stay.
    retain_safe_private: private elements that are known to hold technical numbers stay.
    clean_descriptors: words of CT stay in descriptions; without it they are removed or emptied.
    burned_in: objects with text in their pixels are refused, blanked where the places are known, or only flagged.
    """

    retain_dates: bool = True
    retain_device: bool = False
    retain_patient: bool = False
    retain_safe_private: bool = True
    clean_descriptors: bool = True
    burned_in: Literal["refuse", "blank", "flag"] = "refuse"

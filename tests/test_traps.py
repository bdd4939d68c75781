"""No kind of broken series comes out silently wrong, and no sound one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_factory import Truth
from dicom_traps import CASES
from scipy.ndimage import map_coordinates

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series

#: the reason or finding each kind must be known by
NAMED = {
    "02_missing_slice": ReasonCode.MISSING_SLICES,
    "03_missing_2_of_24_adjacent": ReasonCode.MISSING_SLICES,
    "04_dup_position_same_pixels": ReasonCode.DUPLICATE_SLICES,
    "05_dup_file_same_sop_uid": ReasonCode.DUPLICATE_SLICES,
    "06_two_acquisitions_one_series": ReasonCode.MULTIPLE_ACQUISITIONS,
    "07_gantry_tilt_15deg": ReasonCode.GANTRY_TILT,
    "08_gantry_tilt_header_says_0": ReasonCode.GANTRY_TILT,
    "09_variable_spacing_2mm_then_4mm": ReasonCode.IRREGULAR_SPACING,
    "10_localizer_other_series_same_folder": ReasonCode.LOCALIZER,
    "11_localizer_same_series_uid": ReasonCode.LOCALIZER,
    "23_signed_padding_-2000": ReasonCode.PADDING_REPLACED,
    "24_unsigned_padding_63536": ReasonCode.PADDING_REPLACED,
    "25_missing_rescale": ReasonCode.NO_RESCALE,
    "26_truncated_last_slice": ReasonCode.PIXEL_DECODE_FAILED,
    "27_junk_in_folder": ReasonCode.NOT_DICOM,
    "38_one_slice_iop_3deg": ReasonCode.MIXED_ORIENTATION,
    "39_one_slice_pixel_spacing": ReasonCode.MIXED_SPACING,
    "40_one_slice_96x96": ReasonCode.MIXED_MATRIX,
    "43_one_slice_without_IPP": ReasonCode.MISSING_GEOMETRY,
    "45_one_slice_other_frame_of_reference": ReasonCode.MIXED_FRAME_OF_REFERENCE,
    "46_single_slice": ReasonCode.TOO_FEW_SLICES,
    "47_rescaletype_US_not_HU": ReasonCode.RESCALE_TYPE_NOT_HU,
    "49_dup_position_plus_missing_slice": ReasonCode.MISSING_SLICES,
    "51_one_slice_intercept_off_by_1024": ReasonCode.IMPLAUSIBLE_HU,
    **{
        name: ReasonCode.MULTIPLE_ACQUISITIONS
        for name, (expect, _) in CASES.items()
        if expect == "split" and name > "52"
    },
    "60_a_second_acquisition_that_is_torn": ReasonCode.CONFLICTING_DUPLICATES,
    "61_one_slice_again_with_other_pixels": ReasonCode.CONFLICTING_DUPLICATES,
    "62_a_hole_while_the_clock_runs": ReasonCode.MISSING_SLICES,
    "64_gantry_tilt_minus_27deg_prone": ReasonCode.GANTRY_TILT,
    "65_two_slices_share_a_uid": ReasonCode.CONFLICTING_DUPLICATES,
    "66_last_slices_of_another_frame": ReasonCode.MIXED_FRAME_OF_REFERENCE,
}


def worst_difference_hu(volume_path: Path, truth: Truth) -> float:
    """Largest HU difference of any true voxel looked up at its true patient position."""
    volume = read_nifti(volume_path)
    worst = 0.0
    rows, columns = np.mgrid[: truth.hu.shape[1], : truth.hu.shape[2]]
    for k, hu in enumerate(truth.hu):
        lps = (
            truth.ipp[k]
            + columns[..., None] * truth.ps[1] * truth.iop[k][:3]
            + rows[..., None] * truth.ps[0] * truth.iop[k][3:]
        )
        # true positions carry the jitter of their headers
        kji = np.round(volume.to_kji(lps), 2)
        got = map_coordinates(volume.hu.astype(float), np.moveaxis(kji, -1, 0), order=1, cval=np.nan)
        worst = max(worst, float(np.nanmax(np.abs(got - hu))) if np.isfinite(got).all() else np.inf)
    return worst


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_trap_is_converted_exactly_or_refused_by_its_name(name: str, tmp_path: Path) -> None:
    expect, maker = CASES[name]
    truth = maker(tmp_path / name, name)
    pseudonymizer = Pseudonymizer(b"secret", keep_identity=True)
    params = IngestParams()
    discovery = discover(tmp_path / name, pseudonymizer, params, tmp_path / "scratch")
    outcomes = [
        item for raw in discovery.series for item in ingest_series(raw, pseudonymizer, params, tmp_path / "series", "a")
    ]
    accepted = [item for item in outcomes if isinstance(item, SeriesRecord)]
    rejected = [*discovery.rejections, *(item for item in outcomes if isinstance(item, Rejection))]
    differences = [worst_difference_hu(tmp_path / record.volume_path, truth) for record in accepted]
    codes = {finding.code for record in accepted for finding in record.findings} | {item.reason for item in rejected}

    if name in NAMED:
        assert NAMED[name] in codes
    if expect in ("convert", "split", "split_or_flag", "convert_sheared_or_flag", "drop_or_flag", "dedupe_or_flag"):
        assert len(accepted) == (2 if expect.startswith("split") else 1), [item.detail for item in rejected]
        assert min(differences) <= 1
    else:
        assert not accepted
        assert all(item.patient_id == name for item in rejected)
        assert all(item.sop_instance_uids for item in rejected)

"""A tilted gantry: sheared, resampled or refused as the policy says, and every voxel at its patient position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_factory import Truth, slices_of, truth_of, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from data_contracts.errors import GeometryError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from data_contracts.volume import PADDING_HU, CTVolume
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series
from pipeline.intake.tilt import upright

PSEUDONYMS = Pseudonymizer(b"secret", keep_identity=True)


def ingest(source: Path, workspace: Path, **policy: object) -> list[SeriesRecord | Rejection]:
    params = IngestParams.from_mapping(dict(policy))
    discovery = discover(source, PSEUDONYMS, params, workspace / "scratch")
    return [
        item for raw in discovery.series for item in ingest_series(raw, PSEUDONYMS, params, workspace / "series", "a")
    ]


def smooth_hu(shape: tuple[int, int, int] = (12, 40, 36), seed: int = 0) -> NDArray[np.int16]:
    """Tissue as a scanner resolves it: nothing finer than some pixels."""
    noise = np.random.default_rng(seed).normal(0, 1, shape)
    wave = gaussian_filter(noise, (0, 2, 2))
    return np.rint(-300 + 150 * wave / wave.std()).clip(-1000, 2000).astype(np.int16)


def places_of(truth: Truth, k: int) -> NDArray[np.float64]:
    """LPS mm of every pixel of slice k (PS3.3 C.7.6.2.1.1)."""
    rows, columns = np.mgrid[: truth.hu.shape[1], : truth.hu.shape[2]]
    return np.asarray(
        truth.ipp[k]
        + columns[..., None] * truth.ps[1] * truth.iop[k][:3]
        + rows[..., None] * truth.ps[0] * truth.iop[k][3:]
    )


def worst_p95_hu(volume: CTVolume, truth: Truth) -> float:
    """95th percentile of the absolute difference in the worst slice, at true patient positions."""
    worst = 0.0
    for k, hu in enumerate(truth.hu):
        kji = np.moveaxis(np.round(volume.to_kji(places_of(truth, k)), 6), -1, 0)
        got = map_coordinates(volume.hu.astype(float), kji, order=1, cval=np.nan)
        assert np.isfinite(got).all(), "a pixel of the source lies outside the volume"
        worst = max(worst, float(np.percentile(np.abs(got - hu), 95)))
    return worst


def tilted(degrees: float, iop: tuple[float, ...] = (1, 0, 0, 0, 1, 0), along: str = "column") -> Truth:
    """Slices 2 mm apart along the normal that slip sideways in their plane."""
    row, column = np.array(iop[:3]), np.array(iop[3:])
    slip = np.tan(np.radians(degrees)) * (column if along == "column" else row)
    return truth_of(smooth_hu(), iop=iop, step=tuple(2.0 * (np.cross(row, column) + slip)))


@pytest.mark.parametrize("degrees", [15.0, -18.5, 4.0, 27.0])
@pytest.mark.parametrize(
    "iop", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, -0.6, 0.8, 0)]
)
def test_a_resampled_tilt_has_every_voxel_at_its_patient_position(
    tmp_path: Path, degrees: float, iop: tuple[float, ...]
) -> None:
    truth = tilted(degrees, iop)
    write_series(tmp_path / "in", slices_of(truth, "P"))
    (record,) = ingest(tmp_path / "in", tmp_path, tilt="resample")
    assert isinstance(record, SeriesRecord)
    volume = read_nifti(tmp_path / record.volume_path)
    assert volume.is_orthogonal
    assert worst_p95_hu(volume, truth) <= 30
    (finding,) = [item for item in record.findings if item.code is ReasonCode.GANTRY_TILT]
    drift_mm = 2 * np.tan(np.radians(abs(degrees))) * (len(truth.hu) - 1)
    assert f"{abs(degrees):.2f} degrees, {drift_mm:.1f} mm" in finding.detail
    assert "resampled" in finding.detail
    assert record.padding_voxels == np.count_nonzero(volume.hu == PADDING_HU) > 0


def test_a_noisy_tilt_keeps_its_detail(tmp_path: Path) -> None:
    truth = tilted(18.5)
    # noise in every pixel is the finest detail there is
    truth.hu = (truth.hu + np.random.default_rng(2).normal(0, 20, truth.hu.shape)).astype(np.int16)
    write_series(tmp_path / "in", slices_of(truth, "P"))
    (record,) = ingest(tmp_path / "in", tmp_path, tilt="resample")
    assert isinstance(record, SeriesRecord)
    assert worst_p95_hu(read_nifti(tmp_path / record.volume_path), truth) <= 30


def test_the_origin_of_a_resampled_volume_is_that_of_the_first_slice_on_its_grid(tmp_path: Path) -> None:
    truth = tilted(15.0)
    write_series(tmp_path / "in", slices_of(truth, "P"))
    (record,) = ingest(tmp_path / "in", tmp_path, tilt="resample")
    assert isinstance(record, SeriesRecord)
    volume = read_nifti(tmp_path / record.volume_path)
    kji = volume.to_kji(truth.ipp[0])
    # the first slice is not moved: it stands on whole indices
    assert np.abs(volume.to_lps_mm(np.rint(kji)) - truth.ipp[0]).max() <= 1e-6
    k, j, i = np.rint(kji).astype(int)
    # along the shear the grid has two points to a pixel
    assert np.array_equal(volume.hu[k, j : j + 80 : 2, i : i + 36], truth.hu[0])


def test_pixels_of_the_source_keep_the_grid_of_the_source(tmp_path: Path) -> None:
    truth = tilted(-15.0)
    write_series(tmp_path / "in", slices_of(truth, "P"))
    (record,) = ingest(tmp_path / "in", tmp_path, tilt="resample")
    assert isinstance(record, SeriesRecord)
    assert record.slice_affine_lps is not None
    place = np.array(record.slice_affine_lps) @ [7, 5, 3, 1]
    assert np.abs(place[:3] - places_of(truth, 7)[5, 3]).max() < 1e-6


def test_a_tilt_is_refused_where_the_policy_says_so_with_its_slices_and_figures(tmp_path: Path) -> None:
    truth = tilted(10.0)
    write_series(tmp_path / "in", slices_of(truth, "P"))
    (outcome,) = ingest(tmp_path / "in", tmp_path, tilt="refuse")
    assert isinstance(outcome, Rejection)
    assert outcome.reason is ReasonCode.GANTRY_TILT
    assert "10.00 degrees" in outcome.detail
    assert len(outcome.sop_instance_uids) == len(truth.hu)


def test_a_straight_series_is_left_alone_by_the_policy_of_tilts(tmp_path: Path) -> None:
    truth = truth_of()
    write_series(tmp_path / "in", slices_of(truth, "P"))
    (record,) = ingest(tmp_path / "in", tmp_path, tilt="resample")
    assert isinstance(record, SeriesRecord)
    assert record.findings == ()
    assert np.array_equal(read_nifti(tmp_path / record.volume_path).hu, truth.hu)


@settings(max_examples=25, deadline=None)
@given(
    shear=st.tuples(st.floats(-1.2, 1.2), st.floats(-1.2, 1.2)),
    spacing=st.tuples(st.floats(0.3, 3), st.floats(0.4, 1), st.floats(0.4, 1)),
    seed=st.integers(0, 1000),
)
def test_any_shear_comes_out_orthogonal_and_at_its_place(
    shear: tuple[float, float], spacing: tuple[float, float, float], seed: int
) -> None:
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 0] += shear[0] * affine[:3, 1] + shear[1] * affine[:3, 2]
    affine[:3, 3] = 11, -7, 301
    source = CTVolume(smooth_hu((9, 30, 28), seed), affine)
    hu, straight, outside = upright(source.hu, affine, PADDING_HU)
    volume = CTVolume(hu, straight)
    assert volume.is_orthogonal
    assert outside is None or np.all(hu[outside.to_array()] == PADDING_HU)
    for k, plane in enumerate(source.hu):
        rows, columns = np.mgrid[:30, :28]
        places = source.to_lps_mm(np.stack([np.full_like(rows, k), rows, columns], axis=-1))
        kji = np.moveaxis(np.round(volume.to_kji(places), 5), -1, 0)
        assert np.abs(kji[0] - k).max() < 1e-6
        got = map_coordinates(hu.astype(float), kji, order=1, cval=np.nan)
        assert np.percentile(np.abs(got - plane), 95) <= 30


def test_padding_is_moved_and_never_mixed_with_tissue() -> None:
    hu = np.full((6, 30, 30), 50, dtype=np.int16)
    padding = np.zeros(hu.shape, dtype=bool)
    padding[:, :, :6] = True
    hu[padding] = PADDING_HU
    affine = np.diag([2.0, 0.7, 0.7, 1.0])
    affine[1, 0] = 0.5
    affine[2, 0] = 0.3
    moved, _, outside = upright(hu, affine, PADDING_HU, list(padding))
    assert outside is not None
    assert set(np.unique(moved)) == {PADDING_HU, 50}
    assert np.array_equal(outside.to_array(), moved == PADDING_HU)


def test_slices_side_by_side_are_no_tilt() -> None:
    affine = np.eye(4)
    affine[1, 0] = 40
    with pytest.raises(GeometryError, match="field"):
        upright(smooth_hu(), affine, PADDING_HU)


@pytest.mark.realdata
def test_a_real_tilt_is_resampled_to_where_its_dicom_says(traps: Path, tmp_path: Path) -> None:
    import pydicom

    source = traps / "tilt_philips_-18.5_jpegls"
    (record,) = [item for item in ingest(source, tmp_path, tilt="resample") if isinstance(item, SeriesRecord)]
    volume = read_nifti(tmp_path / record.volume_path)
    assert volume.is_orthogonal
    datasets = [pydicom.dcmread(path) for path in sorted(source.glob("*.dcm"))[::7]]
    truth = Truth(
        np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in datasets]),
        np.array([ds.ImagePositionPatient for ds in datasets], dtype=float),
        np.array([ds.ImageOrientationPatient for ds in datasets], dtype=float),
        np.array(datasets[0].PixelSpacing, dtype=float),
    )
    assert worst_p95_hu(volume, truth) <= 30
    bottom = np.array(record.slice_affine_lps)[:3, 3]
    assert np.abs(volume.to_lps_mm(np.rint(volume.to_kji(bottom))) - bottom).max() <= 0.1

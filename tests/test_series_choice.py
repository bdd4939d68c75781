"""Of the reconstructions of one study one is chosen, the others are kept, and each says why."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from dicom_factory import body_hu, slices_of, truth_of, write_series

from data_contracts.errors import ContractError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import QualityFinding, SeriesRecord
from flows.intake.series_choice import remember_preference, remembered_preference, to_be_read
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series
from pipeline.intake.kernel_sharpness import sharpness_of
from pipeline.intake.series_choice import choose_series

_RECORD = SeriesRecord(
    series_key="0" * 16,
    study_key="study",
    patient_key="patient",
    site="a",
    volume_path="series/x/volume.nii",
    n_slices=300,
    shape_kji=(300, 512, 512),
    spacing_kji_mm=(1.0, 0.7, 0.7),
    affine_lps=((0, 0, 0.7, 0), (0, 0.7, 0, 0), (1.0, 0, 0, 0), (0, 0, 0, 1)),
    series_uid_key="",
    sop_uid_keys=(),
    pixel_sha256="",
    source_path="",
    slice_thickness_mm=1.0,
    kernel="B30f",
    manufacturer="SIEMENS",
)
KEYS = [f"{number:016x}" for number in range(9)]


def series(key: str, step_mm: float = 1.0, length_mm: float = 300.0, **facts: Any) -> SeriesRecord:
    n = round(length_mm / step_mm)
    affine = facts.pop("affine_lps", ((0, 0, 0.7, 0), (0, 0.7, 0, 0), (step_mm, 0, 0, 0), (0, 0, 0, 1)))
    findings = tuple(QualityFinding(code=code) for code in facts.pop("flaws", ()))
    return _RECORD.model_copy(
        update={
            "series_key": key,
            "n_slices": n,
            "affine_lps": affine,
            "slice_thickness_mm": step_mm,
            "findings": findings,
            **facts,
        }
    )


def choice(*records: SeriesRecord, **preference: Any) -> tuple[str, dict[str, str]]:
    picked = choose_series(records, IngestParams.from_mapping(preference))
    for order in list(permutations(records))[:6]:
        assert choose_series(order, IngestParams.from_mapping(preference)) == picked
    assert set(picked.reasons) == {record.series_key for record in records}
    return picked.series_key, picked.reasons


def test_the_only_series_of_a_study_is_chosen() -> None:
    key, reasons = choice(series(KEYS[0]))
    assert key == KEYS[0]
    assert reasons[key].startswith("chosen, the only series: original, axial, whole length, 300 mm")


def test_thin_slices_are_chosen_before_thick_ones_and_both_say_so() -> None:
    key, reasons = choice(series(KEYS[0], 5.0), series(KEYS[1], 1.0))
    assert key == KEYS[1]
    assert "thin slices of 1 mm" in reasons[KEYS[1]]
    assert reasons[KEYS[0]] == "kept, not chosen: thick slices of 5 mm (thin slices of 1 mm chosen)"


def test_thinner_than_preferred_is_not_better() -> None:
    key, reasons = choice(series(KEYS[0], 0.5), series(KEYS[1], 1.0), series(KEYS[2], 1.5))
    assert key == KEYS[1]
    assert "0.5 mm where 1.25 mm is preferred" in reasons[KEYS[0]]
    assert choice(series(KEYS[0], 0.5), series(KEYS[1], 1.0), preferred_thickness_mm=0.6)[0] == KEYS[0]


def test_thin_slices_with_gaps_between_them_are_thick() -> None:
    assert choice(series(KEYS[0], 10.0, slice_thickness_mm=1.0), series(KEYS[1], 2.5))[0] == KEYS[1]


@pytest.mark.parametrize(("preferred", "chosen"), [("sharp", "B70f"), ("soft", "B30f")])
def test_the_preferred_kernel_is_chosen_and_named(preferred: str, chosen: str) -> None:
    records = [series(key, kernel=kernel) for key, kernel in zip(KEYS, ("B30f", "B46f", "B70f"), strict=False)]
    key, reasons = choice(*records, preferred_kernel=preferred)
    assert next(record.kernel for record in records if record.series_key == key) == chosen
    assert f"{preferred} kernel {chosen}" in reasons[key]
    assert reasons[KEYS[1]] == f"kept, not chosen: medium kernel B46f ({preferred} kernel {chosen} chosen)"


def test_a_kernel_is_not_worth_a_thick_slice() -> None:
    records = [series(KEYS[0], 5.0, kernel="B70f"), series(KEYS[1], 1.0, kernel="B30f")]
    assert choice(*records, preferred_kernel="sharp")[0] == KEYS[1]


def test_a_thin_series_of_a_part_of_the_lungs_is_kept_but_not_chosen() -> None:
    key, reasons = choice(series(KEYS[0], 1.0, 60.0), series(KEYS[1], 2.5, 300.0))
    assert key == KEYS[1]
    assert "only a part, 60 mm" in reasons[KEYS[0]]


def test_axial_originals_are_chosen_before_reformats_and_computed_images() -> None:
    coronal = ((0, 0, 0.7, 0), (1.0, 0, 0, 0), (0, -0.7, 0, 0), (0, 0, 0, 1))
    derived = series(KEYS[2], flaws=[ReasonCode.DERIVED_IMAGE])
    key, reasons = choice(series(KEYS[0], 5.0), series(KEYS[1], affine_lps=coronal), derived)
    assert key == KEYS[0]
    assert "not axial" in reasons[KEYS[1]]
    assert "computed from other images" in reasons[KEYS[2]]


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        (ReasonCode.LOSSY_COMPRESSION, "compressed with loss"),
        (ReasonCode.SLICES_INTERPOLATED, "interpolated"),
        (ReasonCode.INCOMPLETE_SOURCE, "unreadable files"),
    ],
)
def test_a_series_without_a_flaw_is_chosen_before_one_with(flaw: ReasonCode, words: str) -> None:
    key, reasons = choice(series(KEYS[0], flaws=[flaw]), series(KEYS[1], 2.0))
    assert key == KEYS[1]
    assert words in reasons[KEYS[0]]


def test_equal_series_have_a_fixed_choice_in_any_order() -> None:
    records = [series(key) for key in KEYS[:4]]
    random.Random(1).shuffle(records)
    key, reasons = choice(*records)
    assert key == KEYS[0]
    assert reasons[KEYS[3]] == "kept, not chosen: equal to the chosen one"


@pytest.mark.parametrize(
    ("kernel", "manufacturer", "kind"),
    [
        ("B30f", "SIEMENS", "soft"),
        ("B20s", "", "soft"),
        ("B46f", "SIEMENS", "medium"),
        ("B50f", "SIEMENS", "sharp"),
        ("B70f", "SIEMENS", "sharp"),
        ("Br40d 3", "Siemens Healthineers", "soft"),
        ("Bl57d", "SIEMENS", "sharp"),
        ("I31f 3", "SIEMENS", "soft"),
        ("I70f 2", "SIEMENS", "sharp"),
        ("Qr40", "", "soft"),
        ("STANDARD", "GE MEDICAL SYSTEMS", "soft"),
        ("SOFT", "GE MEDICAL SYSTEMS", "soft"),
        ("LUNG", "GE MEDICAL SYSTEMS", "sharp"),
        ("BONEPLUS", "GE MEDICAL SYSTEMS", "sharp"),
        ("BONE", "", "sharp"),
        ("CHST", "GE MEDICAL SYSTEMS", "medium"),
        ("DETAIL", "GE MEDICAL SYSTEMS", "medium"),
        ("B", "Philips", "soft"),
        ("C", "Philips", "medium"),
        ("D", "Philips", "sharp"),
        ("L", "Philips", "sharp"),
        ("YA", "Philips", "sharp"),
        ("L", "SIEMENS", ""),
        ("FC01", "TOSHIBA", "soft"),
        ("FC10", "TOSHIBA", "soft"),
        ("FC30", "TOSHIBA", "sharp"),
        ("FC51", "TOSHIBA", "sharp"),
        ("FC51", "CANON_MEC", "sharp"),
        ("FC86", "TOSHIBA", "sharp"),
        ("B_SHARP_C", "UIH", "sharp"),
        ("B_SOFT_B", "UIH", "soft"),
        ("", "GE", ""),
        ("XYZ", "", ""),
    ],
)
def test_kernels_are_soft_or_sharp_by_the_names_of_their_makers(kernel: str, manufacturer: str, kind: str) -> None:
    assert sharpness_of(kernel, manufacturer) == kind


def test_a_preference_is_remembered_until_another_is_stated(tmp_path: Path) -> None:
    file = tmp_path / "preferred_series.json"
    assert remembered_preference(file) == IngestParams()
    remember_preference(file, IngestParams(preferred_kernel="sharp"))
    remember_preference(file, IngestParams())
    assert remembered_preference(file).preferred_kernel == "sharp"
    remember_preference(file, IngestParams(preferred_thickness_mm=2.0))
    again = remembered_preference(file)
    assert (again.preferred_kernel, again.preferred_thickness_mm) == ("sharp", 2.0)
    for broken in ("[]", "[{}]", "3", '{"preferred_kernel": []}', ""):
        file.write_text(broken)
        with pytest.raises(ContractError, match="Delete it"):
            remembered_preference(file)


def test_the_table_of_series_says_which_is_chosen_and_why(tmp_path: Path) -> None:
    first = slices_of(truth_of(), "P")
    for number, kernel in enumerate(("B30f", "B70f")):
        datasets = slices_of(truth_of(body_hu(seed=number)), "P", study=first[0].StudyInstanceUID)
        for ds in datasets:
            ds.ConvolutionKernel, ds.Manufacturer = kernel, "SIEMENS"
        write_series(tmp_path / "in" / kernel, datasets)
    workspace = Workspace(tmp_path / "ws").create()
    pseudonymizer, params = Pseudonymizer(b"secret"), IngestParams()
    for raw in discover(tmp_path / "in", pseudonymizer, params, tmp_path / "scratch").series:
        ingest_series(raw, pseudonymizer, params, workspace.series_root, "a")
    for preferred, kernel in (("sharp", "B70f"), ("soft", "B30f")):
        remember_preference(workspace.preference_file, IngestParams(preferred_kernel=preferred))  # type: ignore[arg-type]
        table, _ = workspace.rebuild_series_tables()
        (chosen,) = table[table["chosen"]]["kernel"]
        assert chosen == kernel
        assert all(text.startswith(("chosen among 2", "kept, not chosen")) for text in table["choice"])
    records = workspace.series_records()
    other = next(record.series_key for record in records if record.kernel == "B70f")
    read = to_be_read(records, set(), remembered_preference(workspace.preference_file))
    assert [record.kernel for record in read] == ["B30f"]
    read = to_be_read(records, {other}, remembered_preference(workspace.preference_file))
    assert [record.kernel for record in read] == ["B30f", "B70f"]

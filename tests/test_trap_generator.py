"""Fresh variants of every kind of trap: sound series come out voxel for voxel, broken ones never without a word."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from make_traps import main as make_traps
from trap_generator import described, draw, write
from trap_judge import judge, run_ingest
from trap_kinds import KINDS, Draft
from trap_series import real_sources

#: a run of every kind for each; another number is another set
SEEDS = (20261121,)


def _verdict(draft: Draft, folder: Path) -> None:
    write(draft, folder / "source")
    outcome = run_ingest(folder / "source", folder / "workspace")
    wrong = judge(draft, outcome)
    assert not wrong, f"{wrong}\n{outcome.told()}\nwanted {draft.expect}: {described(draft)}"


def test_every_kind_of_the_reference_list_is_made() -> None:
    numbers = {kind.reference for kind in KINDS.values()} - {""}
    assert numbers == {f"{number:02d}" for number in range(1, 52)}


def test_a_seed_makes_the_same_files_again(tmp_path: Path) -> None:
    for kind in ("baseline", "two_acquisitions", "enhanced_per_frame_rescale", "junk_in_the_folder"):
        for name in ("first", "second"):
            write(draw(random.Random(f"7 {kind}"), kind, "case"), tmp_path / name / kind)
    files = {path.relative_to(tmp_path / "first"): path for path in (tmp_path / "first").rglob("*") if path.is_file()}
    assert len(files) > 20
    assert all((tmp_path / "second" / name).read_bytes() == path.read_bytes() for name, path in files.items())


def test_the_judge_sees_a_volume_that_is_off(tmp_path: Path) -> None:
    draft = draw(random.Random(5), "baseline", "case")
    write(draft, tmp_path / "source")
    outcome = run_ingest(tmp_path / "source", tmp_path / "workspace")
    assert judge(draft, outcome) == []
    draft.truth.hu[1] += 3
    assert "HU off" in judge(draft, outcome)[0]
    draft.truth.hu[1] -= 3
    draft.truth.ipp = draft.truth.ipp + np.array([0, 0.02, 0])
    assert "corner" in judge(draft, outcome)[0]
    draft.expect = "flag"
    assert "accepted without a word" in judge(draft, outcome)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_fresh_variant_of_each_kind_holds(kind: str, seed: int, tmp_path: Path) -> None:
    _verdict(draw(random.Random(f"{seed} {kind}"), kind, "case"), tmp_path)


@settings(
    max_examples=25,
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**32 - 1))
def test_no_trap_that_hypothesis_finds_gets_through(
    kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draft = draw(random.Random(f"{seed} {kind}"), kind, "case")
    note(described(draft))
    _verdict(draft, tmp_path_factory.mktemp("trap"))


@pytest.mark.parametrize(
    "kind", ["baseline", "missing_slice", "one_slice_off_by_1024", "a_block_off_by_1024", "gantry_tilt", "tiny_matrix"]
)
def test_windows_of_real_ct_hold(
    kind: str, nlst_dicom: Path, lidc_0001_dicom: Path, kernel_pair_dicom: Path, tmp_path: Path
) -> None:
    roots = {nlst_dicom.parent.parent, lidc_0001_dicom.parent, kernel_pair_dicom.parent}
    sources = [source for root in sorted(roots) for source in real_sources(root)]
    assert len(sources) == 4
    for seed in range(4):
        draft = draw(random.Random(f"{seed} {kind}"), kind, "case", sources)
        _verdict(draft, tmp_path / str(seed))


@pytest.mark.slow
def test_the_command_and_the_judge_script_agree_on_a_whole_set(shared_data: Path, tmp_path: Path) -> None:
    script = shared_data.parent / "checks" / "judge_traps.py"
    if not script.is_file():
        pytest.skip("the judge of traps is absent: ../shared/checks has no judge_traps.py")
    traps, workspace = tmp_path / "traps", tmp_path / "workspace"
    assert make_traps([str(traps), "--seed", "11", "--count", str(len(KINDS)), "--real", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "ingest", str(traps), "--keep-identity"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    judged = subprocess.run(
        [sys.executable, str(script), str(traps), str(workspace)], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr[-2000:]

"""A whole day, each job once, on a cohort with planted identities: nothing of them stays, and nobody is called.

Names, numbers, dates and private elements are planted in every header and in the names of folders and files; then
ingest-watch, weekly-retrain, nightly-review and drift-check run, a reader answers, and a backup is made, all under a
hook that notes every host that is asked for.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from orthanc_server import Orthanc
from test_results_push import held
from two_sites import NARROW

from data_contracts.params import PhantomParams
from pipeline.cohort.phantom import generate_cohort

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1800)]

JOBS = ("ingest_watch", "weekly_retrain", "nightly_review", "drift_check")
#: the day in one process: every job, as Prefect calls it
DAY = """
import json, sys
from flows.cli import session
from pathlib import Path
session.workspace_path = Path(sys.argv[1])
with session.engine("flows.scheduled.jobs"):
    from flows.scheduled import jobs
    states = {name: getattr(jobs, name)(return_state=True) for name in sys.argv[2:]}
print(json.dumps({name: [state.type.value, state.name, state.message] for name, state in states.items()}))
"""
#: with the key of the day every split has nodules of both labels
SPLIT = '[split]\ntrain = 0.5\nvalidation = 0.25\nsalt = "day-0"\n'
#: what the reports of the day leave out: more than the phantoms' smallest nodules
SMALLEST_MM = 7.0
#: gates that any version passes
POLICY = (
    '[policy]\nname = "day"\nmin_auc = 0.0\nmin_auc_minus_size = -1.0\nmax_ece = 1.0\nmin_test_nodules = 1\n'
    "refuse_severe_warnings = false\nrequire_card = false\n"
)


@dataclass(frozen=True)
class Day:
    """What came of it."""

    workspace: Path
    backup: Path
    states: dict[str, list[str]]
    words: list[str]
    said: dict[str, str]
    hosts: Path


def planted_words() -> list[str]:
    """Names, numbers and places that stand nowhere but in the headers, and the dates of them."""
    return [
        "Zwetschgenknoedel", "Ottilieserafina", "PQX4711-0815", "Hinterobertupfing", "Quacksalbermeier",
        "ACC9913377", "19020317", "19871126", "Sonnenblumengasse", "Krankenhausamrande", "5551234987",
    ]  # fmt: skip


def plant(file: Path, words: list[str]) -> set[str]:
    """Put them wherever a header has room; returns the UIDs it had."""
    name, given, number, town, doctor, accession, birth, day, street, house, phone = words
    dataset = pydicom.dcmread(file)
    uids = {str(dataset.get(key)) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    dataset.PatientName = f"{name}^{given}"
    dataset.PatientID = f"{number}-{dataset.get('PatientID', '')}"
    dataset.OtherPatientIDs = number
    dataset.PatientBirthDate, dataset.StudyDate, dataset.SeriesDate, dataset.ContentDate = birth, day, day, day
    dataset.AcquisitionDateTime = f"{day}101112.000000"
    dataset.InstitutionName, dataset.InstitutionAddress, dataset.StationName = house, f"{street} 5, {town}", house[:16]
    dataset.ReferringPhysicianName, dataset.OperatorsName = f"{doctor}^{given}", doctor
    dataset.AccessionNumber = accession
    dataset.PatientAddress, dataset.PatientTelephoneNumbers = f"{street}, {town}", phone
    dataset.StudyDescription = f"Thorax {name} {given} *{birth}"
    dataset.SeriesDescription = f"CT {doctor} for {name}"
    dataset.ImageComments = dataset.PatientComments = f"{given} {name}, {phone}"
    dataset.ProtocolName = f"{town} lung"
    request = pydicom.Dataset()
    request.RequestedProcedureDescription, request.RequestingPhysician = f"check {name}", doctor
    dataset.RequestAttributesSequence = [request]
    block = dataset.private_block(0x0011, f"{house} 1.0", create=True)
    block.add_new(0x01, "LO", f"{name}^{given}")
    block.add_new(0x02, "UN", f"{number} {accession}".encode())
    inner = pydicom.Dataset()
    inner.add_new(0x00100010, "PN", f"{name}^{given}")
    block.add_new(0x03, "SQ", [inner])
    dataset.save_as(file)
    return uids


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Where the reports of the night go."""
    with Orthanc(tmp_path_factory.mktemp("pacs")) as running:
        yield running


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, watched: Callable[[Path], dict[str, str]], pacs: Orthanc) -> Day:
    folder = tmp_path_factory.mktemp("day")
    words, uids = planted_words(), set()
    cohort = folder / f"{words[0]}_{words[1]}" / words[2]
    generate_cohort(PhantomParams(n_patients=8, matrix=96, spacing_a_mm=4.0, spacing_b_mm=5.0), cohort)
    for site in ("site-a", "site-b"):
        files = [path for path in sorted((cohort / site).rglob("*")) if path.is_file()]
        for path in files:
            uids |= plant(path, words)
            path.rename(path.with_name(f"{words[0]}-{path.name}.dcm"))
    (cohort / "site-a" / f"{words[0]} letter.txt").write_text(f"Dear {words[4]}, {words[1]} {words[0]} ...")
    train = "\n".join(f"{key} = {json.dumps(value)}" for key, value in NARROW.items())
    plan = folder / "day.toml"
    plan.write_text(
        'presets = ["finetune"]\n'
        f'[[sources]]\npath = "{cohort / "site-a"}"\nsite = "a"\n'
        f'[[sources]]\npath = "{cohort / "site-b"}"\nsite = "b"\n'
        f'[[annotations]]\nfiles = ["{cohort / "nodules.csv"}"]\nformat = "csv"\n'
        f"{SPLIT}[patches]\nspacing_mm = 1.5\n[train]\n{train}\n{POLICY}[schedule]\n"
        f'[push]\ndicomweb = "{pacs.url}"\n'
        f"[reports]\nmin_diameter_mm = {SMALLEST_MM}\n[drift]\nmin_nodules = 4321\n"
    )
    environment = watched(folder / "hosts.txt") | {
        "NODULEFLOW_CONFIG": str(plan),
        "NODULEFLOW_WORKSPACE": str(folder / "w"),
        "NODULEFLOW_SECRET": "a key for a day",
        "NODULEFLOW_SETTLE_S": "0",
        "NODULEFLOW_JOB_RETRY_S": "0.1",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "OMP_NUM_THREADS": "1",
    }
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1])
    said: dict[str, str] = {}

    def run(name: str, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=1700, check=False
        )
        said[name] = done.stdout + done.stderr
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    states = json.loads(run("day", "-c", DAY, str(folder / "w"), *JOBS).splitlines()[-1])
    front = ("-m", "flows", "--workspace", str(folder / "w"), "--debug")
    reports = sorted((folder / "w" / "reviews").glob("*/review.json"))
    if reports:
        answers = folder / "feedback.json"
        answers.write_text(json.dumps(_answers(json.loads(reports[0].read_text()))))
        run("feedback", *front, "feedback", str(answers))
    run("status", *front, "status")
    run("backup", *front, "backup", str(folder / "backup"))
    every = [*words, *sorted(uids)[:: max(1, len(uids) // 8)]]
    return Day(folder / "w", folder / "backup", states, every, said, folder / "hosts.txt")


def _answers(review: dict) -> dict:
    findings = review["findings"]
    answered = [
        {"finding_id": one["finding_id"], "nodule_id": one["nodule_id"], "answer": "accept"} for one in findings[:2]
    ]
    return {
        "schema_version": 2,
        "study_key": review["study_key"],
        "model_version": str(review["model_version"]),
        "reader": "AB",
        "time_utc": "2026-11-21T08:30:00Z",
        "model_visible_first": True,
        "answers": answered,
    }


def test_every_job_of_the_day_did_its_work(day: Day) -> None:
    assert {name: state[0] for name, state in day.states.items()} == dict.fromkeys(JOBS, "COMPLETED"), day.states
    assert day.states["ingest_watch"][1] == "Done"
    assert day.states["weekly_retrain"][1] == "Done"
    assert day.states["nightly_review"][1] == "Done", day.states
    assert list((day.workspace / "reviews").glob("*/answers/*.json"))


def test_reports_and_drift_follow_the_tables_of_the_configuration(day: Day) -> None:
    reviews = [json.loads(path.read_text()) for path in (day.workspace / "reviews").glob("*/review.json")]
    marks = pq.read_table(day.workspace / "nodules.parquet").to_pandas()
    nodules = marks.groupby("nodule_id")["diameter_mm"].mean()  # of its readers
    reported = {finding["nodule_id"] for review in reviews for finding in review["findings"]}
    assert reported == set(nodules[nodules >= SMALLEST_MM].index) != set(nodules.index)
    assert "4321 are asked" in day.states["drift_check"][2], day.states


def test_the_results_of_the_night_are_in_the_pacs_under_the_names_they_came_with(day: Day, pacs: Orthanc) -> None:
    assert "sent to the PACS" in day.states["nightly_review"][2], day.states
    found = [dataset for study in held(pacs).values() for dataset in study]
    assert {"SEG", "SR", "DOC"} <= {dataset.Modality for dataset in found}
    assert {str(dataset.PatientName) for dataset in found} == {f"{day.words[0]}^{day.words[1]}"}
    assert len({dataset.StudyInstanceUID for dataset in found}) == len(
        list((day.workspace / "reviews").glob("*/review.json"))
    )


def test_nobody_beyond_this_machine_was_asked_for(day: Day) -> None:
    assert day.hosts.read_text() == ""


def test_no_file_no_database_page_and_no_line_holds_anything_planted(day: Day) -> None:
    found = [
        (name, word)
        for root in (day.workspace, day.backup)
        for path in sorted(root.rglob("*"))
        for name, content in [(path.relative_to(root).as_posix(), str(path).encode()), *_contents(root, path)]
        for word in _present(day.words, content)
    ]
    found += [(name, word) for name, text in day.said.items() for word in _present(day.words, text.encode())]
    assert found == []


def test_what_looks_would_find_it(day: Day, tmp_path: Path) -> None:
    """The search above is not blind: it finds a word in each kind of file that hides what it holds."""
    import pandas as pd

    word = day.words[0]
    pd.DataFrame({"a": [word] * 3}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    np.savez_compressed(tmp_path / "a.npz", a=np.array([word] * 3))
    (tmp_path / "a.pdf").write_bytes(b"%PDF\n<<>>stream\n" + zlib.compress(word.encode() * 9) + b"\nendstream")
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE a (b)")
        database.execute("INSERT INTO a VALUES (?)", (word,))
    for path in sorted(tmp_path.iterdir()):
        assert any(_present([word], content) for _, content in _contents(tmp_path, path)), path.name


def _present(words: list[str], content: bytes) -> list[str]:
    """The words that stand in some bytes, in any case, also two bytes a letter; dates also with their hyphens."""
    lower = content.lower()
    found = []
    for word in words:
        forms = [word.lower().encode(), word.lower().encode("utf-16-le"), word[::-1].lower().encode()]
        if re.fullmatch(r"(19|20)\d{6}", word):
            forms = [word.encode(), f"{word[:4]}-{word[4:6]}-{word[6:]}".encode()]
            if not re.search(rb"(?<![0-9])" + forms[0] + rb"(?![0-9])", lower):
                forms = forms[1:]
        if any(form in lower for form in forms):
            found.append(word)
    return found


def _contents(root: Path, path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file as they are, and what is packed in it."""
    if not path.is_file():
        return
    name, content = path.relative_to(root).as_posix(), path.read_bytes()
    if path.suffix == ".nii" or "openvino" in name:
        content = content[:4096]  # voxels and compiled kernels
    if path.suffix in (".safetensors", ".pt2") and len(content) > 2**21:
        content = content[: 2**20] + content[-(2**20) :]  # names stand at both ends, numbers between
    yield name, content
    if content[:4] == b"PK\3\4":
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if archive.getinfo(member).file_size < 2**20:  # larger ones are weights
                    inside = archive.read(member)
                    yield f"{name}!{member}", inside
                    yield f"{name}!{member}", inside.replace(b"\0", b"")
    elif content[:4] == b"PAR1":
        table = pq.read_table(path)
        yield f"{name}!", json.dumps(table.to_pydict(), default=str).encode()
        yield f"{name}!schema", str(table.schema.metadata).encode()
    elif content[:4] == b"%PDF":
        for stream in re.finditer(rb"stream\r?\n(.*?)\r?\n?endstream", content, re.DOTALL):
            packed = stream.group(1).strip()
            if packed.endswith(b"~>"):
                packed = base64.a85decode(b"<~" + packed, adobe=True)
            with suppress(zlib.error):
                yield f"{name}!stream", zlib.decompressobj().decompress(packed)

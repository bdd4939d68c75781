"""No name, number or UID of a patient reaches a log, a table, a database or a terminal."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_factory import BIRTH_DATE, INSTITUTION, NAME, PHYSICIAN, slices_of, truth_of, write_series

from flows import log_filter
from flows.log_filter import HIDDEN, install, register_identifiers, scrub


@pytest.fixture
def scrubbing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The filter at work, and gone behind the test."""
    factory, excepthook = logging.getLogRecordFactory(), threading.excepthook
    monkeypatch.setattr(log_filter, "_registered", set())
    with warnings.catch_warnings():
        install()
        yield
    logging.setLogRecordFactory(factory)
    threading.excepthook = excepthook


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("reading Zwetschge^Ottilie now", "Zwetschge"),
        ("(0010,0010) PN: 'Zwetschge Ottilie'", "Zwetschge"),
        ("study 1.3.6.1.4.1.14519.5.2.1 failed", "14519"),
        ("id 19480229", "19480229"),
        ("case MR-17/slice", "MR-17"),
        ("Mueller's scan, MUELLER", "ueller"),
        ("<b>mueller</b>", "mueller"),
        ("path /data/Mueller_Hans/1.dcm", "Mueller"),
    ],
)
def test_what_could_name_a_patient_is_hidden(text: str, hidden: str, scrubbing: None) -> None:
    register_identifiers(["MR-17", "Mueller^Hans"])
    assert hidden.casefold() not in scrub(text).casefold()
    assert HIDDEN in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "series 19ed2e612a95c3d3, 133 slices (padding_replaced)",
        "transfer syntax 1.2.840.10008.1.2.4.80",
        "http://127.0.0.1:41234/api",
        "noduleflow: the workspace cannot be written (No space left on device)",
        "Created task run 'ingest-series-0b3' for task 'ingest-series'",
        "spacing 0.703125 mm, 2.5 mm, 512x512",
    ],
)
def test_what_names_nobody_stays(text: str) -> None:
    assert scrub(text) == text


def test_every_logger_is_scrubbed_whoever_writes(scrubbing: None) -> None:
    register_identifiers(["Zwetschge^Ottilie"])
    stream = io.StringIO()
    for name in ("pydicom", "pynetdicom.events", "prefect.flow_runs", "anything"):
        logger, handler = logging.Logger(name), logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
        logger.addHandler(handler)
        logger.warning("patient %s of %d", "Ottilie", 19480229)
        logger.warning("badly %d made", "Zwetschge")
        try:
            raise ValueError("no value in Zwetschge^Ottilie (0010,0020) LO: 'MR'")
        except ValueError:
            logger.exception("failed", stack_info=True)
    text = stream.getvalue()
    assert text.count("Traceback") == 4
    assert not [word for word in ("Zwetschge", "Ottilie", "19480229", "'MR'") if word in text]


def test_a_warning_and_a_thread_that_dies_tell_no_name(scrubbing: None, capsys: pytest.CaptureFixture[str]) -> None:
    register_identifiers(["Zwetschge^Ottilie"])

    def die() -> None:
        raise ValueError("Zwetschge")

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    warnings.showwarning("Invalid value Zwetschge", UserWarning, "x.py", 1)
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert "Invalid value" in said
    assert "Zwetschge" not in said


@pytest.mark.parametrize("text", ["a" * 200_000, "^" * 50_000, "1." * 50_000, "(" * 50_000, "(0010,0010) " * 5_000])
def test_a_long_message_does_not_hold_up_the_program(text: str, scrubbing: None) -> None:
    register_identifiers(["Zwetschge"])
    started = time.process_time()
    scrub(text)
    assert time.process_time() - started < 2


def _identifiers(dataset: pydicom.Dataset) -> set[str]:
    """Direct identifiers of a header, long enough to be nobody else's bytes."""
    keywords = ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID")
    values = [str(dataset.get(keyword, "")) for keyword in (*keywords, "SOPInstanceUID", "FrameOfReferenceUID")]
    return {value for value in values if len(value) >= 6} | {
        part for value in values[:1] for part in value.split("^") if len(part) >= 6
    }


@pytest.mark.slow
@pytest.mark.server
def test_nothing_of_an_ingest_in_debug_mode_holds_an_identifier(
    nlst_dicom: Path, kernel_pair_dicom: Path, tmp_path: Path
) -> None:
    source, secrets = tmp_path / "source", {*NAME.split("^"), *PHYSICIAN.split("^"), INSTITUTION, BIRTH_DATE}
    write_series(source / NAME.replace("^", "_"), slices_of(truth_of(), "MR-171717"))
    broken = slices_of(truth_of(), f"{NAME} 171717")
    broken[3].PixelData = broken[3].PixelData[:100]
    write_series(source / "broken", broken)
    for number, folder in enumerate((nlst_dicom, kernel_pair_dicom)):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".xml"][:5]
        for path in files:
            target = source / f"real-{number}" / path.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    for path in source.rglob("*"):
        if path.is_file():
            secrets |= _identifiers(pydicom.dcmread(path, stop_before_pixels=True, force=True))
    workspace = tmp_path / "w"
    environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "DEBUG"}
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace), "--debug", "--json", "ingest", str(source)]
    done = subprocess.run(command, capture_output=True, check=False, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"accepted" in done.stdout
    written = {"standard output": done.stdout, "standard error": done.stderr}
    written |= {str(path.relative_to(workspace)): path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    assert any("prefect" in name for name in written)
    forms = {secret: (secret.encode(), secret.lower().encode(), secret.encode("utf-16-le")) for secret in secrets}
    leaks = [
        (name, secret)
        for name, content in written.items()
        if not name.startswith(("series/", "identity/.locks")) or name.endswith(".json")
        for secret, variants in forms.items()
        if any(variant in content for variant in variants)
    ]
    assert leaks == []

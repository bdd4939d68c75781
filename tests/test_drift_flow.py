"""Reviews add to a window, the window is judged, and status, command and event say what came of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_contracts.drift import NAMES, NUMBERS, REFERENCE_TABLE, DriftReport
from data_contracts.params import DriftParams
from flows.reviewing import drift
from flows.settings import Settings
from flows.workspace import Workspace

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
QUICK = DriftParams(permutations=1999)
RUN = "0123456789abcdef"


def columns(rng: np.random.Generator, n: int, noise: float = 10.0, kernel: str = "B30f") -> pd.DataFrame:
    """What reference and reviews share, of n nodules."""
    table = pd.DataFrame({"score": rng.uniform(0.2, 0.8, n)})
    table["embedding"] = list(rng.normal(size=(n, 4)).astype(np.float32))
    for name in NUMBERS:
        table[name] = rng.normal(noise if name == "noise" else 10.0, 1, n)
    for name in NAMES:
        table[name] = kernel if name == "kernel" else "same"
    return table


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with the reference of one run: 60 nodules of 60 patients."""
    made = Workspace(tmp_path / "workspace").create()
    table = columns(np.random.default_rng(0), 60)
    table["patient"] = table["series"] = np.arange(60)
    table["label"] = pd.array([0, 1] * 30, dtype="Int8")
    (made.runs_root / RUN).mkdir(parents=True)
    REFERENCE_TABLE.write(made.runs_root / RUN / drift.REFERENCE_FILE, table)
    return made


def review(workspace: Workspace, study: int, *, when: datetime = NOW, **changes: Any) -> None:
    """One reviewed study of a patient of its own, with one nodule."""
    part = columns(np.random.default_rng(1000 + study), 1, **changes)
    part["study_key"], part["patient_key"], part["series_key"] = f"study{study}", f"patient{study}", f"series{study}"
    part["nodule_id"] = f"nodule{study}"
    drift.keep_study(workspace, RUN, [part], when)


def report(workspace: Workspace, params: DriftParams = QUICK) -> DriftReport:
    return drift.drift_report(workspace, "model", "3", workspace.runs_root / RUN, params, NOW)


def test_with_few_reviews_there_is_no_verdict_but_a_count(workspace: Workspace) -> None:
    assert report(workspace).reasons == ("too few nodules yet: 0 of 30",)
    for study in range(7):
        review(workspace, study)
    found = report(workspace)
    assert (found.verdict, found.reasons) == ("too few", ("too few nodules yet: 7 of 30",))


def test_reviews_like_the_reference_are_ok_and_another_scanner_is_an_alert(workspace: Workspace) -> None:
    for study in range(40):
        review(workspace, study, when=NOW - timedelta(days=3))
    assert report(workspace).verdict == "ok"
    for study in range(100, 140):
        review(workspace, study, noise=14.0, kernel="B70f")
    found = report(workspace, QUICK.model_copy(update={"window_studies": 40}))
    assert (found.verdict, found.n_studies) == ("alert", 40)
    assert any("'B70f' 0% in the reference, 100% now" in reason for reason in found.reasons)
    assert "alert" in drift.text_of(found)


def test_a_study_that_is_reviewed_again_counts_once_and_old_ones_no_more(workspace: Workspace) -> None:
    for study in range(5):
        review(workspace, study, when=NOW - timedelta(days=400))
        review(workspace, study + 50, when=NOW - timedelta(days=2))
        review(workspace, study + 50, when=NOW - timedelta(days=1), kernel="other")
    window = drift.window_of(workspace, RUN, QUICK, NOW)
    assert sorted(window["study_key"]) == [f"study{number}" for number in range(50, 55)]
    assert set(window["kernel"]) == {"other"}
    assert len(list((workspace.drift_root / RUN).glob("*.parquet"))) == 15  # nothing was written over


def test_a_torn_part_is_said_and_passed_over(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for study in range(3):
        review(workspace, study)
    next(iter((workspace.drift_root / RUN).glob("*.parquet"))).write_bytes(b"torn")
    assert len(drift.window_of(workspace, RUN, QUICK, NOW)) == 2
    assert "table drift cannot be read" in capsys.readouterr().err


def test_a_version_without_a_reference_says_what_to_do(workspace: Workspace) -> None:
    (workspace.runs_root / RUN / drift.REFERENCE_FILE).unlink()
    assert "train it again" in report(workspace).reasons[0]


def test_the_reference_names_no_patient(workspace: Workspace) -> None:
    table = REFERENCE_TABLE.read(workspace.runs_root / RUN / drift.REFERENCE_FILE)
    assert not {"patient_key", "study_key", "series_key", "nodule_id", "patch_id"} & set(table.columns)


def test_an_alarm_is_kept_for_status_and_sent_as_an_event(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect.events
    from prefect.settings import PREFECT_API_URL, temporary_settings

    for study in range(40):
        review(workspace, study, when=datetime.now(UTC), noise=14.0, kernel="B70f")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(prefect.events, "emit_event", lambda **event: sent.append(event))
    folder = workspace.runs_root / RUN
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert drift.watch(workspace, "model", "3", folder, QUICK).verdict == "alert"
    assert sent[0]["event"] == "noduleflow.drift.alert"
    assert sent[0]["resource"]["prefect.resource.id"] == "noduleflow.version.model.3"
    assert not any("patient" in str(key) and "n_" not in str(key) for key in sent[0]["payload"])
    kept = drift.newest_report(workspace, "model", "3")
    assert kept is not None
    assert kept.verdict == "alert"
    assert drift.newest_report(workspace, "model", "2") is None
    from flows.status import _drift

    record, lines = _drift(workspace, Settings(model_name="model"), "3")
    assert record is not None
    assert record["verdict"] == "alert"
    assert lines[0].startswith("drift       alert")
    assert _drift(workspace, Settings(model_name="model"), None)[0] is None


def test_without_a_server_or_with_one_that_refuses_an_alarm_is_kept_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect.events
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def refuse(**event: Any) -> None:
        raise OSError("no route")

    for study in range(40):
        review(workspace, study, when=datetime.now(UTC), kernel="B70f")
    monkeypatch.setattr(prefect.events, "emit_event", refuse)
    for address in (None, "http://127.0.0.1:1/api"):
        with temporary_settings({PREFECT_API_URL: address}):
            assert drift.watch(workspace, "model", "3", workspace.runs_root / RUN, QUICK).verdict == "alert"
    assert len(list(drift.reports_root(workspace, RUN).glob("*.json"))) == 2

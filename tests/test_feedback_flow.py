"""Answers in a workspace: kept once, settled into labels that a dataset takes, and undone without a trace."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from answers_factory import (
    DIAMETER_MM,
    ELSEWHERE,
    PLACES,
    answers,
    finding_id,
    review_study,
    reviewed_workspace,
    study_key,
)
from results_factory import program, verified

from data_contracts.errors import AnnotationError, NothingUsableError, UsageError
from data_contracts.feedback import ReaderFeedback
from data_contracts.params import LabelParams, SplitParams
from flows.cli import main
from flows.reviewing.answers import answers_of, feedback_params, keep_answers
from flows.reviewing.feedback import agreement_of, export_labels, open_cases, take_in
from flows.reviewing.feedback_reports import is_dicom, read_report, write_report
from flows.reviewing.pages import Pages
from flows.reviewing.reader_labels import refresh_labels
from flows.reviewing.waiting import waiting_page
from flows.workspace import Workspace
from pipeline.cohort.consensus import nodules_by_consensus
from pipeline.cohort.settled import settled_candidates, without_waiting
from pipeline.cohort.split import split_patients

REJECT = {"answer": "reject", "reason": "vessel"}
LATER = {"time_utc": "2026-11-20T12:00:00+00:00"}
MISSED = {"missed": ({"lps_mm": ELSEWHERE, "diameter_mm": 6.0, "malignant": True},)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return reviewed_workspace(tmp_path / "workspace", pictures=False)


def consensus(workspace: Workspace) -> pd.DataFrame:
    return nodules_by_consensus(workspace.nodules(), LabelParams()).set_index("nodule_id")


def row(workspace: Workspace, number: int, nodule: int) -> pd.Series:
    return consensus(workspace).loc[f"nodule-{finding_id(number, nodule)}"]


def keep(workspace: Workspace, *given: ReaderFeedback) -> dict[str, object]:
    for one in given:
        keep_answers(workspace, one)
    return refresh_labels(workspace)


def test_what_one_reader_says_is_in_the_table_and_changes_no_dataset(workspace: Workspace) -> None:
    before, marks = consensus(workspace), workspace.nodules()
    counts = keep(workspace, answers(0, "AB", {0: REJECT, 1: {"answer": "correct", "diameter_mm": 20.0}}, **MISSED))
    assert (counts["answered"], counts["settled"], counts["waiting"]) == (3, 0, 3)
    pd.testing.assert_frame_equal(consensus(workspace), before)
    table = workspace.nodules()
    own = table[table["source"] == "reader"].set_index("answer")
    assert set(own["standing"]) == {"single"} and set(own["reader"]) == {"answer-ab"}
    assert own.loc["correct", "diameter_mm"] == 20.0 and own.loc["missed", "label"] == 1
    kept = table[table["source"] != "reader"][list(marks.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, marks, check_dtype=False)


def test_what_two_readers_agree_on_is_the_label_and_a_rejected_finding_is_in_no_dataset(workspace: Workspace) -> None:
    said = {
        0: REJECT,
        1: {"answer": "correct", "diameter_mm": 12.0, "malignant": True, "nodule_type": "ground_glass"},
        2: {},
    }
    before = consensus(workspace)
    counts = keep(
        workspace,
        answers(0, "AB", said, **MISSED),
        answers(0, "CD", {**said, 1: {**said[1], "diameter_mm": 13.0}}, **LATER, **MISSED),
    )
    assert (counts["settled"], counts["rejected"], counts["waiting"]) == (4, 1, 0)
    after = consensus(workspace)
    assert f"nodule-{finding_id(0, 0)}" not in after.index
    corrected = row(workspace, 0, 1)
    assert (corrected["diameter_mm"], corrected["label"], corrected["texture"]) == (12.5, 1, 1.0)
    assert corrected["source"] == "lidc-xml;reader" and corrected["n_readers"] == 2
    untouched = row(workspace, 0, 2)
    assert untouched["diameter_mm"] == DIAMETER_MM and untouched["label"] == 0, "the annotation's rating stays"
    new = after.loc[[name for name in after.index if name.startswith("missed-")]].iloc[0]
    assert (new["label"], new["diameter_mm"], new["x_mm"]) == (1, 6.0, ELSEWHERE[0])
    # patients stay in their split, and the other study is as it was
    patients = {record.patient_key for record in workspace.series_records()}
    assert split_patients(patients, SplitParams()) == split_patients(patients, SplitParams())
    other = before["series_key"] == study_key(1)
    pd.testing.assert_frame_equal(
        after[after["series_key"] == study_key(1)][["x_mm", "diameter_mm", "label"]],
        before[other][["x_mm", "diameter_mm", "label"]],
    )


def test_what_readers_differ_on_waits_for_an_adjudicator_whose_word_counts(workspace: Workspace) -> None:
    differ = answers(0, "AB", {0: {}}), answers(0, "CD", {0: REJECT}, **LATER)
    keep(workspace, *differ)
    assert [item["finding_id"] for item in open_cases(workspace)["adjudicate"]] == [finding_id(0, 0)]
    assert f"nodule-{finding_id(0, 0)}" in consensus(workspace).index
    late = {"time_utc": "2026-11-20T20:00:00+00:00", "role": "adjudicator"}
    keep(workspace, answers(0, "EF", {0: {"answer": "correct", "diameter_mm": 5.0, "malignant": False}}, **late))
    assert open_cases(workspace)["adjudicate"] == []
    assert (row(workspace, 0, 0)["diameter_mm"], row(workspace, 0, 0)["label"]) == (5.0, 0)
    own = workspace.nodules().query("source == 'reader'").set_index("reader")["standing"].to_dict()
    assert own == {"answer-ab": "overruled", "answer-cd": "overruled", "answer-ef": "adjudicated"}
    assert len(without_waiting(workspace.nodules())) == len(workspace.nodules()) - 2


def test_answers_that_are_taken_back_leave_the_annotations_as_they_were(workspace: Workspace) -> None:
    before = workspace.nodules()
    keep(workspace, answers(0, "AB", {0: REJECT}), answers(0, "CD", {0: REJECT}, **LATER))
    assert len(consensus(workspace)) == 5
    for file in workspace.reviews_root.glob("*/answers/*.json"):
        file.unlink()
    assert refresh_labels(workspace)["changed"]
    pd.testing.assert_frame_equal(workspace.nodules()[list(before.columns)], before, check_dtype=False)
    # an annotate in between rebuilds the table from its parts, answers included
    keep(workspace, answers(0, "AB", {0: REJECT}), answers(0, "CD", {0: REJECT}, **LATER))
    workspace.rebuild_nodule_table()
    assert len(consensus(workspace)) == 5


def test_the_same_answers_again_change_nothing_and_readers_at_once_lose_nothing(workspace: Workspace) -> None:
    given = [answers(0, f"reader {n}", {n % 3: {}}, comment=f"no {n}") for n in range(5)]
    threads = [threading.Thread(target=keep, args=(workspace, one)) for one in given * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = answers_of(workspace)
    assert {one.reader for one, _ in known.given} == {one.reader for one in given} and len(known.given) == 5
    table = workspace.nodules()
    assert table[table["source"] == "reader"]["reader"].nunique() == 5
    changed = workspace.nodule_table.stat().st_mtime_ns
    assert not keep_answers(workspace, given[0]).is_new
    assert not refresh_labels(workspace)["changed"] and workspace.nodule_table.stat().st_mtime_ns == changed


def test_a_comment_stays_in_its_file_and_names_are_keyed_in_tables(workspace: Workspace, tmp_path: Path) -> None:
    keep(workspace, answers(0, "Dr. Erika Mustermann", {0: {}}, comment="Frau Beispiel, Zimmer 12"))
    export_labels(workspace, tmp_path / "labels.csv")
    holding = [
        path
        for path in [*workspace.root.rglob("*"), tmp_path / "labels.csv"]
        if path.is_file() and b"Beispiel" in path.read_bytes()
    ]
    assert {path.name for path in holding} >= {"feedback.json"} and all("reviews" in path.parts for path in holding)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)
    assert workspace.nodules().query("source == 'reader'")["reader"].str.fullmatch("answer-[0-9a-f]{6}").all()
    assert pd.read_csv(tmp_path / "labels.csv")["reader"].tolist() == ["Dr. Erika Mustermann"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (answers(7, "AB"), "no report for these answers"),
        (answers(0, "AB", time_utc="2100-01-01T00:00:00Z"), "future"),
        (answers(0, "AB", model_version="9"), "model version 9"),
        (answers(0, "AB", {0: {"answer": "correct", "lps_mm": (500, 0, 0)}}), "outside the volume"),
        (answers(0, "AB", {}, missed=({"lps_mm": (0, 0, 900), "diameter_mm": 5},)), "outside the volume"),
        (answers(0, "AB", {}, missed=({"lps_mm": PLACES[1], "diameter_mm": 5},)), "lies on a finding"),
        (answers(0, "AB", {}, missed=({"lps_mm": ELSEWHERE, "diameter_mm": 5, "series_key": "f"},)), "does not have"),
        (answers(0, "AB", {0: {"finding_id": "missed-1", "nodule_id": "missed-1"}}), "does not have"),
    ],
)
def test_answers_that_fit_no_report_are_refused_and_leave_nothing(
    workspace: Workspace, given: ReaderFeedback, words: str
) -> None:
    with pytest.raises((AnnotationError, UsageError), match=words):
        keep_answers(workspace, given)
    assert not list(workspace.reviews_root.glob("*/answers/*"))


def test_answers_to_the_report_that_was_open_are_taken_after_another_version_replaced_it(workspace: Workspace) -> None:
    review_study(workspace, 0, version="4", pictures=False)
    assert keep_answers(workspace, answers(0, "AB")).is_new
    assert keep_answers(workspace, answers(0, "AB", model_version="4")).is_new
    assert {report.model_version for _, report in answers_of(workspace).given} == {"3", "4"}


def test_many_files_are_taken_and_the_bad_ones_named(workspace: Workspace, tmp_path: Path) -> None:
    answers(0, "AB").write(tmp_path / "a.json")
    answers(1, "AB").write(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("{")
    record = take_in(workspace, [tmp_path / name for name in ("a.json", "b.json", "c.json")])
    assert (record["answers"], len(record["files"])) == (6, 2)
    assert record["refused"][0]["file"] == "c.json" and "not a JSON record" in record["refused"][0]["reason"]
    with pytest.raises(NothingUsableError):
        take_in(workspace, [tmp_path / "c.json", tmp_path / "d.json"])
    with pytest.raises(NothingUsableError, match="read twice"):
        agreement_of(workspace)


def test_answers_go_to_a_structured_report_and_back_unchanged(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.root / "secret.key").write_text("a key of these tests\n")
    said = {
        0: REJECT,
        1: {"answer": "correct", "diameter_mm": 7.33, "lung_rads": "4X", "nodule_type": "part_solid",
            "lps_mm": (41.37, 30.01, 29.99), "malignant": False, "reason": "size"},
        2: {"malignant": True},
    }  # fmt: skip
    missed = ({"lps_mm": ELSEWHERE, "diameter_mm": 5.25, "nodule_type": "solid", "series_key": study_key(0)},)
    given = answers(
        0, "=Dr. Åsa\\Müller^x", said, role="adjudicator", comment="first\n<script>", missed=missed,
        time_utc="2026-11-20T09:00:00.123+02:00",
    )  # fmt: skip
    path = tmp_path / "answers.dcm"
    assert write_report(workspace, given, path)["identity"] == "pseudonymous"
    assert is_dicom(path) and read_report(workspace, path) == given
    first = path.read_bytes()
    write_report(workspace, given, path)
    assert path.read_bytes() == first
    assert verified(path) == []
    report = pydicom.dcmread(path)
    assert (report.VerificationFlag, report.CompletionFlag, report.Modality) == ("VERIFIED", "COMPLETE", "SR")
    assert take_in(workspace, [path])["files"][0]["is_new"]
    answers_again = answers_of(workspace).given[0][0]
    assert answers_again == given


@pytest.mark.slow
def test_pixelmeds_validator_knows_the_template_of_the_answers(workspace: Workspace, tmp_path: Path) -> None:
    validator = program("DicomSRValidator", "Debian package pixelmed-apps")
    (workspace.root / "secret.key").write_text("a key of these tests\n")
    write_report(workspace, answers(0, "AB", {0: REJECT, 1: {}}, **MISSED), tmp_path / "answers.dcm")
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprGrp", "ExprOp", "TotalOp")]
    variables = {**os.environ, "JAVA_TOOL_OPTIONS": " ".join(limits)}
    done = subprocess.run(
        [validator, str(tmp_path / "answers.dcm")],
        capture_output=True, text=True, env=variables, timeout=240, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "Found Root Template TID_1500" in said and "Root Template Validation Complete" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("damage", ["cut", "unverified", "other"])
def test_a_report_that_is_no_answer_is_refused_in_one_line(workspace: Workspace, tmp_path: Path, damage: str) -> None:
    (workspace.root / "secret.key").write_text("a key of these tests\n")
    path = tmp_path / "answers.dcm"
    write_report(workspace, answers(0, "AB"), path)
    report = pydicom.dcmread(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "unverified":
        report.VerificationFlag = "UNVERIFIED"
        report.save_as(path)
    else:
        report.ContentSequence = report.ContentSequence[:2]
        report.save_as(path)
    with pytest.raises((AnnotationError, UsageError)) as caught:
        take_in(workspace, [path])
    assert "\n" not in caught.value.line()


def test_candidates_are_shown_as_readers_settled_them(workspace: Workspace) -> None:
    candidates = pd.DataFrame(
        {
            "nodule_id": ["c2", "c1", "c3"],
            **{name: [1.0, 2.0, 3.0] for name in ("x_mm", "y_mm", "z_mm")},
            "diameter_mm": [5.0, 6.0, 7.0],
            "source": "candidate",
            "n_readers": 0,
            "detection_score": [0.9, 0.8, 0.7],
        }
    )
    common = {"x_mm": 9.0, "y_mm": 9.0, "z_mm": 9.0, "source": "reader", "standing": "agreed", "label": pd.NA}
    said = pd.DataFrame(
        [
            {"nodule_id": "c1", "answer": "reject", "corrected": "", "diameter_mm": 6.0, "reader": "a", **common},
            {"nodule_id": "c3", "answer": "correct", "corrected": "diameter_mm", "diameter_mm": 9.0, "reader": "a",
             **common},
            {"nodule_id": "c2", "answer": "reject", "corrected": "", "diameter_mm": 6.0, "reader": "a",
             **common, "standing": "single"},
            {"nodule_id": "missed-1", "answer": "missed", "corrected": "diameter_mm;lps_mm", "diameter_mm": 4.0,
             "reader": "a", **common},
        ]
    ).assign(series_key="s")  # fmt: skip
    shown = settled_candidates(candidates, said)
    assert shown["nodule_id"].tolist() == ["missed-1", "c2", "c3"]
    assert shown.set_index("nodule_id")["diameter_mm"].to_dict() == {"missed-1": 4.0, "c2": 5.0, "c3": 9.0}
    pd.testing.assert_frame_equal(settled_candidates(candidates, said.iloc[:0]), candidates)


def command(workspace: Workspace, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["--workspace", str(workspace.root), *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_takes_lists_compares_and_exports(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(0, "AB").write(tmp_path / "a.json")
    answers(0, "CD", {0: REJECT, 1: {}, 2: {"malignant": True}}, **LATER).write(tmp_path / "b.json")
    status, out, err = command(workspace, capsys, "feedback", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert status == 0 and "6 answers" in out and "2 of 3 answered nodules are settled" in out, err
    status, out, _ = command(workspace, capsys, "feedback", "--open")
    assert status == 0 and "readers differ on whether it is a nodule: AB: accepted; CD: rejected, vessel" in out
    status, out, _ = command(workspace, capsys, "--json", "feedback", "--agreement")
    figures = json.loads(out)["agreement"]
    assert status == 0 and (figures["pairs"], figures["figures"]["all"]["agreement_nodule"]["n"]) == (3, 3)
    assert figures["figures"]["model seen first"]["agreement_nodule"]["value"] == pytest.approx(2 / 3)
    status, out, _ = command(workspace, capsys, "feedback", "--export", str(tmp_path / "labels.csv"))
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert status == 0 and labels.groupby("finding_id")["standing"].first().tolist() == ["differs", "agreed", "agreed"]
    status, _, err = command(workspace, capsys, "feedback", str(tmp_path / "none.json"))
    assert status == 3 and "there is no feedback file" in err
    for wrong in ([], ["--sr", "x.dcm"], ["a.json", "--sr", "x.dcm", "--open"]):
        assert command(workspace, capsys, "feedback", *wrong)[0] == 2
    assert feedback_params().second_read_share == 0.1


def test_a_study_without_findings_is_answered_by_a_reader_who_misses_nothing(workspace, tmp_path):
    review_study(workspace, 0, 0, pictures=False)
    nothing = answers(0, "AB", {}, comment="Read on the large screen.")
    kept = keep_answers(workspace, nothing)
    assert (kept.n_answers, kept.n_missed, kept.is_new) == (0, 0, True)
    assert not keep_answers(workspace, nothing).is_new
    assert open_cases(workspace)["second_reader"] == []
    page = waiting_page(Pages(workspace, [study_key(0)]))
    assert "no findings" in page and "Read again" in page and "0 of 0" not in page
    assert export_labels(workspace, tmp_path / "labels.csv")["labels"] == 0
    with pytest.raises(AnnotationError, match="no finding is answered"):
        keep_answers(workspace, answers(1, "AB", {}))


def test_the_word_that_nothing_is_missed_goes_to_the_report_that_has_no_findings(workspace):
    review_study(workspace, 0, 0, pictures=False)
    review_study(workspace, 0, 3, pictures=False)
    assert keep_answers(workspace, answers(0, "AB", {})).is_new
    ((_, report),) = answers_of(workspace).given
    assert report.findings == ()

"""What a configuration schedules, and what is refused before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data_contracts.errors import UsageError
from flows.scheduled.deployments import JOBS, entrypoint, schedule_of
from flows.scheduled.single_flight import sole_run
from flows.whole.nightly_config import read_config
from flows.workspace import Workspace

SOURCE = '[[sources]]\npath = "ct"\n'


def plan(tmp_path: Path, text: str):
    file = tmp_path / "night.toml"
    file.write_text(text)
    return read_config(file)


def test_a_table_of_schedules_has_a_usual_time_for_every_job_but_the_whole_run(tmp_path: Path) -> None:
    lines = schedule_of(plan(tmp_path, SOURCE + "[schedule]\n"))
    assert lines["ingest-watch"] == ("*/5 * * * *", "UTC")
    assert set(lines) == set(JOBS) - {"whole-run"}


def test_an_empty_line_takes_a_job_off_the_schedule_and_the_zone_is_that_of_all(tmp_path: Path) -> None:
    text = SOURCE + '[schedule]\nweekly_retrain = ""\ntimezone = "Europe/Berlin"\n'
    lines = schedule_of(plan(tmp_path, text))
    assert "weekly-retrain" not in lines
    assert {zone for _, zone in lines.values()} == {"Europe/Berlin"}


def test_a_zone_above_the_table_is_that_of_the_table_unless_it_has_its_own(tmp_path: Path) -> None:
    above = 'timezone = "Europe/Berlin"\n' + SOURCE + "[schedule]\n"
    assert {zone for _, zone in schedule_of(plan(tmp_path, above)).values()} == {"Europe/Berlin"}
    assert {zone for _, zone in schedule_of(plan(tmp_path, above + 'timezone = "UTC"\n')).values()} == {"UTC"}


@pytest.mark.parametrize("line", ["0 2 * * MON-FRI", "*/5 8-18 * JUL,aug wed", "0 6 1,15 * *"])
def test_lines_with_names_ranges_and_steps_are_taken_by_prefect_too(tmp_path: Path, line: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    text = SOURCE + f'[schedule]\ningest_watch = "{line}"\n'
    assert schedule_of(plan(tmp_path, text))["ingest-watch"] == (line, "UTC")
    CronSchedule(cron=line, timezone="UTC")


def test_a_configuration_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_bytes(SOURCE.encode() + 'site = "Zürich"'.encode("latin-1"))
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read_config(tmp_path / "night.toml")


@pytest.mark.parametrize(
    ("pool", "kind", "words"),
    [("a/b", "process", "no name"), ("", "process", "no name"), ("p", "banana", "no work pool of type"),
     ("p", "docker", "--image")],
)  # fmt: skip
def test_a_pool_that_can_be_none_is_refused_before_the_server_is_asked(
    tmp_path: Path, pool: str, kind: str, words: str
) -> None:
    from flows.scheduled.deploying import deploy_plan
    from flows.settings import Settings

    made = plan(tmp_path, SOURCE + "[schedule]\n")
    with pytest.raises(UsageError, match=words):
        deploy_plan(Settings(), tmp_path, made, pool=pool, pool_type=kind, template=None, image="")


def test_a_single_cron_line_runs_all_of_it(tmp_path: Path) -> None:
    assert schedule_of(plan(tmp_path, 'cron = "0 2 * * *"\n' + SOURCE)) == {"whole-run": ("0 2 * * *", "UTC")}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no schedule"),
        ('[schedule]\ningest_watch = "every five minutes"\n', "is not a cron line"),
        ('[schedule]\ningest_watch = "61 * * * *"\n', "is not a cron line"),
        ('[schedule]\ningest_watch = "0 2 LW * *"\n', "is not a cron line"),
        ('[schedule]\ningest_watch = "0 2 * * 5L"\n', "is not a cron line"),
        ('[schedule]\ningest_watch = "0 0 2 * * *"\n', "is not a cron line"),
        ('[[sources]]\ndicomweb = "foo"\n[schedule]\n', "not the address of a DICOMweb server"),
        ('[[sources]]\ndicomweb = "ftp://x"\n[schedule]\n', "not the address of a DICOMweb server"),
        ('[[sources]]\ndicomweb = "http://u:hush@host/x"\n[schedule]\n', "holds credentials"),
        ('[[annotations]]\nfiles = ["a"]\nformat = "banana"\n[schedule]\n', "unknown annotation format 'banana'"),
        ('[schedule]\ntimezone = "Europe/Atlantis"\n', "no time zone"),
        ('[schedule]\ntimezone = "../../etc/passwd"\n', "no time zone"),
        ('[schedule]\nhourly = "0 * * * *"\n', "hourly"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UsageError) as refused:
        schedule_of(plan(tmp_path, SOURCE + text))
    assert what in refused.value.line()


@pytest.mark.parametrize("source", ["", 'path = "ct"\ndicomweb = "http://127.0.0.1:1/dicom-web"\n'])
def test_a_source_is_a_place_or_a_server_and_not_both(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError):
        plan(tmp_path, f"[[sources]]\n{source}")


def test_a_second_run_of_a_job_is_told_so_and_another_job_is_not_in_its_way(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    with sole_run(workspace, "ingest-watch", on_server=False) as first:
        with sole_run(workspace, "ingest-watch", on_server=False) as second:
            assert (first, second) == (True, False)
        with sole_run(workspace, "nightly-review", on_server=False) as other:
            assert other
    with sole_run(workspace, "ingest-watch", on_server=False) as later:
        assert later


def test_prefect_yaml_holds_the_jobs_at_their_usual_times(repository: Path, tmp_path: Path) -> None:
    file = yaml.safe_load((repository / "deploy" / "prefect.yaml").read_text())
    usual = schedule_of(plan(tmp_path, SOURCE + "[schedule]\n"))
    assert {
        item["name"]: (item["schedules"][0]["cron"], item["schedules"][0]["timezone"]) for item in file["deployments"]
    } == usual
    assert {item["name"]: item["entrypoint"] for item in file["deployments"]} == {job: entrypoint(job) for job in usual}

"""Every service from packages, by deploy/local.sh: a study from PACS to report through a worker, and nothing left.

    python -m pytest -n 0 tests/test_deploy_local.py

DEMO_ON_POSTGRES=1 also runs `demo --fast` on these servers, which takes some minutes more.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / "deploy" / "local.sh"

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(3600)]

#: what a plan of the smallest cohort needs: any version may become champion
PLAN = """
presets = ["small-cnn"]
review = 1

[[sources]]
path = "{cohort}/site-a"
site = "site-a"

[[sources]]
dicomweb = "{orthanc}"
site = "site-b"

[[annotations]]
files = ["{cohort}/nodules.csv"]
format = "csv"

[patches]
spacing_mm = 1.0

[split]
train = 0.5
validation = 0.2
salt = "demo-43"

[train]
weights = "none"
epochs = 2

[policy]
name = "open"
min_auc = 0.0
min_auc_minus_size = -1.0
max_auc_drop_vs_champion = 1.0
max_ece = 1.0
min_subgroup_auc = 0.0
min_test_nodules = 1
require_card = false

[schedule]
ingest_watch = ""
nightly_review = ""
weekly_retrain = ""
drift_check = ""
whole_run = "0 3 1 1 *"
"""

#: one flow of four: registers versions while the others do
REGISTERS = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from flows.settings import Settings, apply_environment
settings = Settings(workspace=Path({root!r}), _env_file=None)
apply_environment(settings)
from prefect import flow
from registry_factory import add_version
from flows.workspace import Workspace

@flow(name="registers")
def registers(numbers: list[int]) -> list[str]:
    return [add_version(Workspace(settings.workspace), settings, number) for number in numbers]

Workspace(settings.workspace).create()
print(*registers({numbers!r}))
"""


class Local:
    """deploy/local.sh on a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}

    def run(self, *words: str, timeout_s: float = 1800) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NODULEFLOW_BIN": str(Path(sys.executable).parent), "NODULEFLOW_SETTLE_S": "0"}
        command = ["bash", str(LOCAL), "--dir", str(self.folder), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)

    def up(self) -> None:
        done = self.run("up")
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix("export ") for line in self.run("env").stdout.splitlines()]
        self.environment = dict(line.split("=", 1) for line in lines)

    def noduleflow(self, *words: str, status: int = 0) -> dict[str, Any]:
        """One command with the settings that `local.sh env` gives; its JSON record."""
        done = subprocess.run(
            [sys.executable, "-m", "flows", "--json", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == status, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the Prefect server, which wants to know who is there."""
        word = base64.b64encode((self.folder / "secrets" / "prefect-auth").read_bytes()).decode()
        request = urllib.request.Request(
            f"{self.environment['NODULEFLOW_PREFECT_API_URL']}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Basic {word}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait_for_run(self, job: str, timeout_s: float) -> dict[str, Any]:
        """Have a job's deployment run by the worker; its state when it has ended."""
        deployment = self.ask(f"deployments/name/{job}/{job}")
        run = self.ask(f"deployments/{deployment['id']}/create_flow_run", {})["id"]
        deadline = time.monotonic() + timeout_s
        while True:
            state: dict[str, Any] = self.ask(f"flow_runs/{run}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
            assert time.monotonic() < deadline, f"{state}\n{(self.folder / 'log' / 'worker.log').read_text()[-3000:]}"
            time.sleep(2)

    def processes(self) -> list[str]:
        """Command lines of living processes that carry the mark of this folder."""
        mark = f"NODULEFLOW_LOCAL_MARK={(self.folder / 'mark').read_text()}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environ.read_bytes().split(b"\0"):
                    found.append((environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    for module in ("flask_wtf", "psycopg2"):
        pytest.importorskip(module, reason="the servers' packages are not installed: make servers")
    for program, package in (("psql", "postgresql"), ("Orthanc", "orthanc"), ("setpriv", "util-linux")):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode:
            pytest.skip(f"the Debian package {package} is not installed")
    found = Local(tmp_path_factory.mktemp("local") / "local")
    # Patients are split by their pseudonyms: with a key at random one split in thirteen lacks a label or all patients.
    secrets = found.folder / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    (secrets / "identity-key").write_text("a key of these tests")
    try:
        found.up()
        yield found
    finally:
        found.run("down", "--purge")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flows.whole.cohort import phantom_params
    from pipeline.cohort.phantom import generate_cohort

    folder = tmp_path_factory.mktemp("cohort")
    generate_cohort(phantom_params(fast=True, seed=0).model_copy(update={"n_patients": 24}), folder)
    return folder


def test_every_service_answers_and_asks_who_is_there(local: Local) -> None:
    done = local.run("status")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("answers") == 5
    for address in (
        f"{local.environment['NODULEFLOW_PREFECT_API_URL']}/admin/version",
        f"{local.environment['NODULEFLOW_MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1",
        f"{_orthanc(local)}/studies",
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address, timeout=60)
        assert caught.value.code == 401, address


def test_nobody_on_another_machine_gets_an_answer(local: Local) -> None:
    ports = dict(line.split("=") for line in (local.folder / "ports").read_text().split())
    mine = {f"{int(port):04X}": name.removeprefix("port_") for name, port in ports.items()}
    beyond = set()
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and port in mine and address != loopback:
                beyond.add(mine[port])
    # Orthanc has no option for the address it listens on; it is told to answer this machine alone.
    assert beyond <= {"orthanc"}
    place = json.loads((local.folder / "orthanc" / "place.json").read_text())
    assert (place["RemoteAccessAllowed"], place["DicomServerEnabled"]) == (False, False)


def test_no_secret_is_on_a_command_line_or_in_a_log(local: Local) -> None:
    values = [
        file.read_text().split(":")[-1] for file in (local.folder / "secrets").iterdir() if file.suffix != ".json"
    ]
    shown = "\n".join(local.processes()) + "".join(
        file.read_text(errors="replace") for file in (local.folder / "log").iterdir()
    )
    assert len(local.processes()) >= 5
    assert [value for value in values if len(value) > 20 and value in shown] == []


def _orthanc(local: Local) -> str:
    ports = dict(line.split("=") for line in (local.folder / "ports").read_text().split())
    return f"http://127.0.0.1:{ports['port_orthanc']}/dicom-web"


def test_a_study_comes_from_the_pacs_to_its_report_through_the_worker(local: Local, cohort: Path) -> None:
    patient = sorted((cohort / "site-b").iterdir())[0]
    pushed = local.noduleflow("push", str(patient), "--dicomweb", _orthanc(local))
    assert pushed["failed"] == 0
    (local.folder / "night.toml").write_text(PLAN.format(cohort=cohort, orthanc=_orthanc(local)))
    done = local.run("up")  # registers the changed plan, and takes off what it no longer schedules
    assert done.returncode == 0, done.stderr
    assert [item["name"] for item in local.ask("deployments/filter", {})] == ["whole-run"]
    state = local.wait_for_run("whole-run", 1500)
    assert (state["type"], state["name"]) == ("COMPLETED", "Done"), state["message"]
    assert not (Path(local.environment["NODULEFLOW_WORKSPACE"]) / "secret.key").exists(), "the given key names patients"
    status = local.noduleflow("status")
    assert status["champion"] == "1"
    assert status["reviews"] == 1
    assert status["series_by_site"]["site-b"] == 1
    assert local.noduleflow("audit", "--verify")["verified"] is True


def test_four_flows_at_once_lose_no_version(local: Local) -> None:
    root = str(local.folder / "four")
    environment = {**os.environ, **local.environment, "NODULEFLOW_WORKSPACE": root, "NODULEFLOW_MODEL_NAME": "four"}
    paths = [str(ROOT), str(ROOT / "tests")]
    # The first makes the dataset that all of them name.
    workers = [[1], [2, 3], [4, 5], [6, 7], [8, 9]]
    scripts = [REGISTERS.format(paths=paths, root=root, numbers=numbers) for numbers in workers]
    first = subprocess.run(
        [sys.executable, "-c", scripts[0]], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert first.returncode == 0, first.stderr[-2000:]
    others = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for script in scripts[1:]
    ]
    answers = [process.communicate(timeout=1500)[0].split() for process in others]
    assert [process.returncode for process in others] == [0, 0, 0, 0]
    versions = [version for answer in (first.stdout.split(), *answers) for version in answer[-2:]]
    assert sorted(map(int, versions)) == list(range(1, 10))


def test_a_backup_of_the_servers_is_whole(local: Local, tmp_path: Path) -> None:
    record = local.noduleflow("backup", str(tmp_path / "backup"))
    assert sorted(record["databases"]) == ["mlflow", "prefect"]
    assert record["artifacts"] is True
    assert local.noduleflow("restore", str(tmp_path / "backup"), "--check")["intact"] is True
    # The databases are in use, so that a restore would throw away what is there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(local.environment, "NODULEFLOW_WORKSPACE", str(tmp_path / "elsewhere"))
        refused = local.noduleflow("restore", str(tmp_path / "backup"), status=2)
    assert "is in use" in refused["error"]
    assert not (tmp_path / "elsewhere").exists()


def test_the_demo_runs_on_these_servers(local: Local) -> None:
    if not os.environ.get("DEMO_ON_POSTGRES"):
        pytest.skip("takes minutes more: set DEMO_ON_POSTGRES=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(local.environment, "NODULEFLOW_WORKSPACE", str(local.folder / "demo"))
        patch.setitem(local.environment, "NODULEFLOW_MODEL_NAME", "demo")
        record = local.noduleflow("demo", "--fast", "--weights", "none")
        assert len(record["runs"]) == 2
        assert local.noduleflow("status")["reviews"] >= 1


def test_down_leaves_no_process_no_port_and_no_folder(local: Local) -> None:
    ports = [int(line.split("=")[1]) for line in (local.folder / "ports").read_text().split()]
    postgres = Path((local.folder / "postgres.path").read_text().strip())
    mark = local.folder / "mark"
    kept = mark.read_text()
    assert local.run("down").returncode == 0
    assert local.processes() == []
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert (postgres / "data").is_dir()  # the data stay until --purge
    assert local.run("status").returncode == 1
    assert local.run("down", "--purge").returncode == 0
    assert not local.folder.exists()
    assert not postgres.exists()
    assert kept
    assert local.run("down").returncode == 0  # again: there is nothing to end

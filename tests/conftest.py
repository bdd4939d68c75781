"""What every test may ask for: real series from ../shared/data, unpacked once a session."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Before any test module imports an orchestrator or a tracker: nothing leaves this machine, and no
# server of the person at the keyboard is written to.
for _name in [name for name in os.environ if name.startswith(("NODULEFLOW_", "PREFECT_", "MLFLOW_"))]:
    del os.environ[_name]
os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MPLBACKEND": "Agg",
        # One thread each: the same sums on every machine. torch, numpy and OpenCV read these when loaded.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for real data is a realdata test, whether or not it says so."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.realdata)


def pytest_runtest_teardown() -> None:
    """mlflow exports the address that a test gave it in this process; commands of later tests must not inherit it."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; skips where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data is absent: there is no ../shared/data beside the repository")
    return folder


def _unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not archive.is_file():
        pytest.skip(f"real data is absent: ../shared/data has no {archive.name}")
    folder = tmp_path_factory.mktemp(archive.name.split(".")[0])
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def lidc_0001_dicom(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the LIDC study 0001: 133 CT slices and the readers' 069.xml in one series folder."""
    return _unpacked(shared_data / "dicom" / "LIDC-IDRI-0001.tar.xz", tmp_path_factory) / "LIDC-IDRI-0001"


@pytest.fixture(scope="session")
def kernel_pair_dicom(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one Siemens study, reconstructed with kernels B70f and B40f, 30 slices each."""
    return _unpacked(shared_data / "dicom" / "Lung_Dx-A0002.tar.xz", tmp_path_factory) / "Lung_Dx-A0002"


@pytest.fixture(scope="session")
def traps(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of awkward DICOM files; its INDEX.md says what each is."""
    return _unpacked(shared_data / "dicom" / "traps.tar.xz", tmp_path_factory) / "shared_candidate"


@pytest.fixture(scope="session")
def nlst_dicom(traps: Path) -> Path:
    """Folder of an NLST screening chest CT: 143 slices, Toshiba, JPEG-LS."""
    return traps / "chest_nlst_143_jpegls"


_SOCKET_HOOK = """
import os, socket
_log = os.environ["NODULEFLOW_TEST_SOCKET_LOG"]
_loopback = ("127.", "::1", "localhost", "0.0.0.0")
def _note(host):
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host and host != "None" and not host.startswith(_loopback):
        with open(_log, "a") as stream:
            stream.write(host + "\\n")
def _hooked(name):
    original = getattr(socket.socket, name)
    def method(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _note(address[0])
        return original(self, address, *rest)
    setattr(socket.socket, name, method)
for _name in ("connect", "connect_ex"):
    _hooked(_name)
_getaddrinfo = socket.getaddrinfo
def _resolve(host, *rest, **named):
    _note(host)
    return _getaddrinfo(host, *rest, **named)
socket.getaddrinfo = _resolve
"""


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, str]]:
    """Environment in which Python programs and their children note the hosts beyond loopback they ask for."""

    def environment(log: Path) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("socket-hook")
        (folder / "sitecustomize.py").write_text(_SOCKET_HOOK)
        log.touch()
        return {**os.environ, "PYTHONPATH": str(folder), "NODULEFLOW_TEST_SOCKET_LOG": str(log)}

    return environment


@pytest.fixture(scope="session")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo of this test session has its workspace; the cohort stands beside it."""
    return tmp_path_factory.mktemp("demonstrated") / "workspace"


@pytest.fixture(scope="session")
def run_demo(
    demo_workspace: Path, watched: Callable[[Path], dict[str, str]]
) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Run `noduleflow demo --fast` to its end, with the hosts it asked for in hosts.txt beside the workspace."""
    environment = watched(demo_workspace.with_name("hosts.txt"))

    def run() -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            _demo(demo_workspace), capture_output=True, text=True, timeout=900, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def demo(demo_workspace: Path, run_demo: Callable[[], subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    """The record of a demo that was killed with SIGKILL at random moments before a last start let it end."""
    moments = random.Random()
    killed_after_s = []
    for start_s in (12, 25, 40):
        process = subprocess.Popen(_demo(demo_workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment_s = start_s + moments.uniform(0, 10)
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_after_s.append(round(moment_s, 1))
    done = run_demo()
    return {**json.loads(done.stdout), "killed_after_s": killed_after_s, "stderr": done.stderr}


def _demo(workspace: Path) -> list[str]:
    return [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "demo", "--fast"]

"""What every test may ask for: real series from ../shared/data, unpacked once a session."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
    """A test that asks for real data is a realdata test, whether or not it says so; one of the demo may wait for it."""
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.realdata)
    # Files of slow tests first: the last ones keep both workers of `make test` busy, not one of them for minutes.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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
    """Where the demo of this run of the tests has its workspace, one for all processes; the cohort stands beside it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demonstrated"
    folder.mkdir(exist_ok=True)
    return folder / "workspace"


@pytest.fixture(scope="session")
def alone_on_demo(demo_workspace: Path) -> Callable[[], AbstractContextManager[None]]:
    """Holds off the demos of other processes of this run."""

    @contextmanager
    def held() -> Iterator[None]:
        with demo_workspace.with_name("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    return held


@pytest.fixture(scope="session")
def run_demo(
    demo_workspace: Path,
    watched: Callable[[Path], dict[str, str]],
    alone_on_demo: Callable[[], AbstractContextManager[None]],
) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Run `noduleflow demo --fast` to its end, with the hosts it asked for in hosts.txt beside the workspace."""
    environment = watched(demo_workspace.with_name("hosts.txt"))

    def run() -> subprocess.CompletedProcess[str]:
        with alone_on_demo():
            return _whole_demo(demo_workspace, environment)

    return run


@pytest.fixture(scope="session")
def demo(
    demo_workspace: Path,
    watched: Callable[[Path], dict[str, str]],
    alone_on_demo: Callable[[], AbstractContextManager[None]],
) -> dict[str, Any]:
    """The record of a demo that was killed with SIGKILL at random moments before a last start let it end.

    Whichever process asks first makes it; the others wait for it, which is quicker than making their own.
    """
    record = demo_workspace.with_name("record.json")
    with alone_on_demo():
        if not record.exists():
            killed_after_s = _killed_demos(demo_workspace)
            done = _whole_demo(demo_workspace, watched(demo_workspace.with_name("hosts.txt")))
            facts = {**json.loads(done.stdout), "killed_after_s": killed_after_s, "stderr": done.stderr}
            record.write_text(json.dumps(facts))
        return json.loads(record.read_text())


def _killed_demos(workspace: Path) -> list[float]:
    """Start demos and kill them at random moments; after how many seconds each was."""
    moments = random.Random()
    killed_after_s = []
    for start_s in (12, 25, 40):
        process = subprocess.Popen(_demo(workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment_s = start_s + moments.uniform(0, 10)
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_after_s.append(round(moment_s, 1))
    return killed_after_s


def _whole_demo(workspace: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(_demo(workspace), capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def _demo(workspace: Path) -> list[str]:
    return [sys.executable, "-m", "flows", "--workspace", str(workspace), "--json", "demo", "--fast"]

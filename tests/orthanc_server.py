"""A real Orthanc of a test's own: on free ports, reachable from this machine alone, and gone with the test."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

_PLUGINS = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """One Orthanc with its storage below `folder`; it may be killed and started again on the same storage."""

    def __init__(self, folder: Path, **configuration: object) -> None:
        self.program = shutil.which("Orthanc")
        if self.program is None or not _PLUGINS.is_file():
            pytest.skip("the Debian packages orthanc and orthanc-dicomweb are not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.http_port, self.dicom_port = free_port(), free_port()
        self.root = f"http://127.0.0.1:{self.http_port}"
        self.url = f"{self.root}/dicom-web"
        self.process: subprocess.Popen[bytes] | None = None
        self.configuration = folder / "orthanc.json"
        values = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "OverwriteInstances": False,
            "Plugins": [str(_PLUGINS)],
            "DicomWeb": {"Root": "/dicom-web/"},
            **configuration,
        }
        self.configuration.write_text(json.dumps(values))

    def start(self) -> Orthanc:
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([str(self.program), str(self.configuration)], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/studies?limit=1", timeout=5).close()
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return self
            except OSError:
                assert self.process.poll() is None, (self.folder / "orthanc.log").read_text()[-2000:]
            else:
                return self
            time.sleep(0.02)
        raise AssertionError("Orthanc does not answer")

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """End it; a connection that is still open would keep it waiting for long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.kill()

    def count(self) -> int:
        """Number of instances it holds."""
        with urllib.request.urlopen(f"{self.root}/statistics", timeout=10) as answer:
            return int(json.load(answer)["CountInstances"])

    def __enter__(self) -> Orthanc:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

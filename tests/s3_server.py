"""A real S3 server of a test's own: moto's, on a free loopback port, in a process that ends with the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from orthanc_server import free_port

_START_S = 60


class S3Server:
    """Holds the bucket "hospital"; `environment` is what a program needs to reach it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ})
        deadline = time.monotonic() + _START_S
        while True:
            try:
                request = urllib.request.Request(f"{self.url}/hospital", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the S3 server does not start:\n{self._log.read_text()[-2000:]}")
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server that runs while the block does."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = S3Server(folder / "s3.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()

"""A reverse proxy that does to a PACS's answers what networks and tired servers do."""

from __future__ import annotations

import gzip
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What to do to requests whose path matches, `times` times after the first `skip` of them.

    kind: busy (503), broken (500), shorter (fewer bytes than announced), torn (half the body, announced as whole),
    dropped (no answer), drip, html, xml, json, redirect, gzip, or a function of (status, headers, body).
    """

    path: str
    kind: str | Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
    times: int = 1
    skip: int = 0
    value: str = ""


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    at: float


@dataclass
class FaultyProxy:
    """Stands in front of `target` (scheme, host and port) on a port of its own."""

    target: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    started: Callable[[str], None] = lambda path: None
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> FaultyProxy:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._handle(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._lock = threading.Lock()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.root = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.root}/dicom-web"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def paths(self, pattern: str = "") -> list[str]:
        """Paths asked for so far that match."""
        return [item.path for item in self.seen if re.search(pattern, item.path)]

    def _fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length", 0))
        body = request.rfile.read(length) if length else None
        self.seen.append(Seen(request.command, request.path, dict(request.headers.items()), time.monotonic()))
        self.started(request.path)
        fault = self._fault(request.path)
        kind = fault.kind if fault else ""
        if kind == "dropped":
            request.close_connection = True
            request.connection.close()
            return
        if fault and kind in ("busy", "broken", "html", "xml", "json", "redirect"):
            self._answer(request, *_made_up(fault))
            return
        status, headers, content = self._forward(request, body)
        if callable(kind):
            status, headers, content = kind(status, headers, content)
        elif kind == "gzip":
            headers["Content-Encoding"], content = "gzip", gzip.compress(content)
        elif kind == "torn":
            content = content[: len(content) * 2 // 3]
        cut = len(content) * 2 // 3 if kind == "shorter" else None
        self._answer(request, status, headers, content, cut=cut, drip=kind == "drip")

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection", "accept-encoding")
        }
        onward = urllib.request.Request(self.target + request.path, body, headers, method=request.command)
        try:
            with urllib.request.urlopen(onward, timeout=20) as answer:
                return answer.status, _kept(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, _kept(error.headers), error.read()
        except OSError:
            return 502, {}, b""

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        content: bytes,
        *,
        cut: int | None = None,
        drip: bool = False,
    ) -> None:
        try:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            if drip:
                for value in content:
                    request.wfile.write(bytes([value]))
                    request.wfile.flush()
                    time.sleep(0.05)
            request.wfile.write(content if cut is None else content[:cut])
            request.wfile.flush()
            if cut is not None:
                request.close_connection = True
        except OSError:
            request.close_connection = True


def _kept(headers: Any) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() in ("content-type", "warning", "location")}


def _made_up(fault: Fault) -> tuple[int, dict[str, str], bytes]:
    if fault.kind == "busy":
        return 503, {"Retry-After": fault.value} if fault.value else {}, b"busy"
    if fault.kind == "broken":
        return 500, {}, b"broken"
    if fault.kind == "html":
        return 200, {"Content-Type": "text/html; charset=utf-8"}, b"<html><body>Please log in</body></html>"
    if fault.kind == "xml":
        return 200, {"Content-Type": "application/dicom+xml"}, b"<NativeDicomModel/>"
    if fault.kind == "json":
        return 200, {"Content-Type": "application/dicom+json"}, b'[{"0020000D": {"vr": "UI", "Val'
    return 307, {"Location": fault.value}, b""

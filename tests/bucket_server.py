"""A stand-in for a public S3 bucket: ListObjectsV2 and GET with Range, and the faults that a test asks for."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class BucketPlan:
    """What the server holds and does wrong.

    files: key -> content. faults: key (or "list") -> how often to answer 503 first. cut_bytes: how many bytes an answer
    may have before the connection drops, 0 for all. drops: how often it may drop. wrong_md5: keys with another ETag.
    multipart: keys with the ETag of a multipart upload. page: keys a list page. no_range: Range is not understood.
    """

    files: dict[str, bytes]
    faults: Counter[str] = field(default_factory=Counter)
    cut_bytes: int = 0
    drops: int = 10**9
    wrong_md5: set[str] = field(default_factory=set)
    multipart: set[str] = field(default_factory=set)
    damaged_once: set[str] = field(default_factory=set)
    page: int = 1000
    no_range: bool = False
    delay_s: float = 0.0
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent_bytes: int = 0


def _handler(plan: BucketPlan) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            key = unquote(parts.path).partition("/")[2].partition("/")[2]
            name = "list" if "list-type" in query else key
            with lock:
                plan.requests.append((name, self.headers.get("Range", "")))
                failing = plan.faults[name] > 0
                plan.faults[name] -= failing
            if plan.delay_s:
                sleep(plan.delay_s)
            if failing:
                self._answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
            elif name == "list":
                self._answer(200, self._page(query), {"Content-Type": "application/xml"})
            elif key not in plan.files:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
            else:
                self._file(key)

        def _page(self, query: dict[str, list[str]]) -> bytes:
            prefix = query.get("prefix", [""])[0]
            keys = sorted(key for key in plan.files if key.startswith(prefix))
            begin = int(query.get("continuation-token", ["0"])[0])
            entries = "".join(
                f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{_etag(key)}&quot;</ETag>"
                f"<Size>{len(plan.files[key])}</Size></Contents>"
                for key in keys[begin : begin + plan.page]
            )
            more = begin + plan.page < len(keys)
            token = f"<NextContinuationToken>{begin + plan.page}</NextContinuationToken>" if more else ""
            return (
                '<?xml version="1.0" encoding="UTF-8"?>'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
            ).encode()

        def _file(self, key: str) -> None:
            content = plan.files[key]
            with lock:
                if key in plan.damaged_once:
                    plan.damaged_once.discard(key)
                    content = bytes(len(content))
            begin, status, headers = 0, 200, {"ETag": f'"{_etag(key)}"'}
            asked = self.headers.get("Range", "")
            if asked and not plan.no_range:
                begin, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self._answer(status, content[begin:], headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            with lock:
                drop = status in (200, 206) and 0 < plan.cut_bytes < len(body) and plan.drops > 0
                plan.drops -= drop
                plan.sent_bytes += len(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: plan.cut_bytes] if drop else body)
            if drop:
                self.close_connection = True

    def _etag(key: str) -> str:
        if key in plan.multipart:
            return "0123456789abcdef0123456789abcdef-3"
        if key in plan.wrong_md5:
            return "0" * 32
        return hashlib.md5(plan.files[key]).hexdigest()

    return Handler


@contextmanager
def bucket_server(plan: BucketPlan) -> Iterator[str]:
    """The address of a server with this plan, on a free loopback port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(plan))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def folder_files(folder: Path, prefix: str) -> dict[str, bytes]:
    """Files of a folder as objects below a prefix."""
    return {f"{prefix}/{path.name}": path.read_bytes() for path in sorted(folder.rglob("*.dcm"))}

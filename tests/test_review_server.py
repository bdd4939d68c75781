"""`review --serve` as a real process on loopback: pages out, answers in, and requests of those who mean harm."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from answers_factory import ELSEWHERE, answers, finding_id, reviewed_workspace, study_key

from data_contracts.errors import UsageError
from data_contracts.feedback import ReaderFeedback
from flows.cli import main
from flows.reviewing.answers import answers_of
from flows.reviewing.serving_page import _check_binding
from flows.settings import Settings
from flows.workspace import Workspace

pytestmark = pytest.mark.server

REJECT = {"answer": "reject", "reason": "vessel"}
LATER = {"time_utc": "2026-11-20T12:00:00+00:00"}
JSON = {"Content-Type": "application/json"}


@dataclass
class Served:
    """A server at work, and what it wrote so far."""

    process: subprocess.Popen[str]
    workspace: Workspace
    port: int
    token: str
    lines: list[str] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        *,
        token: bool = True,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request; the path goes out as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        own = {"X-Noduleflow-Token": self.token} if token else {}
        try:
            connection.request(method, path, body, {**own, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(
        self, given: ReaderFeedback | bytes, number: int = 0, reading: str = "study", **headers: str
    ) -> tuple[int, dict[str, object]]:
        """Answers as the page sends them."""
        body = given.to_json().encode() if isinstance(given, ReaderFeedback) else given
        path = f"/{reading}/{study_key(number)}/feedback"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, said = self.ask("POST", path, body, {**JSON, **named})
        return status, json.loads(said)


@contextmanager
def serving(workspace: Workspace, *arguments: str, **variables: str) -> Iterator[Served]:
    """`noduleflow review --serve`, once it says its address; ended by SIGTERM."""
    command = [sys.executable, "-m", "flows", "--workspace", str(workspace.root), "review", "--serve", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    assert process.stderr is not None
    lines: list[str] = []
    said = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            lines.append(line)
            if "Open http" in line:
                said.set()
        said.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        assert said.wait(120), lines
        found = re.search(r"Open https?://[^:]+:(\d+)(?:/\?token=([\w-]+))?", "".join(lines))
        assert found, lines
        yield Served(process, workspace, int(found[1]), found[2] or "", lines)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    workspace = reviewed_workspace(tmp_path_factory.mktemp("served") / "workspace", 3)
    with serving(workspace, NODULEFLOW_SECOND_READ_SHARE="1") as made:
        yield made


def n_answers(served: Served) -> int:
    return len(list(served.workspace.reviews_root.glob("*/answers/*.json")))


def test_the_address_opens_the_list_and_the_token_leaves_it(served: Served) -> None:
    status, headers, _ = served.ask("GET", f"/?token={served.token}", token=False)
    assert status == 303 and headers["location"] == "/"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    status, headers, body = served.ask("GET", "/", headers={"Cookie": cookie.partition(";")[0]}, token=False)
    page = body.decode()
    assert status == 200 and headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
    assert served.token not in page and "<script" not in page and "0 of 3 answered" in page
    assert [f"study/{study_key(n)}/" in page for n in range(3)] == [True] * 3


def test_nobody_without_the_token_sees_or_writes_anything(served: Served) -> None:
    path = f"/study/{study_key(0)}/"
    for headers in ({}, {"Cookie": f"noduleflow_review_{served.port}=x"}, {"X-Noduleflow-Token": served.token[:-1]}):
        assert served.ask("GET", path, headers=headers, token=False)[0] == 401
        assert served.ask("POST", f"{path}feedback", b"{}", {**JSON, **headers}, token=False)[0] == 401
    assert served.ask("GET", "/?token=wrong", token=False)[0] == 401
    # the cookie alone writes nothing: a browser sends it with a form of any page
    cookie = {"Cookie": f"noduleflow_review_{served.port}={served.token}"}
    assert served.ask("GET", path, headers=cookie, token=False)[0] == 200
    body = answers(0, "XX").to_json()
    assert served.ask("POST", f"{path}feedback", body, {**JSON, **cookie}, token=False)[0] == 401
    assert "XX" not in {one.reader for one, _ in answers_of(served.workspace).given}


def test_a_page_can_post_to_its_own_server_and_load_from_nowhere_else(served: Served) -> None:
    _, headers, body = served.ask("GET", f"/study/{study_key(1)}/")
    page = body.decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].endswith("connect-src 'self'") and "default-src &#39;none&#39;" in policy[1]
    assert '<meta name="noduleflow-post" content="feedback">' in page
    assert f'<meta name="noduleflow-token" content="{served.token}">' in page
    assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
    stored = (served.workspace.reviews_root / study_key(1) / "report.html").read_text()
    assert "connect-src" not in stored and served.token not in stored
    assert served.ask("GET", f"/study/{study_key(1)}")[0] == 308


def test_posted_answers_are_stored_whole_once_and_become_labels(served: Served) -> None:
    given = answers(1, "Dr. <b>Å</b>", {0: {}, 1: REJECT}, comment="</script><script>alert(1)</script>")
    before = n_answers(served)
    status, said = served.post(given, 1, Origin=f"http://127.0.0.1:{served.port}", Sec_Fetch_Site="same-origin")
    assert (status, said["message"]) == (201, "2 answers are stored.")
    status, said = served.post(given, 1)
    assert (status, said["new"]) == (200, False) and n_answers(served) == before + 1
    kept = [one for one, _ in answers_of(served.workspace, [study_key(1)]).given]
    assert kept == [given]
    assert b"&lt;b&gt;" in served.ask("GET", "/")[2]
    until = time.monotonic() + 60
    while not (labels := read_labels(served.workspace)) and time.monotonic() < until:
        time.sleep(0.2)
    assert labels == {finding_id(1, 0): "accept", finding_id(1, 1): "reject"}


def read_labels(workspace: Workspace) -> dict[str, str]:
    table = pd.read_parquet(workspace.nodule_table)
    if "answer" not in table:
        return {}
    own = table[(table["source"] == "reader") & (table["series_key"] == study_key(1))]
    return dict(zip(own["nodule_id"].str.removeprefix("nodule-"), own["answer"], strict=True))


def test_readers_who_post_at_once_lose_nothing(served: Served) -> None:
    given = [answers(2, f"reader {n}", {n % 3: {}}, comment=f"{n}") for n in range(8)]
    found: list[int] = []
    threads = [threading.Thread(target=lambda one=one: found.append(served.post(one, 2)[0])) for one in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [201] * 8
    assert {one.reader for one, _ in answers_of(served.workspace, [study_key(2)]).given} == {
        one.reader for one in given
    }


def test_what_breaks_the_contract_is_answered_in_one_line_and_not_kept(served: Served) -> None:
    good = json.loads(answers(0, "YY").to_json())
    cases = [
        (b"{", 400, "not a JSON record"),
        (b"[" * 100_000, 400, "not a JSON record"),
        (b"", 400, "not a JSON record"),
        (json.dumps({**good, "surname": "x"}).encode(), 400, "surname"),
        (json.dumps({**good, "reader": ""}).encode(), 400, "reader"),
        (json.dumps({**good, "schema_version": 7}).encode(), 400, "schema version 7"),
        (json.dumps({**good, "study_key": study_key(1)}).encode(), 422, "another page"),
        (json.dumps({**good, "model_version": "8"}).encode(), 422, "model version 8"),
        (json.dumps({**good, "time_utc": "2099-01-01T00:00:00Z"}).encode(), 422, "future"),
    ]
    before = n_answers(served)
    for body, status, words in cases:
        got, said = served.post(body)
        assert got == status and words in str(said["error"]) and "\n" not in str(said["error"]), (body[:50], said)
    assert n_answers(served) == before


def test_requests_of_other_pages_names_kinds_and_methods_are_refused(served: Served) -> None:
    path, body = f"/study/{study_key(0)}/feedback", answers(0, "ZZ").to_json()
    for headers, status in (
        ({**JSON, "Origin": "http://evil.example"}, 403),
        ({**JSON, "Origin": "null"}, 403),
        ({**JSON, "Origin": f"https://127.0.0.1:{served.port}"}, 403),
        ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**JSON, "Host": "evil.example"}, 421),
        ({**JSON, "Host": f"127.0.0.1.evil.example:{served.port}"}, 421),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
    ):
        assert served.ask("POST", path, body, headers)[0] == status, headers
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert served.ask(method, path, body, JSON)[0] == 405
    assert served.ask("GET", path)[0] == 405 and served.ask("POST", "/", b"{}", JSON)[0] == 405
    assert served.ask("HEAD", "/")[2] == b""
    assert "ZZ" not in {one.reader for one, _ in answers_of(served.workspace).given}


@pytest.mark.parametrize(
    "path",
    [
        "/study/../../secret.key",
        "/study/..%2f..%2fsecret.key/",
        "/study/%2e%2e/",
        "/study/%00/",
        "//etc/passwd",
        f"/study/{study_key(0)}/report.html",
        f"/study/{study_key(0)}/answers/",
        f"/study/{study_key(0)}/../{study_key(1)}/review.json",
        f"/blind/{study_key(0)}/",
        "/study/*/",
        "/?token=",
        "/" + "a" * 20_000,
    ],
)
def test_no_path_leads_to_a_file(served: Served, path: str) -> None:
    status, _, body = served.ask("GET", path)
    assert status in (400, 404) or path == "/?token="
    assert b"root:" not in body and b"checkpoint" not in body


def test_a_body_that_is_too_large_is_not_read_to_its_end(served: Served) -> None:
    head = (
        f"POST /study/{study_key(0)}/feedback HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        f"X-Noduleflow-Token: {served.token}\r\nContent-Type: application/json\r\n"
    )
    for more in ("Content-Length: 50000000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as raw:
            raw.sendall((head + more).encode())
            sent = 0
            try:
                while more.startswith("Transfer") and sent < 50_000_000:
                    raw.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                    sent += 0x10000
            except OSError:
                pass
            assert sent < 20_000_000
            if not sent:
                assert b" 413 " in raw.recv(4096)


@pytest.mark.slow
def test_slow_requests_end_and_do_not_keep_others_waiting(served: Served) -> None:
    sockets = [socket.create_connection(("127.0.0.1", served.port), timeout=90) for _ in range(60)]
    body_head = (
        f"POST /study/{study_key(0)}/feedback HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        f"X-Noduleflow-Token: {served.token}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    )
    for number, raw in enumerate(sockets):
        raw.sendall(body_head.encode() if number % 2 else b"GET / HTTP/1.1\r\nHost: 12")
    assert served.ask("GET", "/")[0] == 200
    ended = []
    for number, raw in enumerate(sockets):
        said = raw.recv(4096)
        ended.append(b" 408 " in said if number % 2 else said == b"")
        raw.close()
    assert all(ended)


def test_a_nodule_that_a_reader_added_can_be_scrolled_when_it_is_decided(served: Served) -> None:
    added = {"missed": ({"lps_mm": ELSEWHERE, "diameter_mm": 6.0},)}
    assert served.post(answers(2, "AB", {0: {}}, **added), 2)[0] == 201
    assert served.post(answers(2, "CD", {0: {}}), 2)[0] == 201
    page = served.ask("GET", f"/adjudicate/{study_key(2)}/")[2].decode()
    (block,) = re.findall(r'id="(stack-missed-[0-9a-z]+)">', page)
    assert f'"stack": "{block}"' in page


def test_an_accepted_finding_returns_blind_and_differing_readers_return_to_a_third(served: Served) -> None:
    assert served.post(answers(0, "AB", {0: {}, 1: {}}))[0] == 201
    assert served.post(answers(0, "CD", {1: REJECT}, **LATER))[0] == 201
    page = served.ask("GET", "/")[2].decode()
    assert f"second/{study_key(0)}/" in page and f"adjudicate/{study_key(0)}/" in page
    blind = served.ask("GET", f"/second/{study_key(0)}/")[2].decode()
    assert "73.1" not in blind and "0.73" not in blind and "spiculation" not in blind.lower()
    assert "8.0 mm" not in blind, "nor what the program measured"
    assert served.post(answers(0, "EF", {0: {}}), 0, "second")[0] == 422, "it must say that it is a second reading"
    second = answers(0, "EF", {0: {}, 1: {}}, second_read=True, model_visible_first=False, **LATER)
    assert served.post(second)[0] == 422, "an open page gives no blind reading"
    assert served.post(second, 0, "second")[0] == 201
    assert served.ask("GET", f"/second/{study_key(0)}/")[0] == 404, "nothing is due any more"
    deciding = served.ask("GET", f"/adjudicate/{study_key(0)}/")[2].decode()
    assert "CD: rejected, vessel" in deciding and finding_id(0, 1) in deciding and finding_id(0, 2) not in deciding
    judge = answers(0, "GH", {1: REJECT}, role="adjudicator", time_utc="2026-11-20T20:00:00+00:00")
    assert served.post(judge, 0, "adjudicate")[0] == 201
    assert served.ask("GET", f"/adjudicate/{study_key(0)}/")[0] == 404


def test_the_log_has_method_route_and_status_and_nothing_else(served: Served) -> None:
    own = [line.strip() for line in served.lines if "Open http" not in line]
    line = re.compile(r"(GET|HEAD|POST|other) (-|/[{}a-z/]*) (\d{3}|no answer)")
    assert len(own) > 40 and [entry for entry in own if not line.fullmatch(entry)] == []
    assert sum(served.token in entry for entry in served.lines) == 1


def test_the_server_ends_at_sigterm_with_every_confirmed_answer(tmp_path: Path) -> None:
    workspace = reviewed_workspace(tmp_path / "workspace", 1, pictures=False)
    with serving(workspace, study_key(0), "--blind") as served:
        assert served.ask("GET", f"/study/{study_key(0)}/")[0] == 404, "first readings are blind here"
        blind = answers(0, "AB", {0: REJECT}, model_visible_first=False)
        assert served.post(answers(0, "AB", {0: REJECT}), 0, "blind")[0] == 422
        assert served.post(blind, 0, "blind")[0] == 201
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0
        assert served.process.stdout is not None and "1 files of answers stored" in served.process.stdout.read()
    table = pd.read_parquet(workspace.nodule_table)
    assert (table["source"] == "reader").sum() == 1


@pytest.mark.parametrize(
    ("host", "variables", "words"),
    [
        ("0.0.0.0", {}, "without authentication"),
        ("::", {}, "without authentication"),
        ("10.1.2.3", {"review_token": "short"}, "fewer than 24"),
        ("10.1.2.3", {"review_token": "long enough to be one, but odd"}, "other characters"),
        ("10.1.2.3", {"review_token": "t" * 24}, "unencrypted"),
        ("0.0.0.0", {"review_token": "t" * 24, "review_plain_http": True}, "must know its names"),
        ("127.0.0.1", {"review_certificate": "/nowhere.pem"}, "no such file"),
    ],
)
def test_a_binding_that_others_reach_needs_a_token_and_encryption(
    host: str, variables: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        _check_binding(Settings(_env_file=None, **variables), host)
    _check_binding(Settings(_env_file=None), "127.0.0.1")
    _check_binding(Settings(_env_file=None, review_token="t" * 24, review_plain_http=True), "10.1.2.3")


def test_a_wrong_call_is_one_line_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = reviewed_workspace(tmp_path / "workspace", 1, pictures=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, words in (
            (["--host", "0.0.0.0"], "without authentication"),
            (["0000"], "no report of this study"),
            (["--push", "http://x"], "makes no sense"),
            (["--port", str(taken.getsockname()[1])], "cannot listen"),
        ):
            with pytest.raises(SystemExit) as ended:
                main(["--workspace", str(workspace.root), "review", "--serve", *arguments])
            said = capsys.readouterr().err
            assert ended.value.code == 2 and words in said and len(said.splitlines()) == 1, said

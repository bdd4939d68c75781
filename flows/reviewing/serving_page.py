"""`review --serve`: the reports of this workspace in a browser, and the answers of their readers back.

One process, on this machine alone unless the installation sets a token and a certificate.
"""

from __future__ import annotations

import ipaddress
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from data_contracts.errors import NoduleflowError, UsageError
from flows.keeping.binding import is_loopback
from flows.progress import say
from flows.reviewing.reader_labels import refresh_labels
from flows.settings import Settings, configured_secret
from flows.workspace import Workspace
from flows.workspace_key import refuse_other_secret

if TYPE_CHECKING:
    from flows.reviewing.page_guard import Access

#: a token of the installation has at least as many characters
_MIN_TOKEN = 24
#: how long requests that are at work may take to end after we were told to
_GRACE_S = 10
#: how long a connection may take to say what it wants
_HEAD_S = 20.0
_MOST_CONNECTIONS = 512


def serve_pages(
    workspace: Workspace,
    settings: Settings,
    study_keys: Sequence[str],
    *,
    host: str,
    port: int,
    is_blind: bool,
) -> dict[str, Any]:
    """Serve the reports of some studies, or of all, until SIGTERM or SIGINT; prints the address once.

    Raises
    ------
    UsageError: a study without a report, a binding beyond loopback without authentication, a port that is taken, or
    another secret than the studies were named with: answers could not become labels.
    """
    import uvicorn

    from flows.reviewing.page_guard import Guard
    from flows.reviewing.page_server import page_app
    from flows.reviewing.page_timeouts import timed_protocol
    from flows.reviewing.pages import Pages

    refuse_other_secret(workspace, configured_secret())
    pages = Pages(workspace, study_keys, is_blind=is_blind)
    unknown = [key for key in study_keys if key not in pages.study_keys()]
    if unknown:
        raise UsageError(
            "there is no report of this study", where=unknown[0][:64], todo="Run `noduleflow review` on it first."
        )
    _check_binding(settings, host)
    listening = _listening(host, port)
    try:
        port = int(listening.getsockname()[1])
        access = _access(settings, host, port)
        labels = _Labels(workspace)
        app = Guard(page_app(pages, access, labels.wanted), access, say)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=timed_protocol(_HEAD_S),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=_GRACE_S,
                h11_max_incomplete_event_size=32_768,
                ssl_certfile=settings.review_certificate,
                ssl_keyfile=settings.review_certificate_key,
            )
        )
        with _ended_by_signal() as ended, labels:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            address = f"{'https' if access.secure else 'http'}://{_shown(host)}:{port}"
            # the one place where the token is shown; a token of the installation is known already
            said = "" if settings.review_token else f"/?token={access.token}"
            say(f"serving {len(pages.study_keys())} reports. Open {address}{said}")
            while thread.is_alive() and not ended.wait(0.25):
                pass
            server.should_exit = True
            thread.join(_GRACE_S + 5)
    finally:
        listening.close()
    say("ending: every answer that was confirmed is stored")
    return {"address": address, "stored": labels.stored, "labels_now": labels.last}


class _Labels:
    """Brings the nodule table up to date after answers came, beside the requests and once more at the end."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.stored = 0
        self.last: dict[str, Any] = {}
        self._wanted, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def wanted(self) -> None:
        """New answers are there."""
        self.stored += 1
        self._wanted.set()

    def __enter__(self) -> _Labels:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._wanted.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            is_over = self._over.is_set()
            try:
                self.last = refresh_labels(self.workspace)
            except (NoduleflowError, OSError) as error:
                # the answers are safe; `prepare` makes their labels again
                say(f"labels are not up to date ({type(error).__name__}); the next `prepare` makes them")
            if is_over:
                return


def _check_binding(settings: Settings, host: str) -> None:
    """Refuse an address that others can reach unless they must know a secret, and it does not travel readable."""
    token = settings.review_token.get_secret_value() if settings.review_token else ""
    if settings.review_token and len(token) < _MIN_TOKEN:
        raise UsageError(f"NODULEFLOW_REVIEW_TOKEN has fewer than {_MIN_TOKEN} characters", todo="Take a longer one.")
    if not all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in token):
        raise UsageError("NODULEFLOW_REVIEW_TOKEN has other characters than letters, digits, - and _")
    for name in ("review_certificate", "review_certificate_key"):
        path: Path | None = getattr(settings, name)
        if path is not None and not path.is_file():
            raise UsageError("there is no such file", where=f"NODULEFLOW_{name.upper()}={path}")
    if is_loopback(host):
        return
    if not token:
        raise UsageError(
            "the review server would be open to others without authentication",
            where=host,
            todo="Leave --host away, or set NODULEFLOW_REVIEW_TOKEN.",
        )
    if settings.review_certificate is None and not settings.review_plain_http:
        raise UsageError(
            "the token and the reports would travel unencrypted",
            where=host,
            todo="Set NODULEFLOW_REVIEW_CERTIFICATE, or NODULEFLOW_REVIEW_PLAIN_HTTP behind a proxy that has one.",
        )
    if _is_any(host) and not settings.review_hosts:
        raise UsageError(
            "the review server must know its names, or any page could pose as it",
            where=host,
            todo="Set NODULEFLOW_REVIEW_HOSTS, as in review.hospital.example:8443.",
        )


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket; the system chooses the port where it is 0."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"the review server cannot listen there ({error.strerror})", where=host) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)  # who calls as soon as the address is printed waits, and is not refused
    except OSError as error:
        made.close()
        raise UsageError(
            f"the review server cannot listen there ({error.strerror})",
            where=f"{host}:{port}",
            todo="Choose another --port; 0 takes a free one.",
        ) from None
    made.set_inheritable(False)
    return made


def _access(settings: Settings, host: str, port: int) -> Access:
    from flows.reviewing.page_guard import Access

    token = settings.review_token.get_secret_value() if settings.review_token else secrets.token_urlsafe(32)
    names = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")} if is_loopback(host) else set()
    if not _is_any(host):
        names.add(f"{_shown(host)}:{port}".lower())
    is_secure = settings.review_certificate is not None
    if port == (443 if is_secure else 80):
        names |= {name.rpartition(":")[0] for name in names}
    names |= {name.strip().lower() for name in settings.review_hosts.split(",") if name.strip()}
    # a cookie is of a host, whatever the port: the port in its name keeps two servers apart
    return Access(token, frozenset(names), f"noduleflow_review_{port}", is_secure)


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host == ""


def _shown(host: str) -> str:
    bare = host.strip("[]")
    return f"[{bare}]" if ":" in bare else bare


@contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends at once."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield ended
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

"""HTTP to a PACS: bounded in time, tried again with back-off, and careful where credentials go."""

from __future__ import annotations

import email.utils
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Event
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth

from data_contracts.errors import DecodeError, ExchangeError
from pipeline.exchange.multipart import MultipartFiles
from pipeline.exchange.web_server import WebServer

#: answers that may be better a moment later
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_REDIRECTS = 5
_PIECE_BYTES = 1 << 18
#: a peer that sends less than this in a window of `timeout_s` has stalled
_STALL_BYTES = 1024
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
#: an answer that cannot be read is asked for once more: the server may hold it so
_UNREADABLE_ATTEMPTS = 2

Body = Callable[[], MultipartFiles]
Take = Callable[[requests.Response, Iterator[bytes]], None]


class RefusedError(ExchangeError):
    """An answer with an error status that is not worth another attempt. status: the HTTP status."""

    status = 0


class UnreadableAnswerError(ExchangeError):
    """An answer that is not what was asked for, or not whole, each time it is asked for."""


class WebClient:
    """Requests to one server; may be used by several threads. Closing it ends the requests that are under way.

    Raises, in every method
    -----------------------
    RefusedError: the server refuses (4xx, or a 5xx that stays), with its status.
    UnreadableAnswerError: it sends something else, or only a part.
    ExchangeError: it cannot be reached, breaks off or stalls at every attempt.
    """

    def __init__(self, server: WebServer) -> None:
        _silence_loggers()
        self.server = server
        self._stopped = Event()
        self._own = self._session(with_credentials=True)
        self._stranger = self._session(with_credentials=False)

    def __enter__(self) -> WebClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End pauses and connections."""
        self._stopped.set()
        self._own.close()
        self._stranger.close()

    def _session(self, *, with_credentials: bool) -> requests.Session:
        session = requests.Session()
        # the environment may name a proxy outside the house, or a netrc with somebody's password
        session.trust_env = False
        session.verify = str(self.server.ca_bundle) if self.server.ca_bundle else True
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=max(self.server.connections, 1))
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        if with_credentials:
            certificate, key = self.server.client_certificate, self.server.client_key
            session.cert = (str(certificate), str(key)) if certificate and key else str(certificate or "") or None
            if self.server.user:
                session.auth = HTTPBasicAuth(self.server.user.encode(), self.server.password.encode())
            elif self.server.token:
                session.auth = _Bearer(self.server.token)
        return session

    def fetch(self, path: str, accept: str, take: Take) -> None:
        """GET `path` below the root and hand the answer to `take`, again from the start where it breaks off."""
        self.send("GET", path, accept, take)

    def send(
        self,
        method: str,
        path: str,
        accept: str,
        take: Take,
        body: Body | None = None,
        accepted: frozenset[int] = frozenset(),
    ) -> None:
        """Make one request until it succeeds; `body` makes the body of each attempt.

        take: gets the answer and its pieces, decoded from gzip; statuses in `accepted` are handed to it as well. A
        DecodeError that it raises counts as a failed attempt.
        """
        for attempt in range(1, self.server.attempts + 1):
            failure: ExchangeError
            pause_s = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1)
            try:
                with self._open(method, path, accept, body) as response:
                    status = response.status_code
                    if status < 300 or status in accepted:
                        take(response, self._pieces(response))
                        return
                    failure = _refusal(status, self.server)
                    if status not in _PASSING:
                        raise failure
                    asked_s = _retry_after_s(response.headers.get("Retry-After", ""))
                    if asked_s > _LONGEST_PAUSE_S:
                        raise ExchangeError(
                            f"the server asks to come back in {asked_s:.0f} s", where=self.server.name, todo=_AGAIN
                        )
                    pause_s = max(pause_s, asked_s)
            except DecodeError as error:
                failure = UnreadableAnswerError(f"the answer cannot be used: {error.what}", where=self.server.name)
                if attempt >= _UNREADABLE_ATTEMPTS:
                    break
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                failure = self._broken(error)
            if attempt < self.server.attempts and self._stopped.wait(pause_s):
                break
        failure.todo = f"Tried {attempt} times. {_AGAIN}"
        raise failure

    def _broken(self, error: Exception) -> ExchangeError:
        """What went wrong with the connection. The error's own text holds the address, and so UIDs."""
        if isinstance(error, requests.exceptions.SSLError):
            raise ExchangeError(
                "the TLS connection is refused", where=self.server.name, todo="Set NODULEFLOW_DICOMWEB_CA_BUNDLE."
            ) from None
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException) and error.errno is not None:
            raise error  # of the disk, not of the network
        is_slow = isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)
        what = "the server does not answer in time" if is_slow else "the connection to the server breaks off"
        if isinstance(error, requests.exceptions.ConnectionError) and not is_slow:
            what = "the server cannot be reached, or breaks off"
        return ExchangeError(what, where=self.server.name)

    @contextmanager
    def _open(self, method: str, path: str, accept: str, body: Body | None) -> Iterator[requests.Response]:
        """The answer after redirects; another host gets neither credentials nor a body."""
        url = f"{self.server.root}{path}"
        session = self._own
        for _ in range(_MAX_REDIRECTS):
            data = body() if body else None
            content = {"Content-Type": data.content_type} if data else {}
            response = session.request(
                method,
                url,
                headers={"Accept": accept, **content},
                data=data,  # type: ignore[arg-type]
                stream=True,
                allow_redirects=False,
                timeout=self.server.timeout_s,
            )
            with response:
                target = response.headers.get("Location", "")
                if response.status_code not in _REDIRECTS or not target:
                    yield response
                    return
            url = urljoin(url, target)
            is_same = _origin(url) == _origin(self.server.url)
            if urlsplit(url).scheme not in ("http", "https") or (
                urlsplit(self.server.url).scheme == "https" and urlsplit(url).scheme == "http"
            ):
                raise ExchangeError("the server redirects away from https", where=self.server.name)
            if not is_same and body is not None:
                raise ExchangeError("the server redirects an upload to another host", where=self.server.name)
            session = self._own if is_same else self._stranger
        raise ExchangeError(f"the server redirects more than {_MAX_REDIRECTS} times", where=self.server.name)

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it arrives; raises a timeout where it only drips."""
        started, received = time.monotonic(), 0
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
            received += len(piece)
            yield piece
            now = time.monotonic()
            if received >= _STALL_BYTES:
                started, received = now, 0
            elif now - started > self.server.timeout_s:
                raise TimeoutError


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


_AGAIN = "What was stored stays; run the same command again to go on."


def _refusal(status: int, server: WebServer) -> RefusedError:
    phrase = HTTPStatus(status).phrase if status in {item.value for item in HTTPStatus} else "unknown"
    todo = {
        401: "Set NODULEFLOW_DICOMWEB_USER and _PASSWORD, or NODULEFLOW_DICOMWEB_TOKEN.",
        403: "The credentials do not allow it; ask the administrator of the server.",
        404: "Check the address: the root of the service, such as https://host/dicom-web.",
    }.get(status, "")
    answer = RefusedError(f"the server answers {status} {phrase}", where=server.name, todo=todo)
    answer.status = status
    return answer


def _retry_after_s(text: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3); 0 where there is none."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def _silence_loggers() -> None:
    """Their debug lines hold whole addresses, and so UIDs."""
    for name in ("urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

"""Who may ask the review server what: the right name, the token, and for answers a request of our own page.

Nothing of a request is logged but its method, the route it took and the status it got.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "X-Noduleflow-Token"
#: answers are the only thing that changes anything
_READING = ("GET", "HEAD")
_WRITING = ("POST",)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_FRAMES = "frame-ancestors 'none'"


@dataclass(frozen=True)
class Access:
    """Who may come in. hosts: names and ports by which browsers may call, in lower case; cookie: its name."""

    token: str = field(repr=False)
    hosts: frozenset[str]
    cookie: str
    secure: bool = False

    def is_token(self, given: str) -> bool:
        """Whether it is the token, told without telling how much of it is right."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


class Guard:
    """ASGI: checks every request before the pages see it; `log` hears method, route and status."""

    def __init__(self, app: ASGIApp, access: Access, log: Callable[[str], None]) -> None:
        self.app, self.access, self.log = app, access, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is no HTTP is not answered."""
        if scope["type"] != "http":
            return
        method = scope["method"] if scope["method"] in (*_READING, *_WRITING) else "other"
        seen: list[int] = []

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.append(message["status"])
                extra = {**_HEADERS, "Content-Security-Policy": _FRAMES}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
            await send(message)

        try:
            refusal = self._refusal(scope, _headers(scope))
            if refusal is not None:
                await refusal(scope, receive, noted)
            else:
                await self.app(scope, receive, noted)
        finally:
            route = scope.get("noduleflow_route", "-")
            self.log(f"{method} {route} {seen[0] if seen else 'no answer'}")

    def _refusal(self, scope: Scope, headers: dict[str, list[str]]) -> Response | None:
        """The answer that ends a request before it is looked at further; None where it may go on."""
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.access.hosts:
            return refused("this server is not called by that name", 421)
        if scope["method"] in _WRITING:
            return self._refused_write(headers)
        if scope["method"] not in _READING:
            return refused("only GET, HEAD and POST are answered", 405, {"Allow": "GET, HEAD, POST"})
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if scope["path"] == "/" and len(given) == 1 and self.access.is_token(given[0]):
            scope["noduleflow_route"] = "/"
            return self._welcome()
        if not self._is_known(headers):
            return PlainTextResponse("Open the address that `noduleflow review --serve` printed.\n", 401)
        return None

    def _welcome(self) -> Response:
        """On to the list, with the token in a cookie and no more in the address."""
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self.access.cookie, self.access.token, httponly=True, samesite="strict", secure=self.access.secure, path="/"
        )
        return response

    def _is_known(self, headers: dict[str, list[str]]) -> bool:
        if any(self.access.is_token(value) for value in headers.get(TOKEN_HEADER.lower(), [])):
            return True
        try:
            cookies = SimpleCookie("; ".join(headers.get("cookie", [])))
        except CookieError:
            return False
        morsel = cookies.get(self.access.cookie)
        return morsel is not None and self.access.is_token(morsel.value)

    def _refused_write(self, headers: dict[str, list[str]]) -> Response | None:
        """A cookie alone writes nothing: a page of somebody else could make a browser send it."""
        tokens = headers.get(TOKEN_HEADER.lower(), [])
        if len(tokens) != 1 or not self.access.is_token(tokens[0]):
            return refused(f"the header {TOKEN_HEADER} is missing or wrong: open the page again", 401)
        scheme = "https" if self.access.secure else "http"
        allowed = {f"{scheme}://{host}" for host in self.access.hosts}
        if any(origin.lower() not in allowed for origin in headers.get("origin", [])):
            return refused("answers are taken from this server's own pages alone", 403)
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", [])):
            return refused("answers are taken from this server's own pages alone", 403)
        kinds = [kind.partition(";")[0].strip().lower() for kind in headers.get("content-type", [])]
        if kinds != ["application/json"]:
            return refused("answers are sent as application/json", 415)
        return None


def refused(what: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says in one line what is wrong."""
    # ASCII only, whatever the line quotes
    return JSONResponse({"error": what.encode("ascii", "backslashreplace").decode()}, status, headers)


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found

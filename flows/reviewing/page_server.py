"""The routes of the review server: the list, the pages, and answers posted from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from data_contracts.errors import ContractError, NoduleflowError, UsageError, WorkspaceError
from data_contracts.feedback import ReaderFeedback
from flows.reviewing.answers import Kept, keep_answers
from flows.reviewing.page_guard import Access, refused
from flows.reviewing.pages import Pages
from flows.reviewing.waiting import waiting_page
from pipeline.review.feedback import MAX_BYTES

#: how long the body of a request may take
BODY_S = 20.0
_KEEP_OPEN = "Keep this page open, or save the answers to a file."


def page_app(pages: Pages, access: Access, stored: Callable[[], None]) -> Starlette:
    """The application behind the guard. stored: called after new answers were kept."""

    async def show_list(request: Request) -> Response:
        request.scope["noduleflow_route"] = "/"
        return HTMLResponse(await run_in_threadpool(waiting_page, pages))

    async def show_page(request: Request) -> Response:
        request.scope["noduleflow_route"] = "/{reading}/{study}/"
        reading, key = request.path_params["reading"], request.path_params["study_key"]
        if not await run_in_threadpool(pages.has, reading, key):
            raise HTTPException(404)
        html = await run_in_threadpool(pages.page, reading, key, access.token)
        if html is None:
            raise HTTPException(404)
        return HTMLResponse(html)

    async def to_folder(request: Request) -> Response:
        request.scope["noduleflow_route"] = "/{reading}/{study}"
        reading, key = request.path_params["reading"], request.path_params["study_key"]
        if not await run_in_threadpool(pages.has, reading, key):
            raise HTTPException(404)
        return RedirectResponse(f"/{reading}/{key}/", 308)

    async def take(request: Request) -> Response:
        request.scope["noduleflow_route"] = "/{reading}/{study}/feedback"
        reading, key = request.path_params["reading"], request.path_params["study_key"]
        if not await run_in_threadpool(pages.has, reading, key):
            return refused("there is no such page", 404)
        body = await _body(request)
        if isinstance(body, Response):
            return body
        answer, kept = await run_in_threadpool(_keep, pages, reading, key, body)
        if kept is not None and kept.is_new:
            stored()
        return answer

    return Starlette(
        routes=[
            Route("/", show_list, methods=["GET"]),
            Route("/{reading}/{study_key}", to_folder, methods=["GET"]),
            Route("/{reading}/{study_key}/", show_page, methods=["GET"]),
            Route("/{reading}/{study_key}/feedback", take, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _plain, Exception: _failed},
    )


async def _body(request: Request) -> bytes | Response:
    """The body of a request, or the answer to one that is too large, too slow or broken off."""
    too_large = refused(f"answers have at most {MAX_BYTES} bytes", 413, {"Connection": "close"})
    stated = request.headers.get("content-length", "")
    if stated and (not stated.isascii() or not stated.isdigit() or int(stated[:12]) > MAX_BYTES):
        return too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BYTES:
                    return too_large
                parts.append(part)
    except TimeoutError:
        return refused("the answers came too slowly", 408, {"Connection": "close"})
    except ClientDisconnect:
        return refused("the request broke off", 400)
    return b"".join(parts)


def _keep(pages: Pages, reading: str, key: str, body: bytes) -> tuple[JSONResponse, Kept | None]:
    """Keep what was posted from a page, and say so; nothing is kept of what is refused."""
    try:
        feedback = ReaderFeedback.from_json(body)
    except (ContractError, RecursionError) as error:
        what = error.what if isinstance(error, ContractError) else "not a JSON record of ReaderFeedback"
        return refused(what, 400), None
    if feedback.study_key != key or not _fits(feedback, reading):
        return refused("the answers were given to another page than this one", 422), None
    try:
        kept = keep_answers(pages.workspace, feedback)
    except (WorkspaceError, OSError):
        return refused(f"the answers could not be stored. {_KEEP_OPEN}", 507), None
    except NoduleflowError as error:
        return refused(error.line(), 409 if isinstance(error, UsageError) else 422), None
    n = kept.n_answers + kept.n_missed
    words = f"{n} {'answer is' if n == 1 else 'answers are'}" if n else "That nothing is missed is"
    message = f"{words} stored." if kept.is_new else f"{words} stored already; nothing changed."
    record = {"message": message, "stored": True, "new": kept.is_new, "answers": kept.n_answers}
    return JSONResponse({**record, "missed": kept.n_missed}, 201 if kept.is_new else 200), kept


def _fits(feedback: ReaderFeedback, reading: str) -> bool:
    """Whether answers say of themselves what is true of the page they came from."""
    if reading == "adjudicate":
        return feedback.role == "adjudicator" and not feedback.second_read
    if reading == "second":
        return feedback.role == "reader" and feedback.second_read
    if reading == "blind":
        return feedback.role == "reader" and not feedback.second_read and not feedback.model_visible_first
    return not feedback.second_read


async def _plain(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "There is no such page.", 405: "That is not how this page is asked."}
    allowed = (error.headers if isinstance(error, HTTPException) else None) or None
    return PlainTextResponse(words.get(status, "This cannot be answered.") + "\n", status, allowed)


async def _failed(request: Request, error: Exception) -> Response:
    if request.method == "POST":
        return refused(f"the answers could not be stored. {_KEEP_OPEN}", 500)
    return PlainTextResponse("The page could not be made. `noduleflow doctor` may know why.\n", 500)

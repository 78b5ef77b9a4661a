"""The dashboard's web application: who may ask, what a browser may do with the answers, and the addresses of the pages.

Pages are rendered here from templates in which everything is escaped. A browser gets scripts and styles of this server
alone, and is told by server-sent events that the log has grown, and nothing else.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.errors import NotFound, TryAgain, Unavailable, UsageError, UserError
from services.dashboard import pages
from services.dashboard.source import HEAD_SECONDS, Source
from services.host.visible import visible

HERE = Path(__file__).parent
COOKIE = "evolog_token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may load and do: what comes from this server, and no script or style within the page."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
STATUS: Mapping[type[UserError], int] = {NotFound: 404, UsageError: 400, TryAgain: 503, Unavailable: 503}
"""The status of a page that could not be made, by why."""

PageMaker = Callable[[Source, Request], Awaitable[Mapping[str, Any]]]
PAGES: Mapping[str, tuple[str, PageMaker]] = {
    "/": ("runs.html", pages.runs),
    "/compare": ("compare.html", pages.compare),
    "/sql": ("sql.html", pages.sql),
    "/runs/{run}": ("overview.html", pages.overview),
    "/runs/{run}/lineage": ("lineage.html", pages.lineage),
    "/runs/{run}/candidates/{generation:int}": ("candidate.html", pages.candidate),
    "/runs/{run}/trajectories": ("trajectories.html", pages.trajectories),
    "/runs/{run}/trajectories/{seq:int}": ("trajectory.html", pages.trajectory),
    "/runs/{run}/audit": ("audit.html", pages.audit),
    "/runs/{run}/training": ("training.html", pages.training),
    "/runs/{run}/history": ("history.html", pages.history),
}
"""The template of each address, and what is put into it."""


def create_app(source: Source, token: str, hosts: list[str]) -> Starlette:
    """The application for one project directory. `hosts` are the names by which it may be asked, without ports."""
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters |= pages.FILTERS
    routes = [Route(path, partial(_page, source, templates, *made), name=path) for path, made in PAGES.items()]
    routes += [
        Route("/sql.csv", partial(_csv, source)),
        Route("/head", partial(_heads, source)),
    ]
    app = Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=HERE / "static"))],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(Guard, token=token),
        ],
        exception_handlers={404: partial(_not_found, templates)},
    )
    return app


class Guard:
    """Lets those in who bring the token, once in the address and then as a cookie, and marks every answer with
    `HEADERS`. Nothing but reading is answered.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self._answer(request)(scope, receive, send_marked)

    def _answer(self, request: Request) -> ASGIApp:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("The dashboard only reads.\n", 405)
        if self._agrees(request.query_params.get("token", "")):
            rest = urlencode([pair for pair in request.query_params.multi_items() if pair[0] != "token"])
            response = RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(
                COOKIE, self._token, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
            )
            return response
        if self._agrees(request.cookies.get(COOKIE, "")):
            return self._app
        return PlainTextResponse(
            "This needs the token: open the address that `evolog ui` printed, token included.\n", 401
        )

    def _agrees(self, said: str) -> bool:
        return hmac.compare_digest(said.encode(), self._token.encode())


async def _page(
    source: Source, templates: Environment, template: str, make: PageMaker, request: Request
) -> HTMLResponse:
    try:
        content = await make(source, request)
        status = 200
    except UserError as wrong:
        template, status = "error.html", STATUS.get(type(wrong), 500)
        live = isinstance(wrong, TryAgain | Unavailable | NotFound)  # what it lacks may come with the next event
        content = {"sentence": str(wrong), "live": live}
    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    common = {"gold": source.with_gold, "path": request.url.path, "address": address}
    return _html(templates, template, {**common, **content}, status)


def _html(templates: Environment, template: str, content: Mapping[str, Any], status: int) -> HTMLResponse:
    return HTMLResponse(visible(templates.get_template(template).render(content)), status)


async def _not_found(templates: Environment, request: Request, _: Exception) -> Response:
    sentence = f"There is no page {request.url.path} here."
    content = {"gold": False, "path": request.url.path, "sentence": sentence, "live": False}
    return _html(templates, "error.html", content, 404)


async def _csv(source: Source, request: Request) -> Response:
    try:
        text = await pages.csv_of(source, request)
    except UserError as wrong:
        return PlainTextResponse(f"{wrong}\n", STATUS.get(type(wrong), 500))
    headers = {"content-disposition": 'attachment; filename="evolog.csv"'}
    return Response(text, media_type="text/csv", headers=headers)


async def _heads(source: Source, request: Request) -> StreamingResponse:
    """Says that the log has grown, each time that it has, for as long as the browser listens."""

    async def stream() -> AsyncIterator[str]:
        told = await source.head()
        yield f"event: begun\ndata: {told}\n\n"
        while not await request.is_disconnected():
            await asyncio.sleep(HEAD_SECONDS)
            if (head := await source.head()) != told:
                told = head
                yield f"event: head\nid: {head}\ndata: {head}\n\n"
            else:
                yield ": nothing new\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")

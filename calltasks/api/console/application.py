"""The console's application: sessions, headers and errors around its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltasks.api.access import CONSOLE, Tokens
from calltasks.api.answers import answer_to
from calltasks.api.console import pages, reviewing, steering
from calltasks.api.console.rendering import page
from calltasks.api.console.sessions import COOKIE, form_of, open_session, session_of
from calltasks.call_tasks import CallTasks
from calltasks.errors import CallTasksError

HERE = Path(__file__).parent
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
SIGN_IN, SIGN_OUT, STATIC = "/sign-in", "/sign-out", "/static"


def console(calls: CallTasks, tokens: Tokens) -> Starlette:
    """The pages of ``/console``, for those who sign in with one of these tokens."""
    app = Starlette(
        routes=[
            Route("/", pages.begin),
            Route(SIGN_IN, _sign_in, methods=["GET", "POST"]),
            Route(SIGN_OUT, _sign_out, methods=["POST"]),
            *pages.routes,
            *reviewing.routes,
            *steering.routes,
            Mount(STATIC, StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(_Around, tokens=tokens)],
        exception_handlers={HTTPException: _error, CallTasksError: _error},
    )
    app.state.calls, app.state.tokens = calls, tokens
    return app


class _Around:
    """Headers on every answer; and nobody sees a page without having signed in."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        request = Request(scope)
        session = session_of(self._tokens, request)
        request.state.session = session
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if session is None and path != SIGN_IN and not path.startswith(f"{STATIC}/"):
            await RedirectResponse(f"{CONSOLE}{SIGN_IN}", 303)(scope, receive, with_headers)
            return
        if session is not None:
            request.state.organization_id = session.grant.organization_id
        await self._app(scope, receive, with_headers)


async def _sign_in(request: Request) -> Response:
    if request.method == "GET":
        return page(request, "sign-in.html")
    fields = await form_of(request, None)
    answer = RedirectResponse(f"{CONSOLE}/", 303)
    if open_session(request.app.state.tokens, fields.get("token", ""), fields.get("name", ""), request, answer):
        return answer
    return page(request, "sign-in.html", 401, refused=True)


async def _sign_out(request: Request) -> Response:
    await form_of(request, request.state.session)
    answer = RedirectResponse(f"{CONSOLE}{SIGN_IN}", 303)
    answer.delete_cookie(COOKIE, path=CONSOLE)
    return answer


async def _error(request: Request, error: Exception) -> Response:
    told = answer_to(error)
    assert told is not None
    return page(request, "error.html", told.status_code, message=_said(error))


def _said(error: Exception) -> Any:
    if isinstance(error, HTTPException):
        return error.detail
    assert isinstance(error, CallTasksError)
    return error.http_message or str(error)

"""The application, put together: one place for production and tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse

from calltasks.api import answers, endpoints, events, opt_outs
from calltasks.api.access import CONSOLE, Access, Tokens
from calltasks.api.console.application import console
from calltasks.api.requests import Requests
from calltasks.call_tasks import CallTasks
from calltasks.settings import Grant

TITLE = "Call tasks"
DESCRIPTION = """Outbound-call campaigns, from their creation to the sales follow-ups.

Every answer is an envelope: `{"status": "success", "code": 200, "message": …, "data": …}`, or
`{"status": "error", "code": …, "message": …}` with a fitting HTTP status. Every answer has the header `x-request-id`,
the caller's own if it sent one.
"""


def build(calls: CallTasks, grants: Mapping[bytes, Grant]) -> FastAPI:
    """The HTTP interface of ``calls``, and its console, for what these grants (by the digest of their tokens) allow."""
    tokens = Tokens(grants)
    app = FastAPI(
        title=TITLE,
        version="1.0",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        middleware=[Middleware(Requests), Middleware(Access, tokens=tokens)],
    )
    app.state.calls = calls
    app.include_router(endpoints.router)
    app.include_router(opt_outs.router)
    app.include_router(events.router)
    app.add_route(CONSOLE, _to_console, include_in_schema=False)
    app.mount(CONSOLE, console(calls, tokens))
    app.add_exception_handler(RequestValidationError, answers.handle)
    app.add_exception_handler(HTTPException, answers.handle)
    app.__dict__["openapi"] = lambda: _specification(app)
    return app


def _to_console(_: Request) -> RedirectResponse:
    """As people type the address."""
    return RedirectResponse(f"{CONSOLE}/", 303)


def _specification(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        # FastAPI documents a 422 of its own everywhere; ours is a 400 in the envelope.
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema

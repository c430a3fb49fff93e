"""Around every request: its id, its line in the log, its limits, and an answer even to what nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from contextvars import ContextVar
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calltasks.api.answers import answer_to, failure
from calltasks.errors import UNEXPECTED
from calltasks.observing import logs

log = logging.getLogger("api")

HEADER = "x-request-id"
MAX_BODY = 1_000_000
"""Bytes."""
SECONDS = 30
"""A request that gives nothing of its answer for longer is given up."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(request)s%(message)s"
_request_id: ContextVar[str] = ContextVar("request_id", default="")


class Requests:
    """ASGI middleware, the outermost one.

    The log's line has the path as the specification spells it, never as it was sent, nor any other part of the
    request: those may hold what belongs in no log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send)
        context = _request_id.set(request.id)
        try:
            await request.serve(self._app)
        finally:
            _request_id.reset(context)


class _Request:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self.id = _UNSAFE.sub("", headers.get(HEADER, ""))[:64] or uuid.uuid4().hex
        self._scope = scope
        self._receive = receive
        self._send = send
        self._announced = headers.get("content-length", "")
        self._size = 0
        self._status = 0
        self._waiting: asyncio.Timeout | None = None

    async def serve(self, app: ASGIApp) -> None:
        started = monotonic()
        try:
            async with asyncio.timeout(SECONDS) as self._waiting:
                await app(self._scope, self.receive, self.send)
        except Exception as error:
            self._waiting = None
            answer = answer_to(error)
            if answer is None:
                log.error("unexpected %s", _places(error))
                answer = failure(500, UNEXPECTED)
            if not self._status:
                await answer(self._scope, self._receive, self.send)
        finally:
            state = self._scope.get("state", {})
            log.info(
                "%s %s %s %d %.0f ms",
                self._scope["method"] if self._scope["method"] in _METHODS else "-",
                getattr(self._scope.get("route"), "path", "-"),
                state.get("organization_id", "-"),
                self._status,
                (monotonic() - started) * 1000,
            )

    async def receive(self) -> Message:
        if self._announced.isdigit() and int(self._announced[:20]) > MAX_BODY:
            raise _too_large()
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY:
            raise _too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)[HEADER] = self.id
        await self._send(message)
        if self._waiting:
            # A list of all calls, or a recording, may be long.
            self._waiting.reschedule(asyncio.get_running_loop().time() + SECONDS)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is larger than {MAX_BODY} bytes")


def _places(error: BaseException) -> str:
    """The error's type and where it arose; its text may quote a value."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return f"{type(error).__name__} at " + " > ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)


def log_to_stderr(log_format: str) -> None:
    """Send every log to stderr, each line with the id of the request that it belongs to."""

    def name_request(record: logging.LogRecord) -> bool:
        record.request_id = found = _request_id.get()
        record.request = f"[{found}] " if found else ""
        return True

    logs.configure(log_format, _FORMAT, name_request)

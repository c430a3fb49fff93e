"""The envelope that every answer wears (rule 19.2), and what goes wrong as one: no word about what lies behind."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from calltasks.errors import UNEXPECTED, CallTasksError

log = logging.getLogger("api")

SHOWN_PROBLEMS = 5


class Answer(JSONResponse):
    """JSON in UTF-8, whatever half characters the platform's answers hold."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def success(data: Any, message: str) -> Answer:
    """The answer of a request that was carried out."""
    return Answer({"status": "success", "code": 200, "message": message, "data": data})


def failure(status: int, message: str, *, code: int | None = None, **more: Any) -> Answer:
    """The answer of a request that was not; ``code`` is the HTTP status unless it says more than that."""
    return Answer({"status": "error", "code": code or status, "message": message, **more}, status_code=status)


def answer_to(error: Exception) -> Answer | None:
    """The answer to a request that failed in a way we know; None for any other error."""
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, CallTasksError):
        said = UNEXPECTED if error.http_status == 500 else str(error)
        answer = failure(error.http_status, error.http_message or said, code=error.http_code)
    elif isinstance(error, HTTPException):
        answer = failure(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
    elif isinstance(error, TimeoutError):
        answer = failure(503, "this took too long; try again later")
    else:
        return None
    if answer.status_code >= 500:
        log.warning("%s", error.line if isinstance(error, CallTasksError) else type(error).__name__)
    return answer


async def handle(request: Request, error: Exception) -> Answer:
    """As :func:`answer_to`, for the kinds that the framework would answer in an envelope of its own."""
    answer = answer_to(error)
    assert answer is not None
    if answer.status_code == 405 and (methods := request.app.openapi()["paths"].get(request.scope["path"])):
        # The framework names those of the path's first endpoint only.
        answer.headers["allow"] = ", ".join(sorted(method.upper() for method in methods))
    return answer


def _invalid(error: RequestValidationError) -> Answer:
    problems = [_problem(detail) for detail in error.errors()]
    more = len(problems) - SHOWN_PROBLEMS
    tail = [f"and {more} more"] if more > 0 else []
    return failure(400, "; ".join(problems[:SHOWN_PROBLEMS] + tail))


def _problem(detail: dict[str, Any]) -> str:
    """One problem by name and reason, never by the value that was sent."""
    where, *path = detail["loc"]
    if detail["type"] == "json_invalid":
        return "the body is not JSON"
    if where == "body" and not path:
        reason = detail["msg"].removeprefix("Value error, ") if detail["type"] == "value_error" else ""
        return reason or "the body must be a JSON object, with the header content-type: application/json"
    name = ".".join(str(part) for part in path)[:80]
    if detail["type"] == "missing":
        return f"{name}: is missing"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}"

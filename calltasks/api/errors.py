"""What can go wrong, as answers: one envelope, a fitting HTTP status, and no word about what lies behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from temporalio.service import RPCError

from calltasks.api.answers import NO_JOB_ID, PLATFORM_FAILED, Answer, failure
from calltasks.call_tasks import NotRunningError, NotStartedError, NoWorkerError, UnknownTaskError
from calltasks.database.tables.tasks import UnknownLeadsError
from calltasks.errors import PermanentError, ServiceError, explain
from calltasks.executions import NoJobIdsError
from calltasks.platform.errors import SERVICE as PLATFORM

log = logging.getLogger("api")

TEXT_REFUSED = frozenset({"1366", "1406"})
"""MySQL: a text that the column's character set or its length has no room for."""
SHOWN_PROBLEMS = 5


class ForeignOrganizationError(Exception):
    """A body names another organisation than the token's."""


def answer_to(error: Exception) -> Answer | None:
    """The answer to a request that failed in a way we know; None for any other error."""
    for kind, make in _ANSWERS:
        if isinstance(error, kind):
            answer = make(error)
            if answer.status_code >= 500:
                log.warning("%s", _reason(error))
            return answer
    return None


def register(app: FastAPI) -> None:
    """Have the application answer in our envelope."""

    async def handle(_request: Request, error: Exception) -> Answer:
        answer = answer_to(error)
        assert answer is not None
        return answer

    for kind, _ in _ANSWERS:
        app.add_exception_handler(kind, handle)


def _invalid(error: Any) -> Answer:
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


def _http(error: Any) -> Answer:
    answer = failure(error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


def _unknown_leads(error: Any) -> Answer:
    return failure(404, str(error) if error.leads else "the organisation has no leads")


def _service(error: Any) -> Answer:
    if error.service == PLATFORM:
        return failure(502, f"the platform failed: {error.code}", code=PLATFORM_FAILED)
    if isinstance(error, PermanentError) and error.code in TEXT_REFUSED:
        return failure(400, "a text is too long or holds characters that the database has no room for")
    who = "the database" if error.service == "MySQL" else error.service
    return failure(503, f"{who} does not answer as it should; try again later")


def _saying(status: int, message: str, code: int | None = None) -> Callable[[Any], Answer]:
    return lambda _error: failure(status, message, code=code)


def _reason(error: Exception) -> str:
    if isinstance(error, ServiceError):
        return explain(error)
    if isinstance(error, RPCError):
        return f"Temporal: {error.status.name}"
    return type(error).__name__ if isinstance(error, (TimeoutError, HTTPException)) else str(error)


_NO_JOB_ID = _saying(409, "no call of this task has a job id yet", NO_JOB_ID)
_ANSWERS: list[tuple[type[Exception], Callable[[Any], Answer]]] = [
    (RequestValidationError, _invalid),
    (HTTPException, _http),
    (ForeignOrganizationError, _saying(403, "organization_id is not that of the access token")),
    (UnknownTaskError, lambda error: failure(404, str(error))),
    (UnknownLeadsError, _unknown_leads),
    (NoJobIdsError, _NO_JOB_ID),
    (NotStartedError, _NO_JOB_ID),
    (NotRunningError, _saying(409, "no run of this call task is known; start it with /start-call-task")),
    (NoWorkerError, _saying(503, "no worker answers; try again later")),
    (ServiceError, _service),
    (RPCError, _saying(503, "Temporal does not answer as it should; try again later")),
    (TimeoutError, _saying(503, "this took too long; try again later")),
]

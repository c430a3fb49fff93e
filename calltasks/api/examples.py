"""Examples of answers, for the specification at ``/openapi.json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from calltasks.api.messages import Failure, Unhealthy
from calltasks.errors import UNEXPECTED, ForeignOrganizationError, NoJobIdsError, NoWorkerError, UnknownTaskError
from calltasks.names import FAILED, SUCCEEDED, workflow_id
from calltasks.progress import Progress

Example = dict[str, Any]


def _success(message: str, data: Any) -> Example:
    return {"status": "success", "code": 200, "message": message, "data": data}


CREATED = _success("call task created", {"task_id": 42})
STARTED = _success(
    "call task started; dialling begins at 2026-01-02 09:00 (Asia/Shanghai)",
    {
        "task_id": 42,
        "workflow_id": workflow_id(42),
        "started": True,
        "dialling_begins": "2026-01-02T09:00:00+08:00",
    },
)
REQUESTED = _success("analysis requested", {"task_id": 42, "requested": True})
MONITOR = _success("the monitor is running", {"is_running": True, "action": "start"})
HEALTHY = _success("the database and Temporal answer", {"database": True, "temporal": True})
EXECUTED = _success(
    "jobs: 1, rows changed: 1",
    {
        "jobs_data": [
            {
                "JobId": "job-1",
                "Status": SUCCEEDED,
                "ReferenceId": "42org-71",
                "Contacts": [{"PhoneNumber": "13900000001", "ReferenceId": "42org-71"}],
                "Tasks": [
                    {
                        "TaskId": "task-1",
                        "Status": "SucceededFinish",
                        "CallingNumber": "02100000000",
                        "PlanedTime": 1767225600000,
                        "ActualTime": 1767225605000,
                        "Conversation": [{"Speaker": "Robot", "Script": "您好，请问您最近在看车吗？"}],
                    }
                ],
            }
        ],
        "updated_count": 1,
        "page": 1,
        "page_size": 20,
        "total": 1,
    },
)
PROGRESS = _success(
    "calling",
    asdict(
        Progress(
            task_id=42,
            task_type=2,
            phase="calling",
            leads=200,
            called=200,
            finished=120,
            by_status={SUCCEEDED: 70, FAILED: 50, "Executing": 20},
            recordings=60,
            recordings_missing=10,
            follow_ups=110,
            analysed=60,
            by_interest={"0": 60, "1": 30, "2": 20},
            input_tokens=24000,
            output_tokens=6000,
            polls=8,
            api_calls=40,
            started_at="2026-01-01T01:00:00+00:00",
            updated_at="2026-01-01T01:05:00+00:00",
        )
    ),
)
_STANDING = {
    **{"id": 7, "phone": "+8613900000001", "standing": True, "source": "call", "evidence": "不要再给我打电话了"},
    **{
        "created_by": "",
        "created_at": "2026-01-01T09:05:00+08:00",
        "task_id": 42,
        "list_id": 1,
        "call_job_id": "job-1",
    },
    **dict.fromkeys(("disputed_at", "lifted_at", "lifted_by", "lift_reason")),
}
OPT_OUTS = _success("opt-outs: 1", {"opt_outs": [_STANDING], "next": None})
OPTED_OUT = _success("opted out", {"added": True})
CHECKED = _success("opted out", {"opted_out": True, "opt_out": _STANDING})
_LIFT = {"lifted_at": "2026-01-02T09:00:00+08:00", "lifted_by": "http", "lift_reason": "the customer asks for a call"}
LIFTED = _success("lifted", _STANDING | _LIFT | {"standing": False})

_FAILURES = {
    400: ("Something in the request is missing or wrong.", 400, "task_id: is missing"),
    401: ("No token, or one that nobody has.", 401, "the header access-token must hold a valid token"),
    403: ("The body names another organisation than the token's.", 403, str(ForeignOrganizationError())),
    404: ("There is no such task, lead or opt-out in the organisation.", 404, str(UnknownTaskError(42))),
    409: ("Not yet: no job ids (4009), or no run is known.", NoJobIdsError.http_code, NoJobIdsError.http_message),
    413: ("More than 1 MB.", 413, "the body is larger than 1000000 bytes"),
    500: ("Our mistake.", 500, UNEXPECTED),
    502: ("The platform failed (5003).", 5003, "the platform failed: Throttling.User"),
    503: ("The database, Temporal or a worker is missing.", 503, NoWorkerError.http_message),
}


def responses(example: Example, *more: int) -> dict[int | str, dict[str, Any]]:
    """The documented answers of an endpoint with a token: its success, the failures of all, and ``more``."""
    documented: dict[int | str, dict[str, Any]] = {200: _documented(example)}
    for status in sorted({400, 401, 413, 500, 503, *more}):
        meaning, code, message = _FAILURES[status]
        documented[status] = _documented({"status": "error", "code": code, "message": message}) | {
            "model": Failure,
            "description": meaning,
        }
    return documented


def health_responses() -> dict[int | str, dict[str, Any]]:
    """The documented answers of ``/healthz``."""
    data = {"database": True, "temporal": False}
    unhealthy = _documented({"status": "error", "code": 503, "message": "no answer from Temporal", "data": data})
    described = {"model": Unhealthy, "description": "One of the servers does not answer."}
    return {200: _documented(HEALTHY), 503: unhealthy | described}


def _documented(example: Example) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}}

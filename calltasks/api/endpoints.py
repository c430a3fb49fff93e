"""The endpoints (rule 19.1). Each looks its task up within the caller's organisation before anything else."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pymysql.cursors import Cursor

from calltasks.api import examples, messages
from calltasks.api.access import Organization
from calltasks.api.answers import Answer, failure, success
from calltasks.call_tasks import CallTasks
from calltasks.database.tables.tasks import TaskRow
from calltasks.dry_run import DryRun
from calltasks.errors import ServiceError
from calltasks.executions import ExecutionPage
from calltasks.names import workflow_id
from calltasks.progress import Progress
from calltasks.temporal.monitor_schedule import MonitorState

HEALTH_SECONDS = 5

router = APIRouter(redirect_slashes=False)


async def _calls(request: Request) -> CallTasks:
    calls: CallTasks = request.app.state.calls
    return calls


Calls = Annotated[CallTasks, Depends(_calls)]


async def _own(calls: CallTasks, body: messages.TaskRequest, organization: str) -> TaskRow:
    """The task, if it is the caller's."""
    body.check(organization)
    return await calls.task(body.task_id, organization)


@router.post(
    "/create-autoCall-tasks",
    summary="Create a call task",
    response_model=messages.Success[messages.Created],
    responses=examples.responses(examples.CREATED, 403, 404),
)
async def create_task(body: messages.CreateRequest, organization: Organization, calls: Calls) -> Answer:
    """A call task of named leads or of all, with a row a lead. Nobody is called before it is started."""
    body.check(organization)
    task_id = await calls.create_task(organization, body.task_name, None if body.all_leads else body.leads_ids)
    return success({"task_id": task_id}, "call task created")


@router.post(
    "/start-call-task",
    summary="Start the calls",
    response_model=messages.Success[messages.Started | DryRun],
    responses=examples.responses(examples.STARTED, 403, 404),
)
async def start_call_task(body: messages.StartRequest, organization: Organization, calls: Calls) -> Answer:
    """Hand the task's leads to the platform and see it through to its follow-ups. Asking again is harmless.

    Who has opted out is not called, nor whom the options leave out. A `dry_run` only says who that is."""
    task = await _own(calls, body, organization)
    if body.dry_run:
        found = await calls.dry_run(task.task_id, body.options())
        return success(dataclasses.asdict(found), str(found))
    start = await calls.start(task.task_id, body.options())
    data = {"task_id": task.task_id, "workflow_id": workflow_id(task.task_id), "started": start.started}
    data["dialling_begins"] = start.hours.begins_at
    said = ["call task started" if start.started else "call task is running already", start.hours.told]
    return success(data, "; ".join(filter(None, said)))


@router.post(
    "/query-task-execution",
    summary="Look at the calls",
    response_model=messages.Success[ExecutionPage],
    responses=examples.responses(examples.EXECUTED, 403, 404, 409, 502),
)
async def query_task_execution(body: messages.QueryRequest, organization: Organization, calls: Calls) -> Answer:
    """One page of the task's calls, fresh from the platform; what changed is saved.

    Code 4009: no call has a job id yet. Code 5003: the platform failed."""
    task = await _own(calls, body, organization)
    page = await calls.query_task_execution(
        task.task_id,
        page=body.page,
        page_size=body.page_size,
        skip_recording=body.skip_recording,
        apply_update=body.apply_update,
    )
    return success(dataclasses.asdict(page), f"jobs: {len(page.jobs_data)}, rows changed: {page.updated_count}")


@router.post(
    "/force-analyze",
    summary="Judge calls again",
    response_model=messages.Success[messages.Requested],
    responses=examples.responses(examples.REQUESTED, 403, 404, 409),
)
async def force_analyze(body: messages.ForceRequest, organization: Organization, calls: Calls) -> Answer:
    """Have calls judged again by the model, while the task runs or after it ended.

    Code 4009: the task has not been started, so there is no call to judge."""
    task = await _own(calls, body, organization)
    await calls.force_analyze(task.task_id, body.request())
    return success({"task_id": task.task_id, "requested": True}, "analysis requested")


@router.post(
    "/auto-task",
    summary="Steer the monitor",
    response_model=messages.Success[MonitorState],
    responses=examples.responses(examples.MONITOR, 403),
)
async def auto_task(body: messages.MonitorRequest, organization: Organization, calls: Calls) -> Answer:
    """The monitor takes up again what nothing is working on. There is one for all organisations."""
    body.check(organization)
    state = await calls.monitor(body.action)
    return success(dataclasses.asdict(state), str(state))


@router.get(
    "/call-tasks/{id}/progress",
    summary="How a call task stands",
    response_model=messages.Success[Progress],
    responses=examples.responses(examples.PROGRESS, 404, 409),
)
async def progress(
    task_id: Annotated[messages.Id, Path(alias="id", description="Id of the call task.", examples=[42])],
    organization: Organization,
    calls: Calls,
) -> Answer:
    """Counts of the task's calls and follow-ups, while it runs and after it ended."""
    await calls.task(task_id, organization)
    found = await calls.progress(task_id)
    return success(found, str(found.get("phase", "")))


@router.get(
    "/healthz",
    summary="Whether the servers behind us answer",
    response_model=messages.Success[messages.Health],
    responses=examples.health_responses(),
)
async def healthz(calls: Calls) -> Answer:
    """For load balancers and people; needs no token."""
    database, temporal = await asyncio.gather(_answers(calls.database.run(_ping)), _answers(calls.monitor("status")))
    data = {"database": database, "temporal": temporal}
    silent = [name for name, answers in (("the database", database), ("Temporal", temporal)) if not answers]
    if silent:
        return failure(503, f"no answer from {' and '.join(silent)}", data=data)
    return success(data, "the database and Temporal answer")


async def _answers(question: Coroutine[Any, Any, Any]) -> bool:
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            await question
    except (ServiceError, TimeoutError):
        return False
    return True


def _ping(cursor: Cursor) -> None:
    cursor.execute("SELECT 1")

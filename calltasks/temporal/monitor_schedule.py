"""The Schedule ``call-task-monitor``: start, stop, check and status (rule 9.3)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from calltasks.names import CALL_TASKS, MONITOR_CHECK, MONITOR_SCHEDULE, MONITOR_WORKFLOW
from calltasks.options import MONITOR_INTERVAL

Action = Literal["start", "stop", "check", "status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorState:
    """How the monitor stands after the action."""

    is_running: bool
    action: Action

    def __str__(self) -> str:
        return f"the monitor is {'running' if self.is_running else 'stopped'}"


async def steer(client: Client, action: Action) -> MonitorState:
    """Do one of these to the monitor.

    ``check`` looks once, now, whether or not the monitor is running, also at tasks that the schedule leaves at rest for
    a while; one that is under way is not started twice.
    """
    handle = client.get_schedule_handle(MONITOR_SCHEDULE)
    if action == "start":
        with suppress(ScheduleAlreadyRunningError):
            await client.create_schedule(MONITOR_SCHEDULE, _schedule())
        await handle.unpause(note="started by starter.py")
    elif action == "check":
        await client.start_workflow(
            MONITOR_WORKFLOW,
            True,
            id=MONITOR_CHECK,
            task_queue=CALL_TASKS,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
    try:
        if action == "stop":
            await handle.pause(note="stopped by starter.py")
        running = not (await handle.describe()).schedule.state.paused
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        running = False
    return MonitorState(is_running=running, action=action)


def _schedule() -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(MONITOR_WORKFLOW, id=MONITOR_SCHEDULE, task_queue=CALL_TASKS),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=MONITOR_INTERVAL)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=MONITOR_INTERVAL),
    )

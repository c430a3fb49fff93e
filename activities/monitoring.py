"""Take up again what nothing is working on (rule 9). Task queue ``call-tasks``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.liveness import heartbeating
from calltasks.database.connection import Database
from calltasks.database.tables import tasks as table
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from calltasks.observing import telemetry
from calltasks.temporal.withdrawals import keep_withdrawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check found: open tasks, those of them that were taken up, those that could not be, and how many were left
    at rest because the looks before found nothing."""

    open_tasks: int
    taken_up: list[int]
    failed: int
    at_rest: int = 0


class Monitoring:
    """The activity of the monitor."""

    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._client = client

    @activity.defn
    async def take_up_tasks(self, every: bool) -> Checked:
        """Start the workflow of every task of type 2 or 3 with a job group; those that run are left alone, and, unless
        ``every`` one is wanted, those that are at rest."""
        taken_up: list[int] = []
        failed = 0
        async with heartbeating():
            with suppress(RPCError):
                await keep_withdrawing(self._client)
            tasks = await self._database.run(table.open_tasks)
            wanted = [task_id for task_id, due in tasks.items() if due or every]
            for task_id in wanted:
                try:
                    # A check dials nobody, whatever has become of the task meanwhile.
                    await self._client.start_workflow(
                        WORKFLOW, {"task_id": task_id, "dial": False}, id=workflow_id(task_id), task_queue=CALL_TASKS
                    )
                    taken_up.append(task_id)
                except WorkflowAlreadyStartedError:
                    continue
                except RPCError as error:
                    failed += 1
                    activity.logger.warning("task %d could not be taken up: %s", task_id, error.status.name)
            telemetry.metrics.checked(len(tasks), await self._oldest_unfinished())
        activity.logger.info("%d open tasks, %d taken up, %d failed", len(tasks), len(taken_up), failed)
        at_rest = len(tasks) - len(wanted)
        return Checked(open_tasks=len(tasks), taken_up=taken_up, failed=failed, at_rest=at_rest)

    async def _oldest_unfinished(self) -> float:
        """Seconds since the oldest unfinished call was handed over, or created where another program did that."""
        now = await self._database.now()
        handed_over, created = await self._database.run(table.oldest_unfinished)
        ages = [
            *([now.replace(tzinfo=None) - handed_over] if handed_over else []),
            *([self._database.wall_clock(now) - created] if created else []),
        ]
        return max(ages, default=timedelta()).total_seconds()

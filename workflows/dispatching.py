"""Dispatch: the job group, then every lead, each once (SPEC 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.dispatch import DispatchRequest
    from activities.tasks import Task
    from workflows.options import Options
    from workflows.steps import Steps
    from workflows.tally import Tally


GROWTH = 1.5
"""Of the wait after each round in a row that changed nothing."""


class Dispatcher:
    """Hands a task over to the platform.

    Args:
        task: not dispatched, or only in part.
        steps: its activities.
        options: how patient it is.
        tally: what is counted.
        stopped: whether an operator has cancelled the calls meanwhile.
        show: shows operators how things stand.
    """

    def __init__(
        self,
        task: Task,
        steps: Steps,
        options: Options,
        tally: Tally,
        *,
        stopped: Callable[[], bool],
        show: Callable[[], None],
    ) -> None:
        self._task = task
        self._steps = steps
        self._tally = tally
        self._stopped = stopped
        self._show = show
        self._longest = options.poll_max
        self._idle = 0
        self._request = DispatchRequest(
            task_id=task.task_id,
            organization_id=task.organization_id,
            job_group_id=task.job_group_id,
            grace=options.match_grace,
            retry_interval=options.retry_interval,
            # A group that is there already may hold leads that a run before this one assigned.
            list_first=bool(task.job_group_id),
        )

    async def open_group(self) -> Task:
        """Find or create the job group; the task with its id."""
        while not self._request.job_group_id:
            group = await self._steps.open_job_group(self._request)
            self._tally.api_calls += group.api_calls
            if group.job_group_id:
                self._request = replace(self._request, job_group_id=group.job_group_id, list_first=group.found)
            else:
                wait = self._longer(max(group.retry_in, 1), idle=bool(group.error))
                self._tally.waiting = f"the job group, next try in {wait:.0f} s"
                self._show()
                await workflow.sleep(wait, summary="until the job group would be listed")
        return replace(self._task, job_group_id=self._request.job_group_id)

    def _longer(self, seconds: float, *, idle: bool) -> float:
        """What changed nothing waits longer each time before it is done again, up to ``poll_max``."""
        self._idle = self._idle + 1 if idle else 0
        return min(seconds * GROWTH ** min(max(self._idle - 1, 0), 20), max(self._longest, seconds))

    async def assign_all(self) -> None:
        """Assign every lead, and raise ``task_type`` to 2."""
        while not self._stopped():
            dispatched = await self._steps.assign_contacts(self._request)
            self._tally.api_calls += dispatched.api_calls
            if dispatched.done:
                break
            self._request = replace(self._request, list_first=dispatched.list_first)
            self._tally.assigned += dispatched.assigned
            self._tally.waiting = f"dispatch: {self._tally.assigned} leads handed over"
            if dispatched.unresolved:
                self._tally.waiting += f", {dispatched.unresolved} batches without an answer"
            self._show()
            wait = self._longer(dispatched.retry_in, idle=bool(dispatched.error) and not dispatched.assigned)
            if wait:
                await workflow.sleep(wait, summary=f"{dispatched.unresolved} batches without an answer")
        await self._steps.mark_dispatched(self._task.task_id)

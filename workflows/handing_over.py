"""Dispatch: the job group, then every lead, each once (rule 2), beside everything else that a run does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from temporalio import exceptions, workflow
from temporalio.exceptions import ActivityError

from activities.dispatch import SEND_SECONDS, DispatchRequest
from activities.tasks import HandedOver, Task
from calltasks.database.tables.dispatches import Written
from calltasks.options import Options
from workflows.controls import Controls
from workflows.pacing import grown
from workflows.steps import ASSIGN_CONTACTS, MARK_DISPATCHED, OPEN_JOB_GROUP, Steps
from workflows.tally import Tally

R = TypeVar("R")


class HandingOver:
    """Hands a task over to the platform, as far as operators let it.

    Args:
        task: not dispatched, or only in part.
        steps: its activities.
        tally: what is counted.
        controls: what operators have asked for.
        opened: told of the task when it has its job group.
        show: shows people how things stand.

    Attributes:
        task: as it was given, with its job group once there is one.
        portion: the activity that is under way, or was last.
        stalled: nothing is handed over for now, because it is paused or something must be waited for.
        waiting: what it waits for, for people.
        over: nobody more will be handed over.
    """

    def __init__(
        self,
        task: Task,
        steps: Steps,
        tally: Tally,
        controls: Controls,
        *,
        opened: Callable[[Task], None],
        show: Callable[[], None],
    ) -> None:
        self.task = task
        self.portion: asyncio.Task[Any] | None = None
        self.stalled = self.over = False
        self.waiting = "dispatch"
        self._steps = steps
        self._tally = tally
        self._controls = controls
        self._opened = opened
        self._show = show
        self._longest = 0.0
        self._idle = 0
        self._closing = self._lost = False
        self._request = DispatchRequest(
            task_id=task.task_id,
            organization_id=task.organization_id,
            job_group_id=task.job_group_id,
            grace=0,
            retry_interval=0,
        )

    @property
    def list_first(self) -> bool:
        """Whether what the group holds must be read before more is handed over."""
        return self._request.list_first

    @property
    def known(self) -> Written:
        """What is known to be written down of what was handed over."""
        return self._request.known

    async def run(self, options: Options, list_first: bool | None, known: Written) -> None:
        """Find or create the job group, assign every lead, and raise ``task_type`` to 2; or end half-way, if the run is
        about to restart as new.

        Args:
            options: how patient it is.
            list_first: what the group holds must be read first; None: if there is a group, because it may hold leads
                that a run before this one assigned.
            known: what a run before this one knew to be written down.
        """
        self._longest = options.poll_max
        self._request = replace(
            self._request,
            grace=options.match_grace,
            retry_interval=options.retry_interval,
            list_first=bool(self.task.job_group_id) if list_first is None else list_first,
            known=known,
        )
        done = False
        while not done and await self._allowed():
            done = await (self._assign() if self._request.job_group_id else self._open_group())
            self._show()
        if not done and not self._controls.stopped:
            return
        self._controls.cancelled = self._controls.cancelled or not done
        if self._request.job_group_id:
            over = HandedOver(task_id=self.task.task_id, cancelled=not done)
            await self._steps.run(MARK_DISPATCHED, over)
        self.over = True

    async def silence(self) -> None:
        """Wait until a piece that was stopped can hand nothing more over: one whose worker was lost may send until its
        deadline."""
        if self._lost:
            await workflow.sleep(SEND_SECONDS, summary="until a lost worker sends nothing more")
            self._lost = False

    def wind_down(self) -> None:
        """Begin nothing more."""
        self._closing = True

    async def _allowed(self) -> bool:
        """Whether more may be handed over; waits while the calls are paused."""
        if self._controls.paused and not self._controls.stopped:
            self.waiting = "resume: the calls are paused"
            self.stalled = True
            self._show()
            await workflow.wait_condition(lambda: not self._controls.paused or self._controls.stopped or self._closing)
            self.stalled = False
        return not self._controls.stopped and not self._closing

    async def _open_group(self) -> bool:
        group = await self._unless_held(self._steps.run(OPEN_JOB_GROUP, self._request))
        if group is None:
            return False
        self._tally.api_calls += group.api_calls
        if group.job_group_id:
            self._request = replace(self._request, job_group_id=group.job_group_id, list_first=group.found)
            kept = replace(self.task.kept, options=group.options or self.task.kept.options)
            self.task = replace(self.task, job_group_id=group.job_group_id, kept=kept)
            self._opened(self.task)
        else:
            wait = self._longer(max(group.retry_in, 1), idle=bool(group.error))
            self.waiting = f"the job group, next try in {wait:.0f} s"
            await self._rest(wait, "until the job group would be listed")
        return False

    async def _assign(self) -> bool:
        dispatched = await self._unless_held(self._steps.run(ASSIGN_CONTACTS, self._request))
        if dispatched is None:
            return False
        self._tally.api_calls += dispatched.api_calls
        self._tally.assigned += dispatched.assigned
        if dispatched.done:
            return True
        self._request = replace(self._request, list_first=dispatched.list_first, known=dispatched.known)
        self.waiting = f"dispatch: {self._tally.assigned} leads handed over"
        if dispatched.unresolved:
            self.waiting += f", {dispatched.unresolved} batches without an answer"
        wait = self._longer(dispatched.retry_in, idle=bool(dispatched.error) and not dispatched.assigned)
        if wait:
            await self._rest(wait, f"{dispatched.unresolved} batches without an answer")
        return False

    async def _unless_held(self, step: Coroutine[Any, Any, R]) -> R | None:
        """What the step says; None if operators held the calls meanwhile: then it is cancelled, and over."""
        self.portion = portion = asyncio.create_task(step)
        await workflow.wait_condition(lambda: portion.done() or self._controls.held)
        stopped = portion.cancel()
        try:
            return await portion
        except ActivityError as error:
            if not stopped:
                raise
            self._lost = isinstance(error.cause, exceptions.TimeoutError)
            return None
        except asyncio.CancelledError:
            if not stopped:
                raise
            return None

    async def _rest(self, seconds: float, why: str) -> None:
        self.stalled = True
        self._show()
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._controls.held or self._closing, timeout=seconds, timeout_summary=why
            )
        self.stalled = False

    def _longer(self, seconds: float, *, idle: bool) -> float:
        """What changed nothing waits longer each time before it is done again, up to ``poll_max``."""
        self._idle = self._idle + 1 if idle else 0
        return grown(seconds, self._idle, longest=self._longest)

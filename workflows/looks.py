"""When a run looks at all of its calls: the counters move, somebody asks, or a grace is over (rules 3, 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from temporalio import workflow

from activities.job_groups import Counters, WatchRequest
from activities.tasks import Review, Task
from calltasks.options import Carried, Options
from calltasks.platform.strategy import Strategy
from workflows.pacing import Pace, grown
from workflows.pipeline import Pipeline
from workflows.steps import WATCH, Steps
from workflows.tally import Tally

ROWS_A_POLL = 10_000
"""A task with more calls under way is polled proportionally less often, so that polling leaves room for work."""


class Looks:
    """Looks at the calls of one task.

    Attributes:
        due: all calls are to be looked at with the next review.
        quiet: looks in a row that found nothing new.
        pace: at which the platform is asked.
        dispatched_at: workflow time at which the last lead was handed over; 0: that is still to come.
        counters: the platform's, when it was last heard.
        watching: the watch on them that is under way.
        options: how patient the task is.
        strategy: when its calls are made; None: as the platform's instance does, which is not known.
    """

    def __init__(self, tally: Tally, options: Options, carried: Carried | None) -> None:
        self._tally = tally
        self.options = options
        self.strategy: Strategy | None = None
        self.due = True
        self.quiet = 0
        self.pace = Pace()
        self.dispatched_at = carried.dispatched_at if carried else 0.0
        seen = carried.counters if carried else None
        self.counters = Counters(total=seen[0], over=seen[1]) if seen else None
        self.watching: asyncio.Task[None] | None = None
        self._refreshed = False
        self._first = 0.0

    def opens(self) -> datetime | None:
        """When calls begin to be made; None if they are made now, or nobody knows (rule 11.13)."""
        now = workflow.now()
        begins = self.strategy.begins(now) if self.strategy else None
        return begins if begins and begins > now else None

    def refresh(self) -> None:
        """Somebody asks for one, pages included."""
        self.due = self._refreshed = True

    def dispatch_begins(self) -> None:
        """There is nothing to see yet, unless somebody has asked for it."""
        self.due = self._refreshed

    def handed_over(self) -> None:
        """The last lead was handed over: the first look comes ``poll_first`` later."""
        self.dispatched_at = workflow.time()
        self._first = self.dispatched_at + self.options.poll_first
        self.due = self.due or not self.options.poll_first

    def begin(self, review: Review, pipeline: Pipeline, *, in_group: bool) -> None:
        """Look at all calls: their jobs are read first, where a row may still get one."""
        self.due, self._first = False, 0.0
        self.quiet += 1
        self._tally.under_way.clear()
        pipeline.again_at = None
        if in_group and review.rows.unmatched and self._more_jobs(review, pipeline):
            pipeline.read_pages(may_fail=self._grace_left() <= 0, whole=self.dispatched_at > 0)
        self._refreshed = False

    def _more_jobs(self, review: Review, pipeline: Pipeline) -> bool:
        seen, counters = pipeline.jobs_seen, self.counters
        if self._refreshed or not pipeline.pages_tried or (seen and counters and counters.total > seen):
            return True
        # Without news of more jobs, rows without one wait for their grace to end.
        return review.rows.unsettled > 0 and (seen is None or counters is None or self.to_settle(review))

    def to_settle(self, review: Review) -> bool:
        """Whether rows without a job have had their time."""
        return review.rows.unsettled > 0 and self._grace_left() <= 0

    def _grace_left(self) -> float:
        return self.dispatched_at + self.options.match_grace - workflow.time() if self.dispatched_at else float("inf")

    def times(self, review: Review, pipeline: Pipeline, *, in_group: bool, handing_over: bool) -> list[float]:
        """When to look again. ``handing_over``: leads are on their way still."""
        now, under_way = workflow.time(), review.rows.called - review.rows.finished
        looks = [at for at in (pipeline.again_at, self._first) if at]
        if not handing_over and (under_way or review.rows.unsettled):
            if not in_group or (self.counters and self.counters.over > review.rows.finished):
                # Nobody will tell of a change, or it was told of and is not to be seen yet.
                looks.append(now + self._pause(under_way))
            if review.rows.unsettled and 0 < self._grace_left() < float("inf"):
                looks.append(now + self._grace_left())
        return [max(at, self.pace.until) for at in looks]

    def _pause(self, under_way: int) -> float:
        """Seconds between two looks: longer the more calls one look concerns, and the longer nothing moved."""
        shortest = self.options.poll_min * max(1.0, under_way / ROWS_A_POLL)
        return grown(shortest, self.quiet, longest=self.options.poll_max)

    def watch(self, task: Task, review: Review, steps: Steps, then: Callable[[bool], None]) -> None:
        """Have the platform's counters watched, unless they are; ``then`` hears whether they have moved."""
        if self.watching is None:
            pause = self._pause(review.rows.called - review.rows.finished)
            self.watching = asyncio.create_task(self._watch(task, review.rows.called, pause, steps, then))

    async def _watch(self, task: Task, called: int, pause: float, steps: Steps, then: Callable[[bool], None]) -> None:
        polls, counters = await self.ask(task, called, pause, steps)
        self._tally.polls += polls
        self._tally.api_calls += polls
        moved = counters not in (None, self.counters)
        self.counters = counters or self.counters
        self.watching = None
        self.due = True
        then(moved)

    async def ask(self, task: Task, called: int, pause: float, steps: Steps) -> tuple[int, Counters | None]:
        """How often the platform was asked until its counters had moved from those that are known, and the new ones."""
        opens = self.opens()
        request = WatchRequest(
            task_id=task.task_id,
            organization_id=task.organization_id,
            job_group_id=task.job_group_id,
            seen=self.counters,
            called=called,
            first=pause,
            shortest=pause,
            longest=max(self.options.poll_max, pause),
            opens=opens.timestamp() if opens else 0.0,
        )
        watched = await steps.run(WATCH, request, f"{called} calls known")
        return watched.polls, watched.counters

"""The steps of one task, each in a lane of its own: what one yields goes on to the next at once (rules 3 to 7).

Rows are handed on by exact ids, so pieces that come from a step never overlap. What a review of the database finds is
handed out only while nothing else runs in that step; then it cannot overlap either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from temporalio import workflow

from activities.job_ids import Pages, PagesRead, Settlement
from activities.tasks import Task
from calltasks.database.tables.needs import Work
from calltasks.options import Options
from calltasks.rules.reanalysis import Asked
from calltasks.rules.row_ranges import Ranges
from calltasks.steps import Head, Step
from workflows.lanes import Lane, RowLane
from workflows.reanalysis import Reanalyst
from workflows.steps import MATCH_PAGES, SETTLE_JOBS, Steps, rows_in
from workflows.tally import Tally

PAGES_A_PIECE = 10
PIECES_AT_ONCE = 24
"""Of pages. With what the lanes hold this stays below the 90 activities that a workflow may have."""


class Pipeline:
    """One task's work under way.

    Attributes:
        lanes: of the journey (what a row goes through once it has its job id), by step.
        forced: re-analyses that were asked for and have not begun.
        jobs_seen: jobs of the group at the last whole reading of its pages; None before the first.
        pages_tried: whether the pages were asked for at all.
        again_at: workflow time at which calls are looked at again because an answer failed or lacked some; or None.
        paused_until: workflow time before which rows that were set aside are not handed out again.
        changed: something came to its end that makes a new review worthwhile.
    """

    def __init__(
        self,
        task: Task,
        steps: Steps,
        journey: Sequence[Step[Any, Any]],
        options: Options,
        tally: Tally,
        jobs_seen: int | None,
        forced: list[Asked] | None = None,
    ) -> None:
        self._task = task
        self._steps = steps
        self._journey = journey
        self._tally = tally
        self.jobs_seen = jobs_seen
        self.pages_tried = jobs_seen is not None
        self.again_at: float | None = None
        self.paused_until = 0.0
        self.changed = False
        self.pages = Lane(1, self._piece_done)
        self.use(options)
        self.reanalyses = Lane(4, self._piece_done)
        self.forced = [] if forced is None else forced
        self._closing = False

    def use(self, options: Options) -> None:
        """Go by these options, before anything but re-analyses was begun."""
        self._options = options
        self.lanes = {step.name: RowLane(step, options, self._piece_done) for step in self._journey}

    def stamp(self) -> tuple[int, ...] | None:
        """A value that stays the same while nothing is handed out; None while anything runs."""
        if self.forced:
            return None
        return _stamp(self.pages, *self.lanes.values(), self.reanalyses)

    def fetch_stamp(self) -> tuple[int, ...] | None:
        """As :meth:`stamp`, for job ids and what is asked for at each look only."""
        return _stamp(self.pages, *(lane for lane in self.lanes.values() if lane.step.looks))

    def in_group(self, task: Task) -> None:
        """The task has its job group now."""
        self._task = task

    async def wind_down(self) -> None:
        """Start nothing more and wait for what runs; what waits is dropped here and found again by a review. What is
        left of re-analyses is in :attr:`forced`."""
        self._closing = True
        self.pump()
        lanes = (self.pages, *self.lanes.values(), self.reanalyses)
        await workflow.wait_condition(lambda: all(lane.idle for lane in lanes))

    # --- handing work out ------------------------------------------------------------------------------------

    def read_pages(self, *, may_fail: bool, whole: bool) -> None:
        """Read the group's pages.

        Args:
            may_fail: rows without a job have had their time.
            whole: every lead is handed over, so that a phone number may decide.
        """
        self.pages.start(self._read_pages(may_fail=may_fail, whole=whole))

    def hand_out(self, work: Mapping[str, Sequence[Work]]) -> None:
        """Begin what a review has found, by step."""
        for step, works in work.items():
            self.lanes[step].find(works)
        self.pump()

    def pump(self) -> None:
        """Start work as far as there is room; what comes in meanwhile goes in bigger pieces."""
        if self._closing:
            for lane in self.lanes.values():
                lane.drop()
            return
        while self.forced and self.reanalyses.room:
            self.reanalyses.start(self._reanalyse(self.forced.pop(0)))
        for lane in self.lanes.values():
            while (piece := lane.next_piece()) is not None:
                lane.start(self._do(lane.step, piece))

    async def _do(self, step: Step[Any, Any], rows: Ranges) -> None:
        """Have a piece of a step done, and hand on what it yields."""
        head = Head(task_id=self._task.task_id, organization_id=self._task.organization_id, rows=rows)
        done = await self._steps.attempt(step, step.request(head, self._options), rows_in(rows))
        if step.looks and (done is None or done.unanswered):
            self._look_again()
        elif done is None:
            # It failed three times: the rows still say what is left to do, but not at once.
            self.paused_until = workflow.time() + self._options.retry_interval
        if done is None:
            return
        self._tally.did(done)
        for lane in self.lanes.values():
            if lane.step.after == step.name:
                lane.take_over(rows if done.ready is None else done.ready)
        self.pump()

    def _piece_done(self, lane: Lane) -> None:
        """Refill the steps that have room; ask for a review once calls are fetched, and once nothing runs."""
        self.pump()
        asks = not isinstance(lane, RowLane) or lane.step.looks
        if (asks and lane is not self.reanalyses and self.fetch_stamp() is not None) or self.stamp() is not None:
            self.changed = True

    async def _reanalyse(self, asked: Asked) -> None:
        reanalyst = Reanalyst(self._task, self._steps, self._options, self._tally)
        if not await reanalyst.run(asked, lambda: self._closing):
            self.forced.append(asked)

    def _look_again(self) -> None:
        delay = self._options.retry_interval * workflow.random().uniform(1, 2)
        self.again_at = min(self.again_at or float("inf"), workflow.time() + delay)

    # --- job ids (rule 3) ------------------------------------------------------------------------------------

    async def _read_pages(self, *, may_fail: bool, whole: bool) -> None:
        """Read pages in parallel; then, where it takes all of them together, settle what they left open."""
        first = await self._read_piece(1)
        self.pages_tried = True
        if first is None or first.row_count is None:
            return
        last = -(-first.row_count // 100)
        pieces = range(PAGES_A_PIECE + 1, last + 1, PAGES_A_PIECE)
        others = await self._read_pieces(pieces)
        results = [result for result in (first, *others) if result is not None]
        all_read = len(results) == 1 + len(others) and not any(result.failed_pages for result in results)
        jobs = sum(result.jobs for result in results)
        if all_read and jobs >= first.row_count:
            self.jobs_seen = jobs
        else:
            self._look_again()
        if whole and (may_fail or any(result.left_over for result in results)):
            await self._settle(may_fail=may_fail)

    async def _read_pieces(self, starts: Iterable[int]) -> list[PagesRead | None]:
        """Pieces of pages, some at once, however many there are: other tasks wait for the same workers."""
        waiting, results = iter(starts), []

        async def read() -> None:
            for start in waiting:
                results.append(result := await self._read_piece(start))
                if result is not None and not result.jobs and not result.failed_pages:
                    # The group counts more than it lists: what comes after so many empty pages is as empty.
                    break

        await asyncio.gather(*(read() for _ in range(PIECES_AT_ONCE)))
        return results

    async def _read_piece(self, start: int) -> PagesRead | None:
        result = await self._steps.attempt(
            MATCH_PAGES,
            Pages(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                job_group_id=self._task.job_group_id,
                first=start,
                last=start + PAGES_A_PIECE - 1,
            ),
            f"pages {start} to {start + PAGES_A_PIECE - 1}",
        )
        self._hand_on(result)
        return result

    async def _settle(self, *, may_fail: bool) -> None:
        result = await self._steps.attempt(
            SETTLE_JOBS,
            Settlement(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                job_group_id=self._task.job_group_id,
                may_fail=may_fail,
            ),
            "all pages",
        )
        self._hand_on(result)

    def _hand_on(self, result: PagesRead | None) -> None:
        if result is None:
            self._look_again()
            return
        self._tally.api_calls += result.api_calls
        if result.failed_pages:
            self._look_again()
        for lane in self.lanes.values():
            if not lane.step.after:
                lane.take_over(result.matched)
        self.pump()


def _stamp(*lanes: Lane) -> tuple[int, ...] | None:
    return tuple(lane.started for lane in lanes) if all(lane.idle for lane in lanes) else None

"""The steps of one task, each in a lane of its own: what one yields goes on to the next at once (SPEC 3 to 7).

Rows are handed on by exact ids, so pieces that come from a step never overlap. What a review of the database finds is
handed out only while nothing else runs in that step; then it cannot overlap either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from temporalio import workflow

from activities.conversations import FetchRequest
from activities.follow_ups import FollowUpRequest
from activities.job_ids import Pages, PagesRead, Settlement
from activities.recordings import RecordingRequest
from activities.tasks import Review, Task, Work
from calltasks.options import Force, Options
from calltasks.rules.row_ranges import Runs, count, take
from workflows.lanes import Lane
from workflows.reanalysis import Reanalysis
from workflows.steps import Steps
from workflows.tally import Tally

PAGES_A_PIECE = 10
PIECES_AT_ONCE = 24
"""Of pages. With what the lanes hold this stays below the 90 activities that a workflow may have."""
PIECE_ROWS = 1089
"""Eleven full requests of the platform: what ten pages of jobs yield goes on in one piece."""

FOLLOW_UP_ROWS, FEW_ROWS = 500, 250
"""A piece of follow-ups is between these: it takes far longer than others, and no second worker can help with it."""


class Pipeline:
    """One task's work under way.

    Attributes:
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
        options: Options,
        tally: Tally,
        jobs_seen: int | None,
        forced: list[Force] | None = None,
    ) -> None:
        self._task = task
        self._steps = steps
        self._tally = tally
        self.jobs_seen = jobs_seen
        self.pages_tried = jobs_seen is not None
        self.again_at: float | None = None
        self.paused_until = 0.0
        self.changed = False
        self.pages = Lane(4, self._piece_done)
        self.fetching = Lane(4, self._piece_done)
        self.use(options)
        self._recording = Lane(4, self._piece_done)
        self.reanalyses = Lane(4, self._piece_done)
        self.forced = [] if forced is None else forced
        self._to_follow: Runs = []
        self._to_record: Runs = []
        self._closing = False

    @property
    def _lanes(self) -> tuple[Lane, ...]:
        return self.pages, self.fetching, self._following, self._recording, self.reanalyses

    def stamp(self) -> tuple[int, ...] | None:
        """A value that stays the same while nothing is handed out; None while anything runs."""
        if self._to_follow or self._to_record or self.forced or not all(lane.idle for lane in self._lanes):
            return None
        return tuple(lane.started for lane in self._lanes)

    def fetch_stamp(self) -> tuple[int, int] | None:
        """As :meth:`stamp`, for job ids and conversations only."""
        return (self.pages.started, self.fetching.started) if self.pages.idle and self.fetching.idle else None

    def use(self, options: Options) -> None:
        """Go by these options, before anything but re-analyses was begun."""
        self._options = options
        # With a ceiling one after another: each must know what the ones before it spent.
        self._following = Lane(8 if options.token_ceiling is None else 1, self._piece_done)

    def in_group(self, task: Task) -> None:
        """The task has its job group now."""
        self._task = task

    async def wind_down(self) -> None:
        """Start nothing more and wait for what runs; what waits is dropped here and found again by a review. What is
        left of re-analyses is in :attr:`forced`."""
        self._closing = True
        self.pump()
        await workflow.wait_condition(lambda: all(lane.idle for lane in self._lanes))

    # --- handing work out ------------------------------------------------------------------------------------

    def read_pages(self, *, may_fail: bool, whole: bool) -> None:
        """Read the group's pages.

        Args:
            may_fail: rows without a job have had their time.
            whole: every lead is handed over, so that a phone number may decide.
        """
        self.pages.start(self._read_pages(may_fail=may_fail, whole=whole))

    def sweep(self, review: Review) -> None:
        """Ask for the outcomes that the review found missing."""
        for work in review.conversations:
            self.fetching.start(self._fetch(work.rows))

    def leftovers(self, to_follow_up: Sequence[Work], to_record: Sequence[Work]) -> None:
        """Hand out follow-ups and recordings that a review found missing."""
        for work in to_follow_up:
            self._to_follow += work.rows
        for work in to_record:
            self._to_record += work.rows
        self.pump()

    def pump(self) -> None:
        """Start follow-ups, recordings and re-analyses as far as there is room; what comes in meanwhile goes in bigger
        pieces."""
        if self._closing:
            self._to_follow, self._to_record = [], []
            return
        while self.forced and not self.reanalyses.full:
            self.reanalyses.start(self._reanalyse(self.forced.pop(0)))
        while self._to_follow and not self._following.full:
            # As many pieces as there is room for, so that several workers have their share even of a small task.
            size = min(FOLLOW_UP_ROWS, -(-count(self._to_follow) // self._following.room))
            piece, self._to_follow = take(self._to_follow, max(FEW_ROWS, size))
            self._following.start(self._follow_up(piece))
        while self._to_record and not self._recording.full:
            piece, self._to_record = take(self._to_record, PIECE_ROWS)
            self._recording.start(self._save_recordings(piece))

    def _piece_done(self, lane: Lane) -> None:
        """Refill the steps that have room; ask for a review once calls are fetched, and once nothing runs."""
        self.pump()
        fetched = lane in (self.pages, self.fetching) and self.pages.idle and self.fetching.idle
        if fetched or self.stamp() is not None:
            self.changed = True

    async def _reanalyse(self, force: Force) -> None:
        left = await Reanalysis(self._task, self._steps, self._options, self._tally).run(force, lambda: self._closing)
        if left is not None:
            self.forced.append(left)

    def _set_aside(self) -> None:
        """Something failed three times: the rows still say what is left to do, but not at once."""
        self.paused_until = workflow.time() + self._options.retry_interval

    def _look_again(self) -> None:
        delay = self._options.retry_interval * workflow.random().uniform(1, 2)
        self.again_at = min(self.again_at or float("inf"), workflow.time() + delay)

    # --- job ids (SPEC 3) ------------------------------------------------------------------------------------

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
                results.append(await self._read_piece(start))

        await asyncio.gather(*(read() for _ in range(PIECES_AT_ONCE)))
        return results

    async def _read_piece(self, start: int) -> PagesRead | None:
        result = await self._steps.match_pages(
            Pages(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                job_group_id=self._task.job_group_id,
                first=start,
                last=start + PAGES_A_PIECE - 1,
            )
        )
        self._hand_on(result)
        return result

    async def _settle(self, *, may_fail: bool) -> None:
        result = await self._steps.settle_jobs(
            Settlement(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                job_group_id=self._task.job_group_id,
                may_fail=may_fail,
            )
        )
        self._hand_on(result)

    def _hand_on(self, result: PagesRead | None) -> None:
        if result is None:
            self._look_again()
            return
        self._tally.api_calls += result.api_calls
        if result.failed_pages:
            self._look_again()
        rows = result.matched
        while rows:
            piece, rows = take(rows, PIECE_ROWS)
            self.fetching.start(self._fetch(piece))

    # --- conversations, recordings, follow-ups (SPEC 4 to 6) -------------------------------------------------

    async def _fetch(self, rows: Runs) -> None:
        fetched = await self._steps.fetch_conversations(
            FetchRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                rows=rows,
                grace=self._options.conversation_grace,
                lag_retry=self._options.poll_min,
            )
        )
        if fetched is None or fetched.failed_calls or fetched.not_returned:
            self._look_again()
        if fetched is None:
            return
        self._tally.fetched(fetched)
        self._to_follow += fetched.ready
        self._to_record += fetched.ready
        self.pump()

    async def _follow_up(self, rows: Runs) -> None:
        followed = await self._steps.follow_up(
            FollowUpRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                rows=rows,
                retry_interval=self._options.retry_interval,
                conversation_grace=self._options.conversation_grace,
                max_tokens=self._options.token_ceiling,
            )
        )
        if followed is None:
            self._set_aside()

    async def _save_recordings(self, rows: Runs) -> None:
        saved = await self._steps.save_recordings(
            RecordingRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                rows=rows,
                grace=self._options.recording_grace,
                retry_interval=self._options.poll_min,
            )
        )
        if saved is None:
            self._set_aside()
        else:
            self._tally.api_calls += saved.api_calls

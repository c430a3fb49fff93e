"""``CallTaskWorkflow``: one durable run per call task (SPEC 2 to 8).

The database is the list of work and the truth; this history holds ids, counts and cursors. Work flows from step to
step as it comes in: pages of job ids → conversations → follow-ups beside recordings. A *review* of the database finds
again whatever was set aside; it hands work out only to steps that are idle, so no two pieces of work overlap.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.conversations import FetchRequest
    from activities.follow_ups import FollowUpRequest
    from activities.job_groups import ControlRequest, Counters, WatchRequest
    from activities.job_ids import Pages, PagesRead, Settlement
    from activities.recordings import RecordingRequest
    from activities.row_runs import Runs, take
    from activities.tasks import Review, ReviewRequest, Task
    from workflows.dispatching import Dispatcher
    from workflows.lanes import Lane
    from workflows.options import CallTaskInput, Carried, Force, Options
    from workflows.reanalysis import Reanalysis
    from workflows.steps import Steps, open_task
    from workflows.tally import Tally

PAGES_A_PIECE = 10
FETCH_ROWS = 990
"""Ten full requests."""
FOLLOW_UP_ROWS = 400
RECORDING_ROWS = 500
SWEEP_PIECES = 16
"""At most about so many pieces ask for calls that are still under way, however many there are."""
REVIEW_SECONDS = 60.0
"""While work runs, the standing is looked at this often."""
ROWS_A_POLL = 10_000
"""A task with more calls under way is polled proportionally less often, so that polling leaves room for work."""


@workflow.defn(name="CallTaskWorkflow")
class CallTaskWorkflow:
    """One call task from start-call to follow-up complete."""

    @workflow.init
    def __init__(self, input: Any = None) -> None:
        self._input, self._input_error = _read_input(input)
        carried = self._input.carried
        self._options: Options = self._input.options
        self._task: Task | None = None
        self._review: Review | None = None
        self._tally = Tally(carried)
        seen = carried.counters if carried else None
        self._counters = Counters(total=seen[0], over=seen[1]) if seen else None
        self._jobs_seen: int | None = carried.jobs_seen if carried else None
        self._forced: list[Force] = list(carried.forced) if carried else []
        self._tally.analysing_again = len(self._forced)
        self._controls: list[str] = list(carried.controls) if carried else []
        self._cancelled = carried.cancelled if carried else False
        self._dispatched_at = carried.dispatched_at if carried else 0.0
        self._wake = False
        self._look = True
        self._refreshed = False
        self._pages = Lane(8, self._piece_done)
        self._fetching = Lane(8, self._piece_done)
        self._following = Lane(8, self._piece_done)
        self._recording = Lane(4, self._piece_done)
        self._reanalyses = Lane(4, self._piece_done)
        self._to_follow: Runs = []
        self._to_record: Runs = []
        self._watch: asyncio.Task[None] | None = None
        self._quiet = 0

    # --- what operators and programs may ask and say ---------------------------------------------------------------

    @workflow.query(description="How the task stands: counts of its calls, follow-ups and costs.")
    def progress(self) -> dict[str, Any]:
        return self._tally.progress(self._input.task_id, self._phase(), self._review)

    @workflow.signal(description='Analyse calls again: {"call_job_ids": ["…"]}, {"all": true} or {"failed": true}.')
    def force_analyze(self, request: Any = None) -> None:
        try:
            force = Force.model_validate(request)
        except ValidationError:
            force = Force()
        if force.call_job_ids is None and not force.all and not force.failed:
            workflow.logger.warning("force_analyze ignored: it names neither call_job_ids, nor all, nor failed")
            return
        self._forced.append(force.model_copy(update={"request_id": str(workflow.uuid4())}))
        self._tally.analysing_again += 1
        self._wake = True

    @workflow.signal(description="Look at all calls now.")
    def refresh(self) -> None:
        self._look = self._refreshed = self._wake = True

    @workflow.signal(description="Suspend the platform's dialling for the whole task.")
    def pause_calls(self) -> None:
        self._controls.append("pause")

    @workflow.signal(description="Resume the platform's dialling.")
    def resume_calls(self) -> None:
        self._controls.append("resume")

    @workflow.signal(description="Cancel all calls that were not made yet.")
    def cancel_calls(self) -> None:
        self._controls.append("cancel")

    # --- the run ----------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, input: Any = None) -> dict[str, Any]:
        """Run the task to its end.

        Args:
            input: ``{"task_id": 42, "options": {…}}`` (CONTRACT, Temporal).

        Returns:
            The progress object, with ``outcome``: ``complete``, ``nothing_called`` or ``cancelled``.

        Raises:
            ApplicationError: one line that says why the task cannot be run.
        """
        if self._input_error:
            raise ApplicationError(self._input_error, type="InvalidInput", non_retryable=True)
        try:
            self._task = await open_task(self._input.task_id)
            self._steps = Steps(self._task, self._tally)
            if self._task.task_type < 4 or self._dispatched_at:
                await self._dispatch(self._task)
                outcome = await self._work()
            else:
                outcome = await self._only_reanalyse()
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError):
                raise ApplicationError(error.cause.message, type=error.cause.type, non_retryable=True) from error
            raise
        return self.progress() | {"phase": "complete", "outcome": outcome}

    async def _dispatch(self, task: Task) -> None:
        self._controlling = asyncio.create_task(self._control())
        if self._dispatched_at:
            return
        if not task.dispatched:
            dispatcher = Dispatcher(task, self._steps, self._options, self._tally, lambda: "cancel" in self._controls)
            self._task = await dispatcher.open_group()
            await dispatcher.assign_all()
            await workflow.sleep(self._options.poll_first, summary="first look at the calls")
        elif task.task_type < 2:
            await self._steps.mark_dispatched(task.task_id)
        self._dispatched_at = workflow.time()

    async def _only_reanalyse(self) -> str:
        """A closed task changes only where it is asked to (SPEC 7)."""
        await self._take_stock()
        while self._forced:
            self._start_reanalyses()
            await self._reanalyses.drained()
            await self._take_stock()
        return "complete"

    async def _work(self) -> str:
        while True:
            self._wake = False
            self._start_reanalyses()
            calm = self._calm()
            review = await self._take_stock()
            if calm and calm == self._calm() and self._settled(review):
                return self._outcome(review)
            self._plan(review, calm)
            if workflow.info().is_continue_as_new_suggested():
                await self._restart_as_new()
            await self._rest(review)

    async def _take_stock(self) -> Review:
        self._review = review = await self._steps.review(
            ReviewRequest(
                task_id=self._input.task_id,
                unfinished=self._look,
                conversations=self._sweep_rows(),
                follow_ups=FOLLOW_UP_ROWS,
                recordings=RECORDING_ROWS,
                conversation_grace=self._options.conversation_grace,
                recording_grace=self._options.recording_grace,
            )
        )
        return review

    def _settled(self, review: Review) -> bool:
        """Whether nothing is left to do and nothing more can come."""
        if self._forced or review.unsettled or review.finished < review.called or review.unjudged:
            return False
        return not review.to_record and review.next_due is None

    def _outcome(self, review: Review) -> str:
        if self._cancelled:
            return "cancelled"
        return "complete" if review.called else "nothing_called"

    # --- planning ---------------------------------------------------------------------------------------------------

    def _calm(self) -> tuple[int, ...] | None:
        """A stamp that stays the same while nothing is handed out; None while anything runs."""
        lanes = (self._pages, self._fetching, self._following, self._recording, self._reanalyses)
        if any(not lane.idle for lane in lanes) or self._to_follow or self._to_record:
            return None
        return tuple(lane.started for lane in lanes)

    def _plan(self, review: Review, calm: tuple[int, ...] | None) -> None:
        """Hand out what the review found, to steps that were idle while it was made."""
        if self._pages.idle and self._needs_pages(review):
            self._pages.start(self._match_pages())
        if self._look and self._pages.idle and self._fetching.idle:
            self._look = self._refreshed = False
            self._tally.under_way.clear()
            self._sweep(review)
        if calm is None or calm != self._calm():
            return
        if not self._look and self._fetching.idle:
            self._sweep(review)
        for work in review.to_follow_up:
            self._to_follow += work.rows
        for work in review.to_record:
            self._to_record += work.rows
        self._pump()

    def _needs_pages(self, review: Review) -> bool:
        if self._task is None or not self._task.job_group_id or not review.unmatched:
            return False
        more = self._counters is not None and self._jobs_seen is not None and self._counters.total > self._jobs_seen
        overdue = review.unsettled > 0 and self._grace_left() <= 0
        return self._jobs_seen is None or self._refreshed or more or (self._look and overdue)

    def _grace_left(self) -> float:
        return self._dispatched_at + self._options.match_grace - workflow.time()

    def _sweep(self, review: Review) -> None:
        for work in review.conversations:
            self._fetching.start(self._fetch(work.rows))

    def _sweep_rows(self) -> int:
        under_way = self._review.called - self._review.finished if self._review else 0
        return max(FETCH_ROWS, -(-under_way // (SWEEP_PIECES * 99)) * 99)

    async def _rest(self, review: Review) -> None:
        """Wait until there is something to do: a change, a signal, a step that ran dry, a row that is due."""
        waiting = review.called > review.finished or review.unsettled > 0
        if waiting and self._watch is None and self._task and self._task.job_group_id:
            self._watch = asyncio.create_task(self._watch_calls(review))
        busy = self._calm() is None
        due = [REVIEW_SECONDS] if busy else []
        if review.next_due is not None and not busy:
            due.append(max(review.next_due, 1.0))
        if review.unsettled and not busy and self._grace_left() > 0:
            due.append(self._grace_left())
        self._show(review, busy, min(due) if due else None)
        grace_was_over = self._grace_left() <= 0
        try:
            await workflow.wait_condition(lambda: self._wake, timeout=min(due) if due else None)
        except TimeoutError:
            if not grace_was_over and self._grace_left() <= 0:
                self._look = True

    def _show(self, review: Review, busy: bool, seconds: float | None) -> None:
        """What the Temporal UI says of this run while it waits."""
        calls = review.called - review.finished
        what = "" if busy else f"{calls} calls under way" if calls else "rows that are due for another try"
        until = "" if seconds is None or busy else f", next in {seconds:.0f} s"
        self._tally.waiting = what + until
        progress = self._tally.progress(self._input.task_id, self._phase(), review)
        workflow.set_current_details(self._tally.details(progress))

    async def _watch_calls(self, review: Review) -> None:
        assert self._task is not None
        under_way = review.called - review.finished
        shortest = self._options.poll_min * max(1.0, under_way / ROWS_A_POLL)
        longest = max(self._options.poll_max, shortest)
        request = WatchRequest(
            task_id=self._task.task_id,
            organization_id=self._task.organization_id,
            job_group_id=self._task.job_group_id,
            seen=self._counters,
            called=review.called,
            first=0.0 if self._counters is None else min(shortest * 2**self._quiet, longest),
            shortest=shortest,
            longest=longest,
        )
        watched = await self._steps.watch(request)
        self._tally.polls += watched.polls
        self._tally.api_calls += watched.polls
        if watched.counters is None or watched.counters == self._counters:
            self._quiet = min(self._quiet + 1, 10)
        else:
            self._quiet = 0
        self._tally.note(watched.error)
        self._counters = watched.counters or self._counters
        self._watch = None
        self._look = self._wake = True

    def _piece_done(self, lane: Lane) -> None:
        """Refill the steps that have room; look at the standing once calls are fetched, and once nothing runs."""
        self._pump()
        fetched = lane in (self._pages, self._fetching) and self._pages.idle and self._fetching.idle
        if fetched or self._calm() is not None:
            self._wake = True

    def _phase(self) -> str:
        if self._task is None or (not self._dispatched_at and self._task.task_type < 4):
            return "dispatching"
        review = self._review
        if review is None or review.unsettled or review.finished < review.called:
            return "calling"
        if review.unjudged:
            return "following_up"
        if not self._reanalyses.idle:
            return "analysing_again"
        return "complete" if review.task_type >= 4 else "following_up"

    # --- the steps --------------------------------------------------------------------------------------------------

    async def _match_pages(self) -> None:
        """Read the group's pages in parallel; then, where it takes that, settle what they left open."""
        assert self._task is not None
        first = await self._match_piece(1)
        if first is None or first.row_count is None:
            return
        last = -(-first.row_count // 100)
        pieces = range(PAGES_A_PIECE + 1, last + 1, PAGES_A_PIECE)
        results = [first, *await asyncio.gather(*(self._match_piece(start) for start in pieces))]
        read = [result for result in results if result is not None]
        whole = len(read) == len(results) and not any(result.failed_pages for result in read)
        jobs = sum(result.jobs for result in read)
        if whole and jobs >= first.row_count:
            self._jobs_seen = max(jobs, self._counters.total if self._counters else 0)
        overdue = self._grace_left() <= 0
        if whole and (overdue or any(result.left_over for result in read)):
            await self._settle(may_fail=overdue)

    async def _match_piece(self, start: int) -> PagesRead | None:
        assert self._task is not None
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
        assert self._task is not None
        self._hand_on(
            await self._steps.settle_jobs(
                Settlement(
                    task_id=self._task.task_id,
                    organization_id=self._task.organization_id,
                    job_group_id=self._task.job_group_id,
                    may_fail=may_fail,
                )
            )
        )

    def _hand_on(self, result: PagesRead | None) -> None:
        """What a page yields goes on at once: nothing waits for the slowest one."""
        if result is None:
            return
        self._tally.api_calls += result.api_calls
        self._tally.note(result.error)
        rows = result.matched
        while rows:
            piece, rows = take(rows, FETCH_ROWS)
            self._fetching.start(self._fetch(piece))

    async def _fetch(self, rows: Runs) -> None:
        assert self._task is not None
        fetched = await self._steps.fetch_conversations(
            FetchRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                rows=rows,
                grace=self._options.conversation_grace,
                lag_retry=self._options.poll_min,
            )
        )
        if fetched is None:
            return
        self._tally.fetched(fetched)
        self._to_follow += fetched.ready
        self._to_record += fetched.ready
        self._pump()

    def _pump(self) -> None:
        """Start follow-ups and recordings as far as there is room; what comes in meanwhile goes in bigger pieces."""
        while self._to_follow and not self._following.full:
            piece, self._to_follow = take(self._to_follow, FOLLOW_UP_ROWS)
            self._following.start(self._follow_up(piece))
        while self._to_record and not self._recording.full:
            piece, self._to_record = take(self._to_record, RECORDING_ROWS)
            self._recording.start(self._save_recordings(piece))

    async def _follow_up(self, rows: Runs) -> None:
        assert self._task is not None
        followed = await self._steps.follow_up(
            FollowUpRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                rows=rows,
                retry_interval=self._options.retry_interval,
                conversation_grace=self._options.conversation_grace,
            )
        )
        if followed is not None:
            self._tally.note(followed.error)

    async def _save_recordings(self, rows: Runs) -> None:
        assert self._task is not None
        saved = await self._steps.save_recordings(
            RecordingRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                rows=rows,
                grace=self._options.recording_grace,
                retry_interval=self._options.poll_min,
            )
        )
        if saved is not None:
            self._tally.api_calls += saved.api_calls
            self._tally.note(saved.error)

    def _start_reanalyses(self) -> None:
        assert self._task is not None
        while self._forced:
            reanalysis = Reanalysis(self._task, self._steps, self._options, self._tally)
            self._reanalyses.start(reanalysis.run(self._forced.pop(0)))

    async def _control(self) -> None:
        """Suspend, resume and cancel, in the order in which it was asked for, as soon as there is a group."""
        while True:
            await workflow.wait_condition(lambda: bool(self._controls and self._task and self._task.job_group_id))
            assert self._task is not None
            action = self._controls[0]
            request = ControlRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                job_group_id=self._task.job_group_id,
                action=action,
            )
            done = await self._steps.control(request)
            self._cancelled = self._cancelled or (action == "cancel" and done is not None)
            self._tally.last_control = f"{action}: " + ("done" if done else "the platform did not take it")
            self._controls.pop(0)
            self._look = self._wake = True

    async def _restart_as_new(self) -> None:
        """Let what runs come to its end, then go on with an empty history."""
        lanes = (self._pages, self._fetching, self._following, self._recording, self._reanalyses)
        for lane in lanes:
            await lane.drained()
        carried = Carried(
            started_at=self._tally.started_at,
            dispatched_at=self._dispatched_at,
            polls=self._tally.polls,
            api_calls=self._tally.api_calls,
            cancelled=self._cancelled,
            jobs_seen=self._jobs_seen,
            counters=(self._counters.total, self._counters.over) if self._counters else None,
            forced=self._forced,
            controls=self._controls,
        )
        workflow.continue_as_new(self._input.model_copy(update={"carried": carried}).model_dump(mode="json"))


def _read_input(input: Any) -> tuple[CallTaskInput, str]:
    """The input, or one that stands for none and what is wrong with it."""
    try:
        return CallTaskInput.model_validate(input), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        reason = f'input must be a JSON object like {{"task_id": 42}}; {where}: {first["msg"]}'
        return CallTaskInput(task_id=1), reason

"""``CallTaskWorkflow``: one durable run per call task (SPEC 2 to 8).

The database is the list of work and the truth; this history holds ids, counts and cursors. A *review* of the database
says how the task stands and finds again whatever was set aside; between reviews the run waits for a change at the
platform, a signal, or the time at which something is due.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.job_groups import Counters, WatchRequest
    from activities.tasks import Limit, Review, ReviewRequest, Task
    from workflows import reanalysis
    from workflows.controls import ACTIONS, NOTHING_LEFT, Controls
    from workflows.dispatching import Dispatcher
    from workflows.options import Carried, Force, Options, read_input
    from workflows.pacing import Pace, standing
    from workflows.pipeline import PIECE_ROWS, Pipeline
    from workflows.search_attributes import SearchAttributes
    from workflows.steps import Steps, open_task, reason
    from workflows.tally import Tally

SWEEP_PIECES = 16
"""At most about so many pieces ask for calls that are still under way, however many there are."""
REVIEW_SECONDS = 60.0
"""While work runs, the standing is looked at this often."""
ROWS_A_POLL = 10_000
"""A task with more calls under way is polled proportionally less often, so that polling leaves room for work."""

STALLED_LOOKS = 5
"""After so many looks in a row that found nothing new a task counts as stalled."""


@workflow.defn(name="CallTaskWorkflow")
class CallTaskWorkflow:
    """One call task from start-call to follow-up complete."""

    @workflow.init
    def __init__(self, input: Any = None) -> None:
        self._input, self._input_error = read_input(input)
        self._options: Options = self._input.options
        carried = self._input.carried
        self._tally = Tally(carried)
        self._task: Task | None = None
        self._review: Review | None = None
        self._dispatched_at = carried.dispatched_at if carried else 0.0
        self._forced: list[Force] = list(carried.forced) if carried else []
        self._tally.analysing_again = len(self._forced)
        self._controls = Controls(self._tally, carried)
        seen = carried.counters if carried else None
        self._counters = Counters(total=seen[0], over=seen[1]) if seen else None
        self._watching: asyncio.Task[None] | None = None
        self._attributes: SearchAttributes | None = None
        self._moved_at = workflow.now()
        self._over = self._failed = False
        self._look = True
        self._refreshed = False
        self._wake = False
        self._asking, self._judging, self._recording = (Pace(self._options) for _ in range(3))
        self._quiet = 0
        """Looks in a row that found nothing new."""

    # --- what operators and programs may ask and say ---------------------------------------------------------

    @workflow.query(description="How the task stands: counts of its calls, follow-ups and costs.")
    def progress(self) -> dict[str, Any]:
        return self._tally.progress(self._input.task_id, self._phase(), self._review)

    @workflow.signal(description='Analyse calls again: {"call_job_ids": ["…"]}, {"all": true} or {"failed": true}.')
    def force_analyze(self, request: Any = None) -> None:
        try:
            force = Force.model_validate(request)
        except ValidationError:
            force = Force()
        if not (force.call_job_ids or force.all or force.failed):
            ignored = "force_analyze was ignored: it names neither call_job_ids, nor all, nor failed"
            self._tally.note(ignored, reanalysis.STEP)
            return
        self._tally.note("", reanalysis.STEP)
        self._forced.append(force.model_copy(update={"request_id": str(workflow.uuid4())}))
        self._tally.analysing_again += 1
        self._wake = True

    @workflow.signal(description="Look at all calls now.")
    def refresh(self) -> None:
        self._hurry()
        self._look = self._refreshed = self._wake = True

    @workflow.signal(description="Suspend the platform's dialling for the whole task.")
    def pause_calls(self) -> None:
        self._controls.ask("pause")

    @workflow.signal(description="Resume the platform's dialling.")
    def resume_calls(self) -> None:
        self._controls.ask("resume")

    @workflow.signal(description="Cancel all calls that were not made yet.")
    def cancel_calls(self) -> None:
        self._controls.ask("cancel")

    @workflow.update(description='"pause", "resume" or "cancel" the dialling, and hear what the platform answered.')
    async def control_calls(self, action: str) -> dict[str, Any]:
        return await self._controls.answer(self._controls.ask(action), lambda: self._over)

    @control_calls.validator
    def _is_action(self, action: str) -> None:
        if action not in ACTIONS:
            raise ValueError(f"the action must be one of {', '.join(ACTIONS)}")
        if self._task is not None and self._task.task_type >= 4:
            raise ValueError(NOTHING_LEFT)

    # --- the run ---------------------------------------------------------------------------------------------

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
            self._fail(self._input_error)
            raise ApplicationError(self._input_error, type="InvalidInput", non_retryable=True)
        try:
            self._task = await open_task(self._input.task_id)
            self._attributes = SearchAttributes(self._task)
            steps = Steps(self._task, self._tally)
            self._task = await self._limit(self._task, steps)
            if self._task.task_type >= 4 and not self._dispatched_at:
                outcome = await self._only_reanalyse(steps)
            else:
                if not self._dispatched_at:
                    self._task = await self._dispatch(self._task, steps)
                outcome = await self._work(self._task, steps)
        except ActivityError as error:
            self._fail(reason(error))
            if isinstance(error.cause, ApplicationError):
                raise ApplicationError(error.cause.message, type=error.cause.type, non_retryable=True) from error
            raise
        self._tally.waiting = "nothing: it is over"
        self._over = True
        await workflow.wait_condition(workflow.all_handlers_finished)
        result = self.progress() | {"outcome": outcome}
        workflow.set_current_details(self._tally.details(result))
        return result

    def _fail(self, reason: str) -> None:
        """Show that, and why, the run is about to fail."""
        self._failed = True
        self._tally.note(reason, "run")
        self._tally.waiting = f"somebody to mend it; then: start-call {self._input.task_id}"
        self._show_all()

    async def _limit(self, task: Task, steps: Steps) -> Task:
        """The task with the ceiling that this run was given, or that an earlier one was."""
        ceiling = self._options.token_ceiling
        if ceiling is not None and ceiling != task.token_ceiling:
            await steps.limit_tokens(Limit(task_id=task.task_id, token_ceiling=ceiling))
            task = replace(task, token_ceiling=ceiling)
        self._tally.token_ceiling = task.token_ceiling
        return task

    async def _dispatch(self, task: Task, steps: Steps) -> Task:
        if not task.dispatched:
            dispatcher = Dispatcher(
                task, steps, self._options, self._tally, stopped=self._is_stopped, show=self._show_all
            )
            task = await dispatcher.open_group()
            await dispatcher.assign_all()
            await workflow.sleep(self._options.poll_first, summary="first look at the calls")
        elif task.task_type < 2:
            await steps.mark_dispatched(task.task_id)
        self._dispatched_at = workflow.time()
        return task

    async def _only_reanalyse(self, steps: Steps) -> str:
        """A closed task changes only where it is asked to (SPEC 7)."""
        assert self._task is not None
        pipeline = Pipeline(self._task, steps, self._options, self._tally, None)
        await self._take_stock(steps)
        while self._forced:
            while self._forced:
                pipeline.reanalyse(self._forced.pop(0))
            await pipeline.drained()
            await self._take_stock(steps)
        return "complete"

    async def _work(self, task: Task, steps: Steps) -> str:
        carried = self._input.carried
        pipeline = Pipeline(task, steps, self._options, self._tally, carried.jobs_seen if carried else None)
        controlling = asyncio.create_task(self._controls.carry_out(task, steps, self._controlled))
        while True:
            self._wake = pipeline.changed = False
            while self._forced:
                pipeline.reanalyse(self._forced.pop(0))
            look, stamp, fetch_stamp = self._look, pipeline.stamp(), pipeline.fetch_stamp()
            review = await self._take_stock(steps)
            calm = stamp is not None and stamp == pipeline.stamp()
            if calm and self._settled(review, pipeline):
                controlling.cancel()
                if self._watching:
                    self._watching.cancel()
                return "cancelled" if self._controls.cancelled else "complete" if review.called else "nothing_called"
            # What was handed out while the review was made may be in the review too: then its findings are not used.
            if fetch_stamp is not None and fetch_stamp == pipeline.fetch_stamp():
                found = (look, self._to_settle(review), review.conversations, standing(review))
                if self._asking.admits(found if look or review.conversations else None):
                    self._look_at_calls(review, pipeline, look=look)
            if calm and workflow.time() >= pipeline.paused_until:
                to_follow_up = review.to_follow_up if self._judging.admits(review.to_follow_up or None) else []
                to_record = review.to_record if self._recording.admits(review.to_record or None) else []
                pipeline.leftovers(to_follow_up, to_record)
            if workflow.info().is_continue_as_new_suggested():
                await self._restart_as_new(pipeline)
            await self._rest(review, pipeline, steps)

    async def _take_stock(self, steps: Steps) -> Review:
        before, analysed_again = self._review, self._tally.analysed_again
        under_way = before.called - before.finished if before else 0
        self._review = await steps.review(
            ReviewRequest(
                task_id=self._input.task_id,
                unfinished=self._look,
                conversations=max(PIECE_ROWS, -(-under_way // (SWEEP_PIECES * 99)) * 99),
                follow_ups=PIECE_ROWS,
                recordings=PIECE_ROWS,
                conversation_grace=self._options.conversation_grace,
                recording_grace=self._options.recording_grace,
            )
        )
        self._tally.analysing_again -= analysed_again
        self._tally.analysed_again -= analysed_again
        if before is None or (before.called, before.finished) != (self._review.called, self._review.finished):
            self._quiet = 0
            self._moved_at = workflow.now()
        if self._attributes:
            self._attributes.show(self._review, self._moved_at if self._quiet >= STALLED_LOOKS else None)
        return self._review

    def _settled(self, review: Review, pipeline: Pipeline) -> bool:
        """Whether nothing is left to do and nothing more can come."""
        if self._forced or review.unsettled or review.finished < review.called or review.unjudged:
            return False
        looked = pipeline.pages_tried or not review.unmatched or not self._group()
        return looked and not review.to_record and review.next_due is None

    # --- planning and waiting --------------------------------------------------------------------------------

    def _look_at_calls(self, review: Review, pipeline: Pipeline, *, look: bool) -> None:
        """Ask for what is due; and, on a look, for every call without an outcome and for jobs that no row has yet."""
        if look:
            self._look = False
            self._quiet += 1
            self._tally.under_way.clear()
            pipeline.again_at = None
            if self._needs_pages(review, pipeline):
                pipeline.read_pages(may_fail=self._grace_left() <= 0)
            self._refreshed = False
        pipeline.sweep(review)

    def _needs_pages(self, review: Review, pipeline: Pipeline) -> bool:
        if not self._group() or not review.unmatched:
            return False
        seen, counters = pipeline.jobs_seen, self._counters
        if self._refreshed or not pipeline.pages_tried or (seen and counters and counters.total > seen):
            return True
        # Without news of more jobs, rows without one wait for their grace to end.
        return review.unsettled > 0 and (seen is None or counters is None or self._to_settle(review))

    def _to_settle(self, review: Review) -> bool:
        """Whether rows without a job have had their time."""
        return review.unsettled > 0 and self._grace_left() <= 0

    def _grace_left(self) -> float:
        return self._dispatched_at + self._options.match_grace - workflow.time()

    async def _rest(self, review: Review, pipeline: Pipeline, steps: Steps) -> None:
        """Wait until there is something to do: a change, a signal, a step that ran dry, a row that is due."""
        now, busy = workflow.time(), pipeline.stamp() is None
        under_way = review.called - review.finished
        looks = [] if pipeline.again_at is None else [pipeline.again_at]
        if under_way or review.unsettled:
            if self._watching is None and self._group():
                self._watching = asyncio.create_task(self._watch(review, pipeline, steps))
            if not self._group() or (self._counters and self._counters.over > review.finished):
                # Nobody will tell of a change, or it was told of and is not to be seen yet.
                looks.append(now + self._pause(under_way))
            if review.unsettled and self._grace_left() > 0:
                looks.append(now + self._grace_left())
        looks = [max(at, self._asking.until) for at in looks]
        due = [now + REVIEW_SECONDS] if busy else []
        if review.next_due is not None and not busy:
            due.append(now + max(review.next_due, 1.0))
        held = (pipeline.paused_until, self._asking.until, self._judging.until, self._recording.until)
        due += [at for at in held if at > now]
        until = min(looks + due, default=None)
        self._show(review, busy, None if until is None else until - now)
        try:
            await workflow.wait_condition(
                lambda: self._wake or pipeline.changed,
                timeout=None if until is None else max(until - now, 0.1),
                timeout_summary=self._tally.waiting[:150] or "until the next review",
            )
        except TimeoutError:
            self._look = self._look or any(at <= workflow.time() for at in looks)

    def _pause(self, under_way: int) -> float:
        """Seconds between two looks: longer the more calls one look concerns, and the longer nothing moved."""
        shortest = self._options.poll_min * max(1.0, under_way / ROWS_A_POLL)
        return min(shortest * 1.5 ** min(max(self._quiet - 1, 0), 20), max(self._options.poll_max, shortest))

    async def _watch(self, review: Review, pipeline: Pipeline, steps: Steps) -> None:
        assert self._task is not None
        pause = self._pause(review.called - review.finished)
        watched = await steps.watch(
            WatchRequest(
                task_id=self._task.task_id,
                organization_id=self._task.organization_id,
                job_group_id=self._task.job_group_id,
                seen=self._counters,
                called=review.called,
                first=pause,
                shortest=pause,
                longest=max(self._options.poll_max, pause),
            )
        )
        self._tally.polls += watched.polls
        self._tally.api_calls += watched.polls
        if watched.counters not in (None, self._counters):
            self._hurry()
        self._counters = watched.counters or self._counters
        self._watching = None
        self._look = self._wake = True

    def _group(self) -> str:
        return self._task.job_group_id if self._task else ""

    def _show(self, review: Review, busy: bool, seconds: float | None) -> None:
        """What the Temporal UI says of this run while it waits."""
        calls = review.called - review.finished
        what = "" if busy else f"{calls} calls under way" if calls else "rows that are due for another try"
        self._tally.waiting = what + ("" if seconds is None or busy else f", next in {seconds:.0f} s")
        self._show_all()

    def _show_all(self) -> None:
        workflow.set_current_details(self._tally.details(self.progress()))

    def _phase(self) -> str:
        review = self._review
        if self._failed:
            return "failed"
        if self._over:
            return "complete"
        if self._task is None or (not self._dispatched_at and self._task.task_type < 4):
            return "dispatching"
        if review is None or review.unsettled or review.finished < review.called:
            return "calling"
        if review.unjudged:
            return "following_up"
        if self._tally.analysing_again:
            return "analysing_again"
        return "recordings" if review.to_record or review.next_due is not None else "complete"

    # --- pause, resume, cancel; restart as new ---------------------------------------------------------------

    def _is_stopped(self) -> bool:
        return "cancel" in self._controls.waiting

    def _controlled(self) -> None:
        self._hurry()
        self._look = self._wake = True

    def _hurry(self) -> None:
        """Somebody has asked, or something has changed: what waits because nothing did is done at once."""
        for pace in (self._asking, self._judging, self._recording):
            pace.reset()

    async def _restart_as_new(self, pipeline: Pipeline) -> None:
        """Let what runs come to its end, then go on with an empty history."""
        await pipeline.wind_down()
        await workflow.wait_condition(workflow.all_handlers_finished)
        carried = Carried(
            started_at=self._tally.started_at,
            dispatched_at=self._dispatched_at,
            polls=self._tally.polls,
            api_calls=self._tally.api_calls,
            cancelled=self._controls.cancelled,
            jobs_seen=pipeline.jobs_seen,
            counters=(self._counters.total, self._counters.over) if self._counters else None,
            forced=self._forced,
            controls=self._controls.waiting,
        )
        workflow.continue_as_new(self._input.model_copy(update={"carried": carried}).model_dump(mode="json"))

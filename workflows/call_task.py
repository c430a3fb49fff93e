"""``CallTaskWorkflow``: one durable run per call task (SPEC 2 to 8).

The database is the list of work and the truth; this history holds ids, counts and cursors. A *review* of the database
says how the task stands and finds again whatever was set aside; between reviews the run waits for a change at the
platform, a signal, or the time at which something is due.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.job_groups import Counters, WatchRequest
    from activities.tasks import HandedOver, Keep, Review, ReviewRequest, Task
    from calltasks import names
    from calltasks.options import Carried, Force, Options, read_input
    from workflows import reanalysis
    from workflows.controls import NOTHING_LEFT, Controls
    from workflows.dispatching import Dispatcher
    from workflows.pacing import Pace, grown, standing
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


@workflow.defn(name=names.WORKFLOW)
class CallTaskWorkflow:
    """One call task from start-call to follow-up complete."""

    @workflow.init
    def __init__(self, input: Any = None) -> None:
        self._input, self._input_error = read_input(input)
        self._options = self._input.options if self._input else Options()
        self._carried = carried = self._input.carried if self._input else None
        self._tally = Tally(carried)
        self._task: Task | None = None
        self._review: Review | None = None
        self._asked = carried.asked if carried else False
        self._given = self._options
        self._dispatched_at = carried.dispatched_at if carried else 0.0
        self._dispatcher: Dispatcher | None = None
        self._dispatching: asyncio.Task[None] | None = None
        self._first_look = 0.0
        self._forced: list[Force] = list(carried.forced) if carried else []
        self._tally.analysing_again = len(self._forced)
        self._controls = Controls(self._tally, carried)
        self._controlling: asyncio.Task[None] | None = None
        self._pipeline: Pipeline | None = None
        seen = carried.counters if carried else None
        self._counters = Counters(total=seen[0], over=seen[1]) if seen else None
        self._watching: asyncio.Task[None] | None = None
        self._attributes: SearchAttributes | None = None
        self._moved_at = workflow.now()
        self._over = self._failed = False
        self._look = True
        self._refreshed = False
        self._wake = False
        self._asking, self._judging, self._recording = Pace(), Pace(), Pace()
        self._quiet = 0
        """Looks in a row that found nothing new."""

    # --- what operators and programs may ask and say ---------------------------------------------------------

    @workflow.query(description="How the task stands: counts of its calls, follow-ups and costs.")
    def progress(self) -> dict[str, Any]:
        task_id = self._input.task_id if self._input else None
        return self._tally.progress(task_id, self._phase(), self._review)

    @workflow.signal(description="Make the calls, in a run that was not started for them (a re-analysis, a check).")
    def start_call(self, options: Any = None) -> None:
        if not self._asked:
            self._asked = self._wake = True
            with suppress(ValidationError):
                self._given = Options.model_validate(options or {}).over(self._given.kept())

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
        if self._pipeline:
            self._pipeline.pump()
        self._wake = True

    @workflow.signal(description="Look at all calls now.")
    def refresh(self) -> None:
        self._hurry()
        self._look = self._refreshed = self._wake = True

    @workflow.signal(description="Suspend the platform's dialling for the whole task.")
    def pause_calls(self) -> None:
        self._controls.ask(names.PAUSE)

    @workflow.signal(description="Resume the platform's dialling.")
    def resume_calls(self) -> None:
        self._controls.ask(names.RESUME)

    @workflow.signal(description="Cancel all calls that were not made yet.")
    def cancel_calls(self) -> None:
        self._controls.ask(names.CANCEL)

    @workflow.update(description='"pause", "resume" or "cancel" the dialling, and hear what the platform answered.')
    async def control_calls(self, action: str) -> dict[str, Any]:
        return await self._controls.answer(self._controls.ask(action), lambda: self._over)

    @control_calls.validator
    def _is_action(self, action: str) -> None:
        if action not in names.ACTIONS:
            raise ValueError(f"the action must be one of {', '.join(names.ACTIONS)}")
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
        if self._input is None:
            self._fail(self._input_error)
            raise ApplicationError(self._input_error, type="InvalidInput", non_retryable=True)
        try:
            self._task = task = await open_task(self._input.task_id)
            steps = Steps(task, self._tally)
            pipeline = await self._begin(task, steps, dial=self._input.dial)
            outcome = ""
            if self._dials_nobody():
                outcome = await self._only_reanalyse(pipeline, steps)
            if not self._dials_nobody():
                outcome = await self._work(pipeline, steps)
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
        mended = f"start-call {self._input.task_id}" if self._input else 'a start with an input like {"task_id": 42}'
        self._tally.waiting = f"somebody to mend it; then: {mended}"
        self._show_all()

    async def _begin(self, task: Task, steps: Steps, *, dial: bool) -> Pipeline:
        """Take up what earlier runs left, and serve what is asked of this one from now on."""
        carried = self._carried
        self._attributes = SearchAttributes(task)
        if carried is None:
            self._asked = self._asked or (dial and task.asked)
            self._controls.recall(task.kept.paused)
            await self._use(task, steps)
        self._tally.token_ceiling = self._options.token_ceiling
        jobs_seen = carried.jobs_seen if carried else None
        self._pipeline = pipeline = Pipeline(task, steps, self._options, self._tally, jobs_seen, self._forced)
        pipeline.pump()
        self._dispatcher = Dispatcher(
            task, steps, self._tally, self._controls, opened=self._opened, show=self._show_dispatch
        )
        if task.task_type < 4 or self._dispatched_at:
            self._controlling = asyncio.create_task(self._controls.carry_out(self._dispatcher, steps, self._controlled))
        return pipeline

    async def _use(self, task: Task, steps: Steps) -> None:
        """Go by the options that were given, over those of earlier runs; both stay with the task."""
        self._options = self._given.over(task.kept.options)
        self._tally.token_ceiling = self._options.token_ceiling
        if self._options != Options().over(task.kept.options):
            await steps.keep(Keep(task_id=task.task_id, options=self._options.kept()))

    def _dials_nobody(self) -> bool:
        """Whether the run reviews and judges only: the task is over, or its calls were never begun and no start-call
        has asked this run for them."""
        assert self._task is not None
        if self._dispatched_at:
            return False
        begun = self._task.dispatched and self._task.task_type >= 2
        return self._task.task_type >= 4 or not (self._asked or begun)

    async def _only_reanalyse(self, pipeline: Pipeline, steps: Steps) -> str:
        """What is over, or not dialled, changes only where it is asked to (SPEC 7); ``""``: a start-call has come."""
        assert self._task is not None

        def idle() -> bool:
            told = not self._controls.waiting or self._controlling is None
            return told and pipeline.stamp() is not None

        while True:
            stamp = pipeline.stamp()
            review = await self._take_stock(steps)
            if not self._dials_nobody():
                await self._use(self._task, steps)
                pipeline.use(self._options)
                return ""
            # What was asked for, or ended, while the review was made is not in it.
            if idle() and stamp is not None and stamp == pipeline.stamp():
                over = self._task.task_type >= 4
                return "complete" if over else "not_dialled" if review.called else "nothing_called"
            if self._is_long():
                await self._restart_as_new(pipeline)
            self._show_all()
            await workflow.wait_condition(lambda: idle() or not self._dials_nobody() or self._is_long())

    async def _work(self, pipeline: Pipeline, steps: Steps) -> str:
        assert self._task is not None and self._dispatcher is not None
        rested = await self._is_at_rest(self._task, steps)
        if rested and not self._wake:
            review = await self._take_stock(steps)
            if not self._wake:
                return await self._end(review)
        await self._begin_dispatch(self._task, self._dispatcher, steps)
        while True:
            self._wake = pipeline.changed = False
            if self._dispatching and self._dispatching.done():
                self._dispatch_is_over(self._dispatching)
            look, stamp, fetch_stamp = self._look, pipeline.stamp(), pipeline.fetch_stamp()
            review = await self._take_stock(steps)
            calm = stamp is not None and stamp == pipeline.stamp()
            if calm and self._settled(review, pipeline):
                if rested or review.called or not self._group():
                    return await self._end(review)
                # Nothing was called, and may never be: the monitor shall not read all pages again and again.
                await steps.keep(Keep(task_id=self._task.task_id, jobs_at_rest=pipeline.jobs_seen or 0))
                rested = True
                continue
            # What was handed out while the review was made may be in the review too: then its findings are not used.
            if fetch_stamp is not None and fetch_stamp == pipeline.fetch_stamp():
                found = (look, self._to_settle(review), review.conversations, standing(review))
                if self._asking.admits(found if look or review.conversations else None, self._options):
                    self._look_at_calls(review, pipeline, look=look)
            if calm and workflow.time() >= pipeline.paused_until:
                judge = self._judging.admits(review.to_follow_up or None, self._options)
                record = self._recording.admits(review.to_record or None, self._options)
                pipeline.leftovers(review.to_follow_up if judge else [], review.to_record if record else [])
            if self._is_long():
                await self._restart_as_new(pipeline)
            await self._rest(review, pipeline, steps)

    async def _is_at_rest(self, task: Task, steps: Steps) -> bool:
        """Whether a run before found that nothing was called, and the group has no more jobs than it listed then."""
        jobs = task.kept.jobs_at_rest
        if jobs is None or self._asked or self._carried or self._wake:
            return False
        self._counters = (await steps.watch(self._watch_request(0, 0.0))).counters
        if self._counters is None or self._counters.total > jobs:
            return False
        await steps.keep(Keep(task_id=task.task_id, jobs_at_rest=jobs))
        return True

    async def _end(self, review: Review) -> str:
        if self._controlling:
            # Whoever asked hears what the platform said, and not that it was not asked.
            await workflow.wait_condition(lambda: not self._controls.waiting)
        for waiting in (self._controlling, self._watching):
            if waiting:
                waiting.cancel()
        return "cancelled" if self._controls.cancelled else "complete" if review.called else "nothing_called"

    # --- dispatch, beside the rest ---------------------------------------------------------------------------

    async def _begin_dispatch(self, task: Task, dispatcher: Dispatcher, steps: Steps) -> None:
        if self._dispatched_at:
            return
        if task.dispatched:
            if task.task_type < 2:
                await steps.mark_dispatched(HandedOver(task_id=task.task_id))
            self._dispatched_at = workflow.time()
            return
        self._look = self._refreshed
        list_first = self._carried.list_first if self._carried else None
        self._dispatching = asyncio.create_task(dispatcher.run(self._options, list_first))
        self._dispatching.add_done_callback(lambda _: self._stir())

    def _opened(self, task: Task) -> None:
        assert self._pipeline is not None
        self._task = task
        self._pipeline.in_group(task)

    def _stir(self) -> None:
        self._wake = True

    def _show_dispatch(self) -> None:
        self._show_all()
        if self._watching is None and not self._hands_over():
            # It waits: meanwhile the calls are looked at.
            self._wake = True

    def _dispatch_is_over(self, dispatching: asyncio.Task[None]) -> None:
        dispatching.result()
        self._dispatching = None
        self._dispatched_at = workflow.time()
        self._first_look = self._dispatched_at + self._options.poll_first
        self._look = self._look or not self._options.poll_first
        self._hurry()
        if self._pipeline:
            # What was read before was not all.
            self._pipeline.pages_tried = False

    def _hands_over(self) -> bool:
        """Whether leads are on their way to the platform: then the calls are looked at only if somebody asks for it."""
        return self._dispatching is not None and self._dispatcher is not None and not self._dispatcher.stalled

    async def _take_stock(self, steps: Steps) -> Review:
        assert self._task is not None
        before, analysed_again = self._review, self._tally.analysed_again
        under_way = before.called - before.finished if before else 0
        self._review = await steps.review(
            ReviewRequest(
                task_id=self._task.task_id,
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
        if self._dispatching or self._forced or review.unsettled or review.finished < review.called or review.unjudged:
            return False
        looked = pipeline.pages_tried or not review.unmatched or not self._group()
        return looked and not review.to_record and review.next_due is None

    # --- planning and waiting --------------------------------------------------------------------------------

    def _look_at_calls(self, review: Review, pipeline: Pipeline, *, look: bool) -> None:
        """Ask for what is due; and, on a look, for every call without an outcome and for jobs that no row has yet."""
        if look:
            self._look, self._first_look = False, 0.0
            self._quiet += 1
            self._tally.under_way.clear()
            pipeline.again_at = None
            if self._needs_pages(review, pipeline):
                pipeline.read_pages(may_fail=self._grace_left() <= 0, whole=self._dispatched_at > 0)
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
        if not self._dispatched_at:
            return float("inf")
        return self._dispatched_at + self._options.match_grace - workflow.time()

    async def _rest(self, review: Review, pipeline: Pipeline, steps: Steps) -> None:
        """Wait until there is something to do: a change, a signal, a step that ran dry, a row that is due."""
        now, busy = workflow.time(), pipeline.stamp() is None
        under_way = review.called - review.finished
        looks = [at for at in (pipeline.again_at, self._first_look) if at]
        if (under_way or review.unsettled) and not self._hands_over():
            if self._watching is None and self._group():
                self._watching = asyncio.create_task(self._watch(review, pipeline, steps))
            if not self._group() or (self._counters and self._counters.over > review.finished):
                # Nobody will tell of a change, or it was told of and is not to be seen yet.
                looks.append(now + self._pause(under_way))
            if review.unsettled and self._dispatched_at and self._grace_left() > 0:
                looks.append(now + self._grace_left())
        looks = [max(at, self._asking.until) for at in looks]
        due = [now + REVIEW_SECONDS] if busy or self._dispatching else []
        if review.next_due is not None and not busy:
            due.append(now + max(review.next_due, 1.0))
        held = (pipeline.paused_until, self._asking.until, self._judging.until, self._recording.until)
        due += [at for at in held if at > now]
        until = min(looks + due, default=None)
        self._show(review, busy, None if until is None else until - now)
        summary = "" if self._dispatching else self._tally.waiting[:150]
        try:
            await workflow.wait_condition(
                lambda: self._wake or pipeline.changed or self._is_long(),
                timeout=None if until is None else max(until - now, 0.1),
                timeout_summary=summary or "until the next review",
            )
        except TimeoutError:
            self._look = self._look or any(at <= workflow.time() for at in looks)

    def _pause(self, under_way: int) -> float:
        """Seconds between two looks: longer the more calls one look concerns, and the longer nothing moved."""
        shortest = self._options.poll_min * max(1.0, under_way / ROWS_A_POLL)
        return grown(shortest, self._quiet, longest=self._options.poll_max)

    async def _watch(self, review: Review, pipeline: Pipeline, steps: Steps) -> None:
        pause = self._pause(review.called - review.finished)
        watched = await steps.watch(self._watch_request(review.called, pause))
        self._tally.polls += watched.polls
        self._tally.api_calls += watched.polls
        if watched.counters not in (None, self._counters):
            self._hurry()
        self._counters = watched.counters or self._counters
        self._watching = None
        self._look = self._wake = True

    def _watch_request(self, called: int, pause: float) -> WatchRequest:
        assert self._task is not None
        return WatchRequest(
            task_id=self._task.task_id,
            organization_id=self._task.organization_id,
            job_group_id=self._task.job_group_id,
            seen=self._counters,
            called=called,
            first=pause,
            shortest=pause,
            longest=max(self._options.poll_max, pause),
        )

    def _group(self) -> str:
        return self._task.job_group_id if self._task else ""

    def _show(self, review: Review, busy: bool, seconds: float | None) -> None:
        """What the Temporal UI says of this run while it waits."""
        calls = review.called - review.finished
        what = "" if busy else f"{calls} calls under way" if calls else "rows that are due for another try"
        self._tally.waiting = what + ("" if seconds is None or busy else f", next in {seconds:.0f} s")
        self._show_all()

    def _show_all(self) -> None:
        if self._dispatching and self._dispatcher and not self._failed:
            self._tally.waiting = self._dispatcher.waiting
        workflow.set_current_details(self._tally.details(self.progress()))

    def _phase(self) -> str:
        review = self._review
        if self._failed:
            return "failed"
        if self._over:
            return "complete"
        if self._task is None or not (self._dispatched_at or self._dials_nobody()):
            return "dispatching"
        if not self._dispatched_at:
            return "analysing_again" if self._tally.analysing_again else "complete"
        # A review that was made before the last lead was handed over does not know of all calls.
        if review is None or review.task_type < 2 or review.unsettled or review.finished < review.called:
            return "calling"
        if review.unjudged:
            return "following_up"
        if self._tally.analysing_again:
            return "analysing_again"
        return "recordings" if review.to_record or review.next_due is not None else "complete"

    # --- pause, resume, cancel; restart as new ---------------------------------------------------------------

    def _controlled(self) -> None:
        self._hurry()
        self._look = self._wake = True

    def _hurry(self) -> None:
        """Somebody has asked, or something has changed: what waits because nothing did is done at once."""
        for pace in (self._asking, self._judging, self._recording):
            pace.reset()

    def _is_long(self) -> bool:
        """Whether the history has grown so far that the run had better go on as a new one, which can take over."""
        if not workflow.info().is_continue_as_new_suggested():
            return False
        return sum(force.size() for force in self._forced) <= reanalysis.CARRIED_BYTES * 10

    async def _restart_as_new(self, pipeline: Pipeline) -> None:
        """Let what runs come to its end, then go on with an empty history."""
        list_first = None
        assert self._input is not None and self._dispatcher is not None
        self._dispatcher.wind_down()
        await pipeline.wind_down()
        if self._dispatching:
            await workflow.wait_condition(self._dispatching.done)
            list_first = self._dispatcher.list_first
            if self._dispatcher.over:
                self._dispatch_is_over(self._dispatching)
            self._dispatching = None
        await workflow.wait_condition(workflow.all_handlers_finished)
        carried = Carried(
            started_at=self._tally.started_at,
            asked=self._asked,
            dispatched_at=self._dispatched_at,
            assigned=self._tally.assigned,
            list_first=list_first,
            polls=self._tally.polls,
            api_calls=self._tally.api_calls,
            paused=self._controls.paused,
            stopped=self._controls.stopped,
            cancelled=self._controls.cancelled,
            last_control=self._tally.last_control,
            jobs_seen=pipeline.jobs_seen,
            counters=(self._counters.total, self._counters.over) if self._counters else None,
            forced=self._forced,
            controls=self._controls.waiting,
        )
        next_input = self._input.model_copy(update={"carried": carried, "options": self._options})
        workflow.continue_as_new(next_input.model_dump(mode="json", exclude_defaults=True))

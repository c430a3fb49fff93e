"""``CallTaskWorkflow``: one durable run per call task (rules 2 to 8).

The database is the list of work and the truth; this history holds ids, counts and cursors. A *review* of the database
says how the task stands and finds again whatever was set aside; between reviews the run waits for a change at the
platform, a signal, or the time at which something is due.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from activities.tasks import HandedOver, Keep, Review, ReviewRequest, Task
from calltasks import names
from calltasks.database.tables.dispatches import Written
from calltasks.database.tables.needs import Work
from calltasks.options import Carried, Options
from calltasks.platform.strategy import told
from workflows import reanalysis
from workflows.handing_over import HandingOver
from workflows.pacing import standing
from workflows.pipeline import Pipeline
from workflows.requests import Requests
from workflows.search_attributes import SearchAttributes
from workflows.steps import KEEP, MARK_DISPATCHED, OPEN_TASK, REVIEW, Steps, reason

SWEEP_PIECES = 16
"""At most about so many pieces ask for calls that are still under way, however many there are."""
REVIEW_SECONDS = 60.0
"""While work runs, the standing is looked at this often."""
STALLED_LOOKS = 5
"""After so many looks in a row that found nothing new a task counts as stalled."""


@workflow.defn(name=names.WORKFLOW)
class CallTaskWorkflow(Requests):
    """One call task from start-call to follow-up complete."""

    @workflow.run
    async def run(self, input: Any = None) -> dict[str, Any]:
        """Run the task to its end.

        Args:
            input: ``{"task_id": 42, "options": {…}}`` (rule 17.2).

        Returns:
            The progress object, with ``outcome``: ``complete``, ``nothing_called`` or ``cancelled``.

        Raises:
            ApplicationError: one line that says why the task cannot be run.
        """
        if self._input is None:
            self._fail(self._input_error)
            raise ApplicationError(self._input_error, type="InvalidInput", non_retryable=True)
        try:
            self._task = task = await Steps("", self._tally).run(OPEN_TASK, self._input.task_id)
            steps = Steps(task.organization_id, self._tally)
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
        else:
            self._looks.strategy = Options().over(task.kept.options).strategy
        self._tally.token_ceiling = self._options.token_ceiling
        jobs_seen = carried.jobs_seen if carried else None
        self._pipeline = pipeline = Pipeline(
            task, steps, self.journey, self._options, self._tally, jobs_seen, self._forced
        )
        pipeline.pump()
        self._handing_over = HandingOver(
            task, steps, self._tally, self._controls, opened=self._opened, show=self._show_dispatch
        )
        if task.task_type < 4 or self._looks.dispatched_at:
            self._controlling = asyncio.create_task(
                self._controls.carry_out(self._handing_over, steps, self._controlled)
            )
        return pipeline

    async def _use(self, task: Task, steps: Steps) -> None:
        """Go by the options that were given, over those of earlier runs; both stay with the task. A group that there is
        keeps its strategy."""
        given = self._given.model_copy(update={"strategy": None}) if task.job_group_id else self._given
        self._options = self._looks.options = given.over(task.kept.options)
        self._looks.strategy = self._options.strategy
        self._tally.token_ceiling = self._options.token_ceiling
        if self._options != Options().over(task.kept.options):
            await steps.run(KEEP, Keep(task_id=task.task_id, options=self._options.kept()))

    async def _only_reanalyse(self, pipeline: Pipeline, steps: Steps) -> str:
        """What is over, or not dialled, changes only where it is asked to (rule 7.1); ``""``: a start-call has come."""
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
                return "complete" if over else "not_dialled" if review.rows.called else "nothing_called"
            if self._is_long():
                await self._restart_as_new(pipeline)
            self._show_all()
            await workflow.wait_condition(lambda: idle() or not self._dials_nobody() or self._is_long())

    async def _work(self, pipeline: Pipeline, steps: Steps) -> str:
        assert self._task is not None and self._handing_over is not None
        rested = await self._is_at_rest(self._task, steps)
        if rested and not self._wake:
            review = await self._take_stock(steps)
            if not self._wake:
                return self._end(review)
        await self._begin_dispatch(self._task, self._handing_over, steps)
        while True:
            self._wake = pipeline.changed = False
            if self._dispatching and self._dispatching.done():
                self._dispatch_is_over(self._dispatching)
            look, stamp, fetch_stamp = self._looks.due, pipeline.stamp(), pipeline.fetch_stamp()
            review = await self._take_stock(steps)
            calm = stamp is not None and stamp == pipeline.stamp()
            if calm and self._settled(review, pipeline):
                if rested or review.rows.called or not self._group():
                    return self._end(review)
                # Nothing was called, and may never be: the monitor shall not read all pages again and again.
                await steps.run(KEEP, Keep(task_id=self._task.task_id, jobs_at_rest=pipeline.jobs_seen or 0))
                rested = True
                continue
            # What was handed out while the review was made may be in the review too: then its findings are not used.
            if fetch_stamp is not None and fetch_stamp == pipeline.fetch_stamp():
                self._ask(review, pipeline, look=look)
            if calm and workflow.time() >= pipeline.paused_until:
                pipeline.hand_out(self._due(review))
            if self._is_long():
                await self._restart_as_new(pipeline)
            await self._rest(review, pipeline, steps)

    async def _is_at_rest(self, task: Task, steps: Steps) -> bool:
        """Whether a run before found that nothing was called, and the group has no more jobs than it listed then."""
        jobs = task.kept.jobs_at_rest
        if jobs is None or self._asked or self._carried or self._wake:
            return False
        _, self._looks.counters = await self._looks.ask(task, 0, 0.0, steps)
        if self._looks.counters is None or self._looks.counters.total > jobs:
            return False
        await steps.run(KEEP, Keep(task_id=task.task_id, jobs_at_rest=jobs))
        return True

    def _end(self, review: Review) -> str:
        for waiting in (self._controlling, self._looks.watching):
            if waiting:
                waiting.cancel()
        return "cancelled" if self._controls.cancelled else "complete" if review.rows.called else "nothing_called"

    # --- dispatch, beside the rest ---------------------------------------------------------------------------

    async def _begin_dispatch(self, task: Task, handing_over: HandingOver, steps: Steps) -> None:
        if self._looks.dispatched_at:
            return
        if task.dispatched:
            if task.task_type < 2:
                await steps.run(MARK_DISPATCHED, HandedOver(task_id=task.task_id))
            self._looks.dispatched_at = workflow.time()
            return
        self._looks.dispatch_begins()
        list_first, handed = (self._carried.list_first, self._carried.handed) if self._carried else (None, (0, 0))
        known = Written(last_id=handed[0], entry=handed[1])
        self._dispatching = asyncio.create_task(handing_over.run(self._options, list_first, known))
        self._dispatching.add_done_callback(lambda _: self._stir())

    def _opened(self, task: Task) -> None:
        assert self._pipeline is not None
        self._task = task
        self._looks.strategy = Options().over(task.kept.options).strategy
        self._pipeline.in_group(task)

    def _stir(self) -> None:
        self._wake = True

    def _show_dispatch(self) -> None:
        self._show_all()
        if self._looks.watching is None and not self._hands_over():
            # It waits: meanwhile the calls are looked at.
            self._wake = True

    def _dispatch_is_over(self, dispatching: asyncio.Task[None]) -> None:
        dispatching.result()
        self._dispatching = None
        self._looks.handed_over()
        self._hurry()
        if self._pipeline:
            # What was read before was not all.
            self._pipeline.pages_tried = False

    def _hands_over(self) -> bool:
        """Whether leads are on their way to the platform: then the calls are looked at only if somebody asks for it."""
        return self._dispatching is not None and self._handing_over is not None and not self._handing_over.stalled

    async def _take_stock(self, steps: Steps) -> Review:
        assert self._task is not None
        before, analysed_again = self._review, self._tally.analysed_again
        under_way = before.rows.called - before.rows.finished if before else 0
        sweeping = -(-under_way // (SWEEP_PIECES * 99)) * 99
        patience = {name for step in self.journey for name in step.need.parameters} - {"unfinished"}
        self._review = await steps.run(
            REVIEW,
            ReviewRequest(
                task_id=self._task.task_id,
                rows={step.name: max(step.few, sweeping if step.looks else 0) for step in self.journey},
                values={name: getattr(self._options, name) for name in sorted(patience)}
                | {"unfinished": self._looks.due},
            ),
        )
        self._tally.analysing_again -= analysed_again
        self._tally.analysed_again -= analysed_again
        rows, were = self._review.rows, before.rows if before else None
        if were is None or (were.called, were.finished) != (rows.called, rows.finished):
            self._looks.quiet = 0
            self._moved_at = workflow.now()
        if self._attributes:
            self._attributes.show(self._review, self._moved_at if self._stalled() else None)
        return self._review

    def _stalled(self) -> bool:
        """Whether nothing has moved for long, though calls are made."""
        return self._looks.quiet >= STALLED_LOOKS and self._looks.opens() is None

    def _settled(self, review: Review, pipeline: Pipeline) -> bool:
        """Whether nothing is left to do and nothing more can come."""
        if self._dispatching or self._forced or self._controls.waiting or not (review.rows.judged and review.idle):
            return False
        return pipeline.pages_tried or not review.rows.unmatched or not self._group()

    # --- planning and waiting --------------------------------------------------------------------------------

    def _ask(self, review: Review, pipeline: Pipeline, *, look: bool) -> None:
        """Ask for what is due; and, on a look, for every call without an outcome and for jobs that no row has yet."""
        work = {step.name: review.work[step.name] for step in self.journey if step.looks and step.name in review.work}
        found = (look, self._looks.to_settle(review), work, standing(review))
        if self._looks.pace.admits(found if look or work else None, self._options):
            if look:
                self._looks.begin(review, pipeline, in_group=bool(self._group()))
            pipeline.hand_out(work)

    def _due(self, review: Review) -> dict[str, list[Work]]:
        """What the review has found for the other steps, as far as it is time for it."""
        found = {step.name: review.work.get(step.name, []) for step in self.journey if not step.looks}
        return {step: works for step, works in found.items() if self._paces[step].admits(works or None, self._options)}

    async def _rest(self, review: Review, pipeline: Pipeline, steps: Steps) -> None:
        """Wait until there is something to do: a change, a signal, a step that ran dry, a row that is due."""
        now, busy, rows = workflow.time(), pipeline.stamp() is None, review.rows
        assert self._task is not None
        hands_over = self._hands_over()
        if self._group() and not hands_over and (rows.called > rows.finished or rows.unsettled):
            self._looks.watch(self._task, review, steps, self._heard)
        looks = self._looks.times(review, pipeline, in_group=bool(self._group()), handing_over=hands_over)
        due = [now + REVIEW_SECONDS] if busy or self._dispatching else []
        if review.next_due is not None and not busy:
            due.append(now + max(review.next_due, 1.0))
        held = (pipeline.paused_until, *(pace.until for pace in self._all_paces()))
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
            self._looks.due = self._looks.due or any(at <= workflow.time() for at in looks)

    def _heard(self, moved: bool) -> None:
        if moved:
            self._hurry()
        self._wake = True

    def _group(self) -> str:
        return self._task.job_group_id if self._task else ""

    def _show(self, review: Review, busy: bool, seconds: float | None) -> None:
        """What the Temporal UI says of this run while it waits."""
        calls = review.rows.called - review.rows.finished
        what = "" if busy else f"{calls} calls under way" if calls else "rows that are due for another try"
        opens = self._looks.opens() if calls and not busy else None
        what += f", dialling begins at {told(opens)}" if opens else ""
        self._tally.waiting = what + ("" if seconds is None or busy else f", next in {seconds:.0f} s")
        self._show_all()

    def _show_all(self) -> None:
        if self._dispatching and self._handing_over and not self._failed:
            self._tally.waiting = self._handing_over.waiting
        workflow.set_current_details(self._tally.details(self.progress()))

    # --- pause, resume, cancel; restart as new ---------------------------------------------------------------

    def _controlled(self) -> None:
        self._hurry()
        self._looks.due = self._wake = True

    def _is_long(self) -> bool:
        """Whether the history has grown so far that the run had better go on as a new one, which can take over."""
        if not workflow.info().is_continue_as_new_suggested():
            return False
        return sum(asked.request.size() for asked in self._forced) <= reanalysis.CARRIED_BYTES * 10

    async def _restart_as_new(self, pipeline: Pipeline) -> None:
        """Let what runs come to its end, then go on with an empty history."""
        list_first, counters = None, self._looks.counters
        assert self._input is not None and self._handing_over is not None
        self._handing_over.wind_down()
        await pipeline.wind_down()
        if self._dispatching:
            await workflow.wait_condition(self._dispatching.done)
            list_first = self._handing_over.list_first
            if self._handing_over.over:
                self._dispatch_is_over(self._dispatching)
            self._dispatching = None
        await workflow.wait_condition(workflow.all_handlers_finished)
        carried = Carried(
            started_at=self._tally.started_at,
            asked=self._asked,
            dispatched_at=self._looks.dispatched_at,
            assigned=self._tally.assigned,
            list_first=list_first,
            handed=(self._handing_over.known.last_id, self._handing_over.known.entry),
            polls=self._tally.polls,
            api_calls=self._tally.api_calls,
            paused=self._controls.paused,
            stopped=self._controls.stopped,
            cancelled=self._controls.cancelled,
            last_control=self._tally.last_control,
            jobs_seen=pipeline.jobs_seen,
            counters=(counters.total, counters.over) if counters else None,
            forced=self._forced,
            answers=[answer for answer in self._answers if answer.done],
            controls=self._controls.waiting,
        )
        next_input = self._input.model_copy(update={"carried": carried, "options": self._options})
        workflow.continue_as_new(next_input.model_dump(mode="json", exclude_defaults=True))

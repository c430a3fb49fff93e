"""What operators and programs may ask of a run and say to it, and what it knows to answer them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from temporalio import workflow

from activities.steps import STEPS
from activities.tasks import Review, Task
from calltasks import names
from calltasks.options import Options, read_input, read_options
from calltasks.rules.reanalysis import Answer, Asked, read
from calltasks.steps import Step
from workflows import reanalysis
from workflows.controls import NOTHING_LEFT, Controls
from workflows.handing_over import HandingOver
from workflows.looks import Looks
from workflows.pacing import Pace
from workflows.pipeline import Pipeline
from workflows.search_attributes import SearchAttributes
from workflows.tally import Tally


class Requests:
    """The state of a run of a call task, its query, signals and update."""

    journey: ClassVar[Sequence[Step[Any, Any]]] = STEPS
    """What a row goes through once it has its job id."""

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
        self._handing_over: HandingOver | None = None
        self._dispatching: asyncio.Task[None] | None = None
        self._forced: list[Asked] = list(carried.forced) if carried else []
        self._answers = [*carried.answers, *(asked.answer for asked in carried.forced)] if carried else []
        self._tally.analysing_again = len(self._forced)
        self._controls = Controls(self._tally, carried)
        self._controlling: asyncio.Task[None] | None = None
        self._pipeline: Pipeline | None = None
        self._looks = Looks(self._tally, self._options, carried)
        self._paces = {step.name: Pace() for step in self.journey}
        self._attributes: SearchAttributes | None = None
        self._moved_at = workflow.now()
        self._over = self._failed = False
        self._wake = False

    @workflow.query(description="How the task stands: counts of its calls, follow-ups and costs.")
    def progress(self) -> dict[str, Any]:
        task_id = self._input.task_id if self._input else None
        phase = self._phase()
        opens = self._looks.opens() if phase in ("dispatching", "calling") else None
        return self._tally.progress(task_id, phase, self._review, opens)

    @workflow.query(description="What the last re-analyses have come to, oldest first.")
    def reanalyses(self) -> list[Answer]:
        return self._answers

    # What a signal brings too much is passed over, and what is wrong is told: an error would hold the run up for ever.

    @workflow.signal(description="Make the calls, in a run that was not started for them (a re-analysis, a check).")
    def start_call(self, options: Any = None, *surplus: Any) -> None:
        given, wrong = read_options(options)
        if given is None:
            # Without them, people might be called whom they would have left out.
            self._tally.note(f"{names.START_CALL} was ignored: {wrong}", names.START_CALL)
            return
        self._tally.note("", names.START_CALL)
        if not self._asked:
            self._asked = self._wake = True
            self._given = given.over(self._given.kept())

    @workflow.signal(description='Analyse calls again: {"call_job_ids": ["…"]}, {"all": true} or {"failed": true}.')
    def force_analyze(self, request: Any = None, *surplus: Any) -> None:
        try:
            wanted = read(request)
        except ValueError as error:
            self._tally.note(f"force_analyze was ignored: {error}", reanalysis.STEP)
            return
        self._tally.note("", reanalysis.STEP)
        answer = Answer(request_id=wanted.request_id or str(workflow.uuid4()), max_tokens=wanted.max_tokens)
        self._answers = [*self._answers, answer][-reanalysis.ANSWERS :]
        self._forced.append(Asked(request=wanted, answer=answer))
        self._tally.analysing_again += 1
        if self._pipeline:
            self._pipeline.pump()
        self._wake = True

    @workflow.signal(description="Look at all calls now.")
    def refresh(self) -> None:
        self._hurry()
        self._looks.refresh()
        self._wake = True

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
        return await self._controls.answer(self._controls.ask(action), self._hears_nobody)

    def _hears_nobody(self) -> bool:
        """Whether nobody carries out controls any more."""
        return self._over or (self._pipeline is not None and self._controlling is None)

    @control_calls.validator
    def _is_action(self, action: str) -> None:
        if action not in names.ACTIONS:
            raise ValueError(f"the action must be one of {', '.join(names.ACTIONS)}")
        if self._task is not None and self._task.task_type >= 4:
            raise ValueError(NOTHING_LEFT)

    def _phase(self) -> str:
        review = self._review
        if self._failed:
            return "failed"
        if self._over:
            return "complete"
        if self._task is None or not (self._looks.dispatched_at or self._dials_nobody()):
            return "dispatching"
        if not self._looks.dispatched_at:
            return "analysing_again" if self._tally.analysing_again else "complete"
        # A review that was made before the last lead was handed over does not know of all calls.
        if review is None or review.task_type < 2 or not review.rows.calls_over:
            return "calling"
        if review.rows.unjudged:
            return "following_up"
        if self._tally.analysing_again:
            return "analysing_again"
        return "complete" if review.idle else "recordings"

    def _dials_nobody(self) -> bool:
        """Whether the run reviews and judges only: the task is over, or its calls were never begun and no start-call
        has asked this run for them."""
        assert self._task is not None
        if self._looks.dispatched_at:
            return False
        begun = self._task.dispatched and self._task.task_type >= 2
        return self._task.task_type >= 4 or not (self._asked or begun)

    def _hurry(self) -> None:
        """Somebody has asked, or something has changed: what waits because nothing did is done at once."""
        for pace in self._all_paces():
            pace.reset()

    def _all_paces(self) -> Iterable[Pace]:
        return self._looks.pace, *self._paces.values()

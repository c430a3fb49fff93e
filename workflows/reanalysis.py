"""Force re-analysis (SPEC 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.follow_ups import TRIES, FollowUpRequest
    from activities.tasks import Selection, Task, Work
    from calltasks import names
    from calltasks.options import Force, Options
    from calltasks.rules.row_ranges import count
    from workflows.steps import Steps, reason
    from workflows.tally import Tally

ROWS = 200
"""Rows a piece: each is a call of the model."""
AT_ONCE = 8
SELECTED_ROWS = 10_000
"""Rows that are named at once: however scattered their ids, they are far from what a payload may hold."""
NAMED = 5_000
"""Calls that are looked up by name at once."""
CARRIED_BYTES = 100_000
"""A request that is larger is done to its end before the run restarts as new."""
STEP = names.FORCE_ANALYZE
"""As which an error of a request is remembered."""


@dataclass(slots=True)
class _Spending:
    """What one request has come to so far."""

    tokens: int = 0
    kept_edits: int = 0
    over_ceiling: int = 0


class Reanalysis:
    """Judges named rows of a task anew, a portion of them at a time."""

    def __init__(self, task: Task, steps: Steps, options: Options, tally: Tally) -> None:
        self._task = task
        self._steps = steps
        self._options = options
        self._tally = tally
        self._room = asyncio.Semaphore(AT_ONCE)
        self._unknown = 0

    async def run(self, force: Force, closing: Callable[[], bool]) -> Force | None:
        """Do what one request asks for.

        Args:
            force: the request.
            closing: whether the run is about to restart as new.

        Returns:
            What the next run has to do of it, if this one is closing.
        """
        spending = _Spending(tokens=force.spent)
        try:
            while True:
                works, after, last = await self._portion(force)
                await self._judge_all(works, force, spending)
                force = force.model_copy(update={"after": after, "spent": spending.tokens})
                if last:
                    break
                # One that names many calls is not carried on, but done: it would outgrow what can be handed over.
                if closing() and force.size() <= CARRIED_BYTES:
                    return force
        except ActivityError as error:
            self._tally.note(f"force_analyze: {reason(error)}", STEP)
        self._say(force, spending)
        self._tally.analysed_again += 1
        return None

    async def _portion(self, force: Force) -> tuple[list[Work], int, bool]:
        """The next rows, what is done with them, and whether they are the last."""
        names = None
        if force.call_job_ids is not None:
            names = list(dict.fromkeys(force.call_job_ids))
            named = names[force.after : force.after + NAMED]
        works = await self._steps.select_for_analysis(
            Selection(
                task_id=self._task.task_id,
                call_job_ids=None if names is None else named,
                failed=force.failed and not force.all,
                size=ROWS,
                interest=force.interest,
                since=force.since.isoformat() if force.since else None,
                until=force.until.isoformat() if force.until else None,
                prompt_version=force.prompt_version,
                after=force.after if names is None else 0,
                limit=SELECTED_ROWS,
            )
        )
        found = sum(work.count for work in works)
        if names is None:
            return works, works[-1].rows[-1][1] if works else force.after, found < SELECTED_ROWS
        self._unknown += max(0, len(named) - found)
        return works, force.after + len(named), force.after + len(named) >= len(names)

    async def _judge_all(self, works: list[Work], force: Force, spending: _Spending) -> None:
        if force.max_tokens is None:
            await asyncio.gather(*(self._judge(work, force, spending) for work in works))
            return
        # One after another: each must know what the ones before it spent.
        for work in works:
            await self._judge(work, force, spending)

    async def _judge(self, work: Work, force: Force, spending: _Spending) -> None:
        rows = work.rows
        async with self._room:
            for attempt in range(1, TRIES + 1):
                if force.max_tokens is not None and spending.tokens >= force.max_tokens:
                    spending.over_ceiling += count(rows)
                    return
                request = FollowUpRequest(
                    task_id=self._task.task_id,
                    organization_id=self._task.organization_id,
                    rows=rows,
                    retry_interval=self._options.retry_interval,
                    conversation_grace=self._options.conversation_grace,
                    request_id=force.request_id,
                    last_try=attempt == TRIES,
                    override=force.override,
                    max_tokens=force.max_tokens,
                    spent_tokens=spending.tokens,
                )
                judged = await self._steps.follow_up(request)
                if judged is not None:
                    rows = judged.again
                    spending.tokens += judged.input_tokens + judged.output_tokens
                    spending.kept_edits += judged.kept_edits
                    spending.over_ceiling += judged.over_ceiling
                if not rows:
                    return
                if attempt < TRIES:
                    await workflow.sleep(self._options.retry_interval * workflow.random().uniform(1, 2))

    def _say(self, force: Force, spending: _Spending) -> None:
        """What an operator should know of a request that left something as it was."""
        if self._unknown:
            unknown = f"{self._unknown} of the named calls are unknown, not over or left out"
            self._tally.note(f"force_analyze: {unknown}", STEP)
        if spending.kept_edits:
            kept = f"follow-ups kept because a person edited or deleted them: {spending.kept_edits}"
            self._tally.note(f"force_analyze: {kept}; ask again with override to replace them", STEP)
        if spending.over_ceiling:
            ceiling = f"the ceiling of {force.max_tokens} tokens is reached"
            self._tally.note(f"force_analyze: {ceiling}; calls not judged: {spending.over_ceiling}", STEP)

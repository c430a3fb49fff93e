"""Force re-analysis (rule 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError

from activities.follow_ups import ANALYSE_AGAIN, AgainRequest
from activities.portions import TRIES
from activities.tasks import Selection, Task
from calltasks import names
from calltasks.database.tables.needs import Work
from calltasks.options import Options
from calltasks.rules.reanalysis import Asked
from calltasks.rules.row_ranges import count
from workflows.steps import SELECT, Steps, reason, rows_in
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
ANSWERS = 100
"""So many of the last requests are answered for."""
STEP = names.FORCE_ANALYZE
"""As which an error of a request is remembered."""


class Reanalyst:
    """Judges rows of a task anew, a portion of them at a time."""

    def __init__(self, task: Task, steps: Steps, options: Options, tally: Tally) -> None:
        self._task = task
        self._steps = steps
        self._options = options
        self._tally = tally
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(self, asked: Asked, closing: Callable[[], bool]) -> bool:
        """Do what one request asks for, and count what comes of it in its answer. False: it is not done, the run is
        ``closing`` to restart as new, and the next one has to go on with it."""
        try:
            while True:
                works, last = await self._portion(asked)
                await self._judge_all(works, asked)
                if last:
                    break
                # One that names many calls is not carried on, but done: it would outgrow what can be handed over.
                if closing() and asked.request.size() <= CARRIED_BYTES:
                    return False
        except ActivityError as error:
            self._tally.note(f"{STEP}: {reason(error)}", STEP)
        asked.answer.done = True
        if said := asked.answer.sayings():
            self._tally.note(f"{STEP}: {said}", STEP)
        self._tally.analysed_again += 1
        return True

    async def _portion(self, asked: Asked) -> tuple[list[Work], bool]:
        """The next rows, and whether they are the last."""
        request, after, answer = asked.request, asked.after, asked.answer
        names = list(dict.fromkeys(request.call_job_ids or ()))
        named = names[after : after + NAMED]
        works = await self._steps.run(
            SELECT,
            Selection(
                task_id=self._task.task_id,
                request=replace(request, call_job_ids=named) if named else request,
                after=0 if named else after,
                limit=SELECTED_ROWS,
                size=ROWS,
            ),
        )
        found = sum(work.count for work in works)
        answer.selected += found
        if named:
            answer.unknown += max(0, len(named) - found)
            asked.after += len(named)
            return works, asked.after >= len(names)
        asked.after = works[-1].rows[-1][1] if works else after
        return works, found < SELECTED_ROWS

    async def _judge_all(self, works: list[Work], asked: Asked) -> None:
        if asked.request.max_tokens is None:
            await asyncio.gather(*(self._judge(work, asked) for work in works))
            return
        # One after another: each must know what the ones before it spent.
        for work in works:
            await self._judge(work, asked)

    async def _judge(self, work: Work, asked: Asked) -> None:
        rows, request, answer = work.rows, asked.request, asked.answer
        async with self._room:
            for attempt in range(1, TRIES + 1):
                if request.max_tokens is not None and answer.spent >= request.max_tokens:
                    answer.over_ceiling += count(rows)
                    return
                judged = await self._steps.attempt(
                    ANALYSE_AGAIN,
                    AgainRequest(
                        task_id=self._task.task_id,
                        organization_id=self._task.organization_id,
                        rows=rows,
                        retry_interval=self._options.retry_interval,
                        conversation_grace=self._options.conversation_grace,
                        request_id=answer.request_id,
                        last_try=attempt == TRIES,
                        override=request.override,
                        max_tokens=request.max_tokens,
                        spent_tokens=answer.spent,
                    ),
                    rows_in(rows),
                )
                if judged is not None:
                    rows = judged.again
                    answer.judged += judged.written
                    answer.failed += judged.by_outcome.get("failed", 0)
                    answer.kept_edits += judged.kept_edits
                    answer.over_ceiling += judged.over_ceiling
                    answer.set_aside += judged.set_aside
                    answer.input_tokens += judged.input_tokens
                    answer.output_tokens += judged.output_tokens
                if not rows:
                    return
                if attempt < TRIES:
                    await workflow.sleep(self._options.retry_interval * workflow.random().uniform(1, 2))

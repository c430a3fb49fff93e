"""Force re-analysis (SPEC 7)."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.follow_ups import TRIES, FollowUpRequest
    from activities.row_runs import Runs
    from activities.tasks import Selection, Task
    from workflows.options import Force, Options
    from workflows.steps import Steps
    from workflows.tally import Tally

ROWS = 200
"""Rows a piece: each is a call of the model."""
AT_ONCE = 8


class Reanalysis:
    """Judges named rows of a task anew."""

    def __init__(self, task: Task, steps: Steps, options: Options, tally: Tally) -> None:
        self._task = task
        self._steps = steps
        self._options = options
        self._tally = tally
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(self, force: Force) -> None:
        """Do what one request asks for."""
        works = await self._steps.select_for_analysis(
            Selection(
                task_id=self._task.task_id,
                call_job_ids=force.call_job_ids,
                failed=force.failed and not force.all,
                size=ROWS,
            )
        )
        named = sum(work.count for work in works)
        if force.call_job_ids is not None and named < len(set(force.call_job_ids)):
            unknown = len(set(force.call_job_ids)) - named
            self._tally.note(f"force_analyze: {unknown} of the named calls are unknown or not over")
        await asyncio.gather(*(self._judge(work.rows, force.request_id) for work in works))
        self._tally.analysing_again -= 1

    async def _judge(self, rows: Runs, request_id: str) -> None:
        async with self._room:
            for attempt in range(1, TRIES + 1):
                request = FollowUpRequest(
                    task_id=self._task.task_id,
                    organization_id=self._task.organization_id,
                    rows=rows,
                    retry_interval=self._options.retry_interval,
                    conversation_grace=self._options.conversation_grace,
                    request_id=request_id,
                    last_try=attempt == TRIES,
                )
                judged = await self._steps.follow_up(request)
                if judged is not None:
                    self._tally.note(judged.error)
                    rows = judged.again
                if not rows:
                    return
                if attempt < TRIES:
                    await workflow.sleep(self._options.retry_interval * workflow.random().uniform(1, 2))

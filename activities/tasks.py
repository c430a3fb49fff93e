"""The task as a whole: open it, see how it stands, move its ``task_type`` on (rule 8). Task queue ``call-tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pymysql
from pymysql.cursors import Cursor
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities.liveness import heartbeating
from activities.steps import STEPS
from calltasks.database.connection import Database, in_one, translate
from calltasks.database.tables import (
    campaigns,
    contacts,
    dispatches,
    gate,
    needs,
    suppressions,
    task_options,
    withdrawals,
)
from calltasks.database.tables import follow_ups as follow_up_table
from calltasks.database.tables import tasks as table
from calltasks.database.tables.needs import Standing, Work
from calltasks.database.tables.task_options import Kept
from calltasks.database.tables.tasks import TaskRow
from calltasks.errors import PermanentError
from calltasks.rules.reanalysis import Reanalysis
from calltasks.rules.row_ranges import pack
from calltasks.steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A call task as the workflow needs it.

    Attributes:
        dispatched: every lead is with the platform already.
        asked: this run came into being by a start, not by a signal that started it.
        search_attributes: those that the namespace knows.
        kept: what earlier runs were told.
    """

    task_id: int
    organization_id: str
    task_type: int
    job_group_id: str
    dispatched: bool
    asked: bool = True
    search_attributes: list[str] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What shall stay with a task: its options (a JSON object), or whether its calls are paused, or that nothing of it
    was called though its group lists so many jobs. None: as it was."""

    task_id: int
    options: str | None = None
    paused: bool | None = None
    jobs_at_rest: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """Dispatch is over. ``cancelled``: by operators, so that leads may be left."""

    task_id: int
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRequest:
    """What to look at.

    Attributes:
        rows: of a chunk of work, by step.
        values: of what the steps' needs depend on: ``unfinished`` (look for calls without an outcome too, not only for
            what is due for another try), graces in seconds.
    """

    task_id: int
    rows: dict[str, int]
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """How a task stands, and what can be done for it now.

    Attributes:
        rows: how they stand.
        counts: what the steps count, and calls that were withdrawn.
        suppressed: rows that are left out, by reason.
        next_due: seconds until a row that was set aside is due; None if none is.
        work: by step.
        error: why the database does not let ``task_type`` move on; ``""``: it does.
    """

    task_type: int
    rows: Standing
    counts: dict[str, int]
    next_due: float | None
    suppressed: dict[str, int] = field(default_factory=dict)
    work: dict[str, list[Work]] = field(default_factory=dict)
    error: str = ""

    @property
    def idle(self) -> bool:
        """Nothing can be done now or later."""
        return not self.work and self.next_due is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The next rows of a re-analysis: at most ``limit`` from behind the row ``after``, in pieces of ``size``."""

    task_id: int
    request: Reanalysis
    after: int
    limit: int
    size: int


TASK_TYPE_AGAIN = 30.0
"""Seconds until a ``task_type`` that the database refused is tried again."""


class Tasks:
    """The activities on a task as a whole."""

    def __init__(
        self,
        database: Database,
        search_attributes: list[str],
        client: Client,
        steps: Sequence[Step[Any, Any]] = STEPS,
    ) -> None:
        self._database = database
        self._steps = steps
        self._search_attributes = search_attributes
        self._client = client

    @activity.defn
    async def open_task(self, task_id: int) -> Task:
        """Read a task.

        Raises:
            ApplicationError: ``UnknownTask``, not to be retried.
        """

        def read(cursor: Cursor) -> tuple[TaskRow, bool, Kept]:
            # Locked: whether anybody is to be dialled is not asked of a copy of the database that may be late.
            row = existing(cursor, task_id, lock=True, otherwise="does not exist")
            return row, gate.dispatched(cursor, row), task_options.kept(cursor, row)

        async with heartbeating():
            row, dispatched, kept = await self._database.transaction(read)
            if row.job_group_id:
                await self._database.run(contacts.enter, row, dispatched=dispatched)
            asked = dispatched or await self._by_start_call()
        return Task(
            task_id=row.task_id,
            organization_id=row.organization_id,
            task_type=row.task_type,
            job_group_id=row.job_group_id,
            dispatched=dispatched,
            asked=asked,
            search_attributes=self._search_attributes,
            kept=kept,
        )

    async def _by_start_call(self) -> bool:
        """Whether a start brought this run into being, and not a signal that starts what does not run.

        Its history tells, whoever started it: the signal of a signal-with-start stands right behind the start, before
        the first workflow task. A signal that arrives after a start, however soon, comes behind that.
        """
        info = activity.info()
        history = await self._client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(
                namespace=self._client.namespace,
                execution=WorkflowExecution(workflow_id=info.workflow_id or "", run_id=info.workflow_run_id or ""),
                maximum_page_size=2,
            )
        )
        # If that signal is a start-call, the run has heard it.
        return not history.history.events[1].HasField("workflow_execution_signaled_event_attributes")

    @activity.defn
    async def keep(self, keep: Keep) -> None:
        """Write down what holds for every later run of the task too."""

        def write(cursor: Cursor) -> None:
            row = existing(cursor, keep.task_id)
            if keep.options is not None:
                task_options.keep_options(cursor, row, keep.options)
            if keep.paused is not None:
                task_options.keep_paused(cursor, row, keep.paused)
            if keep.jobs_at_rest is not None:
                task_options.rest(cursor, row, keep.jobs_at_rest)

        async with heartbeating():
            await self._database.transaction(write)

    @activity.defn
    async def review_task(self, request: ReviewRequest) -> Review:
        """Count the task's rows, move ``task_type`` on where that is due, and list the work that is left."""
        async with heartbeating():
            now = (await self._database.now()).replace(tzinfo=None)
            return await self._database.run(_review, request, now, self._steps)

    @activity.defn
    async def mark_dispatched(self, over: HandedOver) -> None:
        """Every lead is with the platform, or nobody more is handed over: ``task_type`` 2."""

        def mark(cursor: Cursor) -> None:
            row = existing(cursor, over.task_id, lock=True)
            if over.cancelled:
                after = dispatches.written(cursor, row.task_id, row.job_group_id).last_id
                open_ = dispatches.unresolved(cursor, row.task_id, row.job_group_id)
                unsent = [(batch.first_id, batch.last_id) for batch in open_ if batch.unsent]
                table.cancel_unsent(cursor, row.task_id, after, unsent)
            table.raise_type(cursor, row, 2)

        async with heartbeating():
            await self._database.transaction(mark)

    @activity.defn
    async def select_for_analysis(self, request: Selection) -> list[Work]:
        """The next rows that a re-analysis takes."""
        ids = await self._database.run(
            follow_up_table.requested, request.task_id, request.request, request.after, request.limit
        )
        return [
            Work(rows=pack(part), count=len(part))
            for part in (ids[start : start + request.size] for start in range(0, len(ids), request.size))
        ]


def existing(cursor: Cursor, task_id: int, *, lock: bool = False, otherwise: str = "was deleted") -> TaskRow:
    """The task.

    Raises:
        ApplicationError: ``UnknownTask``, not to be retried; ``otherwise`` says what is the matter.
    """
    row = table.load(cursor, task_id, lock=lock)
    if row is None:
        raise ApplicationError(f"call task {task_id} {otherwise}", type="UnknownTask", non_retryable=True)
    return row


def _review(cursor: Cursor, request: ReviewRequest, now: datetime, steps: Sequence[Step[Any, Any]]) -> Review:
    row = existing(cursor, request.task_id)
    groups = table.standing(cursor, request.task_id)
    rows = needs.standing(groups, in_group=bool(row.job_group_id))
    task_type = rows.reached(row.task_type)
    error = ""
    try:
        for higher in range(row.task_type, task_type):
            with in_one(cursor):
                table.raise_type(cursor, row, higher + 1)
    except pymysql.MySQLError as reason:
        failure = translate(reason, "task_type")
        if not isinstance(failure, PermanentError):
            raise
        error = str(failure)
    called = [group for group in groups if group.called]
    # A worker of another version may know other steps than the one that runs the workflow.
    asked = [step for step in steps if step.name in request.rows]
    lacking = {step.name: step.need for step in asked if any(map(step.need.may, called))}
    work, next_due = needs.work(cursor, request.task_id, lacking, now=now, sizes=request.rows, values=request.values)
    counts = withdrawals.count(cursor, request.task_id)
    for step in steps:
        counts |= step.counts(cursor, request.task_id) if step.counts else {}
    suppressed = suppressions.count(cursor, request.task_id)
    tokens = sum(counts.get(kind, 0) for kind in ("input_tokens", "output_tokens"))
    campaigns.keep(cursor, row, campaigns.counts(rows, left_out=sum(suppressed.values()), tokens=tokens), now)
    return Review(
        task_type=task_type,
        rows=rows,
        counts=counts,
        next_due=_seconds(next_due, now, TASK_TYPE_AGAIN if error else None),
        suppressed=suppressed,
        work=work,
        error=error,
    )


def _seconds(due: datetime | None, now: datetime, otherwise: float | None) -> float | None:
    return otherwise if due is None else max(0.0, (due - now).total_seconds())

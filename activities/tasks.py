"""The task as a whole: open it, see how it stands, move its ``task_type`` on (SPEC 8). Task queue ``call-tasks``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from pymysql.cursors import Cursor
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities.liveness import heartbeating
from calltasks.database.connection import Database
from calltasks.database.tables import dispatches, needs, suppressions, task_options
from calltasks.database.tables import follow_ups as follow_up_table
from calltasks.database.tables import tasks as table
from calltasks.database.tables.analyses import Narrowing
from calltasks.database.tables.needs import FINAL, SUCCEEDED, Chunk
from calltasks.database.tables.task_options import Kept
from calltasks.database.tables.tasks import RowGroup, TaskRow
from calltasks.rules.row_ranges import Runs, pack

START_CALL = "start_call"
"""The signal that tells a run that its calls are to be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A call task as the workflow needs it.

    Attributes:
        dispatched: every lead is with the platform already.
        asked: this run came into being by a start-call, not by another signal that started it.
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
        task_id: the task.
        unfinished: look for calls without an outcome too, not only for what is due for another try.
        conversations, follow_ups, recordings: rows a chunk of work.
        conversation_grace, recording_grace: seconds.
    """

    task_id: int
    unfinished: bool
    conversations: int
    follow_ups: int
    recordings: int
    conversation_grace: float
    recording_grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Rows between two ids (both included) that wait for a step; ``count`` of them do, after so many tries."""

    rows: Runs
    count: int
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """How a task stands, and what can be done for it now.

    Attributes:
        leads: rows of the task.
        called: rows with a job id; ``unmatched`` those without; ``unsettled`` those of them that may still get one.
        finished: called rows with a final status.
        recordings: rows with a recording's URL; ``recordings_missing`` succeeded rows without.
        follow_ups: called rows with a follow-up; ``unjudged`` called rows without one or without ``is_interested``.
        kept_edits: re-analyses that left a person's edit of a follow-up as it was.
        over_ceiling: follow-ups that say that the task's tokens were spent.
        suppressed: rows that are left out, by reason.
        next_due: seconds until a row that was set aside is due; None if none is.
    """

    task_type: int
    leads: int
    called: int
    unmatched: int
    unsettled: int
    finished: int
    unjudged: int
    by_status: dict[str, int]
    by_interest: dict[str, int]
    recordings: int
    recordings_missing: int
    follow_ups: int
    analysed: int
    analysis_failed: int
    reanalysed: int
    kept_edits: int
    input_tokens: int
    output_tokens: int
    next_due: float | None
    over_ceiling: int = 0
    set_aside: int = 0
    suppressed: dict[str, int] = field(default_factory=dict)
    conversations: list[Work] = field(default_factory=list)
    to_follow_up: list[Work] = field(default_factory=list)
    to_record: list[Work] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows to analyse again: by job id, or those whose analysis failed, or (neither) all of the task.

    The rest narrows them, as :class:`calltasks.database.tables.analyses.Narrowing`; ``since`` and ``until`` as
    ``YYYY-MM-DD``.
    """

    task_id: int
    call_job_ids: list[str] | None
    failed: bool
    size: int
    interest: int | None = None
    since: str | None = None
    until: str | None = None
    prompt_version: str = ""
    after: int = 0
    limit: int


class Tasks:
    """The activities on a task as a whole."""

    def __init__(self, database: Database, search_attributes: list[str], client: Client) -> None:
        self._database = database
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
            return row, _dispatched(cursor, row), task_options.kept(cursor, row)

        async with heartbeating():
            row, dispatched, kept = await self._database.transaction(read)
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
        second = history.history.events[1]
        if not second.HasField("workflow_execution_signaled_event_attributes"):
            return True
        return second.workflow_execution_signaled_event_attributes.signal_name == START_CALL

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
            return await self._database.run(_review, request, now)

    @activity.defn
    async def mark_dispatched(self, over: HandedOver) -> None:
        """Every lead is with the platform, or nobody more is handed over: ``task_type`` 2."""

        def mark(cursor: Cursor) -> None:
            row = existing(cursor, over.task_id, lock=True)
            if over.cancelled:
                after = dispatches.started(cursor, row.task_id, row.job_group_id)
                open_ = dispatches.unresolved(cursor, row.task_id, row.job_group_id)
                unsent = [(batch.first_id, batch.last_id) for batch in open_ if batch.unsent]
                table.cancel_unsent(cursor, row.task_id, after, unsent)
            table.raise_type(cursor, row.task_id, 2)

        async with heartbeating():
            await self._database.transaction(mark)

    @activity.defn
    async def select_for_analysis(self, request: Selection) -> list[Work]:
        """The next rows that a re-analysis names, in pieces of at most ``size``."""
        ids = await self._database.run(
            follow_up_table.requested,
            request.task_id,
            job_ids=request.call_job_ids,
            failed=request.failed,
            narrowed=Narrowing(
                interest=request.interest,
                since=date.fromisoformat(request.since) if request.since else None,
                until=date.fromisoformat(request.until) if request.until else None,
                prompt_version=request.prompt_version,
            ),
            after=request.after,
            limit=request.limit,
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


def _dispatched(cursor: Cursor, row: TaskRow) -> bool:
    """Whether nobody is to be dialled any more."""
    if row.task_type >= 3:
        return True
    name = dispatches.group_name(row.task_id, row.create_time)
    ours = dispatches.ours(cursor, row.task_id, row.job_group_id, name)
    if row.job_group_id:
        # A group that we did not make ourselves is adopted as it is (SPEC 2); one of ours may be half dispatched.
        return row.task_type >= 2 or not ours
    # Calls that another program has made prove a group that the task no longer names: who is in it is not known.
    return row.task_type >= 2 and not ours and bool(dispatches.held_jobs(cursor, row.task_id))


def _review(cursor: Cursor, request: ReviewRequest, now: datetime) -> Review:
    row = existing(cursor, request.task_id)
    groups = table.standing(cursor, request.task_id)
    task_type = _raise_type(cursor, row, groups)
    chunks: list[Chunk] = []
    next_due: datetime | None = None
    if _open(groups):
        sizes = (request.conversations, request.follow_ups, request.recordings)
        graces = {"conversation_grace": request.conversation_grace, "recording_grace": request.recording_grace}
        chunks, next_due = needs.work(
            cursor, request.task_id, now=now, unfinished=request.unfinished, sizes=sizes, **graces
        )
    ledger = table.judgements(cursor, request.task_id)
    called = [group for group in groups if group.called]
    return Review(
        task_type=task_type,
        leads=_sum(groups),
        called=_sum(called),
        unmatched=_sum(group for group in groups if not group.called),
        unsettled=_sum(group for group in groups if _unsettled(row, group)),
        finished=_sum(group for group in called if group.status in FINAL),
        unjudged=_sum(group for group in called if group.interest is None or not group.followed),
        by_status=_tally((group.status, group.count) for group in groups if group.status),
        by_interest={"0": 0, "1": 0, "2": 0}
        | _tally((str(group.interest), group.count) for group in called if group.interest is not None),
        recordings=_sum(group for group in called if group.recorded),
        recordings_missing=_sum(group for group in called if _unrecorded(group)),
        follow_ups=_sum(group for group in called if group.followed),
        analysed=ledger.get("analysed", 0),
        analysis_failed=ledger.get("failed", 0),
        over_ceiling=ledger.get("over_ceiling", 0),
        set_aside=ledger["set_aside"],
        suppressed=suppressions.count(cursor, request.task_id),
        reanalysed=ledger["reanalysed"],
        kept_edits=ledger["kept_edits"],
        input_tokens=ledger["input_tokens"],
        output_tokens=ledger["output_tokens"],
        next_due=None if next_due is None else max(0.0, (next_due - now).total_seconds()),
        conversations=_work(chunks, "conversations"),
        to_follow_up=_work(chunks, "follow_ups"),
        to_record=_work(chunks, "recordings"),
    )


def _raise_type(cursor: Cursor, row: TaskRow, groups: Sequence[RowGroup]) -> int:
    """SPEC 8: 3 when job ids are settled and every called row has its outcome, 4 when every one is judged."""
    called = [group for group in groups if group.called]
    task_type = row.task_type
    settled = not any(_unsettled(row, group) for group in groups)
    if row.task_type < 2 or not called or not settled or any(group.status not in FINAL for group in called):
        return task_type
    if task_type < 3:
        table.raise_type(cursor, row.task_id, task_type := 3)
    if task_type < 4 and not any(group.interest is None or not group.followed for group in called):
        table.raise_type(cursor, row.task_id, task_type := 4)
    return task_type


def _unsettled(row: TaskRow, group: RowGroup) -> bool:
    """Whether these rows may still get a job; without a job group there is nobody to get one from."""
    return bool(row.job_group_id) and not group.called and group.matchable and group.status not in FINAL


def _unrecorded(group: RowGroup) -> bool:
    return group.status == SUCCEEDED and group.has_recording_id and not group.recorded


def _open(groups: Sequence[RowGroup]) -> bool:
    """Whether a called row still lacks anything: otherwise there is no work to look for."""
    return any(
        group.called
        and (group.status not in FINAL or group.interest is None or not group.followed or _unrecorded(group))
        for group in groups
    )


def _sum(groups: Iterable[RowGroup]) -> int:
    return sum(group.count for group in groups)


def _tally(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    tally: Counter[str] = Counter()
    for key, count in pairs:
        tally[key] += count
    return dict(tally)


def _work(chunks: Sequence[Chunk], step: str) -> list[Work]:
    return [
        Work(rows=[[chunk.first, chunk.last]], count=chunk.count, tries=chunk.tries)
        for chunk in chunks
        if chunk.step == step
    ]

"""What a backend calls.

::

    async with CallTasks.connect() as calls:
        task_id = await calls.create_task("org-7", "spring sale", leads=[1, 2, 3])
        await calls.start_call(task_id)
        print(await calls.progress(task_id))

Settings come from the environment (README, Settings). Everything here is asynchronous and safe to call twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pymysql.cursors import Cursor
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from calltasks import errors, names
from calltasks.calling_hours import CallingHours, Started, calling_hours
from calltasks.campaigns import Campaigns
from calltasks.database import schema
from calltasks.database.columns import Table
from calltasks.database.tables import task_options, tasks
from calltasks.dry_run import DryRun, rehearse
from calltasks.opt_outs import OptOuts
from calltasks.options import Options
from calltasks.progress import ENDED_BADLY
from calltasks.rules.reanalysis import Answer, Reanalysis, read
from calltasks.temporal.connection import connect
from calltasks.temporal.monitor_schedule import Action, MonitorState, steer
from calltasks.wiring import Clients

if TYPE_CHECKING:
    from calltasks.events.subscriptions import Events
    from calltasks.executions import ExecutionPage

ANSWER_SECONDS = timedelta(seconds=10)
CONTROL_SECONDS = timedelta(seconds=30)
MOST_NAMED_BYTES = 1_000_000
"""Of one request: a payload of Temporal holds twice as much."""


class CallTasks(OptOuts, Campaigns):
    """Call tasks, for a backend; and, by organisation, who is not called, and what people look at and correct.
    ``client``: Temporal's, or None where only the database is used."""

    def __init__(self, clients: Clients, client: Client | None = None) -> None:
        self.clients = clients
        self.database = clients.database
        self._client = client

    @classmethod
    @asynccontextmanager
    async def connect(cls, *, temporal: bool = True) -> AsyncIterator[CallTasks]:
        """Open what the environment names.

        Raises:
            SettingsError: a setting is missing or wrong.
            ServiceError: Temporal is out of reach.
        """
        async with Clients() as clients:
            calls = cls(clients)
            calls._client = await connect() if temporal else None
            yield calls

    @property
    def events(self) -> Events:
        """Subscriptions to events (rule 12)."""
        from calltasks.events.subscriptions import Events

        return Events(self.clients, self._client)

    # --- rules 1, 2 -------------------------------------------------------------------------------------------------

    async def init_db(self) -> list[str]:
        """Create missing tables and indexes; returns what was created."""
        return await self.database.run(schema.apply)

    async def check(self) -> dict[str, Table]:
        """See that the database has all tables and rights that a backend needs; returns the tables.

        Raises:
            SchemaError: what is missing, in one line.
        """
        return await self.database.run(schema.check_backend)

    async def create_task(self, organization_id: str, name: str, leads: Sequence[int | str] | None = None) -> int:
        """Create a call task of these leads (None: all of the organisation) and return its id.

        Raises:
            UnknownLeadsError: a lead does not exist in the organisation; nothing is created.
            SchemaError: the CRM's tables do not take such rows.
        """
        tables = await self.database.run(schema.creating)
        now = self.database.wall_clock(await self.database.now())
        tried = False

        def create(cursor: Cursor) -> int:
            # Run again after a lost answer to COMMIT, the task may be there already.
            nonlocal tried
            named: Any = {"tables": tables, "name": name, "organization_id": organization_id, "now": now}
            created = tasks.find_created(cursor, **named) if tried else None
            tried = True
            if not created:
                created, _ = tasks.create(cursor, leads=leads, **named)
            return created

        return await self.database.transaction(create)

    async def task(self, task_id: int, organization_id: str | None = None) -> tasks.TaskRow:
        """The task's row.

        Raises:
            UnknownTaskError: there is none, or not in this organisation.
        """
        row = await self.database.run(tasks.load, task_id)
        if row is None or organization_id not in (None, row.organization_id):
            raise errors.UnknownTaskError(task_id)
        return row

    async def start_call(self, task_id: int, options: Options | None = None) -> bool:
        """Start the task's workflow; False if it is running already. As :meth:`start`, which tells more."""
        return (await self.start(task_id, options)).started

    async def start(self, task_id: int, options: Options | None = None) -> Started:
        """Start the task's workflow, unless it is running already.

        One that runs for something else, a re-analysis or a check, is told to make the calls.

        Returns:
            Whether it was started, and when its calls are made.

        Raises:
            UnknownTaskError: there is no such task.
            WrongUseError: nobody would be called: the strategy is over.
        """
        hours = await self.calling_hours(task_id, options)
        if hours.over:
            raise errors.WrongUseError(hours.told)
        started = await self._begin(task_id, options)
        return Started(started=started, hours=hours if started else await self.calling_hours(task_id))

    async def calling_hours(
        self, task_id: int, options: Options | None = None, *, now: datetime | None = None
    ) -> CallingHours:
        """When the task's calls would be made, were it started with these options (rule 11.13).

        Raises:
            UnknownTaskError: there is no such task.
        """
        task = await self.task(task_id)
        kept = await self.database.run(task_options.kept, task)
        given = options.strategy if options else None
        return calling_hours(task, kept, given, self.clients.strategy, now or await self.database.now())

    async def _begin(self, task_id: int, options: Options | None) -> bool:
        given = options.model_dump(exclude_unset=True, exclude_none=True) if options else {}
        while True:
            try:
                await self._start({"task_id": task_id} | ({"options": given} if given else {}))
                return True
            except WorkflowAlreadyStartedError:
                # It may end at this moment: then it is started after all.
                with suppress(errors.NotRunningError), self._run(task_id) as run:
                    await run.signal(names.START_CALL, given or None, rpc_timeout=ANSWER_SECONDS)
                    return False

    async def dry_run(self, task_id: int, options: Options | None = None) -> DryRun:
        """Who would be called if the task were started now, who not, and why (rule 11.9). Nobody is called, nothing is
        written, and no run begins.

        Raises:
            UnknownTaskError: there is no such task.
            DoubtError: who was called already cannot be told; a start would call nobody.
        """
        row = await self.task(task_id)
        found = await self.database.run(rehearse, row, options or Options())
        with suppress(errors.NotRunningError):
            if await self.is_open(task_id):
                found = replace(found, phase=(await self.progress(task_id))["phase"])
        return found

    # --- watching ---------------------------------------------------------------------------------------------------

    async def progress(self, task_id: int, *, patience: timedelta = ANSWER_SECONDS) -> dict[str, Any]:
        """The progress object (rule 17.4), also of a run that is over.

        Of one that did not come to its end ``phase`` is ``failed``, ``terminated``, ``canceled`` or ``timed_out``, and
        ``last_error`` says why, if it failed.

        Raises:
            NotRunningError: no run is known.
            NoWorkerError: no worker answers for so long.
        """
        with self._run(task_id) as run:
            progress: dict[str, Any] = await run.query(names.PROGRESS, rpc_timeout=patience)
            status = (await run.describe(rpc_timeout=ANSWER_SECONDS)).status
        if status and status.name.lower() in ENDED_BADLY:
            progress["phase"] = status.name.lower()
        return progress

    async def result(self, task_id: int) -> dict[str, Any]:
        """Wait for the run to end and return its result.

        Raises:
            NotRunningError: no run is known.
            RunFailedError: the run failed.
        """
        with self._run(task_id) as run:
            try:
                result: dict[str, Any] = await run.result()
            except WorkflowFailureError as error:
                raise errors.RunFailedError(error.cause) from error
        return result

    async def is_open(self, task_id: int) -> bool:
        """Whether a run is under way."""
        with self._run(task_id) as run:
            described = await run.describe(rpc_timeout=ANSWER_SECONDS)
        return described.close_time is None

    # --- rules 7, 10 and signals ------------------------------------------------------------------------------------

    async def force_analyze(
        self, task_id: int, request: Reanalysis | None = None, *, every: bool = False, **fields: Any
    ) -> str:
        """Analyse again: named calls, every call, or those whose analysis failed. Works on a closed task too.

        Args:
            task_id: the task.
            request: which calls, and how; or instead its ``fields`` one by one, with ``every`` for ``all``.

        Returns:
            The id of the request, for :meth:`reanalysis`.

        Raises:
            UnknownTaskError: there is no such task.
            NotStartedError: its calls were never started; a request to analyse must not be what dials people.
            WrongUseError: the fields are no request, or more calls are named than a request holds.
        """
        request = request or read({"all": every, **fields})
        request = replace(request, request_id=request.request_id or str(uuid4()))
        await self.task(task_id)
        if request.size() > MOST_NAMED_BYTES:
            raise errors.WrongUseError(
                f"{len(request.call_job_ids or [])} call job ids are more than one request holds; name them in several,"
                " or ask for all, narrowed by day, interest or prompt version"
            )
        if not await self.database.run(tasks.was_started, task_id):
            # A run that is under way takes it; none is begun, which people could think dials.
            with self._run(task_id, errors.NotStartedError) as run:
                await run.signal(names.FORCE_ANALYZE, request.payload(), rpc_timeout=ANSWER_SECONDS)
            return request.request_id
        await self._start(
            {"task_id": task_id, "dial": False},
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal=names.FORCE_ANALYZE,
            start_signal_args=[request.payload()],
        )
        return request.request_id

    async def analysed_again(self, task_id: int, *, every: float = 1.0) -> dict[str, Any]:
        """Wait until no re-analysis is left to do; returns the progress."""
        while (await self.progress(task_id))["analysing_again"] and await self.is_open(task_id):  # noqa: ASYNC110
            await asyncio.sleep(every)
        return await self.progress(task_id)

    async def reanalysis(self, task_id: int, request_id: str) -> Answer | None:
        """What a request to analyse again has come to; None of one that the run knows nothing of."""
        with self._run(task_id) as run:
            answers = await run.query(names.REANALYSES, result_type=list[Answer], rpc_timeout=ANSWER_SECONDS)
        return next((answer for answer in answers if answer.request_id == request_id), None)

    async def query_task_execution(
        self,
        task_id: int,
        *,
        page: int = 1,
        page_size: int = 20,
        skip_recording: bool = True,
        apply_update: bool = True,
    ) -> ExecutionPage:
        """One page of the task's calls, fresh from the platform (rule 10).

        Raises:
            UnknownTaskError: there is no such task.
            NoJobIdsError: it has no job id yet.
            ServiceError: the platform failed.
        """
        from calltasks.executions import query

        row = await self.task(task_id)
        archive = None if skip_recording else await self.clients.archive(check=False)
        session = self.clients.platform.session(row.organization_id, names.Turn.CONVERSATIONS)
        return await query(
            *(self.database, session, archive, task_id),
            page=page,
            page_size=page_size,
            skip_recording=skip_recording,
            apply_update=apply_update,
        )

    async def signal(self, task_id: int, name: str) -> None:
        """``refresh``, ``pause_calls``, ``resume_calls`` or ``cancel_calls``.

        Raises:
            NotRunningError: the task is not running.
        """
        with self._run(task_id) as run:
            await run.signal(name, rpc_timeout=ANSWER_SECONDS)

    async def control(self, task_id: int, action: str, *, patience: timedelta = CONTROL_SECONDS) -> dict[str, Any]:
        """``pause``, ``resume`` or ``cancel`` the platform's dialling, and wait for what the platform says.

        Returns:
            ``{"done": …, "answer": …}``; ``done`` is False where the platform, or the run, does not take it (any more),
            and None if the platform has said nothing for so long.

        Raises:
            NotRunningError: the task is not running.
            NoWorkerError: no worker answers; nothing was asked.
        """
        with self._run(task_id) as run:
            try:
                update = await run.start_update(
                    names.CONTROL_CALLS,
                    action,
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    rpc_timeout=ANSWER_SECONDS,
                )
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                raise errors.NoWorkerError from None
            try:
                answer: dict[str, Any] = await update.result(rpc_timeout=patience)
            except WorkflowUpdateFailedError as error:
                return {"done": False, "answer": str(error.cause)}
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                return {"done": None, "answer": f"{action}: asked for, the platform has not answered yet"}
        return answer

    async def monitor(self, action: Action) -> MonitorState:
        """``start``, ``stop``, ``check`` or ``status`` of the monitor.

        ``check`` looks once, now, whether or not the monitor is running.
        """
        with _answers():
            return await steer(self._temporal, action)

    @property
    def _temporal(self) -> Client:
        assert self._client is not None, "opened without Temporal"
        return self._client

    async def _start(self, given: dict[str, Any], **how: Any) -> None:
        id_, queue = names.workflow_id(given["task_id"]), names.CALL_TASKS
        with _answers():
            await self._temporal.start_workflow(names.WORKFLOW, given, id=id_, task_queue=queue, **how)

    @contextmanager
    def _run(
        self, task_id: int, missing: type[errors.CallTasksError] = errors.NotRunningError
    ) -> Iterator[WorkflowHandle[Any, Any]]:
        """The task's run, to be asked something; ``missing``: there is none."""
        with _answers(missing(task_id)):
            yield self._temporal.get_workflow_handle(names.workflow_id(task_id))


@contextmanager
def _answers(missing: errors.CallTasksError | None = None) -> Iterator[None]:
    """Turns what Temporal says into an error of ours. ``missing``: of a run that is asked and is not there."""
    try:
        yield
    except RPCError as error:
        if missing and error.status == RPCStatusCode.NOT_FOUND:
            raise missing from None
        if missing and error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
            raise errors.NoWorkerError from None
        raise errors.TemporalError(error.status.name, error.message) from None
    except WorkflowQueryFailedError:
        raise errors.TemporalError("QUERY_FAILED", "a worker could not answer a query; its log says why") from None

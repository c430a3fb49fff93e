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
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pymysql.cursors import Cursor
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from calltasks.database import schema
from calltasks.database.connection import Database
from calltasks.database.tables import tasks
from calltasks.database.tables.analyses import ALL, CallHistory, Narrowing, history
from calltasks.limiter import shared
from calltasks.options import CALL_TASKS, WORKFLOW, Force, Options, workflow_id
from calltasks.settings import AnalysisSettings, ArchiveSettings, DatabaseSettings, PlatformSettings, load
from calltasks.temporal.connection import connect
from calltasks.temporal.monitor_schedule import steer

if TYPE_CHECKING:
    from calltasks.executions import ExecutionPage
    from calltasks.model.analysis import AnalysisModel
    from calltasks.platform.outbound_bot import OutboundBot

ANSWER_SECONDS = timedelta(seconds=10)
CONTROL_SECONDS = timedelta(seconds=30)
_STATUS = WorkflowExecutionStatus
MOST_NAMED_BYTES = 1_000_000
"""Of one request: a payload of Temporal holds twice as much."""
ENDED_BADLY = (_STATUS.FAILED, _STATUS.TERMINATED, _STATUS.CANCELED, _STATUS.TIMED_OUT)


class UnknownTaskError(LookupError):
    """There is no such call task (or it belongs to another organisation)."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"call task {task_id} does not exist")


class NotRunningError(LookupError):
    """Nothing is known of a run of the task."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"call task {task_id} is not running; start it with: start-call {task_id}")


class NotStartedError(Exception):
    """The task's calls were never started."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"the calls of task {task_id} were never started; start them with: start-call {task_id}")


class NoWorkerError(Exception):
    """The run is there, but no worker answers."""

    def __init__(self) -> None:
        super().__init__("no worker answers on task queue call-tasks; is `python worker.py` running?")


class CallTasks:
    """Call tasks, for a backend.

    Args:
        database: the CRM's.
        client: Temporal's, or None where only the database is used.
    """

    def __init__(self, database: Database, client: Client | None) -> None:
        self.database = database
        self._client = client
        self._platform: OutboundBot | None = None
        self._model: AnalysisModel | None = None

    @classmethod
    @asynccontextmanager
    async def connect(cls, *, temporal: bool = True) -> AsyncIterator[CallTasks]:
        """Open what the environment names.

        Raises:
            SettingsError: a setting is missing or wrong.
            ServiceError: Temporal is out of reach.
        """
        database = Database(load(DatabaseSettings))
        calls = cls(database, await connect() if temporal else None)
        try:
            yield calls
        finally:
            if calls._platform is not None:
                calls._platform.close()
            if calls._model is not None:
                await calls._model.close()
            database.close()

    # --- SPEC 1, 2 --------------------------------------------------------------------------------------------------

    async def init_db(self) -> list[str]:
        """Create missing tables and indexes; returns what was created."""
        return await self.database.run(schema.apply)

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
            created = tasks.find_created(cursor, name=name, organization_id=organization_id, now=now) if tried else None
            tried = True
            if not created:
                created, _ = tasks.create(
                    cursor, tables=tables, name=name, organization_id=organization_id, leads=leads, now=now
                )
            return created

        return await self.database.transaction(create)

    async def task(self, task_id: int, organization_id: str | None = None) -> tasks.TaskRow:
        """The task's row.

        Raises:
            UnknownTaskError: there is none, or not in this organisation.
        """
        row = await self.database.run(tasks.load, task_id)
        if row is None or organization_id not in (None, row.organization_id):
            raise UnknownTaskError(task_id)
        return row

    async def start_call(self, task_id: int, options: Options | None = None) -> bool:
        """Start the task's workflow; False if it is running already.

        One that runs for something else, a re-analysis or a check, is told to make the calls.

        Raises:
            UnknownTaskError: there is no such task.
        """
        await self.task(task_id)
        given = _input(task_id, options)
        while True:
            try:
                await self._temporal.start_workflow(WORKFLOW, given, id=workflow_id(task_id), task_queue=CALL_TASKS)
                return True
            except WorkflowAlreadyStartedError:
                # It may end at this moment: then it is started after all.
                with suppress(NotRunningError), _answers(task_id):
                    await self._handle(task_id).signal("start_call", given.get("options"), rpc_timeout=ANSWER_SECONDS)
                    return False

    # --- watching ---------------------------------------------------------------------------------------------------

    async def progress(self, task_id: int) -> dict[str, Any]:
        """The progress object (CONTRACT, Temporal), also of a run that is over.

        Of one that did not come to its end ``phase`` is ``failed``, ``terminated``, ``canceled`` or ``timed_out``, and
        ``last_error`` says why, if it failed.

        Raises:
            NotRunningError: no run is known.
            NoWorkerError: no worker answers.
        """
        with _answers(task_id):
            handle = self._handle(task_id)
            progress: dict[str, Any] = await handle.query("progress", rpc_timeout=ANSWER_SECONDS)
            status = (await handle.describe(rpc_timeout=ANSWER_SECONDS)).status
        if status in ENDED_BADLY:
            progress["phase"] = status.name.lower()
        return progress

    async def result(self, task_id: int) -> dict[str, Any]:
        """Wait for the run to end and return its result.

        Raises:
            NotRunningError: no run is known.
            WorkflowFailureError: the run failed.
        """
        with _answers(task_id):
            result: dict[str, Any] = await self._handle(task_id).result()
        return result

    async def is_open(self, task_id: int) -> bool:
        """Whether a run is under way."""
        with _answers(task_id):
            described = await self._handle(task_id).describe(rpc_timeout=ANSWER_SECONDS)
        return described.close_time is None

    # --- SPEC 7, 10 and signals -------------------------------------------------------------------------------------

    async def force_analyze(
        self,
        task_id: int,
        *,
        call_job_ids: Sequence[str] | None = None,
        every: bool = False,
        failed: bool = False,
        narrowed: Narrowing = ALL,
        override: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        """Analyse again: named calls, every call, or those whose analysis failed. Works on a closed task too.

        Args:
            task_id: the task.
            call_job_ids, every, failed: one of them.
            narrowed: which of these calls.
            override: replace follow-ups that a person has edited or deleted, too.
            max_tokens: stop before the next call once so much is spent.

        Raises:
            UnknownTaskError: there is no such task.
            NotStartedError: its calls were never started; a request to analyse must not be what dials people.
            ValueError: not exactly one of the three is asked for, or more calls are named than a request holds.
        """
        if [bool(call_job_ids), every, failed].count(True) != 1:
            raise ValueError("name call job ids, or all, or failed: exactly one of them")
        await self.task(task_id)
        named: dict[str, Any] = {"call_job_ids": list(call_job_ids)} if call_job_ids else {}
        given = named | {"all": every, "failed": failed, "override": override, "max_tokens": max_tokens}
        request = Force.model_validate(given | asdict(narrowed)).model_dump(mode="json", exclude_defaults=True)
        if len(json.dumps(request)) > MOST_NAMED_BYTES:
            raise ValueError(
                f"{len(call_job_ids or [])} call job ids are more than one request holds; name them in several, or ask"
                " for all, narrowed by day, interest or prompt version"
            )
        if not await self.database.run(tasks.was_started, task_id):
            # A run that is under way takes it; none is begun, which people could think dials.
            with _answers(task_id, NotStartedError):
                await self._handle(task_id).signal("force_analyze", request, rpc_timeout=ANSWER_SECONDS)
            return
        await self._temporal.start_workflow(
            WORKFLOW,
            {"task_id": task_id, "dial": False},
            id=workflow_id(task_id),
            task_queue=CALL_TASKS,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="force_analyze",
            start_signal_args=[request],
        )

    async def analysed_again(self, task_id: int, *, every: float = 1.0) -> dict[str, Any]:
        """Wait until no re-analysis is left to do; returns the progress."""
        while True:
            progress = await self.progress(task_id)
            if not progress["analysing_again"] or not await self.is_open(task_id):
                return await self.progress(task_id)
            await asyncio.sleep(every)

    async def analyses(self, call_job_id: str) -> CallHistory | None:
        """Every judgement of a call and how its follow-up stands; None if there is no such call."""
        return await self.database.run(history, call_job_id)

    async def query_task_execution(
        self,
        task_id: int,
        *,
        page: int = 1,
        page_size: int = 20,
        skip_recording: bool = True,
        apply_update: bool = True,
    ) -> ExecutionPage:
        """One page of the task's calls, fresh from the platform (SPEC 10).

        Raises:
            UnknownTaskError: there is no such task.
            NoJobIdsError: it has no job id yet.
            ServiceError: the platform failed.
        """
        from calltasks.executions import Executions
        from calltasks.recordings.finding import archive_of

        row = await self.task(task_id)
        settings = ArchiveSettings.model_construct() if skip_recording else load(ArchiveSettings)
        async with archive_of(settings, check=False) as archive:
            return await Executions(self.database, self.platform(), archive).query(
                task_id,
                row.organization_id,
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
        with _answers(task_id):
            await self._handle(task_id).signal(name, rpc_timeout=ANSWER_SECONDS)

    async def control(self, task_id: int, action: str) -> dict[str, Any]:
        """``pause``, ``resume`` or ``cancel`` the platform's dialling, and wait for what the platform says.

        Returns:
            ``{"done": …, "answer": …}``; ``done`` is None if the platform has said nothing for half a minute.

        Raises:
            NotRunningError: the task is not running.
            NoWorkerError: no worker answers; nothing was asked.
            ValueError: the run does not take the action (any more).
        """
        with _answers(task_id):
            try:
                update = await self._handle(task_id).start_update(
                    "control_calls",
                    action,
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    rpc_timeout=ANSWER_SECONDS,
                )
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                raise NoWorkerError from None
            try:
                answer: dict[str, Any] = await update.result(rpc_timeout=CONTROL_SECONDS)
            except WorkflowUpdateFailedError as error:
                raise ValueError(str(error.cause)) from None
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                return {"done": None, "answer": f"{action}: asked for, the platform has not answered yet"}
        return answer

    # --- SPEC 9 -----------------------------------------------------------------------------------------------------

    async def monitor(self, action: str) -> bool:
        """``start``, ``stop``, ``check`` or ``status`` of the monitor; returns whether it is running.

        ``check`` looks once, now, whether or not the monitor is running.
        """
        return await steer(self._temporal, action)

    @property
    def _temporal(self) -> Client:
        assert self._client is not None, "opened without Temporal"
        return self._client

    def _handle(self, task_id: int) -> WorkflowHandle[Any, Any]:
        return self._temporal.get_workflow_handle(workflow_id(task_id))

    def model(self) -> AnalysisModel:
        """The configured model, within the rate limit that it shares with the workers.

        Raises:
            SettingsError: a setting of the model is missing or wrong.
        """
        if self._model is None:
            from calltasks.model.analysis import AnalysisModel

            settings = load(AnalysisSettings)
            limiter = shared(self.database, "analysis", settings.analysis_qpm, settings.analysis_concurrency, window=60)
            self._model = AnalysisModel(settings, limiter)
        return self._model

    def platform(self) -> OutboundBot:
        """The platform, within the rate limit that it shares with the workers.

        Raises:
            SettingsError: a setting of the platform is missing or wrong.
        """
        if self._platform is None:
            # Importing the vendor's SDK takes seconds: only who asks the platform pays for it.
            from calltasks.platform.outbound_bot import THREADS, OutboundBot

            settings = load(PlatformSettings)
            limiter = shared(self.database, "outbound-bot", settings.outbound_bot_qps, THREADS)
            self._platform = OutboundBot(settings, limiter)
        return self._platform


def _input(task_id: int, options: Options | None) -> dict[str, Any]:
    given = options.model_dump(exclude_unset=True, exclude_none=True) if options else {}
    return {"task_id": task_id} | ({"options": given} if given else {})


@contextmanager
def _answers(task_id: int, missing: type[Exception] = NotRunningError) -> Iterator[None]:
    """Turns what Temporal says of a missing run, or of a missing worker, into an error of this module."""
    try:
        yield
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise missing(task_id) from None
        if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
            raise NoWorkerError from None
        raise

"""The whole pipeline on real parts: Temporal, MariaDB, the simulators, workers in this process.

Every `Site` has a Temporal namespace, a database and simulators of its own, so tests do not meet.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pymysql
import pytest
from google.protobuf.duration_pb2 import Duration
from pymysql.cursors import DictCursor
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowExecution, WorkflowHandle, WorkflowHistory

import simulators
import worker
from calltasks.call_tasks import CallTasks
from calltasks.names import QUEUES, workflow_id
from calltasks.options import Options
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import SEARCH_ATTRIBUTES as KINDS
from devstack.temporal import EmbeddedTemporal
from simulators import Contact, SimulatorOptions, Simulators
from tests.comparison import MODEL_FAILED as MODEL_FAILED
from tests.comparison import assert_finished as assert_finished
from tests.sayings import LogLines as LogLines
from tests.sayings import decoded as decoded

ORGANIZATION = "org7"

PATIENCE = 200
"""Seconds that a test waits for anything before it calls it lost, on a machine that is busy too."""
QUICK = Options(
    poll_first=0,
    poll_min=0.2,
    poll_max=1,
    match_grace=1,
    conversation_grace=2,
    retry_interval=0.2,
    recording_grace=2,
)
"""Everything as soon as it can be."""


class Site:
    """One pipeline; its workers are started by `working`. `environment` holds the settings that it takes."""

    def __init__(
        self,
        client: Client,
        sim: Simulators,
        connection: "pymysql.Connection[DictCursor]",
        environment: dict[str, str],
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.client = client
        self.sim = sim
        self.connection = connection
        self.environment = environment
        self._patch = patch

    def enter_environment(self) -> None:
        """Make this process's settings those of this pipeline."""
        for name, value in self.environment.items():
            self._patch.setenv(name, value)

    # --- the CRM --------------------------------------------------------------------------------------------------

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a statement; for one that has none, an empty list."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def insert(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        columns = list(rows[0])
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
                [tuple(row[column] for column in columns) for row in rows],
            )

    def add_leads(self, count: int, *, first: int = 1, organization: str = ORGANIZATION) -> None:
        """Leads `first` and on, each with a phone number and a name of its own."""
        self.insert("dcc_leads", [lead(number, organization) for number in range(first, first + count)])

    def rows(self, task_id: int) -> list[dict[str, Any]]:
        return self.sql("SELECT * FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)

    def follow_ups(self) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in self.sql("SELECT * FROM dcc_leads_follow")}

    def task(self, task_id: int) -> dict[str, Any]:
        return self.sql("SELECT * FROM call_tasks WHERE id = %s", task_id)[0]

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of all tables but those that say when something was looked at."""
        tables = [next(iter(row.values())) for row in self.sql("SHOW TABLES")]
        return {
            table: sorted(self.sql(f"SELECT * FROM {table}"), key=str)
            for table in tables
            if table not in ("call_rate_limits", "call_standings")
        }

    def questions(self) -> int:
        """Statements that the server was ever sent."""
        return int(self.sql("SHOW GLOBAL STATUS LIKE 'Questions'")[0]["Value"])

    def old_task(
        self,
        rows: Sequence[dict[str, Any]],
        contacts: Sequence[Contact] = (),
        *,
        task_type: int = 2,
        over: bool = True,
        called_at: float | None = None,
    ) -> int:
        """A task that another program dispatched: its job group holds a job for each contact, its rows are given."""
        self.insert("call_tasks", [{"task_name": "old", "organization_id": ORGANIZATION, "task_type": task_type}])
        task_id = int(self.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"])
        contacts = [replace(contact, reference=contact.reference.format(task=task_id)) for contact in contacts]
        group = self.sim.world.add_group(f"old {task_id}", contacts, over=over, called_at=called_at)
        self.sql("UPDATE call_tasks SET job_group_id = %s WHERE id = %s", group.id, task_id)
        for row in rows:
            self.insert("leads_task_list", [{"task_id": task_id, "call_job_id": "", **row}])
        return task_id

    def watch_writes(self) -> None:
        """Have the database write down every change of a row's status, job id and follow-up, and of a task's type."""
        self.sql(
            "CREATE TABLE seen_rows (n INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6), id BIGINT, old_status TEXT,"
            " new_status TEXT, old_job TEXT, new_job TEXT, old_text LONGTEXT, new_text LONGTEXT)"
        )
        self.sql(
            "CREATE TRIGGER see_rows AFTER UPDATE ON leads_task_list FOR EACH ROW INSERT INTO seen_rows VALUES (NULL,"
            " UTC_TIMESTAMP(6), NEW.id, OLD.call_status, NEW.call_status, OLD.call_job_id, NEW.call_job_id,"
            " OLD.call_conversation, NEW.call_conversation)"
        )
        self.sql("CREATE TABLE seen_types (n INT AUTO_INCREMENT PRIMARY KEY, id BIGINT, task_type INT)")
        self.sql(
            "CREATE TRIGGER see_types AFTER UPDATE ON call_tasks FOR EACH ROW"
            " INSERT INTO seen_types VALUES (NULL, NEW.id, NEW.task_type)"
        )

    def seen_rows(self) -> list[dict[str, Any]]:
        return self.sql("SELECT * FROM seen_rows ORDER BY n")

    def seen_types(self, task_id: int) -> list[int]:
        """The values that the task's type took, one after the other."""
        types = [row["task_type"] for row in self.sql("SELECT * FROM seen_types WHERE id = %s ORDER BY n", task_id)]
        return [value for value, before in zip(types, [None, *types], strict=False) if value != before]

    # --- the platform ---------------------------------------------------------------------------------------------

    def truth(self, task_id: int) -> list[dict[str, Any]]:
        """What the jobs of the task's group come to, by the simulators' own record (`/_sim/groups/{id}/jobs`)."""
        group = self.sim.world.find_group(self.task(task_id)["job_group_id"])
        assert group is not None
        return self.sim.world.truth(group)

    def stats(self) -> dict[str, Any]:
        return self.sim.stats.report(self.sim.world)

    # --- the pipeline ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def working(self, queues: Sequence[str] = QUEUES) -> AsyncIterator[None]:
        """A worker of these queues, as production builds it, for as long as the block lasts."""
        self.enter_environment()
        async with worker.workers(self.client, queues) as built, AsyncExitStack() as stack:
            for one in built:
                await stack.enter_async_context(one)
            yield

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[CallTasks]:
        self.enter_environment()
        async with CallTasks.connect() as calls:
            yield calls

    async def create_task(self, leads: Sequence[int] | None = None, organization: str = ORGANIZATION) -> int:
        async with self.calls() as calls:
            return await calls.create_task(organization, "autumn sale", leads)

    async def run(self, task_id: int, options: Options = QUICK) -> dict[str, Any]:
        """Start the task and wait for its end."""
        async with self.calls() as calls:
            assert await calls.start_call(task_id, options)
        return await self.result(task_id)

    async def result(self, task_id: int, within: float = PATIENCE) -> dict[str, Any]:
        """Wait for the run's end."""
        try:
            async with asyncio.timeout(within):
                result: dict[str, Any] = await self.handle(task_id).result()
                return result
        except TimeoutError:
            history = await self.handle(task_id).fetch_history()
            standing = await self.progress(task_id)
            raise AssertionError(f"not within {within} s, {len(history.events)} events, {standing}") from None

    def handle(self, task_id: int) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(workflow_id(task_id))

    async def progress(self, task_id: int) -> dict[str, Any]:
        answer: dict[str, Any] = await self.handle(task_id).query("progress")
        return answer

    async def until(self, task_id: int, **counts: int) -> None:
        """Wait until these numbers of the progress are reached."""

        async def reached() -> bool:
            progress = await self.progress(task_id)
            return all(progress[name] >= count for name, count in counts.items())

        await eventually(reached)

    async def runs(self, query: str = "") -> list[WorkflowExecution]:
        """The namespace's runs, as its list of workflows shows them."""
        return [run async for run in self.client.list_workflows(query)]

    async def histories(self) -> list[WorkflowHistory]:
        """Of every run of the namespace."""
        return [
            await self.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
            for run in await self.runs()
        ]


Sites = Callable[..., Awaitable[Site]]
Case = TypeVar("Case")


@asynccontextmanager
async def opening_sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    """`await sites(SimulatorOptions(...), SETTING="value")` opens a Site. A test module makes a fixture of it."""
    async with AsyncExitStack() as stack:

        async def open_site(options: SimulatorOptions | None = None, **settings: str) -> Site:
            sim = await stack.enter_async_context(simulators.running(options or SimulatorOptions(calls_over=True)))
            namespace = f"test-{secrets.token_hex(6)}"
            client = await new_namespace(temporal, namespace)
            name = stack.enter_context(_new_database(mariadb))
            connection = mariadb.connect(name, cursorclass=DictCursor)
            stack.callback(connection.close)
            variables = environment(sim.url, temporal, namespace, mariadb.url_of(name)) | settings
            site = Site(client, sim, connection, variables, monkeypatch)
            async with site.calls() as calls:
                await calls.init_db()
            return site

        yield open_site


async def side_by_side(
    sites: Sites, cases: Mapping[str, Case], prove: Callable[[Site, Case], Awaitable[None]], options: SimulatorOptions
) -> None:
    """`prove(site, case)` for every case at once, each in a working pipeline of its own; most of their time is waiting.

    What fails is raised with the names of its cases.
    """
    async with AsyncExitStack() as stack:
        opened = []
        for _ in cases:
            opened.append(site := await sites(options))
            await stack.enter_async_context(site.working())
        outcomes = await asyncio.gather(*map(prove, opened, cases.values()), return_exceptions=True)
    failed = {name: outcome for name, outcome in zip(cases, outcomes, strict=True) if outcome is not None}
    for name, error in failed.items():
        error.add_note(f"case: {name}")
    if failed:
        raise BaseExceptionGroup(f"{', '.join(failed)} of {len(cases)} cases failed", list(failed.values()))


def environment(sim_url: str, temporal: EmbeddedTemporal, namespace: str, database_url: str) -> dict[str, str]:
    """The settings of a worker; the rate limits are out of the way."""
    return {
        "TEMPORAL_ADDRESS": temporal.address,
        "TEMPORAL_NAMESPACE": namespace,
        "DATABASE_URL": database_url,
        "ALIBABA_CLOUD_ACCESS_KEY_ID": simulators.ACCESS_KEY_ID,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": simulators.ACCESS_KEY_SECRET,
        "OUTBOUND_BOT_INSTANCE_ID": simulators.INSTANCE_ID,
        "OUTBOUND_BOT_SCRIPT_ID": simulators.SCRIPT_ID,
        "OUTBOUND_BOT_ENDPOINT": sim_url,
        "OUTBOUND_BOT_QPS": "2000",
        "DASHSCOPE_API_KEY": simulators.DASHSCOPE_API_KEY,
        "DASHSCOPE_HTTP_BASE_URL": f"{sim_url}/api/v1",
        "ANALYSIS_QPM": "120000",
    }


async def new_namespace(temporal: EmbeddedTemporal, namespace: str) -> Client:
    """A Temporal namespace of its own, and a client of it."""
    client = await Client.connect(temporal.address)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=namespace, workflow_execution_retention_period=Duration(seconds=86_400))
    )
    kinds = {name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind.upper()}") for name, kind in KINDS.items()}
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=namespace, search_attributes=kinds)
    )
    return await Client.connect(temporal.address, namespace=namespace)


@contextmanager
def _new_database(mariadb: EmbeddedMariaDB) -> Iterator[str]:
    """The name of an empty database, dropped at the end."""
    name = f"{mariadb.database}_{secrets.token_hex(6)}"
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}`")
        try:
            yield name
        finally:
            cursor.execute(f"DROP DATABASE `{name}`")


def lead(number: int, organization: str = ORGANIZATION) -> dict[str, Any]:
    return {
        "leads_id": number,
        "organization_id": organization,
        "leads_user_name": f"测试客户{number:05}",
        "leads_user_phone": phone(number),
    }


async def eventually(condition: Callable[[], Awaitable[bool]], within: float = PATIENCE) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def phone(number: int) -> str:
    return f"139{number:08}"

"""The whole pipeline on real parts: Temporal, MariaDB, the simulators, workers in this process; and how to compare a
finished task with what the platform says happened.

Every `Site` has a Temporal namespace, a database and simulators of its own, so tests do not meet.
"""

import asyncio
import base64
import importlib
import json
import logging
import multiprocessing
import os
import secrets
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pymysql
import pytest
import typer
from google.protobuf.duration_pb2 import Duration
from pymysql.cursors import DictCursor
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory

import simulators
import worker
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import SEARCH_ATTRIBUTES as KINDS
from devstack.temporal import EmbeddedTemporal
from simulators import Contact, SimulatorOptions, Simulators
from simulators.dialogues import SLOTS
from simulators.judge import judge
from starter import CallTasks
from workflows.options import QUEUES, Options, workflow_id

ORGANIZATION = "org7"
ZONE = ZoneInfo("Asia/Shanghai")
FINAL = ("Succeeded", "Failed", "Cancelled")
REMARKS = {"Failed": "呼叫失败；", "Cancelled": "外呼状态：Cancelled；", "Succeeded": "外呼已完成，但暂无通话内容；"}
MODEL_FAILED = "AI 分析未完成，请人工查看通话记录；"

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
        """All rows of all tables."""
        tables = [next(iter(row.values())) for row in self.sql("SHOW TABLES")]
        return {
            table: sorted(self.sql(f"SELECT * FROM {table}"), key=str)
            for table in tables
            if table != "call_rate_limits"
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

    async def result(self, task_id: int, within: float = 60) -> dict[str, Any]:
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

    async def histories(self) -> list[WorkflowHistory]:
        """Of every run of the namespace."""
        return [
            await self.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
            async for run in self.client.list_workflows()
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


# --- programs in processes of their own -----------------------------------------------------------------------------

_fork = multiprocessing.get_context("forkserver")
# A child is forked from a process that has imported everything: importing takes seconds each time.
_fork.set_forkserver_preload(["tests.pipeline", "commands", "clients.outbound_bot", "clients.analysis"])


class Program:
    """`worker.py` or `starter.py` with arguments, in a process of its own. `log` + `.out` and `.err` are what it says."""

    def __init__(self, environment: Mapping[str, str], log: Path, *command: str) -> None:
        self._arguments = (dict(environment), str(log), command)
        self._log = log
        self._process = _fork.Process(target=_be, args=self._arguments, daemon=True)

    def start(self) -> None:
        self._process = _fork.Process(target=_be, args=self._arguments, daemon=True)
        self._process.start()

    def kill(self) -> None:
        """`kill -9`."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()

    def stop(self) -> int | None:
        """SIGTERM; returns the exit code."""
        self._process.terminate()
        self._process.join(30)
        return self._process.exitcode

    async def ended(self) -> tuple[int | None, str, str]:
        """Start it, wait for its end: exit code, stdout, stderr."""
        self.start()
        await asyncio.to_thread(self._process.join, 60)
        return self._process.exitcode, self.said("out"), self.said("err")

    def said(self, where: str) -> str:
        path = Path(f"{self._log}.{where}")
        return path.read_text("utf-8") if path.exists() else ""


def _be(environment: dict[str, str], log: str, command: tuple[str, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(command)
    if command[0] == "worker.py":
        typer.run(worker.main)
    else:
        importlib.import_module("commands").main()


def own_environment(*without: str, **changes: str) -> dict[str, str]:
    """This process's environment, less some variables, with some changed."""
    return {name: value for name, value in os.environ.items() if name not in without} | changes


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


def phone(number: int) -> str:
    return f"139{number:08}"


def wall(milliseconds: int | None) -> datetime | None:
    """A vendor's time as the CRM's columns hold it."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(ZONE).replace(tzinfo=None, microsecond=0)


# --- comparing ------------------------------------------------------------------------------------------------------


def assert_finished(site: Site, task_id: int, result: dict[str, Any], *, recordings: bool = True) -> None:
    """The whole task equals the platform's record, row by row; its follow-ups are one to one; its numbers add up."""
    truth = {job["job_id"]: job for job in site.truth(task_id)}
    rows, follow_ups = site.rows(task_id), site.follow_ups()
    called = [row for row in rows if row["call_job_id"]]
    differences = [
        f"row {row['id']} {name}: {found!r} instead of {wanted!r}"
        for row in called
        for name, found, wanted in differing(row, truth[row["call_job_id"]], follow_ups, recordings=recordings)
    ]
    assert not differences, f"{len(differences)} differences\n" + "\n".join(differences[:20])
    jobs = Counter(row["call_job_id"] for row in called)
    assert max(jobs.values(), default=1) == 1, "a job belongs to two rows"
    assert_one_follow_up_a_row(site, task_id)
    assert_numbers(site, task_id, result)
    assert site.stats()["dialled_twice"] == []


def differing(
    row: dict[str, Any], job: dict[str, Any], follow_ups: dict[int, dict[str, Any]], *, recordings: bool = True
) -> Iterator[tuple[str, Any, Any]]:
    """What of a called row, and of its follow-up, is not as the platform's record and the course's label say."""
    found = row | {"call_conversation": turns(row["call_conversation"])}
    wanted = {
        "call_status": job["status"],
        "call_task_id": job["task_id"] or "",
        "calling_number": job["calling_number"] or "",
        "planed_time": wall(job["planed_time"]),
        "updated_time": wall(job["actual_time"]) or row["updated_time"],
        "call_conversation": job["transcript"],
    }
    for name, value in wanted.items():
        if (found[name] or "") != (value or ""):
            yield name, found[name], value
    if row["updated_time"] is None:
        yield "updated_time", None, "a time"
    recorded = recordings and job["recording"] and job["status"] == "Succeeded"
    audio = f"/recordings/{job['task_id']}.wav" if recorded else ""
    url = row["recording_url"] or ""
    if (audio not in url) if audio else (url and recordings):
        yield "recording_url", url, audio
    follow_up = follow_ups.get(row["leads_follow_id"])
    if follow_up is None:
        yield "leads_follow_id", row["leads_follow_id"], "a follow-up"
        return
    interest, remark, when = expected_judgement(row, job)
    if row["is_interested"] != interest:
        yield "is_interested", row["is_interested"], interest
    if follow_up["leads_remark"] != remark:
        yield "leads_remark", follow_up["leads_remark"], remark
    if follow_up["next_follow_time"] != when:
        yield "next_follow_time", follow_up["next_follow_time"], when


def expected_judgement(row: dict[str, Any], job: dict[str, Any]) -> tuple[int, str, datetime | None]:
    """Interest, remark and next time; the interest is the course's label, not what any program made of it."""
    if not job["transcript"]:
        return 0, REMARKS[job["status"]], None
    called = wall(job["actual_time"])
    assert called is not None
    said = [turn["text"] for turn in job["transcript"] if turn["speaker"] == "Contact"]
    subject = next((word for word in SLOTS["model"] if any(word in turn["text"] for turn in job["transcript"])), "")
    judgement = judge(said, called.replace(second=0), subject)
    interest = judgement.interest if job["interest"] is None else job["interest"]
    return interest, judgement.remark, judgement.when





def turns(conversation: str | None) -> list[dict[str, str]]:
    """A stored conversation, in the form of the simulators' record."""
    return [{"speaker": turn["Speaker"], "text": turn["Script"]} for turn in json.loads(conversation or "[]")]


def assert_one_follow_up_a_row(site: Site, task_id: int) -> None:
    """Each called row has one follow-up of its own lead, with its times, and no follow-up is without a row."""
    rows, follow_ups = site.rows(task_id), site.follow_ups()
    linked = Counter(row["leads_follow_id"] for row in rows if row["leads_follow_id"])
    assert max(linked.values(), default=1) == 1, "two rows share a follow-up"
    for row in rows:
        if not row["call_job_id"]:
            assert row["leads_follow_id"] is None and row["is_interested"] is None, row
            continue
        follow_up = follow_ups[row["leads_follow_id"]]
        assert follow_up["leads_id"] == row["leads_id"]
        assert row["is_interested"] in (0, 1, 2)
        for column in ("follow_time", "frist_follow_time", "new_follow_time"):
            assert isinstance(follow_up[column], datetime), column
            assert abs((datetime.now(ZONE).replace(tzinfo=None) - follow_up[column]).total_seconds()) < 600, column
    everywhere = {row["leads_follow_id"] for row in site.sql("SELECT leads_follow_id FROM leads_task_list")}
    assert set(follow_ups) <= everywhere, "a follow-up without a row"


def assert_numbers(site: Site, task_id: int, result: dict[str, Any]) -> None:
    """The result's numbers are those of the tables."""
    rows = site.rows(task_id)
    called = [row for row in rows if row["call_job_id"]]
    interest = Counter(str(row["is_interested"]) for row in called)
    counted = {
        "task_id": task_id,
        "task_type": site.task(task_id)["task_type"],
        "phase": "complete",
        "leads": len(rows),
        "called": len(called),
        "unmatched": len(rows) - len(called),
        "finished": sum(row["call_status"] in FINAL for row in called),
        "by_status": dict(Counter(row["call_status"] for row in rows if row["call_status"])),
        "recordings": sum(bool(row["recording_url"]) for row in called),
        "recordings_missing": sum(
            row["call_status"] == "Succeeded" and bool(row["call_task_id"]) and not row["recording_url"]
            for row in called
        ),
        "follow_ups": sum(bool(row["leads_follow_id"]) for row in called),
        "by_interest": {key: interest[key] for key in "012"},
    }
    wrong = {name: (result[name], value) for name, value in counted.items() if result[name] != value}
    assert not wrong, f"result and tables differ: {wrong}"
    ledger = Counter(
        row["outcome"] for row in site.sql("SELECT outcome FROM call_follow_ups WHERE task_id = %s", task_id)
    )
    assert (result["analysed"], result["analysis_failed"]) == (ledger["analysed"], ledger["failed"])


def assert_nothing_went_back(site: Site, task_id: int) -> None:
    """Every write since `watch_writes`: no status that is not final, no final one or transcript lost, types rise."""
    for write in site.seen_rows():
        old, new = write["old_status"] or "", write["new_status"] or ""
        assert new in ("", *FINAL), f"{new} was written"
        if old and old != new:
            taken_back = old == "Failed" and not new and not write["old_job"] and write["new_job"]
            assert taken_back or (old != "Succeeded" and new == "Succeeded"), f"{old} became {new}"
        assert not write["old_job"] or write["new_job"] == write["old_job"], "a job id was replaced"
        assert len(write["new_text"] or "") >= len(write["old_text"] or ""), "a transcript was lost"
    types = site.seen_types(task_id)
    assert types == sorted(types), types


# --- what was said where --------------------------------------------------------------------------------------------


class LogLines(logging.Handler):
    """Every line that anything logs while the block lasts, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def __enter__(self) -> "LogLines":
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.INFO)
        root.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)


def decoded(history: WorkflowHistory) -> str:
    """A history as text, every payload decoded."""
    texts: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "data" and isinstance(inner, str):
                    texts.append(base64.b64decode(inner).decode("utf-8", "replace"))
                else:
                    collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        else:
            texts.append(str(value))

    collect(history.to_json_dict())
    return "\n".join(texts)

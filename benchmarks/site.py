"""The place of a measurement: the embedded stack, tasks with known calls, and the meters on all processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, time
from typing import Any, Self

import psutil
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle

from activities.liveness import BEAT_SECONDS
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from devstack.processes import Child
from devstack.stack import PROJECT, Stack

DIALOGUES = PROJECT.parent / "shared/data/dialogues.jsonl"
UNLIMITED = {"OUTBOUND_BOT_QPS": "100000", "ANALYSIS_QPM": "6000000"}
"""Limits out of the way."""
PHONES = 13_900_000_000
"""No number that was ever given out begins like this and goes on with zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one run of one task took; CPU seconds by process: workers, simulators, temporal, mariadb. The floor also
    tells how late its event loop was, 99 of 100 times, in seconds."""

    leads: int
    seconds: float
    cpu: dict[str, float]
    statements: int
    late: float = 0.0

    @property
    def rate(self) -> float:
        """Leads a second."""
        return self.leads / self.seconds


class Bench:
    """A running stack without workers; use :meth:`open`."""

    def __init__(self, stack: Stack, client: Client) -> None:
        self.stack = stack
        self.client = client
        self._tasks = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *simulator_arguments: str, settings: Mapping[str, str] = UNLIMITED, dialogues: bool = True
    ) -> AsyncIterator[Self]:
        """Start everything but workers.

        Args:
            simulator_arguments: options of ``python -m simulators``.
            settings: of the workers and of the floor.
            dialogues: use the dialogues beside the project where they are.
        """
        arguments = list(simulator_arguments)
        if dialogues and DIALOGUES.exists():
            arguments += ["--dialogues", str(DIALOGUES)]
        stack = Stack(workers=0, simulator_arguments=arguments, settings=settings, headless=True)
        with stack:
            await asyncio.to_thread(stack.starter, "init-db")
            yield cls(stack, await Client.connect(stack.temporal.address))

    # --- work -------------------------------------------------------------------------------------------------------

    async def task(self, leads: int, *, over: bool = True, organization: str = "") -> int:
        """A task of type 2 whose calls somebody else has dialled (``over``) or dials; returns its id."""
        self._tasks += 1
        return await asyncio.to_thread(self._make_task, leads, over, organization or f"org{self._tasks}")

    def _make_task(self, leads: int, over: bool, organization: str) -> int:
        with self.stack.mariadb.connect(self.stack.mariadb.database) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
                " VALUES ('benchmark', %s, 2, '', UTC_TIMESTAMP())",
                (organization,),
            )
            task_id = int(cursor.lastrowid)
            references = [f"{task_id}{organization}{lead}" for lead in range(1, leads + 1)]
            for start in range(0, leads, 5000):
                cursor.executemany(
                    "INSERT INTO leads_task_list (task_id, leads_id, leads_name, leads_phone, call_time, call_job_id,"
                    " reference_id) VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(), '', %s)",
                    [
                        (task_id, lead + 1, "客户", str(PHONES + lead + 1), references[lead])
                        for lead in range(start, min(start + 5000, leads))
                    ],
                )
            group = self.simulators(
                "groups",
                {
                    "name": f"benchmark-{task_id}",
                    "over": over,
                    "contacts": [
                        {"phone": str(PHONES + lead + 1), "reference": references[lead]} for lead in range(leads)
                    ],
                },
            )
            cursor.execute("UPDATE call_tasks SET job_group_id = %s WHERE id = %s", (group["id"], task_id))
        return task_id

    async def worker(self) -> Child:
        """One more worker, once it polls."""
        return await asyncio.to_thread(self.stack.start_worker)

    async def start(self, task_id: int, options: Mapping[str, float] | None = None) -> WorkflowHandle[Any, Any]:
        """Start the workflow of a task."""
        given = {"task_id": task_id} | ({"options": dict(options)} if options else {})
        return await self.client.start_workflow(WORKFLOW, given, id=workflow_id(task_id), task_queue=CALL_TASKS)

    async def run(self, task_id: int, leads: int, *workers: Child, options: Mapping[str, float] | None = None) -> Ran:
        """Run a task to its end with workers that poll already."""
        with self.metering(*workers) as meter, self.questions() as questions:
            began = monotonic()
            result = await (await self.start(task_id, options)).result()
            seconds = monotonic() - began
        assert result["outcome"] == "complete" and result["follow_ups"] == leads, result
        return Ran(leads=leads, seconds=seconds, cpu=meter, statements=questions[0])

    @contextmanager
    def metering(self, *workers: Child, **others: Child) -> Iterator[dict[str, float]]:
        """CPU seconds of all processes within the block, and of ``others``; filled in at its end."""
        processes = {
            "simulators": [self.stack.simulators],
            "temporal": [self.stack.temporal.process],
            "mariadb": [self.stack.mariadb.process],
            "workers": list(workers),
            **{name: [child] for name, child in others.items()},
        }
        before = {name: sum(map(cpu_seconds, children)) for name, children in processes.items()}
        spent: dict[str, float] = {}
        try:
            yield spent
        finally:
            spent.update({n: sum(map(cpu_seconds, children)) - before[n] for n, children in processes.items()})

    # --- meters -----------------------------------------------------------------------------------------------------

    def simulators(self, path: str, body: object = None, *, method: str = "POST") -> Any:
        """Ask the simulators' own interface."""
        request = urllib.request.Request(
            f"{self.stack.simulator_url}/_sim/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method if body is not None else "GET",
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=300) as answer:
            return json.loads(answer.read())

    def stats(self) -> dict[str, Any]:
        """The simulators' counts since their last reset."""
        answer: dict[str, Any] = self.simulators("stats?series", None)
        return answer

    @contextmanager
    def questions(self) -> Iterator[list[int]]:
        """Statements that the database counted within the block, without the two that ask for the count."""
        with self.stack.mariadb.connect(self.stack.mariadb.database) as connection, connection.cursor() as cursor:

            def count() -> int:
                cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
                return int(cursor.fetchone()[1])

            asked: list[int] = []
            before = count()
            yield asked
            asked.append(count() - before - 1)

    def value(self, statement: str, *parameters: object) -> Any:
        """The first value that a statement yields."""
        with self.stack.mariadb.connect(self.stack.mariadb.database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchone()[0]

    def group_of(self, task_id: int) -> str:
        """The task's job group."""
        return str(self.value("SELECT job_group_id FROM call_tasks WHERE id = %s", task_id))

    def followed_up(self, task_id: int) -> int:
        """Rows with a follow-up so far."""
        return int(self.value("SELECT COUNT(*) FROM call_follow_ups WHERE task_id = %s", task_id))

    async def typed(self, task_id: int, task_type: int, seconds: float = 600) -> float:
        """Wait until the task is of this type; returns the Unix time at which it was seen."""
        await self.until(
            lambda: self.value("SELECT task_type FROM call_tasks WHERE id = %s", task_id) == task_type, seconds
        )
        return time()

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait, looking twenty times a second.

        Raises:
            TimeoutError: it took longer than ``seconds``.
        """
        deadline = monotonic() + seconds
        while not await asyncio.to_thread(condition):
            if monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(0.05)

    async def events(self, task_id: int) -> list[tuple[int, int]]:
        """Events and bytes of the history of each run of a task, the first run first."""
        runs = []
        async for run in self.client.list_workflows(f"WorkflowId = '{workflow_id(task_id)}'"):
            handle = self.client.get_workflow_handle(run.id, run_id=run.run_id)
            described = (await handle.describe()).raw_description.workflow_execution_info
            runs.append((run.start_time, described.history_length, described.history_size_bytes))
        return [(length, size) for _, length, size in sorted(runs)]

    async def actions(self, task_id: int) -> dict[str, int]:
        """What Temporal Cloud would bill for all runs of a task, counted from their histories.

        Heartbeats leave no event: an activity that beats sends one every BEAT_SECONDS, throttled by the SDK.
        """
        billed: Counter[str] = Counter()
        async for run in self.client.list_workflows(f"WorkflowId = '{workflow_id(task_id)}'"):
            history = await self.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
            began: dict[int, datetime] = {}
            beats = {event.event_id for event in history.events if _beats(event)}
            for event in history.events:
                if event.HasField("activity_task_started_event_attributes"):
                    started = event.activity_task_started_event_attributes
                    billed["activity attempts"] += started.attempt
                    began[started.scheduled_event_id] = event.event_time.ToDatetime()
                elif event.HasField("activity_task_completed_event_attributes"):
                    scheduled = event.activity_task_completed_event_attributes.scheduled_event_id
                    if scheduled in beats:
                        seconds = (event.event_time.ToDatetime() - began[scheduled]).total_seconds()
                        billed["heartbeats"] += int(seconds / BEAT_SECONDS)
                else:
                    name = _BILLED.get(event.WhichOneof("attributes") or "")
                    billed.update([name] if name else [])
        return dict(+billed)


_BILLED = {
    "workflow_execution_started_event_attributes": "runs started",
    "timer_started_event_attributes": "timers",
    "workflow_execution_signaled_event_attributes": "signals",
    "upsert_workflow_search_attributes_event_attributes": "search attributes",
}


def _beats(event: HistoryEvent) -> bool:
    return (
        event.HasField("activity_task_scheduled_event_attributes")
        and event.activity_task_scheduled_event_attributes.heartbeat_timeout.ToTimedelta().total_seconds() > 0
    )


class FloorProcess:
    """``python -m benchmarks.floor`` (``sdk`` or ``bare``), as long-lived as a worker; use as a context manager."""

    def __init__(self, site: Bench, how: str = "sdk") -> None:
        self._site = site
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.floor", how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=PROJECT,
            env=site.stack.environment,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        if "floor ready" not in line:
            raise RuntimeError(line + self._process.stderr.read())
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    async def run(self, task_id: int, leads: int) -> Ran:
        """Run a task to its end."""
        with self._site.metering() as meter, self._site.questions() as questions:
            answer = await asyncio.to_thread(self._ask, task_id)
        cpu = meter | {"workers": answer["cpu_seconds"]}
        late, statements = answer["late_seconds"], questions[0]
        return Ran(leads=leads, seconds=answer["seconds"], cpu=cpu, statements=statements, late=late)

    def _ask(self, task_id: int) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{task_id}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise RuntimeError("the floor ended: " + self._process.stderr.read())
        answer: dict[str, float] = json.loads(line)
        return answer


def cpu_seconds(child: Child) -> float:
    """User and system time so far of a process and of the children that it has."""
    process = psutil.Process(child.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))

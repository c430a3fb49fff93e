"""Everything goes wrong at once, at random, under a printed seed: `python -m benchmarks.chaos [--minutes 30]`.

Twenty tasks of five organisations run on the embedded stack while workers kill and freeze themselves, MariaDB and
Temporal are killed or cut off, the platform and the model fail in every way that the simulators know. Then all is well
again, the tasks come to their end, and the invariant checker (tests/faults/invariants.py) looks at what became of them.
The figures are printed as one JSON object; exit code 0 if nothing was lost, doubled or leaked.

Workers are those of tests/faults/saboteur.py: the product, with shorter timeouts for what waits for a dead worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from calltasks.call_tasks import CallTasks
from calltasks.errors import CallTasksError, NotRunningError, ServiceError, TemporalError
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from calltasks.options import Options
from devstack.stack import Stack, ended_by_signals
from tests.faults.invariants import Observer, check
from tests.faults.proxy import Proxy, proxying
from tests.faults.saboteur import Act
from tests.faults.site import Nursery, Saboteurs

TASKS, ORGANIZATIONS, WORKERS = 20, 5, 3
SIMULATION = (
    *("--time-scale", "20", "--concurrency", "20", "--seconds-per-call", "40", "--answer-rate", "0.5"),
    *("--transcript-lag", "60", "--recording-lag", "60", "--retry-rate", "0.1", "--late-rate", "0.02"),
    *("--late-lag", "100", "--cancelled-rate", "0.05", "--model-latency", "0.05,0.5"),
)
OPTIONS = Options(
    poll_first=1,
    poll_min=1,
    poll_max=5,
    match_grace=20,
    conversation_grace=20,
    retry_interval=3,
    recording_grace=20,
)
"""`late_lag` is 100 simulated seconds, 5 real ones: well within the grace, like the real one (docs/vendors.md V12)."""
PLATFORM = (
    *("status_500", "status_503", "html", "empty", "reset", "hang", "success_false", "wrong_shape"),
    *("throttle", "throttle_plain", "lost_answer", "stale", "shuffle", "missing", "vanish", "flip"),
)
MODEL = (
    *("status_429", "timeout", "status_500", "content_filter", "invalid_json", "fenced_json", "wrong_type", "fickle"),
    *("enormous", "past_time", "nonsense_time", "html", "empty", "reset"),
)
DIALLING = (("AssignJobs", "lost_late"), ("AssignJobs", "partial"), ("CreateJobGroup", "lost_late"))


class Chaos:
    """One run. `figures` counts what was done to it."""

    def __init__(self, seed: int, minutes: float, leads: int) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._seconds = minutes * 60
        self._leads = leads
        self.figures: Counter[str] = Counter()
        self.tasks: dict[int, int] = {}
        self._workers: list[Saboteurs] = []
        self._logs: list[str] = []

    async def run(self) -> dict[str, Any]:
        """Everything; returns the figures.

        Raises:
            AssertionError: the promise was broken.
        """
        began = time.monotonic()
        arguments = ("--seed", str(self._seed), *SIMULATION)
        settings = {"OUTBOUND_BOT_QPS": "200", "ANALYSIS_QPM": "60000"}
        async with AsyncExitStack() as stack:
            self._stack = stack.enter_context(
                Stack(workers=0, simulator_arguments=arguments, settings=settings, headless=True)
            )
            await asyncio.to_thread(self._stack.starter, "init-db")
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
            self._database = await stack.enter_async_context(proxying(self._stack.mariadb.port))
            self._temporal = await stack.enter_async_context(proxying(self._stack.temporal.port))
            nursery = Nursery()
            stack.callback(nursery.close)
            self._fork = partial(Saboteurs, nursery, directory)
            os.environ.update(self._stack.variables)
            observer = Observer(self._stack.mariadb.url, every=1.0)
            with observer:
                self._workers = [self._worker(number) for number in range(WORKERS)]
                await self._storm(began)
                await self._calm()
                await self._all_complete()
                self._logs += [worker.log for worker in self._workers]
                for worker in self._workers:
                    await worker.stop()
            await self._check(observer)
        self.figures["seconds"] = round(time.monotonic() - began)
        return {"seed": self._seed, **self.figures}

    def _worker(self, number: int, *, acts: int = 2000) -> Saboteurs:
        numbers = random.Random(f"{self._seed}|{number}")
        plan = [
            Act(at="", nth=round(numbers.expovariate(1 / 600)) + 1, do=numbers.choice(("kill", "kill", "kill", "stop")))
            for _ in range(acts)
        ]
        environment = dict(self._stack.environment)
        url = environment["DATABASE_URL"]
        environment["DATABASE_URL"] = url.replace(f":{self._stack.mariadb.port}/", f":{self._database.port}/")
        environment["TEMPORAL_ADDRESS"] = f"127.0.0.1:{self._temporal.port}"
        return self._fork(f"worker-{number}", plan, environment)

    # --- the storm --------------------------------------------------------------------------------------------------

    async def _storm(self, began: float) -> None:
        """Tasks begin over the first two thirds; something happens every few seconds until the time is over."""
        starts = [self._seconds * 2 / 3 * number / TASKS for number in range(TASKS)]
        happenings: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._faults, 10),
            (self._thaw, 8),
            (self._kill_database, 2),
            (self._kill_temporal, 1),
            (lambda: self._cut(self._database, "database_cuts"), 3),
            (lambda: self._cut(self._temporal, "temporal_cuts"), 2),
            (self._cut_commits, 4),
            (self._drop_connections, 3),
            (self._read_only, 1),
            (self._people, 4),
        ]
        whats, weights = [what for what, _ in happenings], [weight for _, weight in happenings]
        while (elapsed := time.monotonic() - began) < self._seconds:
            if starts and elapsed >= starts[0]:
                starts.pop(0)
                await self._begin_task()
            await self._random.choices(whats, weights)[0]()
            await asyncio.sleep(self._random.uniform(0.5, 4))
        while starts:
            starts.pop()
            await self._begin_task()

    async def _begin_task(self) -> None:
        number = len(self.tasks)
        organization = f"dealer-{number % ORGANIZATIONS}"
        first = 1 + number * self._leads
        with self._stack.mariadb.connect(self._stack.mariadb.database) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO dcc_leads (leads_id, organization_id, leads_user_name, leads_user_phone)"
                " VALUES (%s, %s, %s, %s)",
                [
                    (lead, organization, f"混沌客户{lead:06}", f"139{lead:08}")
                    for lead in range(first, first + self._leads)
                ],
            )
        ids = list(range(first, first + self._leads))
        while True:
            try:
                async with CallTasks.connect(temporal=False) as calls:
                    task_id = await calls.create_task(organization, "chaos", ids)
                break
            except ServiceError:
                await asyncio.sleep(0.5)
        self.tasks[task_id] = self._leads
        await self._start(task_id)

    async def _start(self, task_id: int) -> None:
        """As often as it takes: Temporal may just be down."""
        while True:
            try:
                client = await Client.connect(self._stack.temporal.address)
                given = {"task_id": task_id, "options": OPTIONS.model_dump()}
                timeout = timedelta(seconds=2)
                await client.start_workflow(
                    WORKFLOW, given, id=workflow_id(task_id), task_queue=CALL_TASKS, task_timeout=timeout
                )
                return
            except (RPCError, RuntimeError):
                await asyncio.sleep(0.5)

    async def _faults(self) -> None:
        """Some faults at a tenth to all of the calls, for a while; then none."""
        numbers = self._random
        faults: list[dict[str, Any]] = [
            {"target": "*", "kind": kind, "rate": numbers.choice((0.1, 0.1, 0.3, 1.0)), "seconds": seconds_of(kind, 2)}
            for kind in numbers.sample(PLATFORM, numbers.randint(1, 4))
        ]
        faults += [
            {"target": "model", "kind": kind, "rate": numbers.choice((0.1, 0.3, 1.0)), "seconds": seconds_of(kind, 1)}
            for kind in numbers.sample(MODEL, numbers.randint(0, 3))
        ]
        faults[:0] = [
            {"target": target, "kind": kind, "rate": 0.5, "seconds": 100}
            for target, kind in numbers.sample(DIALLING, numbers.randint(0, 2))
        ]
        await self._post("faults", faults)
        await asyncio.sleep(numbers.uniform(2, 10))
        await self._post("faults", [])

    async def _thaw(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 8))
        for worker in self._workers:
            worker.thaw()

    async def _kill_database(self) -> None:
        self.figures["database_kills"] += 1
        await asyncio.to_thread(self._stack.mariadb.kill)
        await asyncio.sleep(self._random.uniform(0, 3))
        await asyncio.to_thread(self._stack.mariadb.start)

    async def _kill_temporal(self) -> None:
        self.figures["temporal_kills"] += 1
        await asyncio.to_thread(self._stack.temporal.kill)
        await asyncio.sleep(self._random.uniform(0, 3))
        await asyncio.to_thread(self._stack.temporal.start)

    async def _cut(self, proxy: Proxy, name: str) -> None:
        self.figures[name] += 1
        await proxy.shut()
        await asyncio.sleep(self._random.uniform(0.1, 8))
        proxy.reopen()

    async def _cut_commits(self) -> None:
        self._database.before += self._random.randint(0, 3)
        self._database.after += self._random.randint(0, 3)

    async def _drop_connections(self) -> None:
        self.figures["connections_dropped"] += 1
        await asyncio.to_thread(self._stack.mariadb.disconnect)

    async def _read_only(self) -> None:
        self.figures["read_only_times"] += 1
        await self._as_root("SET GLOBAL read_only = 1")
        await asyncio.sleep(self._random.uniform(0.5, 4))
        await self._as_root("SET GLOBAL read_only = 0")

    async def _as_root(self, statement: str) -> None:
        with self._stack.mariadb.connect(root=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    async def _people(self) -> None:
        """Signals, a second start, somebody who looks at the calls."""
        if not self.tasks:
            return
        task_id = self._random.choice(list(self.tasks))
        self.figures["commands"] += 1
        try:
            async with CallTasks.connect() as calls, asyncio.timeout(20):
                match self._random.randrange(6):
                    case 0:
                        await calls.signal(task_id, "refresh")
                    case 1:
                        await calls.start_call(task_id, OPTIONS)
                    case 2:
                        await calls.signal(task_id, "pause_calls")
                        await calls.signal(task_id, "resume_calls")
                    case 3:
                        await calls.force_analyze(task_id, every=True)
                    case 4:
                        await calls.force_analyze(task_id, failed=True)
                    case _:
                        await calls.query_task_execution(task_id, skip_recording=False)
        except (CallTasksError, TimeoutError):
            self.figures["commands_refused"] += 1

    # --- the calm ---------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """Nothing goes wrong any more, but for the workers, who are given an ordinary life."""
        await self._post("faults", [])
        self._database.before = self._database.after = 0
        self._database.reopen()
        self._temporal.reopen()
        for worker in self._workers:
            await worker.stop()
            self.figures["worker_kills"] += sum(act[2] == "kill" for act in worker.acts)
            self.figures["worker_freezes"] += sum(act[2] == "stop" for act in worker.acts)
            self._logs.append(worker.log)
        self._workers = [self._worker(99, acts=0)]
        for task_id in self.tasks:
            # A pause whose resume got lost would hold calls for ever: people take it back.
            async with CallTasks.connect() as calls:
                with suppress(NotRunningError, TemporalError):
                    await calls.signal(task_id, "resume_calls")

    async def _all_complete(self) -> None:
        client = await Client.connect(self._stack.temporal.address)
        deadline = time.monotonic() + 600

        async def complete(task_id: int) -> None:
            while time.monotonic() < deadline:
                try:
                    async with asyncio.timeout(20):
                        await client.get_workflow_handle(workflow_id(task_id)).result()
                        return
                except TimeoutError:
                    for worker in self._workers:
                        worker.thaw()
                except WorkflowFailureError as failure:
                    raise AssertionError(f"C: task {task_id} failed: {failure.cause}") from None
            raise AssertionError(f"C: task {task_id} did not end within 600 s after the last fault")

        await asyncio.gather(*map(complete, self.tasks))

    async def _check(self, observer: Observer) -> None:
        stats = await self._get("stats")
        groups = await self._get("groups")
        truth = {group["id"]: await self._get(f"groups/{group['id']}/jobs") for group in groups}
        client = await Client.connect(self._stack.temporal.address)
        self.figures["faults_answered"] = sum(stats["faults"].values())
        self.figures["commits_cut"] = self._database.cut
        self.figures["platform_calls"], self.figures["model_calls"] = stats["platform_calls"], stats["model_calls"]
        self.figures.update(
            await check(
                database_url=self._stack.mariadb.url,
                tasks=self.tasks,
                stats=stats,
                truth=truth,
                client=client,
                logs=self._logs,
                observer=observer,
            )
        )
        self.figures["tasks"] = len(self.tasks)

    async def _post(self, path: str, body: object) -> Any:
        return await asyncio.to_thread(self._ask, path, json.dumps(body).encode())

    async def _get(self, path: str) -> Any:
        return await asyncio.to_thread(self._ask, path, None)

    def _ask(self, path: str, body: bytes | None) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._stack.simulator_url}/_sim/{path}", body, timeout=30) as answer:
            return json.loads(answer.read())


def seconds_of(kind: str, short: float) -> float:
    """Simulated seconds of a lag or a disappearance are twenty to a real one; a hang outlasts the client's patience."""
    return {"hang": 12.0, "timeout": 3.0, "stale": 60.0, "vanish": 60.0, "throttle": 0.5}.get(kind, short)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long things go wrong (default 30)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="of everything random")
    parser.add_argument("--leads", type=int, default=150, help="a task (default 150)")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.minutes:g} minutes", file=sys.stderr)
    chaos = Chaos(given.seed, given.minutes, given.leads)
    try:
        with ended_by_signals():
            figures = asyncio.run(chaos.run())
    except AssertionError as broken:
        print(broken, file=sys.stderr)
        print(json.dumps({"seed": given.seed, "broken": True, **chaos.figures}))
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

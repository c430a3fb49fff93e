"""What the scenarios share: sabotaged workers beside a `Site`, and one call that ends a run with the checker."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pymysql.cursors import DictCursor
from temporalio.client import Client

from calltasks.call_tasks import CallTasks
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from calltasks.options import Options
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import Contact, Fault, SimulatorOptions, Simulators, running
from tests.faults.invariants import Excused, Observer, check
from tests.faults.saboteur import CLOCK, EVENTS, PASSAGES, PLAN, Act, plan_of
from tests.pipeline import PATIENCE, QUICK, LogLines, Site, Sites, environment, new_namespace

PROJECT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("FAULTS_SEED", "4"))
LONG = bool(os.environ.get("FAULTS_LONG"))
"""Everything more often and for longer: `FAULTS_LONG=1 make faults`."""
PATIENT = QUICK.model_copy(
    update={"match_grace": 6, "conversation_grace": 3, "retry_interval": 0.3, "recording_grace": 3}
)
"""Everything soon, but with time for what the platform shows late."""


class Nursery:
    """The process of which sabotaged workers are forked, so that the product is imported once a session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.saboteur"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            start_new_session=True,
        )

    def fork(self, log: Path, environment: Mapping[str, str]) -> int:
        """The process id of a new supervisor."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"log": str(log), "environment": dict(environment)}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Kill what is left of its children, and end it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Saboteurs:
    """Workers that sabotage themselves; `log` is everything they said, `acts` what they did to themselves."""

    def __init__(
        self, nursery: Nursery, directory: Path, name: str, acts: Sequence[Act], settings: Mapping[str, str]
    ) -> None:
        self._log = directory / f"{name}.log"
        self._events = directory / f"{name}.events"
        self._passages = directory / f"{name}.passages"
        files = {PLAN: plan_of(acts), EVENTS: str(self._events), PASSAGES: str(self._passages)}
        self.pid = nursery.fork(self._log, dict(os.environ) | files | dict(settings))

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    @property
    def acts(self) -> list[tuple[int, int, str, str]]:
        """Life, process id, act and boundary of everything that was struck."""
        text = self._events.read_text() if self._events.exists() else ""
        return [(life, pid, do, at) for life, pid, do, at in map(json.loads, text.splitlines())]

    @property
    def passages(self) -> Counter[str]:
        """How often each boundary was crossed, in the order of the first crossing."""
        return Counter(self._passages.read_text().splitlines())

    def thaw(self) -> None:
        """SIGCONT to every life that stopped itself."""
        for _, pid, do, _ in self.acts:
            if do == "stop":
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def stop(self) -> None:
        """End it in good order; by force after a while."""
        self.thaw()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            await until(lambda: not alive(self.pid), "the saboteur ended")
        except TimeoutError:
            self.signal(signal.SIGKILL)
            raise


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def sabotaged(
    nursery: Nursery,
    site: Site,
    directory: Path,
    *acts: Act,
    name: str = "saboteur",
    clock: float = 0,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Saboteurs]:
    """A worker whose lives carry out these acts one after the other, for as long as the block lasts."""
    saboteurs = Saboteurs(nursery, directory, name, acts, site.environment | dict(settings or {}) | {CLOCK: str(clock)})
    try:
        if not acts:
            await until(lambda: "worker ready" in saboteurs.log, "a worker is ready")
        yield saboteurs
    finally:
        await saboteurs.stop()


class OwnSite(Site):
    """A site whose database may be killed: every statement has a connection of its own."""

    def __init__(
        self,
        client: Client,
        sim: Simulators,
        mariadb: EmbeddedMariaDB,
        variables: dict[str, str],
        patch: pytest.MonkeyPatch,
    ) -> None:
        connection = mariadb.connect(mariadb.database, cursorclass=DictCursor)
        super().__init__(client, sim, connection, variables, patch)
        connection.close()
        self._mariadb = mariadb

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        connection = self._mariadb.connect(self._mariadb.database, cursorclass=DictCursor)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def insert(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            marks = ", ".join(["%s"] * len(row))
            self.sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())


@asynccontextmanager
async def own_site(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch, world: SimulatorOptions
) -> AsyncIterator[Site]:
    """A site on a database server of its own, which the test may kill."""
    async with running(world) as sim:
        namespace = f"test-{secrets.token_hex(6)}"
        client = await new_namespace(temporal, namespace)
        variables = environment(sim.url, temporal, namespace, mariadb.url)
        site = OwnSite(client, sim, mariadb, variables, monkeypatch)
        site.enter_environment()
        async with CallTasks.connect(temporal=False) as calls:
            await calls.init_db()
        yield site


async def start(site: Site, task_id: int, options: Options = PATIENT) -> None:
    """Start a task's workflow; its own tasks are handed on soon after a worker died."""
    await site.client.start_workflow(
        WORKFLOW,
        {"task_id": task_id, "options": options.model_dump()},
        id=workflow_id(task_id),
        task_queue=CALL_TASKS,
        task_timeout=timedelta(seconds=2),
    )


async def create(site: Site, leads: int, *, organization: str = "org7", first: int = 1) -> int:
    """A task of so many new leads."""
    site.add_leads(leads, first=first, organization=organization)
    site.enter_environment()
    async with CallTasks.connect(temporal=False) as calls:
        return await calls.create_task(organization, "autumn sale", list(range(first, first + leads)))


def answered_by_hand(site: Site, task_id: int, sayings: Callable[[int], str]) -> None:
    """A group that somebody else made for the task; the customer of each row answers and says what belongs to it."""
    contacts = [
        Contact(
            phone=row["leads_phone"],
            reference=row["reference_id"],
            outcome="Succeeded",
            turns=(("Robot", "您好"), ("Contact", sayings(number))),
        )
        for number, row in enumerate(site.rows(task_id))
    ]
    group = site.sim.world.add_group("by-hand", contacts)
    site.sql("UPDATE call_tasks SET job_group_id = %s, task_type = 2 WHERE id = %s", group.id, task_id)


def truth(site: Site) -> dict[str, list[dict[str, Any]]]:
    """Every group of the platform with its jobs."""
    return {group.id: site.sim.world.truth(group) for group in site.sim.world.groups.values()}


async def verify(
    site: Site,
    tasks: Mapping[int, int],
    observer: Observer | None,
    *,
    logs: Sequence[str] = (),
    excused: Excused | None = None,
) -> Counter[str]:
    """The checker, on a site."""
    return await check(
        database_url=site.environment["DATABASE_URL"],
        tasks=tasks,
        stats=site.stats(),
        truth=truth(site),
        client=site.client,
        logs=logs,
        observer=observer,
        excused=excused,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One task on a site of its own, under faults of the simulators."""

    faults: Sequence[Fault] = ()
    world: SimulatorOptions = field(default_factory=lambda: SimulatorOptions(seed=SEED, calls_over=True))
    leads: int = 120
    options: Options = PATIENT
    excused: Excused | None = None
    struck: bool = True


async def survive(sites: Sites, cases: Mapping[str, Case]) -> None:
    """Run every case to its end, all at once, each with workers of its own, and check each.

    Raises:
        AssertionError: naming every case that broke the promise, and how.
    """
    problems: dict[str, str] = {}

    async def finish(name: str, case: Case, site: Site, task_id: int, observer: Observer) -> None:
        try:
            result = await site.result(task_id)
            assert result["outcome"] == "complete", result
            assert not case.struck or site.sim.faults.counts, "no fault struck"
            assert result["called"] == case.leads, f"{result['called']} of {case.leads} were called"
            site.sim.set_faults()
            tasks = {task_id: case.leads}
            await verify(site, tasks, observer, logs=["\n".join(logs.lines)], excused=case.excused)
        except AssertionError as error:
            problems[name] = str(error)

    with LogLines() as logs:
        async with AsyncExitStack() as stack:
            runs = []
            for name, case in cases.items():
                site = await sites(case.world)
                task_id = await create(site, case.leads)
                observer = stack.enter_context(observing(site, every=0.3))
                await stack.enter_async_context(site.working())
                site.sim.set_faults(*case.faults)
                await start(site, task_id, case.options)
                runs.append(finish(name, case, site, task_id, observer))
            await asyncio.gather(*runs)
    assert not problems, "\n".join(f"--- {name}\n{text[:1500]}" for name, text in problems.items())


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds, leaving the event loop to others.

    Raises:
        TimeoutError: it did not, and what that was.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  (files and other processes set no event)
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"not within {PATIENCE} s: {what}") from None


def observing(site: Site, *, every: float = 0.1, excused: Excused | None = None) -> Observer:
    """Watches a site's database."""
    return Observer(site.environment["DATABASE_URL"], every=every, excused=excused)

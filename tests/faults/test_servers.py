"""Temporal and MariaDB die, restart, refuse, and are cut off."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pymysql
import pytest

from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions
from tests.faults.invariants import connect
from tests.faults.proxy import Proxy, proxying
from tests.faults.saboteur import Act
from tests.faults.site import (
    LONG,
    SEED,
    Nursery,
    answered_by_hand,
    create,
    observing,
    own_site,
    sabotaged,
    start,
    until,
    verify,
)
from tests.pipeline import Site, Sites, opening_sites

WORLD = SimulatorOptions(
    seed=SEED,
    seconds_per_call=2,
    time_scale=2,
    transcript_lag=1,
    recording_lag=1,
    retry_after=1,
    model_latency=(0.01, 0.05),
)
LEADS = 120 if LONG else 30
SMALL_DISK = ("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:40M")
"""All tables in one file that must not grow further: what InnoDB says of it is what it says of a full disk."""


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[EmbeddedMariaDB]:
    """One that may be killed: what it has acknowledged is on the disk."""
    server = EmbeddedMariaDB(tmp_path / "mariadb", options=["--innodb-lock-wait-timeout=2"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_temporal(tmp_path: Path) -> Iterator[EmbeddedTemporal]:
    server = EmbeddedTemporal(tmp_path / "temporal", headless=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def own_database(
    own_mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    async with own_site(own_mariadb, temporal, monkeypatch, WORLD) as site:
        yield site


@pytest.fixture
async def own_temporal_sites(
    mariadb: EmbeddedMariaDB, own_temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(mariadb, own_temporal, monkeypatch) as sites:
        yield sites


async def follow_ups(site: Site, url: str, count: int) -> None:
    """Wait until so many follow-ups exist."""

    def enough() -> bool:
        try:
            connection = connect(url)
        except (pymysql.MySQLError, OSError):
            return False
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) AS n FROM dcc_leads_follow")
            return int(cursor.fetchall()[0]["n"]) >= count

    await until(enough, f"{count} follow-ups")


async def test_mariadb_killed_and_restarted(
    own_database: Site, own_mariadb: EmbeddedMariaDB, nursery: Nursery, tmp_path: Path
) -> None:
    """`kill -9` in dispatch, among the calls and among the follow-ups; a second or two without it."""
    site = own_database
    url = site.environment["DATABASE_URL"]
    task_id = await create(site, LEADS)
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path, Act(at="request AssignJobs after", do="stop")) as worker:
            await start(site, task_id)
            for wanted in range(10 if LONG else 3):
                if wanted:
                    await follow_ups(site, url, wanted * 8)
                else:
                    await until(lambda: bool(worker.acts), "the batch was sent")
                await asyncio.to_thread(own_mariadb.kill)
                worker.thaw()
                await asyncio.sleep(1)  # The time without a database is the fault itself.
                await asyncio.to_thread(own_mariadb.start)
            await site.result(task_id)
    assert observer.outages
    await verify(site, {task_id: LEADS}, observer, logs=[worker.log])


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_connection_cut_at_commit(
    sites: Sites, mariadb: EmbeddedMariaDB, nursery: Nursery, tmp_path: Path, moment: str
) -> None:
    """Every second COMMIT loses its connection, before or after it counted."""
    site = await sites(WORLD)
    async with proxying(mariadb.port) as proxy:
        through = site.environment["DATABASE_URL"].replace(f":{mariadb.port}/", f":{proxy.port}/")
        task_id = await create(site, LEADS)
        with observing(site) as observer:
            async with sabotaged(nursery, site, tmp_path, settings={"DATABASE_URL": through}) as worker:
                setattr(proxy, moment, 8)
                await start(site, task_id)
                await site.result(task_id)
    assert proxy.cut >= 2
    await verify(site, {task_id: LEADS}, observer, logs=[worker.log])


class Nuisance:
    """A thread that does something to the database again and again."""

    def __init__(self, connection: "pymysql.Connection[pymysql.cursors.DictCursor]", *statements: str) -> None:
        self._connection = connection
        self._statements = statements
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done = 0

    def __enter__(self) -> "Nuisance":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(30)
        self._connection.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for statement in self._statements:
                try:
                    if statement.startswith("sleep "):
                        self._stopped.wait(float(statement.removeprefix("sleep ")))
                    else:
                        with self._connection.cursor() as cursor:
                            cursor.execute(statement)
                    self.done += 1
                except pymysql.MySQLError:
                    # The victim of a deadlock may be us; the transaction is gone, the next round begins one.
                    self._connection.rollback()
                    break


NUISANCES = {
    "deadlocks": (
        "BEGIN",
        "UPDATE leads_task_list SET leads_name = leads_name WHERE id % 7 = 3 ORDER BY id DESC",
        "sleep 0.02",
        "UPDATE leads_task_list SET leads_name = leads_name WHERE id % 7 = 5 ORDER BY id DESC",
        "UPDATE call_rate_limits SET next_at = next_at",
        "COMMIT",
        "sleep 0.05",
    ),
    "lock-waits": (
        "BEGIN",
        "SELECT id FROM leads_task_list FOR UPDATE",
        "sleep 2.5",
        "COMMIT",
        "sleep 1",
    ),
    "read-only": ("SET GLOBAL read_only = 1", "sleep 1.5", "SET GLOBAL read_only = 0", "sleep 1.5"),
    "killed-connections": ("KILL_ALL", "sleep 0.7"),
    "too-many-connections": (
        "SET GLOBAL max_connections = 10",
        "sleep 2",
        "SET GLOBAL max_connections = 151",
        "sleep 1",
    ),
    "small-packets": (
        "SET GLOBAL max_allowed_packet = 4096",
        "sleep 2",
        "SET GLOBAL max_allowed_packet = 16777216",
        "sleep 2",
    ),
}


@pytest.mark.parametrize("name", NUISANCES)
async def test_database_that_refuses(
    own_database: Site, own_mariadb: EmbeddedMariaDB, nursery: Nursery, tmp_path: Path, name: str
) -> None:
    """Deadlocks, lock waits, a read-only server, killed and refused connections, small packets; then all is well."""
    site = own_database
    task_id = await create(site, LEADS)
    root = own_mariadb.connect(own_mariadb.database, root=True)
    statements = NUISANCES[name]
    if name == "killed-connections":
        root.close()
        root = _Killer(own_mariadb)
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path) as worker:
            with Nuisance(root, *statements) as nuisance:
                await start(site, task_id)
                await asyncio.sleep(60 if LONG else 6)  # The time under the fault is the fault itself.
                assert nuisance.done
            with own_mariadb.connect(root=True) as connection, connection.cursor() as cursor:
                for variable, value in (("read_only", 0), ("max_connections", 151), ("max_allowed_packet", 16777216)):
                    cursor.execute(f"SET GLOBAL {variable} = {value}")
            await site.result(task_id)
    await verify(site, {task_id: LEADS}, observer, logs=[worker.log])


async def test_a_full_disk(
    temporal: EmbeddedTemporal, nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long transcripts come in and nothing can be written any more; then somebody gives it a bigger disk."""
    server = EmbeddedMariaDB(tmp_path / "mariadb", options=SMALL_DISK)
    server.start()
    try:
        async with own_site(server, temporal, monkeypatch, WORLD) as site:
            task_id = await create(site, LEADS)
            answered_by_hand(site, task_id, lambda _: "我想试驾，多少钱？" + "嗯" * 50_000)
            with observing(site) as observer:
                async with sabotaged(nursery, site, tmp_path) as worker:
                    await asyncio.to_thread(_fill, server)
                    await start(site, task_id)
                    await until(lambda: " 1114" in worker.log, "the disk is full")
                    await asyncio.sleep(60 if LONG else 3)  # The time under the fault is the fault itself.
                    # In a file that is full not even a table can be dropped: it takes a bigger one.
                    server.options.remove(SMALL_DISK[-1])
                    await asyncio.to_thread(server.restart)
                    await site.result(task_id)
            await verify(site, {task_id: LEADS}, observer, logs=[worker.log])
    finally:
        server.stop()


def _fill(server: EmbeddedMariaDB) -> None:
    """Take all the room there is, down to the last page."""
    with server.connect(server.database, root=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE filler (filling LONGBLOB) ENGINE = InnoDB")
        for size in (4_000_000, 200_000, 8_000, 100):
            try:
                while True:
                    cursor.execute("INSERT INTO filler VALUES (REPEAT('x', %s))", (size,))
            except pymysql.MySQLError as error:
                assert error.args[0] == 1114, error.args[0]


class _Killer:
    """Looks like a connection; its one statement kills the connections of everybody but root."""

    def __init__(self, server: EmbeddedMariaDB) -> None:
        self._server = server

    def cursor(self) -> "_Killer":
        return self

    def __enter__(self) -> "_Killer":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def execute(self, _: str) -> None:
        self._server.disconnect()

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass


async def test_temporal_killed_and_restarted(
    own_temporal_sites: Sites, own_temporal: EmbeddedTemporal, nursery: Nursery, tmp_path: Path
) -> None:
    """`kill -9` of the server, three times in a run; it starts on the same file again."""
    site = await own_temporal_sites(WORLD)
    task_id = await create(site, LEADS)
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path) as worker:
            await start(site, task_id)
            for wanted in range(10 if LONG else 3):
                await follow_ups(site, site.environment["DATABASE_URL"], 1 + wanted * 9)
                await asyncio.to_thread(own_temporal.kill)
                await asyncio.to_thread(own_temporal.start)
            await site.result(task_id)
        await verify(site, {task_id: LEADS}, observer, logs=[worker.log])


@pytest.mark.parametrize("way", ["cut", "held"])
async def test_network_to_temporal_lost(
    sites: Sites, temporal: EmbeddedTemporal, nursery: Nursery, tmp_path: Path, way: str
) -> None:
    """One of two workers loses Temporal, in the middle of a batch, while its way to the platform stays open; the other
    one takes over. Then the first one is back."""
    seconds = 60 if LONG else 10
    site = await sites(SimulatorOptions(seed=SEED, calls_over=True))
    async with proxying(temporal.port) as proxy:
        task_id = await create(site, LEADS)
        through = {"TEMPORAL_ADDRESS": f"127.0.0.1:{proxy.port}"}
        act = Act(at="sql claim SELECT leads_task_list after", do="stop")
        with observing(site) as observer:
            async with sabotaged(nursery, site, tmp_path, act, name="cut-off", settings=through) as first:
                await start(site, task_id)
                await until(lambda: bool(first.acts), "in the middle of a batch")
                await _lose(proxy, way)
                first.thaw()
                async with sabotaged(nursery, site, tmp_path, name="other") as second:
                    began = time.monotonic()
                    await site.result(task_id)
                    await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
                    proxy.reopen()
                    proxy.resume()
        await verify(site, {task_id: LEADS}, observer, logs=[first.log, second.log])


async def _lose(proxy: Proxy, way: str) -> None:
    if way == "cut":
        await proxy.shut()
    else:
        proxy.hold()

"""An address that splits reads from writes (PolarDB's cluster address, ProxySQL, MaxScale), before a real MariaDB
replica that is some seconds late: nobody is dialled twice; an address that splits transactions too is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymysql.connections import Connection

import calltasks.database.connection
import calltasks.database.session
import worker
from calltasks.database import endpoint
from calltasks.database.connection import Database
from calltasks.errors import SchemaError
from calltasks.settings import DatabaseSettings, load
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import Fault
from tests.pipeline import QUICK, Site, Sites, eventually, opening_sites

LATE = 2
"""Seconds that the replica is behind: longer than all of dispatch takes without faults."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedMariaDB, EmbeddedMariaDB]]:
    """A primary and its replica."""
    directory = tmp_path_factory.mktemp("pair")
    logged = ["--log-bin=bin", "--server-id=1", "--binlog-format=ROW"]
    primary = EmbeddedMariaDB(directory / "primary", relaxed=True, options=logged)
    replica = EmbeddedMariaDB(directory / "replica", relaxed=True, options=["--server-id=2"])
    try:
        primary.start()
        replica.start()
        with primary.connect(root=True) as there, there.cursor() as cursor:
            cursor.execute("CREATE USER 'copy'@'127.0.0.1' IDENTIFIED BY 'copy'")
            cursor.execute("GRANT REPLICATION SLAVE ON *.* TO 'copy'@'127.0.0.1'")
            cursor.execute("SHOW MASTER STATUS")
            file, position, *_ = cursor.fetchone()
        with replica.connect(root=True) as here, here.cursor() as cursor:
            cursor.execute(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %s, MASTER_USER = 'copy',"
                " MASTER_PASSWORD = 'copy', MASTER_LOG_FILE = %s, MASTER_LOG_POS = %s, MASTER_DELAY = %s",
                (primary.port, file, position, LATE),
            )
            cursor.execute("START SLAVE")
        yield primary, replica
    finally:
        replica.stop()
        primary.stop()


class Splitter:
    """Where the statements of one connection of the product go.

    `plain`: what is read outside of transactions is read from the replica; `unlocked`: also what a transaction reads
    before it has locked or written anything; `everything`: all that is read without a lock.
    """

    def __init__(self, connection: Any, replica: EmbeddedMariaDB, mode: str, routed: Counter[str]) -> None:
        self._database = connection.db.decode() if isinstance(connection.db, bytes) else connection.db
        self._replica, self._mode, self._routed = replica, mode, routed
        self._there: Any = None
        self._within = self._locked = False

    def takes(self, statement: str) -> Any:
        """The connection to the replica, if the statement goes there."""
        first = statement.split(maxsplit=1)[0].upper()
        if first in ("START", "COMMIT", "ROLLBACK"):
            self._within, self._locked = first == "START", False
            return None
        if first != "SELECT" or "FOR UPDATE" in statement or " FROM " not in statement:
            self._locked = self._locked or first != "SELECT" or "FOR UPDATE" in statement
            return None
        copies = {"plain": not self._within, "unlocked": not (self._within and self._locked), "everything": True}
        if not copies[self._mode] or "information_schema" in statement:
            return None
        self._routed["replica"] += 1
        if self._there is None:
            self._there = self._replica.connect(self._database, root=True)
        return self._there


Split = Any


@pytest.fixture
def split(pair: tuple[EmbeddedMariaDB, EmbeddedMariaDB], monkeypatch: pytest.MonkeyPatch) -> Split:
    """`split(mode)`: from now on the product's connections go through such an address; how much was read elsewhere."""
    query, prepare = Connection.query, calltasks.database.session.prepare

    def begin(mode: str) -> Counter[str]:
        routed: Counter[str] = Counter()

        def prepared(connection: Any, zone: Any) -> None:
            prepare(connection, zone)
            connection.splitter = Splitter(connection, pair[1], mode, routed)

        def asking(connection: Any, statement: Any, unbuffered: bool = False) -> int:
            splitter = getattr(connection, "splitter", None)
            text = statement if isinstance(statement, str) else bytes(statement).decode("utf-8", "replace")
            there = splitter.takes(text) if splitter else None
            if there is None:
                return query(connection, statement, unbuffered)
            count = query(there, text)
            connection._result = there._result
            return count

        monkeypatch.setattr(calltasks.database.connection, "prepare", prepared)
        monkeypatch.setattr(Connection, "query", asking)
        return routed

    return begin


@pytest.fixture
async def pair_sites(
    pair: tuple[EmbeddedMariaDB, EmbeddedMariaDB], temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(pair[0], temporal, monkeypatch) as sites:
        yield sites


async def copied(site: Site, replica: EmbeddedMariaDB, task_id: int) -> None:
    """Wait until the replica knows the task."""
    database = site.environment["DATABASE_URL"].rsplit("/", 1)[1]

    async def there() -> bool:
        try:
            with replica.connect(database, root=True) as copy, copy.cursor() as cursor:
                return bool(cursor.execute("SELECT 1 FROM leads_task_list WHERE task_id = %s", (task_id,)))
        except Exception:
            return False

    await eventually(there)


@pytest.mark.parametrize("mode", ["plain", pytest.param("unlocked", marks=pytest.mark.long)])
async def test_late_reads_dial_nobody_twice(
    pair: tuple[EmbeddedMariaDB, EmbeddedMariaDB], pair_sites: Sites, split: Split, mode: str
) -> None:
    site = await pair_sites()
    site.add_leads(120)
    task_id = await site.create_task()
    await copied(site, pair[1], task_id)
    lost = (("CreateJobGroup", "lost_answer"), ("AssignJobs", "lost_answer"), ("AssignJobs", "partial"))
    site.sim.set_faults(*(Fault(target=target, kind=kind, count=1) for target, kind in lost))
    routed = split(mode)
    async with site.working():
        result = await site.run(task_id, QUICK.model_copy(update={"match_grace": 4}))
    assert routed["replica"] and site.sim.faults.counts.total() == 3
    assert result["called"] == 120
    assert site.stats()["dialled_twice"] == []
    assert site.sim.outbound_bot.contacts_assigned == 120


async def test_an_address_that_answers_transactions_from_a_copy_is_refused(pair_sites: Sites, split: Split) -> None:
    site = await pair_sites()
    site.enter_environment()
    split("everything")
    with pytest.raises(SchemaError, match="the primary's own address") as refusal:
        async with worker.workers(site.client):
            pass
    assert "\n" not in str(refusal.value)


async def test_a_read_only_server_is_refused(pair: tuple[EmbeddedMariaDB, EmbeddedMariaDB], pair_sites: Sites) -> None:
    site = await pair_sites()
    site.enter_environment()
    database = Database(load(DatabaseSettings))
    try:
        await endpoint.check(database)
        with pair[0].connect(root=True) as there, there.cursor() as cursor:
            cursor.execute("SET GLOBAL read_only = 1")
            try:
                with pytest.raises(SchemaError, match="read-only copy"):
                    await endpoint.check(database)
            finally:
                cursor.execute("SET GLOBAL read_only = 0")
    finally:
        database.close()

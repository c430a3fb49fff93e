"""Receivers that fail in every way, workers and a database that die: every fact is told, in order, under one id."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pymysql
import pytest

from calltasks.call_tasks import CallTasks
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions
from tests.faults.saboteur import random_kills
from tests.faults.site import LONG, SEED, Nursery, Saboteurs, create, own_site, sabotaged, start, until
from tests.pipeline import Site
from tests.receiver import Receiver, in_order, receiving

WORLD = SimulatorOptions(seed=SEED, calls_over=True, retry_after=1, model_latency=(0.01, 0.05))
FAILURES: tuple[Any, ...] = (500, "cut", "cut-before", (429, {"retry-after": "1"}), 404, 0.3, (302, {"location": "/"}))


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[EmbeddedMariaDB]:
    """One that may be killed: what it has acknowledged is on the disk."""
    server = EmbeddedMariaDB(tmp_path / "mariadb", options=["--innodb-lock-wait-timeout=2"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def site(
    own_mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setenv("EVENTS_NETWORKS", "127.0.0.0/8")
    async with own_site(own_mariadb, temporal, monkeypatch, WORLD) as site:
        site.environment["EVENTS_NETWORKS"] = "127.0.0.0/8"
        yield site


class Trouble:
    """Receivers that are down for an hour, then fail again and again; what waits for another try waits no longer.

    Attributes:
        passed: seconds that the first of them would have waited.
    """

    def __init__(self, site: Site, singly: Receiver, together: Receiver, events: int) -> None:
        self._site, self._receivers = site, {singly: max(11, events // 60), together: 2}
        self.passed = 0
        for receiver in self._receivers:
            receiver.always = 503
            receiver.failures = cycle(FAILURES)

    async def go_on(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            with contextlib.suppress(pymysql.MySQLError, OSError):
                await asyncio.to_thread(self.time_passes)
            if self.passed > 3600:
                for receiver, every in self._receivers.items():
                    receiver.always, receiver.fails_every = 204, every

    def time_passes(self) -> None:
        """Also for who holds a lane: it may be dead, and if it lives there are two."""
        waits = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6), MIN(due_at)) AS wait FROM call_event_subscriptions"
        self.passed += max(0, int(self._site.sql(f"{waits} WHERE failures > 0 AND batch = 0")[0]["wait"] or 0))
        self._site.sql("UPDATE call_event_subscriptions SET due_at = UTC_TIMESTAMP(6) WHERE due_at > UTC_TIMESTAMP(6)")


async def tell(
    site: Site,
    mariadb: EmbeddedMariaDB,
    nursery: Nursery,
    directory: Path,
    *,
    tasks: int,
    leads: int,
    kills: int,
    outages: int,
) -> None:
    acts = random_kills(SEED, kills, most=300)
    async with receiving() as singly, receiving() as together, receiving() as gone, receiving() as dead:
        ids = []
        async with CallTasks.connect() as calls:
            for receiver, batch in ((singly, False), (together, True), (gone, False), (dead, True)):
                made = await calls.events.subscribe("org7", receiver.url, batch=batch)
                receiver.secret = made.secret
                ids.append(made.id)
        gone.answers, gone.always = [204], 410
        dead.always = 503
        trouble = Trouble(site, singly, together, tasks * leads)
        wanted = [await create(site, leads, first=1 + leads * number) for number in range(tasks)]
        async with sabotaged(nursery, site, directory, *acts) as saboteurs:
            troubling = asyncio.create_task(trouble.go_on())
            for task_id in wanted:
                await start(site, task_id)
            for number in range(outages):
                await progressed(site, (number + 1) * tasks * leads // (outages + 1))
                await asyncio.to_thread(mariadb.kill)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(mariadb.start)
            for task_id in wanted:
                await site.result(task_id, within=1500)
            await settled(site, saboteurs, kills)
            await until(lambda: trouble.passed > 3600, "the hour is over")
            await all_told(site, ids[:2])
            troubling.cancel()
            deaths = len(saboteurs.acts)
        check(site, wanted, leads, singly, together)
        assert len(gone.seen) == 1 and len(gone.requests) < 10
        assert not dead.seen and dead.requests
        states = site.sql("SELECT id, ended_at IS NOT NULL AS ended, dead FROM call_event_subscriptions ORDER BY id")
        assert [(row["ended"], row["dead"]) for row in states] == [(0, 0), (0, 0), (1, 0), (0, 0)]
    doubled = sum(count - 1 for count in (*singly.times.values(), *together.times.values()))
    failed = singly.failed + together.failed
    print(f"{deaths} kills, {outages} outages, {failed} requests failed, {doubled} events told again")
    assert failed > len(FAILURES) and doubled and deaths >= kills


async def progressed(site: Site, count: int) -> None:
    async def enough() -> bool:
        return bool(site.sql("SELECT COUNT(*) AS n FROM dcc_leads_follow")[0]["n"] >= count)

    async with asyncio.timeout(1500):
        while not await enough():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def settled(site: Site, saboteurs: Saboteurs, kills: int) -> None:
    """All kills have struck: what is told again gives the last lives something to do."""
    async with asyncio.timeout(1500), CallTasks.connect() as calls:
        while len(saboteurs.acts) < kills:
            for row in site.sql("SELECT id FROM call_event_subscriptions WHERE position > 200 AND ended_at IS NULL"):
                since = site.sql("SELECT MIN(created_at) AS at FROM call_events")[0]["at"]
                await calls.events.replay("org7", row["id"], since)
            await asyncio.sleep(5)


async def all_told(site: Site, ids: list[int]) -> None:
    async with asyncio.timeout(900):
        while True:
            left = site.sql(
                "SELECT COUNT(*) AS n FROM call_events e JOIN call_event_subscriptions s"
                " ON s.organization_id = e.organization_id AND s.id IN (%s, %s)"
                " WHERE e.position IS NULL OR e.position > s.position",
                *ids,
            )
            if not left[0]["n"]:
                return
            await asyncio.sleep(0.2)


def check(site: Site, tasks: list[int], leads: int, *receivers: Receiver) -> None:
    facts = {
        (row["task_id"], row["id"], row["leads_follow_id"])
        for row in site.sql("SELECT task_id, id, leads_follow_id FROM leads_task_list WHERE leads_follow_id > 0")
    }
    assert len(facts) == len(tasks) * leads
    written = {row["event_id"] for row in site.sql("SELECT event_id FROM call_events")}
    for receiver in receivers:
        assert receiver.problems == []
        told = receiver.of("follow_up.written")
        named = [(one["data"]["task_id"], one["data"]["list_id"], one["data"]["leads_follow_id"]) for one in told]
        assert set(named) == facts, "every fact is told, and nothing that was rolled back"
        assert len(named) == len(facts), "one id a fact"
        assert receiver.seen.keys() == written
        assert in_order(receiver.events)
        for task_id in tasks:
            kinds = [event["type"] for event in receiver.events if event["data"]["task_id"] == task_id]
            assert kinds[0] == "task.calling" and kinds[-1] == "task.complete"
            assert kinds.count("task.complete") == kinds.count("task.calls_complete") == 1


@pytest.mark.timeout(3600 if LONG else 600)
async def test_follow_ups_are_told_though_workers_and_receivers_fail(
    site: Site, own_mariadb: EmbeddedMariaDB, nursery: Nursery, tmp_path: Path
) -> None:
    """A hundred; with FAULTS_LONG three thousand, forty kills of workers and five of MariaDB."""
    scale = {"tasks": 6, "leads": 500, "kills": 40, "outages": 5} if LONG else {"tasks": 2, "leads": 50}
    await tell(site, own_mariadb, nursery, tmp_path, **{"kills": 6, "outages": 1} | scale)

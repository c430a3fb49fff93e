"""One rate limit for all workers: never above the setting, nearly all of it used, fair, and slowed down together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from time import monotonic

import pytest

from calltasks.database.connection import Database
from calltasks.errors import LONGEST_WISH, ThrottledError
from calltasks.limiter import RateLimiter, shared
from calltasks.settings import DatabaseSettings, load
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from tests.pipeline import Site, eventually, opening_sites

Limiters = Callable[..., Awaitable[RateLimiter]]


@pytest.fixture
async def limiters(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Limiters]:
    """`await limiters(per_second)`: one more limiter of a limit that all of a test share, as of one more worker."""
    databases = []
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        site = await sites()
        site.enter_environment()

        async def open_limiter(per_second: float, in_flight: int = 1000) -> RateLimiter:
            databases.append(database := Database(load(DatabaseSettings)))
            await database.prepare()
            return RateLimiter(
                per_second,
                in_flight,
                reserve=partial(database.reserve, "test"),
                push_back=partial(database.push_back, "test"),
            )

        yield open_limiter
        for database in databases:
            database.close()


def peak(moments: list[float], seconds: float = 1.0) -> int:
    """The most moments within any window of this length."""
    window: deque[float] = deque()
    most = 0
    for moment in sorted(moments):
        window.append(moment)
        while window[0] <= moment - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


async def use(
    limiter: RateLimiter, calls: int, said: list[tuple[float, str]], tenant: str = "a", priority: int = 1
) -> None:
    async def call() -> None:
        async with limiter.slot(tenant=tenant, priority=priority):
            said.append((monotonic(), tenant))

    await asyncio.gather(*(call() for _ in range(calls)))


@pytest.mark.parametrize("per_second", [50.0, 100.0])
async def test_three_workers_together_stay_below_the_limit_and_use_most_of_it(
    limiters: Limiters, per_second: float
) -> None:
    workers = [await limiters(per_second) for _ in range(3)]
    used = 0.0
    for _ in range(3):  # A machine that is busy with other things may make the callers late, but never early.
        said: list[tuple[float, str]] = []
        await asyncio.gather(*(use(worker, round(per_second), said) for worker in workers))
        moments = sorted(moment for moment, _ in said)
        assert peak(moments) <= per_second
        used = max(used, (len(moments) - 1) / (moments[-1] - moments[0]) / per_second)
        print(f"{per_second:.0f}/s: peak {peak(moments)}, used {used:.1%}")
        if used >= 0.7:
            break
    assert used >= 0.7  # `python -m benchmarks limits` measures it.


async def test_bursts_after_a_pause_stay_below_the_limit(limiters: Limiters) -> None:
    workers = [await limiters(40) for _ in range(3)]
    said: list[tuple[float, str]] = []
    for _ in range(4):
        await asyncio.gather(*(use(worker, 8, said) for worker in workers))
        await asyncio.sleep(0.3)
    assert peak([moment for moment, _ in said]) <= 40


async def test_a_small_tenant_does_not_wait_for_a_big_one(limiters: Limiters) -> None:
    limiter = await limiters(100)
    said: list[tuple[float, str]] = []
    big = asyncio.create_task(use(limiter, 150, said, "big"))

    async def begun() -> bool:
        return len(said) >= 10

    await eventually(begun)
    before = len(said)
    await use(limiter, 20, said, "small")
    order = [tenant for _, tenant in said]
    last = max(index for index, tenant in enumerate(order) if tenant == "small")
    # It had nothing yet: what it wants comes first, but for what was on its way.
    assert last - before < 30, order
    await big


async def test_queued_calls_go_by_priority(limiters: Limiters) -> None:
    limiter = await limiters(50, in_flight=1)
    said: list[tuple[float, str]] = []
    async with limiter.slot(tenant="x", priority=1):
        queued = [
            asyncio.create_task(use(limiter, 3, said, f"priority {priority}", priority)) for priority in (4, 3, 1, 2)
        ]
        await asyncio.sleep(0.1)
    await asyncio.gather(*queued)
    assert [tenant for _, tenant in said] == sorted(tenant for _, tenant in said)


async def test_slowing_down_holds_every_worker(limiters: Limiters) -> None:
    workers = [await limiters(50) for _ in range(3)]
    said: list[tuple[float, str]] = []
    for worker in workers:
        await use(worker, 2, said)
    before = len(said)
    began = monotonic()
    await workers[0].slow_down(1.5)
    await asyncio.gather(*(use(worker, 3, said) for worker in workers))
    # Another worker may use what it had booked before.
    waited = sorted(moment - began for moment, _ in said[before:])
    assert sum(wait < 1.4 for wait in waited) <= 2, waited
    assert waited[-1] >= 1.5


async def test_a_call_that_is_given_up_gives_its_place_back(limiters: Limiters) -> None:
    limiter = await limiters(100, in_flight=2)
    said: list[tuple[float, str]] = []
    async with limiter.slot(tenant="a", priority=1), limiter.slot(tenant="a", priority=1):
        waiting = [asyncio.create_task(use(limiter, 1, said)) for _ in range(5)]
        await asyncio.sleep(0.05)
        for task in waiting[:4]:
            task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(said) == 1
    await asyncio.wait_for(use(limiter, 4, said), 5)
    assert len(said) == 5


@pytest.fixture
async def site(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        site = await sites()
        site.enter_environment()
        yield site


@pytest.mark.parametrize("seconds", [3_600, 86_400, -3_600])
async def test_a_clock_of_the_database_that_is_set_stops_nobody(site: Site, seconds: int) -> None:
    """Set back, a line that was booked up to now is far ahead; set forward, what a worker knows of the clock is old."""
    database = Database(load(DatabaseSettings))
    await database.prepare()
    assert await database.reserve("test", 1.0) == pytest.approx(0, abs=0.2)
    assert database._clock is not None
    if seconds > 0:
        site.sql("UPDATE call_rate_limits SET next_at = next_at + %s WHERE name = 'test'", seconds * 1_000_000)
    else:
        database._clock = (database._clock[0], database._clock[1] + timedelta(seconds=seconds))
    waits = [await database.reserve("test", 1.0) for _ in range(3)]
    database.close()
    assert max(waits) < 4 and waits[2] - waits[0] == pytest.approx(2, abs=0.2)


async def test_what_is_booked_ahead_in_earnest_is_kept(site: Site) -> None:
    database = Database(load(DatabaseSettings))
    await database.push_back("test", LONGEST_WISH)
    await database.open_limit("test")
    await database.push_back("test", LONGEST_WISH)
    waits = [await database.reserve("test", 60.0) for _ in range(20)]
    database.close()
    assert waits == pytest.approx([LONGEST_WISH + 60 * n for n in range(20)], abs=2)


@pytest.mark.parametrize("wish", [864_000.0, 1e12, float("inf"), float("nan"), -5.0])
async def test_no_wish_of_a_service_stops_everybody_for_long(site: Site, wish: float) -> None:
    asked = ThrottledError("OutboundBot", "ListJobs", "Throttling.User", retry_after=wish).retry_after
    assert asked is None or 0 <= asked <= LONGEST_WISH
    database = Database(load(DatabaseSettings))
    await database.open_limit("test")
    limiter = shared(database, "test", 50, 10)
    await limiter.slow_down(1e12)
    assert await database.reserve("test", 0.1) <= LONGEST_WISH
    database.close()


async def test_patience_ends_also_where_it_shrinks_on_the_way() -> None:
    said = iter([4, 4, 4, 2, 1, 1])
    waits: list[float] = []

    async def at_once(seconds: float) -> float:
        return 0.0

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    async def refused() -> None:
        raise ThrottledError("OutboundBot", "ListJobs", "Throttling.User")

    limiter = RateLimiter(1000, 1, reserve=at_once, push_back=wait)
    with pytest.raises(ThrottledError):
        await limiter.ask(refused, service="OutboundBot", tenant="a", priority=1, patience=lambda _: next(said))
    assert waits == [1.0, 2.0, 4.0] and next(said) == 1

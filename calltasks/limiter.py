"""One rate limit shared by all workers, and fair between organisations.

Slots are reserved in the database (one row a limit, one statement for a block of slots), so all workers together stay
below the setting. Inside a worker the waiting calls are served by priority and, within it, those of the organisation
first that had least, however many calls another one has queued.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from calltasks.errors import LONGEST_WISH, ThrottledError
from calltasks.observing import telemetry

if TYPE_CHECKING:
    from calltasks.database.connection import Database

PACE = 0.93
"""Share of the limit that is used: the rest covers slots that are used up to LATENESS after their time."""
LATENESS = 0.06
"""Share of the window in which the service counts, for which a reserved slot may still be used after its time."""
FAR_LIMIT = 1000
"""Calls per second from which on a limit is far away: its slots may be used later, for fewer statements; from ten times
as many, which no few workers make, up to a window later."""
BLOCK = 1.5
"""Seconds' worth of slots that one worker may reserve at once."""
CREDIT = 20
"""Calls of an organisation that had fewer than others which are served before theirs: a small task need not wait."""
THROTTLED_SECONDS = 30.0
"""Longest wait that one worker chooses by itself after a throttling answer that names none."""
T = TypeVar("T")


class RateLimiter:
    """Paces calls.

    Args:
        per_second: the limit, calls per second, all workers together.
        in_flight: calls that this worker may have under way at once.
        window: seconds over which the service counts calls: 60 for a limit by the minute.
        reserve: ``await reserve(seconds)`` books that much of the shared time line and returns how many seconds from
            now the booked part begins (it may be negative only by the clock's error).
        push_back: ``await push_back(seconds)`` keeps every worker from calling for that long.
    """

    def __init__(
        self,
        per_second: float,
        in_flight: int,
        *,
        reserve: Callable[[float], Awaitable[float]],
        push_back: Callable[[float], Awaitable[None]],
        window: float = 1.0,
    ) -> None:
        self._interval = 1 / (per_second * PACE)
        # By the minute, a call that was late is made up for by the next ones.
        self._spacing = self._interval if window <= 1 else self._interval / 2
        least = LATENESS if per_second < FAR_LIMIT else max(5 * LATENESS, min(per_second / FAR_LIMIT / 10, 1.0))
        self._lateness = least * window
        self._least_block = min(least / self._interval, 1000)
        self._free = in_flight
        self._reserve = reserve
        self._push_back = push_back
        self._waiting: list[tuple[int, float, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        self._slots_from = 0.0
        self._slots = 0
        self._last = 0.0
        self._pump: asyncio.Task[None] | None = None
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def slot(self, *, tenant: str, priority: int) -> AsyncIterator[None]:
        """Hold one call's place: wait for a slot of the shared rate and for one of this worker's places.

        Args:
            tenant: the organisation, between which places are shared evenly.
            priority: 1 is served before 2, and so on.
        """
        # Start-time fair queueing: a tenant's next call is one unit after its last, or before now if it was idle.
        start = max(self._virtual - CREDIT, self._finish.get(tenant, 0.0) + 1)
        self._finish[tenant] = start
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, start, next(self._sequence), turn))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve())
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release()
            raise
        try:
            yield
        finally:
            self._release()

    async def ask(
        self,
        request: Callable[[], Awaitable[T]],
        *,
        service: str,
        tenant: str,
        priority: int,
        patience: Callable[[ThrottledError], int],
    ) -> T:
        """Make a request in its turn, again and again while the service asks for fewer calls: all wait as it says.

        Args:
            request: makes it, each time anew.
            service: whom it asks.
            tenant: as for :meth:`slot`, with ``priority``.
            patience: how often a request is made in all, if this is what it was answered.

        Raises:
            ThrottledError: patience is at its end; or whatever else the request raises.
        """
        for attempt in itertools.count(1):
            begin = monotonic()
            async with self.slot(tenant=tenant, priority=priority):
                telemetry.metrics.waited(service, monotonic() - begin)
                try:
                    return await request()
                except ThrottledError as error:
                    if attempt >= patience(error):
                        raise
                    wait = error.retry_after or min(2.0**attempt / 2, THROTTLED_SECONDS)
            await self.slow_down(wait)
        raise AssertionError("unreachable")

    async def slow_down(self, seconds: float) -> None:
        """Keep every worker from calling for ``seconds``, because the service asks for it, at most ``LONGEST_WISH``."""
        self._slots = 0
        await self._push_back(min(seconds, LONGEST_WISH))

    def _release(self) -> None:
        self._free += 1
        self._freed.set()

    async def _serve(self) -> None:
        while self._waiting:
            while not self._free:
                self._freed.clear()
                await self._freed.wait()
            try:
                await self._next_slot()
            except Exception as error:
                self._fail_all(error)
                return
            _, start, _, turn = heapq.heappop(self._waiting)
            if turn.done():
                continue
            self._virtual = max(self._virtual, start)
            self._free -= 1
            turn.set_result(None)
            # One call a turn of the event loop: a loop that is busy takes no more on than it gets done, so that who
            # comes next is served in milliseconds. While it mostly waits, a turn takes next to no time.
            await asyncio.sleep(0)
        # Nobody waits: nobody is ahead of anybody.
        self._virtual = 0.0
        self._finish.clear()

    async def _next_slot(self) -> None:
        """Wait for the time of the next reserved slot, reserving more when none is left or they are too old."""
        while True:
            if self._slots and monotonic() - self._slots_from > self._lateness:
                stale = min(self._slots, int((monotonic() - self._slots_from - self._lateness) / self._interval) + 1)
                self._slots -= stale
                self._slots_from += stale * self._interval
            if not self._slots:
                wanted = min(len(self._waiting), BLOCK / self._interval)
                self._slots = max(1, int(max(wanted, self._least_block)))
                begin = monotonic() + await self._reserve(self._slots * self._interval)
                # A line that nobody used begins in the past by as long as the booking took: so much may be made up for.
                self._slots_from = max(begin, monotonic() - self._lateness)
            at = max(self._slots_from, self._last + self._spacing)
            self._slots -= 1
            self._slots_from += self._interval
            delay = at - monotonic()
            if delay > 0.001:
                await asyncio.sleep(delay)
            if monotonic() - at <= self._lateness:
                self._last = max(at, monotonic() - 0.001)
                return
            # The loop stood still meanwhile: the next slots are nearer.

    def _fail_all(self, error: Exception) -> None:
        for _, _, _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)
        self._waiting.clear()


def shared(database: Database, name: str, limit: float, in_flight: int, *, window: float = 1.0) -> RateLimiter:
    """The limit of this name, ``limit`` calls in any ``window`` seconds, kept in the database for all workers."""
    reserve, push_back = partial(database.reserve, name), partial(database.push_back, name)
    return RateLimiter(limit / window, in_flight, reserve=reserve, push_back=push_back, window=window)

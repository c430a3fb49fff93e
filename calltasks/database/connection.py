"""MySQL and MariaDB through PyMySQL, pooled by SQLAlchemy, called from threads.

Every function handed to :meth:`Database.run` or :meth:`Database.transaction` must be safe to run twice: a connection
that breaks leaves open whether the last statement counted, and the function is then run again on a fresh connection.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar
from zoneinfo import ZoneInfo

import pymysql
from pymysql.cursors import Cursor
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from calltasks.clock import elapsed
from calltasks.database.columns import Column, Table, read
from calltasks.database.session import CONVERSIONS, escaped, prepare
from calltasks.database.tls import without_tls
from calltasks.errors import LONGEST_WISH, PassingError, PermanentError, ServiceError
from calltasks.settings import DatabaseSettings

SERVICE = "MySQL"
P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
"""Connections, and threads that use them, of one process."""
TRIES = 3
PASSING = frozenset(
    {
        *(1020, 1205, 1213, 3572),  # conflicts of locks
        *(0, 1042, 1043, 1080, 1129, 1152, 1158, 1159, 1160, 1161, 1184, 2002, 2003, 2006, 2013, 2014),  # connections
        *(1053, 1317, 1927, 3169, 4031),  # a server that stops, a statement or connection that was killed
        *(3, 1021, 1024, 1026, 1030, 1037, 1038, 1041, 1114, 1135, 1180),  # a disk or a memory that is full
        *(1040, 1203, 1226, 1290, 1792, 1836, 1412, 1969, 3024),  # limits, read-only, statement time
    }
)
"""Error numbers after which the same work may succeed. 0 is PyMySQL's own "connection closed"."""
CLOCK_SECONDS = 60
"""How long one comparison of the database's clock with ours is trusted."""
CONNECTION: dict[str, Any] = {
    "conv": CONVERSIONS,
    "charset": "utf8mb4",
    "autocommit": None,
    "connect_timeout": 5,
    "read_timeout": 60,
    "write_timeout": 60,
}
BULK_ROWS = 500
SHORT_ROWS = 2_500
"""As many, of ids and numbers only: all batches of a step of dispatch are one statement."""
BULK_BYTES = 700_000
"""Of one statement's values: a packet of 1 MB, the smallest that servers still come with, holds them."""


class Database:
    """The CRM's database.

    Attributes:
        zone: the zone of the CRM's wall-clock columns.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        url, tls = without_tls(make_url(settings.database_url.get_secret_value()))
        self.zone: ZoneInfo = settings.zone
        self._engine = create_engine(
            url,
            pool_size=THREADS,
            max_overflow=0,
            pool_pre_ping=True,
            pool_recycle=1800,
            pool_timeout=60,
            # Autocommit is on and transactions are ended here: the pool's own ROLLBACK would be a statement a use.
            pool_reset_on_return=None,
            connect_args=CONNECTION | tls,
        )
        event.listen(self._engine, "connect", lambda connection, _record: prepare(connection, self.zone))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mysql")
        self._clock: tuple[float, datetime] | None = None
        self._tables: dict[str, Table] = {}

    async def run(self, function: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(cursor, …)`` in a thread, each of its statements committed by itself.

        Raises:
            PassingError: the database is out of reach, or too busy even after three tries.
            PermanentError: it refuses (unknown table, no right).
        """
        return await self._in_thread(lambda: self.run_sync(function, *args, **kwargs))

    async def transaction(self, function: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As :meth:`run`, in one transaction (READ COMMITTED) that is rolled back on any exception."""
        return await self._in_thread(lambda: self._attempt(function, args, kwargs, transaction=True))

    def run_sync(self, function: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As :meth:`run`, in the calling thread."""
        return self._attempt(function, args, kwargs, transaction=False)

    async def now(self) -> datetime:
        """The time by the database's clock, in UTC: the one clock that all workers share."""
        clock = self._clock
        fresh = clock is not None and elapsed() - clock[0] <= CLOCK_SECONDS
        return self.now_sync() if fresh else await self._in_thread(self.now_sync)

    def now_sync(self) -> datetime:
        """As :meth:`now`, in the calling thread."""
        clock = self._clock
        if clock is None or elapsed() - clock[0] > CLOCK_SECONDS:
            before = elapsed()
            there = self.run_sync(_utc_now)
            clock = self._clock = ((before + elapsed()) / 2, there)
        return clock[1] + timedelta(seconds=elapsed() - clock[0])

    def wall_clock(self, moment: datetime) -> datetime:
        """A moment as the CRM's columns hold it: naive, in the configured zone, whole seconds."""
        # By way of UTC: an hour that summer time leaves out is nobody's wall-clock time.
        return moment.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None, microsecond=0)

    def moment(self, table: str, column: str, moment: datetime | None) -> datetime | None:
        """As :meth:`wall_clock`; None for what the column's type does not reach (a TIMESTAMP ends in 2038)."""
        if moment is None or not self.column(table, column).holds_moment(moment):
            return None
        return self.wall_clock(moment)

    def fit(self, table: str, column: str, text: str) -> str:
        """What is said, as the column can hold it: cut with a mark, what its character set lacks replaced."""
        return self.column(table, column).fit(text)

    def whole(self, table: str, column: str, text: str) -> str:
        """What names something (an id, a number, a URL), if the column can hold all of it; else ``""``."""
        return self.column(table, column).whole(text)

    def column(self, table: str, name: str) -> Column:
        """The column as the database had it at the start."""
        if not self._tables:
            self._tables = self.run_sync(read)
        return self._tables[table].columns[name]

    async def reserve(self, name: str, seconds: float) -> float:
        """Book ``seconds`` of the shared time line of the rate limit ``name``.

        Returns:
            Seconds from now at which the booked part begins.
        """

        def book() -> float:
            asked, wait = self.run_sync(_reserve, name, round(seconds * 1_000_000))
            return asked + wait - time.monotonic()

        return await self._in_thread(book)

    async def push_back(self, name: str, seconds: float) -> None:
        """Let nobody book anything of ``name`` before ``seconds`` from now."""
        await self.run(_push_back, name, round(seconds * 1_000_000))

    async def prepare(self, tables: dict[str, Table] | None = None) -> None:
        """Open the connections, and read what every use needs: what the columns are, the database's clock.

        ``tables``: as whoever has checked them has read them.
        """
        await self._in_thread(self._fill_pool)
        self._tables = await self.run(read) if tables is None else tables
        await self.now()

    async def open_limit(self, name: str) -> None:
        """Make the row of a rate limit, if there is none."""
        await self.run(_open_limit, name)

    def close(self) -> None:
        """Wait for what runs, then close every connection."""
        self._threads.shutdown(wait=True)
        self._engine.dispose()

    def _fill_pool(self) -> None:
        try:
            connections = [self._engine.raw_connection() for _ in range(THREADS)]
        except (DBAPIError, pymysql.MySQLError) as error:
            raise translate(error, "connect") from None
        for connection in connections:
            connection.close()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _attempt(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], *, transaction: bool
    ) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                return self._once(function, args, kwargs, transaction=transaction)
            except (DBAPIError, pymysql.MySQLError, SQLAlchemyError, OSError) as error:
                failure = translate(error, function.__name__)
                if isinstance(failure, PermanentError) or attempt == TRIES:
                    raise failure from None
                time.sleep(0.05 * 4**attempt)
        raise AssertionError("unreachable")

    def _once(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], *, transaction: bool
    ) -> T:
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            if transaction:
                cursor.execute("START TRANSACTION")
            result = function(cursor, *args, **kwargs)
            if transaction:
                cursor.execute("COMMIT")
        except BaseException:
            # What the server still holds for this connection is unknown: never hand it to anybody else.
            connection.invalidate()
            raise
        connection.close()
        return result


def translate(error: BaseException, operation: str) -> ServiceError:
    """The typed error of a failed database call; its text never quotes a statement or a value."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    number = error.args[0] if error.args and isinstance(error.args[0], int) else -1
    passing = number in PASSING or isinstance(error, (OSError, SQLAlchemyError))
    kind = PassingError if passing else PermanentError
    return kind(SERVICE, operation.strip("_"), str(number) if number >= 0 else type(error).__name__)


def _utc_now(cursor: Cursor) -> datetime:
    cursor.execute("SELECT UTC_TIMESTAMP(6)")
    row = cursor.fetchone()
    assert row is not None
    moment = row[0]
    assert isinstance(moment, datetime)
    return moment.replace(tzinfo=UTC)


_MICROSECONDS = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
"""Since 1970. UNIX_TIMESTAMP would have an hour twice where the session's zone has summer time."""
_FREE = f"IF(next_at > {_MICROSECONDS} + %s, {_MICROSECONDS}, GREATEST(next_at, {_MICROSECONDS}))"
"""From when on the time line is free. Further ahead than this is no booking."""
WORKERS = 32
"""So many workers may each have booked a block ahead."""


def _open_limit(cursor: Cursor, name: str) -> None:
    cursor.execute("INSERT IGNORE INTO call_rate_limits (name, next_at) VALUES (%s, 0)", (name,))


def _reserve(cursor: Cursor, name: str, microseconds: int) -> tuple[float, float]:
    """When the database looked at its clock (``time.monotonic()``), and how many seconds later the booked part begins.

    That moment lies between question and answer: in their middle, so that no part is used early by the whole way.
    Both ends are taken from one reading of the database's clock, so it does not matter if that is set meanwhile. A time
    line that is further ahead than bookings can make it was written before the clock was set back: it begins anew.
    """
    ahead = round(LONGEST_WISH * 1_000_000) + WORKERS * microseconds
    for _ in range(2):
        asked = time.monotonic()
        cursor.execute(
            # What LAST_INSERT_ID() is given comes back with the answer.
            f"UPDATE call_rate_limits SET next_at = {_FREE} + %s + 0 * LAST_INSERT_ID({_FREE} - {_MICROSECONDS})"
            " WHERE name = %s",
            (ahead, microseconds, ahead, name),
        )
        if cursor.rowcount:
            return (asked + time.monotonic()) / 2, int(cursor.lastrowid) / 1_000_000
        _open_limit(cursor, name)
    raise AssertionError("the row was just inserted")


def _push_back(cursor: Cursor, name: str, microseconds: int) -> None:
    cursor.execute(
        f"UPDATE call_rate_limits SET next_at = GREATEST(next_at, {_MICROSECONDS} + %s) WHERE name = %s",
        (microseconds, name),
    )


@contextmanager
def in_one(cursor: Cursor) -> Iterator[None]:
    """A transaction within what :meth:`Database.run` runs, rolled back on any exception."""
    cursor.execute("START TRANSACTION")
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:
        with suppress(pymysql.MySQLError):
            cursor.execute("ROLLBACK")
        raise


def derived(columns: Sequence[str], rows: int) -> str:
    """``SELECT %s AS a, %s AS b UNION ALL SELECT %s, %s …``: rows of values as a table that both dialects take."""
    first = "SELECT " + ", ".join(f"%s AS {column}" for column in columns)
    other = " UNION ALL SELECT " + ", ".join(["%s"] * len(columns))
    return first + other * (rows - 1)


def unchanged(columns: Iterable[str], alias: str = "t") -> str:
    """``t.a = t.a, …`` for an UPDATE: a column of the CRM that has ``ON UPDATE CURRENT_TIMESTAMP`` stays as it is."""
    return ", ".join(f"{alias}.{column} = {alias}.{column}" for column in columns)


def bulks(rows: Iterable[Sequence[Any]], size: int = BULK_ROWS) -> Iterator[list[Sequence[Any]]]:
    """Rows in portions of at most ``size`` and ``BULK_BYTES``, so that no statement outgrows ``max_allowed_packet``."""
    portion: list[Sequence[Any]] = []
    weight = 0
    for row in rows:
        # As the statement holds it: quotation marks and line breaks take two bytes there.
        heavy = sum(len(escaped(value).encode("utf-8", "replace")) for value in row if isinstance(value, str))
        if portion and (len(portion) >= size or weight + heavy > BULK_BYTES):
            yield portion
            portion, weight = [], 0
        portion.append(row)
        weight += heavy
    if portion:
        yield portion


def flat(rows: Iterable[Sequence[Any]]) -> list[Any]:
    """The parameters of :func:`derived`, or of a VALUES list, in order."""
    return [value for row in rows for value in row]


def marks(count: int) -> str:
    """``%s, %s, …`` for an IN list."""
    return ", ".join(["%s"] * count)


MIXED = frozenset({1267, 1270, 1271, 3854})
"""Errors of a comparison with a text that the column's character set has no characters for."""


def look_up(cursor: Cursor, statement: str, values: Sequence[Any], **columns: str) -> None:
    """Run a statement that compares columns with texts from outside (the platform, a person, a request).

    A text with characters that a column's character set lacks is no row's; the server would refuse to compare. Where it
    does, the columns are converted, which costs their indexes.

    Args:
        cursor: any.
        statement: with the columns by name, ``{job} = %s``.
        values: its parameters.
        columns: what stands for these names.
    """
    try:
        cursor.execute(statement.format(**columns), values)
    except pymysql.MySQLError as error:
        if error.args[0] not in MIXED:
            raise
        wide = {name: f"CONVERT({column} USING utf8mb4)" for name, column in columns.items()}
        cursor.execute(statement.format(**wide), values)


def to_json(value: object) -> str:
    """Compact JSON text with its characters as they are.

    Raises:
        ValueError: a number is not finite; JSON has no form for it.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

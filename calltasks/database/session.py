"""What a connection to the database is set to, whatever the server's own defaults are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime
from pymysql.cursors import Cursor

SESSION = (
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', autocommit = 1,"
    " innodb_lock_wait_timeout = 10, wait_timeout = 90, {isolation} = 'READ-COMMITTED',"
    " sql_safe_updates = 0, sql_auto_is_null = 0,"
    " sql_select_limit = DEFAULT, sql_big_selects = 1, foreign_key_checks = 1, unique_checks = 1,"
    " time_zone = %s"
)
"""``wait_timeout``: a worker that was frozen within a transaction holds its locks no longer than that. Zero dates are
allowed, for a row that has one must stay writable."""
UNKNOWN_ZONE = 1298
YEARS_AHEAD = 10
"""So far ahead a zone must have one offset for that to stand for it."""


def moment(text: str | bytes) -> datetime | None:
    """A DATETIME or TIMESTAMP; MySQL's zero dates, whole or in part, are none (rule 15.3)."""
    value = convert_datetime(text)
    return value if isinstance(value, datetime) else None


CONVERSIONS: dict[Any, Any] = {**conversions, FIELD_TYPE.DATETIME: moment, FIELD_TYPE.TIMESTAMP: moment}


ESCAPES = {"\\": "\\\\", "\0": "\\0", "\n": "\\n", "\r": "\\r", "\x1a": "\\Z", '"': '\\"', "'": "\\'"}
"""Of a text within a statement; the backslash comes first."""


def escaped(text: str) -> str:
    """As PyMySQL escapes a text; it looks at each character by itself, which takes five times as long for Chinese."""
    for mark, escape in ESCAPES.items():
        text = text.replace(mark, escape)
    return text


def prepare(connection: pymysql.Connection[Cursor], zone: ZoneInfo) -> None:
    """Set a fresh connection up. Its zone is that of the wall-clock columns: a TIMESTAMP then holds the moment that its
    readers take it for, and CURRENT_TIMESTAMP in the CRM's defaults and triggers is the CRM's time."""
    isolation = "tx_isolation" if "MariaDB" in connection.get_server_info() else "transaction_isolation"  # type: ignore[no-untyped-call]
    with connection.cursor() as cursor:
        for name in _names(zone):
            try:
                cursor.execute(SESSION.format(isolation=isolation), (name,))
                # In that mode a backslash is one that escapes.
                connection._escape_string = escaped  # type: ignore[attr-defined]
                return
            except pymysql.MySQLError as error:
                if error.args[0] != UNKNOWN_ZONE:
                    raise


def is_steady(zone: ZoneInfo) -> bool:
    """Whether the zone has one offset, now and later: no summer time."""
    return len(set(_offsets(zone))) == 1


def _names(zone: ZoneInfo) -> tuple[str, ...]:
    """By what the server may know the zone, best first: many servers know offsets only. The last one always goes."""
    offset = _offsets(zone)[0]
    sign, minutes = "-" if offset < timedelta(0) else "+", round(abs(offset) / timedelta(minutes=1))
    now = f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    return (now, zone.key, "+00:00") if is_steady(zone) else (zone.key, now, "+00:00")


def _offsets(zone: ZoneInfo) -> list[timedelta]:
    now = datetime.now(UTC)
    months = (now + timedelta(days=days) for days in range(0, YEARS_AHEAD * 366, 30))
    return [month.astimezone(zone).utcoffset() or timedelta(0) for month in months]

"""Whether the server behind ``DATABASE_URL`` answers for itself (rule 2.11).

Addresses of clusters split reads from writes and answer from copies that may be late. What decides about dialling is
read in transactions that have locked a row, which such an address must not split; where it does, nobody may be called.
"""

from __future__ import annotations

from pymysql.cursors import Cursor

from calltasks.database.connection import Database
from calltasks.errors import PermanentError, SchemaError, ServiceError

_MARKER = "endpoint"
"""A row of ``call_rate_limits`` that is counted up and never read as a limit."""
_READ_ONLY = frozenset({"1290", "1792", "1836"})
"""Errors of a server that takes no writes."""


async def check(database: Database) -> None:
    """Write a mark, and see that another connection reads it.

    Raises:
        SchemaError: the server is a read-only copy, or reads are answered by one.
    """
    try:
        await database.open_limit(_MARKER)
        mark = await database.transaction(_write_mark)
    except PermanentError:
        # A table or a right is missing: that is for schema.check to say.
        return
    except ServiceError as error:
        if error.code not in _READ_ONLY:
            raise
        mark = None
    try:
        whole = mark is not None and await database.transaction(_reads_mark, mark)
    except PermanentError:
        # What was just written to is not there.
        whole = False
    if not whole:
        raise SchemaError(
            "DATABASE_URL leads to a read-only copy, or to an address that answers reads from one even within"
            " transactions; give the primary's own address"
        )


def _write_mark(cursor: Cursor) -> int:
    cursor.execute("UPDATE call_rate_limits SET next_at = LAST_INSERT_ID(next_at + 1) WHERE name = %s", (_MARKER,))
    return int(cursor.lastrowid)


def _reads_mark(cursor: Cursor, mark: int) -> bool:
    cursor.execute("SELECT name FROM call_rate_limits WHERE name = %s FOR UPDATE", (_MARKER,))
    cursor.fetchall()
    cursor.execute("SELECT next_at, @@read_only, @@innodb_read_only FROM call_rate_limits WHERE name = %s", (_MARKER,))
    row = cursor.fetchone()
    return row is not None and int(row[0]) >= mark and {str(switch).upper() for switch in row[1:]} <= {"0", "OFF"}

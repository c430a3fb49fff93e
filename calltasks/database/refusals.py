"""Rows that the database refuses for good: one of them never stops the others (rule 14.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pymysql
from pymysql.cursors import Cursor

from calltasks.database.connection import SERVICE, translate
from calltasks.errors import PermanentError

T = TypeVar("T")

OF_STATEMENT = frozenset(
    {
        *(1044, 1045, 1142, 1143, 1227, 1370, 1396, 1449),  # rights
        *(1046, 1049, 1051, 1054, 1146, 1305, 1356),  # what is not there
        *(1288, 1348, 1364, 1423, 1471),  # columns that cannot be written, or would have to be
        *(1064, 1149, 1210, 1235, 1267, 1270, 1271, 1442),  # what cannot be asked
    }
)
"""Error numbers that speak of a statement: every row would be refused the same way, so none is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Generic[T]):
    """What the database does not take, and its error number."""

    item: T
    code: str


async def write_each(write: Callable[[Sequence[T]], Awaitable[object]], items: Sequence[T]) -> list[Refused[T]]:
    """Write in bulk; a portion that is refused for good (1366, 1406, 1292, 1452, 1264, 1153 …) is halved until the
    row stands alone.

    Args:
        write: writes some of the items, all or none of them; called again with fewer of those that it did not write.
        items: in the order in which to write them; at most as many as one statement or transaction takes.

    Returns:
        What was refused; everything else is written.

    Raises:
        PassingError: the database is out of reach; what came before is written.
        PermanentError: it refuses the statement, not a row of it (no right, no such column).
    """
    refused: list[Refused[T]] = []
    portions = [items] if items else []
    while portions:
        portion = portions.pop()
        try:
            await write(portion)
        except PermanentError as error:
            _halve(portion, error, portions, refused)
    return refused


def write_each_here(
    cursor: Cursor, write: Callable[[Sequence[T]], object], items: Sequence[T], *, undo: str = "ROLLBACK"
) -> list[Refused[T]]:
    """As :func:`write_each`, in the thread of a cursor on which ``write`` makes transactions of its own; or, with no
    ``undo``, is one statement."""
    refused: list[Refused[T]] = []
    portions = [items] if items else []
    while portions:
        portion = portions.pop()
        try:
            write(portion)
        except pymysql.MySQLError as reason:
            error = translate(reason, "write_each_here")
            if not isinstance(error, PermanentError):
                raise
            if undo:
                cursor.execute(undo)
            _halve(portion, error, portions, refused)
    return refused


def _halve(portion: Sequence[T], error: PermanentError, portions: list[Sequence[T]], refused: list[Refused[T]]) -> None:
    if not of_row(error):
        raise error
    if len(portion) == 1:
        refused.append(Refused(item=portion[0], code=error.code))
        return
    half = len(portion) // 2
    portions += [portion[half:], portion[:half]]


def of_row(error: PermanentError) -> bool:
    """Whether the database may have refused because of one row's values."""
    return error.service == SERVICE and not (error.code.isdigit() and int(error.code) in OF_STATEMENT)

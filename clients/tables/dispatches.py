"""``call_dispatches``: what was handed to the platform, or may have been (SPEC 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pymysql.cursors import Cursor

from clients.database import flat, marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """A batch whose acceptance is open. The job group itself is the batch from 0 to 0. Times UTC, naive."""

    first_id: int
    last_id: int
    attempted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Undialled:
    """A row that the platform does not have. ``repeated``: an earlier row of the task stands for the same lead."""

    id: int
    leads_id: str
    name: str
    phone: str
    reference_id: str
    repeated: bool


def unresolved(cursor: Cursor, task_id: int) -> list[Dispatch]:
    """Batches without an answer, oldest rows first."""
    cursor.execute(
        "SELECT first_id, last_id, attempted_at FROM call_dispatches"
        " WHERE task_id = %s AND accepted_at IS NULL ORDER BY first_id, id",
        (task_id,),
    )
    return [Dispatch(first_id=int(row[0]), last_id=int(row[1]), attempted_at=row[2]) for row in cursor.fetchall()]


def started(cursor: Cursor, task_id: int) -> int | None:
    """The last row that was ever part of a batch (0 if only the group was), None if we never dispatched the task."""
    cursor.execute("SELECT MAX(last_id) FROM call_dispatches WHERE task_id = %s", (task_id,))
    row = cursor.fetchone()
    return None if row is None or row[0] is None else int(row[0])


def attempt(cursor: Cursor, task_id: int, batches: Sequence[tuple[int, int]], now: datetime) -> None:
    """Write down that these batches (first and last row id) are about to be sent."""
    rows = [(task_id, first, last, now) for first, last in batches]
    cursor.execute(
        "INSERT INTO call_dispatches (task_id, first_id, last_id, attempted_at) VALUES "
        + ", ".join(["(%s, %s, %s, %s)"] * len(rows)),
        flat(rows),
    )


def accept(cursor: Cursor, task_id: int, firsts: Sequence[int], now: datetime) -> None:
    """The platform has the batches that begin with these rows."""
    if firsts:
        cursor.execute(
            "UPDATE call_dispatches SET accepted_at = %s WHERE task_id = %s AND accepted_at IS NULL"
            f" AND first_id IN ({marks(len(firsts))})",
            (now, task_id, *firsts),
        )


def release(cursor: Cursor, task_id: int, firsts: Sequence[int]) -> None:
    """The batches that begin with these rows were not sent: nothing needs to be waited for before the next try."""
    if firsts:
        cursor.execute(
            "UPDATE call_dispatches SET attempted_at = '2000-01-01' WHERE task_id = %s AND accepted_at IS NULL"
            f" AND first_id IN ({marks(len(firsts))})",
            (task_id, *firsts),
        )


def replace(cursor: Cursor, task_id: int, old: Sequence[int], new: Sequence[tuple[int, int]], now: datetime) -> None:
    """Put new attempts in the place of those that begin with the rows ``old``, inside a transaction."""
    cursor.execute(
        f"DELETE FROM call_dispatches WHERE task_id = %s AND accepted_at IS NULL AND first_id IN ({marks(len(old))})",
        (task_id, *old),
    )
    attempt(cursor, task_id, new, now)


def undialled(cursor: Cursor, task_id: int, *, first: int, last: int | None, limit: int) -> list[Undialled]:
    """Rows without a job from ``first`` to ``last`` (None: to the end), in order of id."""
    cursor.execute(
        "SELECT id, leads_id, COALESCE(leads_name, ''), COALESCE(leads_phone, ''), COALESCE(reference_id, ''),"
        " EXISTS (SELECT 1 FROM leads_task_list d WHERE d.task_id = l.task_id AND d.reference_id = l.reference_id"
        " AND d.reference_id <> '' AND d.id < l.id)"
        " FROM leads_task_list l WHERE task_id = %s AND id >= %s"
        + ("" if last is None else " AND id <= %s")
        + " AND COALESCE(call_job_id, '') = '' ORDER BY id LIMIT %s",
        (task_id, first, limit) if last is None else (task_id, first, last, limit),
    )
    return [
        Undialled(
            id=int(row[0]),
            leads_id=str(row[1]),
            name=str(row[2]),
            phone=str(row[3]),
            reference_id=str(row[4]),
            repeated=bool(row[5]),
        )
        for row in cursor.fetchall()
    ]

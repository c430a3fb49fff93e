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

    id: int
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


class TakenOverError(Exception):
    """Another attempt has these batches meanwhile: it is the one that sends them."""


def unresolved(cursor: Cursor, task_id: int) -> list[Dispatch]:
    """Batches without an answer, oldest rows first."""
    cursor.execute(
        "SELECT id, first_id, last_id, attempted_at FROM call_dispatches"
        " WHERE task_id = %s AND accepted_at IS NULL ORDER BY first_id, id",
        (task_id,),
    )
    return [
        Dispatch(id=int(row[0]), first_id=int(row[1]), last_id=int(row[2]), attempted_at=row[3])
        for row in cursor.fetchall()
    ]


def started(cursor: Cursor, task_id: int) -> int | None:
    """The last row that was ever part of a batch (0 if only the group was), None if we never dispatched the task."""
    cursor.execute("SELECT MAX(last_id) FROM call_dispatches WHERE task_id = %s", (task_id,))
    row = cursor.fetchone()
    return None if row is None or row[0] is None else int(row[0])


def claim_next(
    cursor: Cursor, task_id: int, *, batch: int, limit: int, now: datetime
) -> list[tuple[int, list[Undialled]]]:
    """Write down the next rows that are about to be sent, inside a transaction, so that only one attempt has them.

    Args:
        cursor: inside a transaction.
        task_id: the task.
        batch: rows a batch; ``limit``: rows in all.
        now: UTC, naive, not later than the request will leave.

    Returns:
        Dispatch ids and their rows.
    """
    step = _lock(cursor, task_id)
    rows = undialled(cursor, task_id, first=(started(cursor, task_id) or 0) + 1, last=None, limit=limit)
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    if not batches:
        return []
    ids = _insert(cursor, task_id, [(part[0].id, part[-1].id) for part in batches], now, step)
    return list(zip(ids, batches, strict=True))


def claim_group(cursor: Cursor, task_id: int, tried: Sequence[int], now: datetime) -> int:
    """Write down that the task's group is about to be created, inside a transaction.

    Args:
        cursor: inside a transaction.
        task_id: the task.
        tried: ids of the earlier tries that the caller knows of, which this one replaces.
        now: UTC, naive.

    Raises:
        TakenOverError: another attempt has begun meanwhile.
    """
    step = _lock(cursor, task_id)
    known = [batch.id for batch in unresolved(cursor, task_id) if not batch.last_id]
    if known != list(tried):
        raise TakenOverError
    if known:
        cursor.execute(f"DELETE FROM call_dispatches WHERE id IN ({marks(len(known))})", known)
    return _insert(cursor, task_id, [(0, 0)], now, step)[0]


def renew(cursor: Cursor, task_id: int, id_: int, spans: Sequence[tuple[int, int]], now: datetime) -> list[int]:
    """Put new attempts in the place of an old one, inside a transaction; returns their ids.

    Raises:
        TakenOverError: another attempt has done so meanwhile.
    """
    step = _lock(cursor, task_id)
    cursor.execute("DELETE FROM call_dispatches WHERE id = %s AND accepted_at IS NULL", (id_,))
    if cursor.rowcount != 1:
        raise TakenOverError
    return _insert(cursor, task_id, spans, now, step)


def accept(cursor: Cursor, ids: Sequence[int], now: datetime) -> None:
    """The platform has these batches."""
    if ids:
        cursor.execute(
            f"UPDATE call_dispatches SET accepted_at = %s WHERE accepted_at IS NULL AND id IN ({marks(len(ids))})",
            (now, *ids),
        )


def release(cursor: Cursor, ids: Sequence[int]) -> None:
    """These batches were not sent: nothing needs to be waited for before the next try."""
    if ids:
        cursor.execute(
            "UPDATE call_dispatches SET attempted_at = '2000-01-01'"
            f" WHERE accepted_at IS NULL AND id IN ({marks(len(ids))})",
            tuple(ids),
        )


def _lock(cursor: Cursor, task_id: int) -> int:
    """Let no other attempt claim anything of the task until the transaction ends; returns the step between ids."""
    cursor.execute("SELECT @@auto_increment_increment FROM call_tasks WHERE id = %s FOR UPDATE", (task_id,))
    row = cursor.fetchone()
    return int(row[0]) if row else 1


def _insert(cursor: Cursor, task_id: int, spans: Sequence[tuple[int, int]], now: datetime, step: int) -> list[int]:
    rows = [(task_id, first, last, now) for first, last in spans]
    cursor.execute(
        "INSERT INTO call_dispatches (task_id, first_id, last_id, attempted_at) VALUES "
        + ", ".join(["(%s, %s, %s, %s)"] * len(rows)),
        flat(rows),
    )
    first_id = int(cursor.lastrowid)
    return [first_id + step * index for index in range(len(rows))]


def held_jobs(cursor: Cursor, task_id: int) -> set[str]:
    """Every job id that a row of the task has."""
    cursor.execute(
        "SELECT call_job_id FROM leads_task_list WHERE task_id = %s AND COALESCE(call_job_id, '') <> ''", (task_id,)
    )
    return {str(row[0]) for row in cursor.fetchall()}


def undialled(cursor: Cursor, task_id: int, *, first: int, last: int | None, limit: int) -> list[Undialled]:
    """Rows without a job from ``first`` to ``last`` (None: to the end), in order of id."""
    cursor.execute(
        "SELECT id, leads_id, COALESCE(leads_name, ''), COALESCE(leads_phone, ''), COALESCE(reference_id, '')"
        " FROM leads_task_list WHERE task_id = %s AND id >= %s"
        + ("" if last is None else " AND id <= %s")
        + " AND COALESCE(call_job_id, '') = '' ORDER BY id LIMIT %s",
        (task_id, first, limit) if last is None else (task_id, first, last, limit),
    )
    rows = cursor.fetchall()
    references = sorted({str(row[4]) for row in rows if row[4]})
    firsts: dict[str, int] = {}
    if references:
        cursor.execute(
            "SELECT reference_id, MIN(id) FROM leads_task_list"
            f" WHERE task_id = %s AND reference_id IN ({marks(len(references))}) GROUP BY reference_id",
            (task_id, *references),
        )
        firsts = {str(reference): int(id_) for reference, id_ in cursor.fetchall()}
    return [
        Undialled(
            id=int(row[0]),
            leads_id=str(row[1]),
            name=str(row[2]),
            phone=str(row[3]),
            reference_id=str(row[4]),
            repeated=firsts.get(str(row[4]), int(row[0])) < int(row[0]),
        )
        for row in rows
    ]

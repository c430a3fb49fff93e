"""``call_dispatches``: what was handed to the platform, or may have been (rule 2).

What decides about dialling is read within the transaction that claims it, after the task's row was locked in it
(``tasks.load(…, lock=True)``): whoever splits reads from writes may answer from a copy that is late before, not after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, flat, look_up, marks
from calltasks.database.tables import tasks
from calltasks.database.tables.needs import CALLED, is_final
from calltasks.database.tables.rows import give_status
from calltasks.errors import CallTasksError
from calltasks.names import FAILED, workflow_id
from calltasks.rules.phones import dialled, e164

NEVER_SENT = "2000-01-01"
"""``attempted_at`` of a batch whose request certainly did not leave, ``accepted_at`` of one that others stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch whose acceptance is open. The job group itself is the batch from 0 to 0.

    Attributes:
        tries: answers that named fewer jobs than contacts were sent.
        age: seconds since it was written down.
        unsent: its request certainly did not leave.
    """

    id: int
    first_id: int
    last_id: int
    tries: int
    age: float
    unsent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Undialled:
    """A row that has no job and no outcome.

    Attributes:
        number: as the platform takes it; ``""``: the row has none. ``phone``: in E.164.
    """

    id: int
    leads_id: str
    name: str
    number: str
    phone: str
    reference_id: str
    call_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A batch to be: its first row, its last one's id, and how often it was sent in vain."""

    first: Undialled
    last_id: int
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How far a task's entries go: the last row that was ever part of a batch, and the latest entry's id."""

    last_id: int = 0
    entry: int = 0


NOTHING = Written()


class TakenOverError(Exception):
    """Another attempt has these batches meanwhile: it is the one that sends them."""


class DoubtError(CallTasksError):
    """Who was called already cannot be told: nobody is. ``str()`` is one line for a person."""


def group_name(task_id: int, create_time: datetime | None) -> str:
    """A task's job group's name: the same at every try, another in another database that counts from 1 again."""
    # A zero date is read as text, and is none.
    return workflow_id(task_id) + (f"-{create_time:%Y%m%d%H%M%S}" if isinstance(create_time, datetime) else "")


_OPEN = (
    "SELECT id, first_id, last_id, tries, TIMESTAMPDIFF(MICROSECOND, attempted_at, UTC_TIMESTAMP(6)) / 1000000,"
    f" attempted_at = '{NEVER_SENT}' FROM call_dispatches WHERE task_id = %s AND accepted_at IS NULL"
)


def _open(cursor: Cursor) -> list[Batch]:
    return [
        Batch(
            id=int(row[0]),
            first_id=int(row[1]),
            last_id=int(row[2]),
            tries=int(row[3]),
            age=float(row[4]),
            unsent=bool(row[5]),
        )
        for row in cursor.fetchall()
    ]


def unresolved(cursor: Cursor, task_id: int, group_id: str) -> list[Batch]:
    """Batches of contacts without an answer, oldest rows first."""
    cursor.execute(
        f"{_OPEN} AND last_id > 0 AND (job_group_id IS NULL OR job_group_id = %s) ORDER BY first_id, id",
        (task_id, group_id),
    )
    return _open(cursor)


def written(cursor: Cursor, task_id: int, group_id: str) -> Written:
    """How far the entries of this job group go."""
    cursor.execute(
        "SELECT COALESCE(MAX(last_id), 0), COALESCE(MAX(id), 0) FROM call_dispatches"
        " WHERE task_id = %s AND (job_group_id IS NULL OR job_group_id = %s)",
        (task_id, group_id),
    )
    row = cursor.fetchone() or (0, 0)
    return Written(last_id=int(row[0]), entry=int(row[1]))


def in_doubt(cursor: Cursor, task_id: int, group_id: str) -> None:
    """Batches without an answer may have left just now, whatever is written down of them; inside a transaction."""
    cursor.execute(
        "UPDATE call_dispatches SET attempted_at = UTC_TIMESTAMP(6)"
        " WHERE task_id = %s AND job_group_id = %s AND last_id > 0 AND accepted_at IS NULL",
        (task_id, group_id),
    )


def ours(cursor: Cursor, task_id: int, group_id: str, name: str) -> bool:
    """Whether we dispatch the task: its group is one that we made, or, while it has none, we began to make one."""
    identity = ("job_group_id = %s", group_id) if group_id else ("group_name = %s", name)
    cursor.execute(
        f"SELECT 1 FROM call_dispatches WHERE task_id = %s AND ({identity[0]}"
        " OR (job_group_id IS NULL AND group_name IS NULL)) LIMIT 1",
        (task_id, identity[1]),
    )
    return cursor.fetchone() is not None


# --- the job group ----------------------------------------------------------------------------------------------


def group_tries(cursor: Cursor, task_id: int, name: str) -> list[Batch]:
    """Tries to make the group of this name whose end is open."""
    cursor.execute(f"{_OPEN} AND last_id = 0 AND (group_name IS NULL OR group_name = %s) ORDER BY id", (task_id, name))
    return _open(cursor)


def known_group(cursor: Cursor, task_id: int, name: str) -> str:
    """The job group of this very task, though it names none (any more); ``""`` if we know of none.

    Ids may come again (a CRM that was emptied or restored beside our tables), and then the rows are other ones. A group
    of the same name is the task's; so is one whose batches begin with the same rows, by lead and time.

    Raises:
        DoubtError: they may be the same.
    """
    cursor.execute(
        "SELECT job_group_id FROM call_dispatches WHERE task_id = %s AND last_id = 0 AND group_name = %s"
        " AND job_group_id IS NOT NULL ORDER BY id DESC LIMIT 1",
        (task_id, name),
    )
    row = cursor.fetchone()
    if row:
        return str(row[0])
    cursor.execute(
        "SELECT DISTINCT d.job_group_id,"
        " CAST(d.first_lead AS BINARY) = CAST(CONVERT(l.leads_id USING utf8mb4) AS BINARY),"
        " d.first_call_time = l.call_time FROM call_dispatches d JOIN leads_task_list l ON l.id = d.first_id"
        " WHERE d.task_id = %s AND l.task_id = %s AND d.last_id > 0 AND d.job_group_id IS NOT NULL",
        (task_id, task_id),
    )
    alike = {(str(group), lead, time) for group, lead, time in cursor.fetchall()}
    groups = {group for group, lead, time in alike if lead and time}
    if len(groups) > 1 or any((lead and time is None) or (time and not lead) for _, lead, time in alike):
        raise DoubtError(
            f"call task {task_id}: call_dispatches has calls of a task of this id that names no job group any more;"
            " nobody is called. Put its job_group_id back, or, if that was another task, delete those entries"
        )
    return groups.pop() if groups else ""


def claim_group(cursor: Cursor, task_id: int, name: str, tried: Sequence[int]) -> int:
    """Write down that the task's group is about to be created, inside a transaction.

    Args:
        cursor: inside a transaction.
        task_id: the task.
        name: of the group.
        tried: ids of the earlier tries that the caller knows of, which this one replaces.

    Raises:
        TakenOverError: another attempt has begun meanwhile, or has come to its end.
    """
    row = tasks.load(cursor, task_id, lock=True)
    if row is None or row.job_group_id:
        raise TakenOverError
    known = [batch.id for batch in group_tries(cursor, task_id, name)]
    if known != list(tried):
        raise TakenOverError
    if known:
        cursor.execute(f"DELETE FROM call_dispatches WHERE id IN ({marks(len(known))})", known)
    cursor.execute(
        "INSERT INTO call_dispatches (task_id, group_name, first_id, last_id, attempted_at)"
        " VALUES (%s, %s, 0, 0, UTC_TIMESTAMP(6))",
        (task_id, name),
    )
    return int(cursor.lastrowid)


def save_group(cursor: Cursor, task_id: int, claim: int | None, group_id: str) -> str:
    """The platform has the group: save it, unless the task has one; inside a transaction. Returns the task's group."""
    row = tasks.load(cursor, task_id, lock=True)
    if row is None:
        raise TakenOverError
    if not row.job_group_id:
        tasks.save_group(cursor, task_id, group_id)
    if claim is not None:
        cursor.execute(
            "UPDATE call_dispatches SET job_group_id = %s, accepted_at = UTC_TIMESTAMP(6) WHERE id = %s",
            (group_id, claim),
        )
    return row.job_group_id or group_id


# --- contacts ---------------------------------------------------------------------------------------------------


def insert(cursor: Cursor, task_id: int, group_id: str, spans: Sequence[Span]) -> list[int]:
    """Write down batches that are about to be sent, inside a transaction; returns their ids."""
    if not spans:
        return []
    cursor.execute("SELECT @@auto_increment_increment FROM call_tasks WHERE id = %s", (task_id,))
    row = cursor.fetchone()
    step = int(row[0]) if row else 1
    values = [
        (task_id, group_id, span.first.id, span.last_id, span.first.leads_id[:191], span.first.call_time, span.tries)
        for span in spans
    ]
    cursor.execute(
        "INSERT INTO call_dispatches (task_id, job_group_id, first_id, last_id, first_lead, first_call_time, tries,"
        " attempted_at) VALUES " + ", ".join(["(%s, %s, %s, %s, %s, %s, %s, UTC_TIMESTAMP(6))"] * len(values)),
        flat(values),
    )
    first_id = int(cursor.lastrowid)
    return [first_id + step * index for index in range(len(values))]


def close(cursor: Cursor, id_: int) -> None:
    """Others are put in the place of this batch, inside a transaction. It stays, so that its rows never count as new.

    Raises:
        TakenOverError: another attempt has done so meanwhile.
    """
    cursor.execute(
        f"UPDATE call_dispatches SET accepted_at = '{NEVER_SENT}' WHERE id = %s AND accepted_at IS NULL", (id_,)
    )
    if cursor.rowcount != 1:
        raise TakenOverError


def accept(cursor: Cursor, ids: Sequence[int]) -> None:
    """The platform has these batches, or nothing of them is to be sent any more."""
    if ids:
        cursor.execute(
            "UPDATE call_dispatches SET accepted_at = UTC_TIMESTAMP(6)"
            f" WHERE accepted_at IS NULL AND id IN ({marks(len(ids))})",
            ids,
        )


def release(cursor: Cursor, ids: Sequence[int]) -> None:
    """These batches were not sent: nothing needs to be waited for, or looked up, before the next try."""
    if ids:
        cursor.execute(
            f"UPDATE call_dispatches SET attempted_at = '{NEVER_SENT}'"
            f" WHERE accepted_at IS NULL AND id IN ({marks(len(ids))})",
            ids,
        )


def fell_short(cursor: Cursor, tries: Mapping[int, int]) -> None:
    """The platform named fewer jobs for these batches than contacts were sent: so often by now, by id."""
    for number in sorted(set(tries.values())):
        ids = [id_ for id_, often in tries.items() if often == number]
        cursor.execute(
            f"UPDATE call_dispatches SET tries = %s WHERE accepted_at IS NULL AND id IN ({marks(len(ids))})",
            (number, *ids),
        )


def any_accepted(cursor: Cursor, task_id: int, group_id: str) -> bool:
    """Whether the group ever took a batch."""
    cursor.execute(
        "SELECT 1 FROM call_dispatches WHERE task_id = %s AND job_group_id = %s AND last_id > 0"
        f" AND accepted_at > '{NEVER_SENT}' LIMIT 1",
        (task_id, group_id),
    )
    return cursor.fetchone() is not None


def replaced(cursor: Cursor, task_id: int, group_id: str) -> bool:
    """Whether rows that were handed over have become others: ids that came again. A corrected lead, or a time that the
    CRM renews, makes no other row."""
    cursor.execute(
        "SELECT 1 FROM call_dispatches d JOIN leads_task_list l ON l.id = d.first_id"
        " WHERE d.task_id = %s AND l.task_id = %s AND d.job_group_id = %s AND d.first_call_time <> l.call_time"
        " AND CAST(d.first_lead AS BINARY) <> CAST(CONVERT(l.leads_id USING utf8mb4) AS BINARY) LIMIT 1",
        (task_id, task_id, group_id),
    )
    return cursor.fetchone() is not None


def held_jobs(cursor: Cursor, task_id: int) -> set[str]:
    """Every job id that a row of the task has."""
    cursor.execute(
        "SELECT call_job_id FROM leads_task_list WHERE task_id = %s AND COALESCE(call_job_id, '') <> ''", (task_id,)
    )
    return {str(row[0]) for row in cursor.fetchall()}


def everybody(cursor: Cursor, task_id: int) -> list[tuple[int, str, str, str, str]]:
    """Every row of the task: id, lead, reference, phone and job id."""
    cursor.execute(
        "SELECT id, leads_id, COALESCE(reference_id, ''), COALESCE(leads_phone, ''), COALESCE(call_job_id, '')"
        " FROM leads_task_list WHERE task_id = %s",
        (task_id,),
    )
    return [(int(row[0]), str(row[1]), str(row[2]), str(row[3]), str(row[4])) for row in cursor.fetchall()]


def taken_elsewhere(cursor: Cursor, task_id: int, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that a row of another task has."""
    taken: set[str] = set()
    for part in bulks([(job_id,) for job_id in job_ids], 1000):
        statement = f"SELECT call_job_id FROM leads_task_list WHERE task_id <> %s AND {{job}} IN ({marks(len(part))})"
        look_up(cursor, statement, (task_id, *flat(part)), job="call_job_id")
        taken.update(str(row[0]) for row in cursor.fetchall())
    return taken


def undialled(cursor: Cursor, task_id: int, *, first: int, last: int | None, limit: int) -> list[Undialled]:
    """Rows without a job and an outcome from ``first`` to ``last`` (None: to the end), in order of id."""
    cursor.execute(
        "SELECT l.id, l.leads_id, COALESCE(l.leads_name, ''), COALESCE(l.leads_phone, ''),"
        " COALESCE(l.reference_id, ''), l.call_time FROM leads_task_list l WHERE l.task_id = %s AND l.id >= %s"
        + ("" if last is None else " AND l.id <= %s")
        + f" AND NOT ({CALLED}) AND NOT {is_final()} ORDER BY l.id LIMIT %s",
        (task_id, first, limit) if last is None else (task_id, first, last, limit),
    )
    return [
        Undialled(
            id=int(row[0]),
            leads_id=str(row[1]),
            name=str(row[2]),
            number=dialled(str(row[3])),
            phone=e164(str(row[3])),
            reference_id=str(row[4]),
            call_time=row[5] if isinstance(row[5], datetime) else None,
        )
        for row in cursor.fetchall()
    ]


def fail(cursor: Cursor, ids: Sequence[int]) -> None:
    """Rows that the platform does not take: ``Failed``, like those for which it lists no job (rule 3.7)."""
    give_status(cursor, ids, FAILED, f"NOT ({CALLED}) AND NOT {is_final()}")

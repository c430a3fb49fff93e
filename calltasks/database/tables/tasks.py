"""``call_tasks``, and the standing of a whole task (rules 1, 8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.columns import Table
from calltasks.database.connection import bulks, flat, look_up, marks, unchanged
from calltasks.database.crm import NUMBERS
from calltasks.database.tables import events
from calltasks.database.tables.ledger import OF_TASK
from calltasks.database.tables.needs import (
    CALLED,
    HAS_RECORDING_ID,
    MATCHABLE_SQL,
    RECORDED,
    UNJUDGED,
    UNLINKED,
    RowGroup,
    final_status,
    folded_sql,
    follow_id,
    interest_of,
    is_final,
)
from calltasks.database.tables.rows import give_status
from calltasks.errors import NoLeadIdError, SchemaError, UnknownLeadsError
from calltasks.names import CANCELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One row of ``call_tasks``."""

    task_id: int
    organization_id: str
    task_type: int
    job_group_id: str
    create_time: datetime | None


def create(
    cursor: Cursor,
    *,
    tables: Mapping[str, Table],
    name: str,
    organization_id: str,
    leads: Sequence[int | str] | None,
    now: datetime,
) -> tuple[int, int]:
    """Insert a task and its rows (rule 1), inside a transaction.

    Args:
        cursor: inside a transaction.
        tables: as ``schema.creating`` has seen them.
        name: ``task_name``.
        organization_id: whose leads.
        leads: ids of ``dcc_leads``; None for all of the organisation.
        now: ``call_time``, wall clock.

    Returns:
        The task's id and its number of rows.

    Raises:
        UnknownLeadsError: a named lead does not exist, or there is none at all.
        NoLeadIdError: a named lead cannot exist.
        SchemaError: a row's reference does not fit its column.
    """
    lead_id = tables["dcc_leads"].columns["leads_id"]
    if lead_id.kind in NUMBERS and (wrong := [str(lead) for lead in leads or () if not str(lead).strip().isdecimal()]):
        raise NoLeadIdError(wrong)
    task = tables["call_tasks"].columns
    if task["organization_id"].whole(organization_id) != organization_id:
        raise UnknownLeadsError(leads or [])
    cursor.execute(
        "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
        " VALUES (%s, %s, '1', %s, %s)",
        (task["task_name"].fit(name), organization_id, _empty(tables["call_tasks"], "job_group_id"), now),
    )
    task_id = int(cursor.lastrowid)
    found = _leads(cursor, organization_id, leads)
    for part in bulks(_rows(tables["leads_task_list"], task_id, organization_id, found, now)):
        cursor.execute(
            "INSERT INTO leads_task_list"
            " (task_id, leads_id, leads_name, leads_phone, call_time, call_job_id, reference_id) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s, %s)"] * len(part)),
            flat(part),
        )
    return task_id, len(found)


def _leads(cursor: Cursor, organization_id: str, named: Sequence[int | str] | None) -> list[tuple[Any, Any, Any]]:
    """Id, name and phone of the leads, in order."""
    select = "SELECT organization_id, leads_id, leads_user_name, leads_user_phone FROM dcc_leads WHERE"
    found: list[Any] = []
    if named is None:
        look_up(cursor, f"{select} {{owner}} = %s ORDER BY leads_id", (organization_id,), owner="organization_id")
        found += cursor.fetchall()
    else:
        for part in bulks([(str(lead),) for lead in named], 1000):
            look_up(
                cursor,
                f"{select} {{owner}} = %s AND {{lead}} IN ({marks(len(part))})",
                (organization_id, *flat(part)),
                owner="organization_id",
                lead="leads_id",
            )
            found += cursor.fetchall()
    # The collation may take "ORG" for "org", and a number "7x" for 7: the exact text decides which lead of whom it is.
    there = {str(lead): (lead, person, phone) for owner, lead, person, phone in found if str(owner) == organization_id}
    wanted = list(there) if named is None else sorted({str(lead) for lead in named}, key=_by_number)
    if unknown := [lead for lead in wanted if lead not in there]:
        raise UnknownLeadsError(unknown)
    if not wanted:
        raise UnknownLeadsError([])
    return [there[lead] for lead in wanted]


def has_organization(cursor: Cursor, organization_id: str) -> bool:
    """Whether there is a task or a lead of the organisation, letter by letter."""
    for table in ("call_tasks", "dcc_leads"):
        statement = f"SELECT DISTINCT organization_id FROM {table} WHERE {{owner}} = %s"
        look_up(cursor, statement, (organization_id,), owner="organization_id")
        if any(str(owner) == organization_id for (owner,) in cursor.fetchall()):
            return True
    return False


def _by_number(lead: str) -> tuple[int, int, str]:
    return (0, int(lead), lead) if lead.isdecimal() and lead.isascii() else (1, 0, lead)


def _rows(
    table: Table, task_id: int, organization_id: str, leads: Sequence[tuple[Any, Any, Any]], now: datetime
) -> Iterator[tuple[Any, ...]]:
    """The rows of a new task. A phone number that the column does not hold whole is none: it would be another's."""
    names, phones, references = (table.columns[name] for name in ("leads_name", "leads_phone", "reference_id"))
    waiting = _empty(table, "call_job_id")
    for lead, person, phone in leads:
        reference = f"{task_id}{organization_id}{lead}"
        if not references.whole(reference):
            raise SchemaError(
                f"leads_task_list.reference_id does not hold the reference of a row; it must hold {len(reference)}"
                " characters"
            )
        yield (
            task_id,
            lead,
            None if person is None else names.fit(str(person)),
            None if phone is None else phones.whole(str(phone)),
            now,
            waiting,
            reference,
        )


def _empty(table: Table, column: str) -> str | None:
    """What a row holds that waits for a value; many do, so where the column is in a unique key it is NULL."""
    return None if any(column in columns for columns in table.unique.values()) else ""


def find_created(
    cursor: Cursor, *, tables: Mapping[str, Table], name: str, organization_id: str, now: datetime
) -> int | None:
    """The latest task that :func:`create` made with exactly these arguments, or None."""
    cursor.execute(
        "SELECT MAX(id) FROM call_tasks WHERE task_name = %s AND organization_id = %s AND create_time = %s",
        (tables["call_tasks"].columns["task_name"].fit(name), organization_id, now),
    )
    row = cursor.fetchone()
    return int(row[0]) if row and row[0] is not None else None


def load(cursor: Cursor, task_id: int, *, lock: bool = False) -> TaskRow | None:
    """The task, or None if there is none of this id. ``lock``: nobody else has it before the transaction ends."""
    cursor.execute(
        "SELECT id, organization_id, task_type, job_group_id, create_time FROM call_tasks WHERE id = %s"
        + (" FOR UPDATE" if lock else ""),
        (task_id,),
    )
    row = cursor.fetchone()
    return None if row is None else read(row)


def read(row: Sequence[Any]) -> TaskRow:
    """A task of its columns: id, organisation, type, job group and ``create_time``. A zero date is read as text, and is
    none."""
    return TaskRow(
        task_id=int(row[0]),
        organization_id=str(row[1] or ""),
        task_type=int(row[2] or 1),
        job_group_id=str(row[3] or ""),
        create_time=row[4] if isinstance(row[4], datetime) else None,
    )


def save_group(cursor: Cursor, task_id: int, group_id: str) -> None:
    """Save the job group's id, unless the task has one."""
    cursor.execute(
        f"UPDATE call_tasks t SET t.job_group_id = %s, {unchanged(['create_time'])}"
        " WHERE t.id = %s AND COALESCE(t.job_group_id, '') = ''",
        (group_id, task_id),
    )


def raise_type(cursor: Cursor, task: TaskRow, task_type: int) -> None:
    """Raise ``task_type``, inside a transaction: it never falls (rule 8.2)."""
    lower = ["", *map(str, range(task_type))]
    cursor.execute(
        # As texts: for an ENUM a number would be the place of its label.
        f"UPDATE call_tasks t SET t.task_type = %s, {unchanged(['create_time'])}"
        f" WHERE t.id = %s AND COALESCE(t.task_type, '') IN ({marks(len(lower))})",
        (str(task_type), task.task_id, *lower),
    )
    if cursor.rowcount:
        created = events.Event(
            kind=events.TASK_TYPES[task_type],
            task_id=task.task_id,
            fact=(task.create_time, task.job_group_id),
            data={"task_type": task_type},
        )
        events.emit(cursor, [created], task.organization_id)


def open_tasks(cursor: Cursor) -> dict[int, bool]:
    """Tasks that are dialling or being followed up (rule 9): whether a look at them is due, or they are at rest."""
    cursor.execute(
        "SELECT t.id, COALESCE(o.look_after <= UTC_TIMESTAMP(6), 1) FROM call_tasks t LEFT JOIN call_task_options o"
        " ON o.task_id = t.id AND o.create_time <=> t.create_time AND t.task_type = '2'"
        " WHERE t.task_type IN ('2', '3') AND COALESCE(t.job_group_id, '') <> '' ORDER BY t.id"
    )
    return {int(row[0]): bool(row[1]) for row in cursor.fetchall()}


def was_started(cursor: Cursor, task_id: int) -> bool:
    """Whether calls of the task were ever begun, by us or by another program: it has type 3 or 4, or type 2 and a job
    group or a call."""
    cursor.execute(
        "SELECT 1 FROM call_tasks t WHERE t.id = %s AND (t.task_type IN ('3', '4') OR (t.task_type = '2' AND"
        " (COALESCE(t.job_group_id, '') <> '' OR EXISTS (SELECT 1 FROM leads_task_list l WHERE l.task_id = t.id"
        " AND COALESCE(l.call_job_id, '') <> ''))))",
        (task_id,),
    )
    return cursor.fetchone() is not None


def cancel_unsent(cursor: Cursor, task_id: int, after: int, unsent: Sequence[tuple[int, int]]) -> None:
    """Rows that were handed to nobody, and never will be: those without a job and an outcome are ``Cancelled``.

    Args:
        cursor: inside a transaction that has locked the task.
        task_id: the task.
        after: the last row that was part of a batch.
        unsent: first and last rows of batches whose request did not leave.
    """
    waiting = f"NOT ({CALLED}) AND NOT {is_final()}"
    for first, last in (*unsent, (after + 1, None)):
        cursor.execute(
            "SELECT l.id FROM leads_task_list l WHERE l.task_id = %s AND l.id >= %s"
            + ("" if last is None else " AND l.id <= %s")
            + f" AND {waiting}",
            (task_id, first) if last is None else (task_id, first, last),
        )
        give_status(cursor, [int(row[0]) for row in cursor.fetchall()], CANCELLED, waiting)


_OLDEST_UNFINISHED = (
    # Rows are handed over in the order of their ids: each task's first unfinished one decides.
    "SELECT MIN(handed_over), MIN(CASE WHEN handed_over IS NULL THEN call_time END) FROM ("
    " SELECT l.call_time, (SELECT d.attempted_at FROM call_dispatches d JOIN call_tasks g ON g.id = d.task_id"
    "   WHERE d.task_id = l.task_id AND (d.job_group_id IS NULL"
    "   OR CAST(d.job_group_id AS BINARY) = CAST(CONVERT(g.job_group_id USING utf8mb4) AS BINARY))"
    "   AND d.last_id >= l.id AND d.first_id <= l.id ORDER BY d.last_id LIMIT 1) AS handed_over"
    " FROM (SELECT (SELECT u.id FROM leads_task_list u WHERE u.task_id = t.id AND COALESCE(u.call_job_id, '') <> ''"
    f"   AND (NOT {is_final('u')} OR {follow_id('u')} = 0)"
    "   ORDER BY u.id LIMIT 1) AS id"
    "  FROM call_tasks t WHERE t.task_type IN ('2', '3') AND COALESCE(t.job_group_id, '') <> '') AS firsts"
    " JOIN leads_task_list l ON l.id = firsts.id) AS oldest"
)


def oldest_unfinished(cursor: Cursor) -> tuple[datetime | None, datetime | None]:
    """Of the called rows of open tasks that have no outcome or no follow-up yet: when the first was handed over.

    Returns:
        That time (UTC, naive), and of rows that another program handed over the first ``call_time`` (wall clock);
        None where there is no such row.
    """
    cursor.execute(_OLDEST_UNFINISHED)
    row = cursor.fetchone()
    return (row[0], row[1]) if row else (None, None)


def leads(cursor: Cursor, task_ids: Sequence[int]) -> dict[int, int]:
    """How many rows these tasks have."""
    if not task_ids:
        return {}
    cursor.execute(
        f"SELECT task_id, COUNT(*) FROM leads_task_list WHERE task_id IN ({marks(len(task_ids))}) GROUP BY task_id",
        list(task_ids),
    )
    return dict.fromkeys(task_ids, 0) | {int(task_id): int(count) for task_id, count in cursor.fetchall()}


def standing(cursor: Cursor, task_id: int) -> list[RowGroup]:
    """The task's rows, counted by how they stand: one statement."""
    cursor.execute(
        f"SELECT {CALLED}, {MATCHABLE_SQL},"
        f" {folded_sql('call_status')}, is_interested, NOT ({UNLINKED}), {HAS_RECORDING_ID}, {RECORDED}, COUNT(*),"
        " MIN(COALESCE(call_status, ''))"
        " FROM leads_task_list l WHERE task_id = %s GROUP BY 1, 2, 3, 4, 5, 6, 7",
        (task_id,),
    )
    return [
        RowGroup(
            called=bool(called),
            matchable=bool(matchable),
            status=final_status(status) or status.strip(),
            interest=interest_of(interest),
            followed=bool(followed),
            has_recording_id=bool(has_recording_id),
            recorded=bool(recorded),
            count=int(count),
        )
        for called, matchable, _, interest, followed, has_recording_id, recorded, count, status in cursor.fetchall()
    ]


def judgements(cursor: Cursor, task_id: int) -> dict[str, int]:
    """The task's ledger in numbers, in the words of the progress: follow-ups by outcome, re-analyses, tokens, rows that
    the database refuses."""
    follow_ups, analyses = OF_TASK.format("f"), OF_TASK.format("a")
    cursor.execute(
        "SELECT IF(outcome = 'failed', 'analysis_failed', outcome), COUNT(*) FROM call_follow_ups f"
        f" WHERE {follow_ups} AND outcome IN ('analysed', 'failed', 'over_ceiling') GROUP BY outcome"
        " UNION ALL SELECT 'reanalysed', COALESCE(SUM(request_id <> '' AND settled_at IS NOT NULL"
        f" AND outcome IN ('analysed', 'default')), 0) FROM call_analyses a WHERE {analyses}"
        " UNION ALL SELECT 'kept_edits', COALESCE(SUM(request_id <> '' AND outcome = 'kept'), 0)"
        f" FROM call_analyses a WHERE {analyses}"
        f" UNION ALL SELECT 'input_tokens', COALESCE(SUM(input_tokens), 0) FROM call_analyses a WHERE {analyses}"
        f" UNION ALL SELECT 'output_tokens', COALESCE(SUM(output_tokens), 0) FROM call_analyses a WHERE {analyses}"
        " UNION ALL SELECT 'set_aside', COUNT(*) FROM call_retries r JOIN leads_task_list l ON l.id = r.list_id"
        " WHERE r.task_id = %s AND l.task_id = r.task_id AND r.step = 'analysis' AND r.error_code LIKE 'MySQL.%%'"
        f" AND ({UNLINKED} OR {UNJUDGED})",
        (task_id,) * 6,
    )
    none = dict.fromkeys(("analysed", "analysis_failed", "over_ceiling"), 0)
    return none | {str(name): int(count) for name, count in cursor.fetchall()}

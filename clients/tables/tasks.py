"""``call_tasks``, and the standing of a whole task (SPEC 1, 8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from clients.columns import Table
from clients.database import bulks, flat, marks, unchanged
from clients.tables.crm import NUMBERS
from clients.tables.schema import SchemaError

FINAL_SQL = "('Succeeded', 'Failed', 'Cancelled')"
CALL_TIMES = ("call_time", "planed_time", "updated_time")
"""Of ``leads_task_list``: an UPDATE that does not write one says that it is unchanged."""
UNJUDGED = "COALESCE({0}.is_interested, '') = ''"
"""Whatever the column's type is: compared as a text, 0 is not empty."""


class UnknownLeadsError(Exception):
    """Leads that were named do not exist in the organisation. ``leads`` are the first of their ids."""

    def __init__(self, leads: Sequence[int | str]) -> None:
        self.leads = list(leads)
        named = ", ".join(str(lead) for lead in leads[:20])
        super().__init__(f"unknown leads of this organisation: {named}" if leads else "the organisation has no leads")


class NoLeadIdError(UnknownLeadsError):
    """What was named cannot be the id of a lead: in this CRM they are numbers."""

    def __init__(self, leads: Sequence[str]) -> None:
        super().__init__(leads)
        self.args = ("the ids of leads must be numbers, for example 1,2,3: in this CRM dcc_leads.leads_id is one",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One row of ``call_tasks``."""

    task_id: int
    organization_id: str
    task_type: int
    job_group_id: str
    create_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """How many rows of a task stand alike. Empty text stands for NULL."""

    called: bool
    matchable: bool
    status: str
    interest: int | None
    followed: bool
    has_recording_id: bool
    recorded: bool
    count: int


def create(
    cursor: Cursor,
    *,
    tables: Mapping[str, Table],
    name: str,
    organization_id: str,
    leads: Sequence[int | str] | None,
    now: datetime,
) -> tuple[int, int]:
    """Insert a task and its rows (SPEC 1), inside a transaction.

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
    cursor.execute(
        "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
        " VALUES (%s, %s, '1', %s, %s)",
        (name, organization_id, _empty(tables["call_tasks"], "job_group_id"), now),
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
        cursor.execute(f"{select} organization_id = %s ORDER BY leads_id", (organization_id,))
        found += cursor.fetchall()
    else:
        for part in bulks([(str(lead),) for lead in named], 1000):
            cursor.execute(
                f"{select} organization_id = %s AND leads_id IN ({marks(len(part))})", (organization_id, *flat(part))
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


def find_created(cursor: Cursor, *, name: str, organization_id: str, now: datetime) -> int | None:
    """The latest task that :func:`create` made with exactly these arguments, or None."""
    cursor.execute(
        "SELECT MAX(id) FROM call_tasks WHERE task_name = %s AND organization_id = %s AND create_time = %s",
        (name, organization_id, now),
    )
    row = cursor.fetchone()
    return int(row[0]) if row and row[0] is not None else None


def load(cursor: Cursor, task_id: int) -> TaskRow | None:
    """The task, or None if there is none of this id."""
    cursor.execute(
        "SELECT id, organization_id, task_type, job_group_id, create_time FROM call_tasks WHERE id = %s", (task_id,)
    )
    row = cursor.fetchone()
    if row is None:
        return None
    return TaskRow(
        task_id=int(row[0]),
        organization_id=str(row[1] or ""),
        task_type=int(row[2] or 1),
        job_group_id=str(row[3] or ""),
        create_time=row[4],
    )


def save_group(cursor: Cursor, task_id: int, group_id: str) -> None:
    """Save the job group's id, unless the task has one."""
    cursor.execute(
        f"UPDATE call_tasks t SET t.job_group_id = %s, {unchanged(['create_time'])}"
        " WHERE t.id = %s AND COALESCE(t.job_group_id, '') = ''",
        (group_id, task_id),
    )


def raise_type(cursor: Cursor, task_id: int, task_type: int) -> None:
    """Raise ``task_type``: it never falls (SPEC 8)."""
    lower = ["", *map(str, range(task_type))]
    cursor.execute(
        # As texts: for an ENUM a number would be the place of its label.
        f"UPDATE call_tasks t SET t.task_type = %s, {unchanged(['create_time'])}"
        f" WHERE t.id = %s AND COALESCE(t.task_type, '') IN ({marks(len(lower))})",
        (str(task_type), task_id, *lower),
    )


def open_tasks(cursor: Cursor) -> list[int]:
    """Tasks that are dialling or being followed up (SPEC 9)."""
    cursor.execute(
        "SELECT id FROM call_tasks WHERE task_type IN ('2', '3') AND COALESCE(job_group_id, '') <> '' ORDER BY id"
    )
    return [int(row[0]) for row in cursor.fetchall()]


_OLDEST_UNFINISHED = (
    # Rows are handed over in the order of their ids: each task's first unfinished one decides.
    "SELECT MIN(handed_over), MIN(CASE WHEN handed_over IS NULL THEN call_time END) FROM ("
    " SELECT l.call_time, (SELECT d.attempted_at FROM call_dispatches d WHERE d.task_id = l.task_id"
    "   AND d.last_id >= l.id AND d.first_id <= l.id ORDER BY d.last_id LIMIT 1) AS handed_over"
    " FROM (SELECT (SELECT u.id FROM leads_task_list u WHERE u.task_id = t.id AND COALESCE(u.call_job_id, '') <> ''"
    f"   AND (COALESCE(u.call_status, '') NOT IN {FINAL_SQL} OR COALESCE(u.leads_follow_id, '') IN ('', '0'))"
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


def standing(cursor: Cursor, task_id: int) -> list[RowGroup]:
    """The task's rows, counted by how they stand: one statement."""
    cursor.execute(
        "SELECT COALESCE(call_job_id, '') <> '',"
        " COALESCE(reference_id, '') <> '' OR COALESCE(leads_phone, '') <> '',"
        " COALESCE(call_status, ''), is_interested, COALESCE(leads_follow_id, '') NOT IN ('', '0'),"
        " COALESCE(call_task_id, '') <> '', COALESCE(recording_url, '') <> '', COUNT(*)"
        " FROM leads_task_list WHERE task_id = %s GROUP BY 1, 2, 3, 4, 5, 6, 7",
        (task_id,),
    )
    return [
        RowGroup(
            called=bool(called),
            matchable=bool(matchable),
            status=str(status),
            interest=None if interest in (None, "") else int(interest),
            followed=bool(followed),
            has_recording_id=bool(has_recording_id),
            recorded=bool(recorded),
            count=int(count),
        )
        for called, matchable, status, interest, followed, has_recording_id, recorded, count in cursor.fetchall()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows between two ids (both included) that a step has something to do with."""

    step: str
    first: int
    last: int
    count: int


TRANSCRIPT_RETRY = " LEFT JOIN call_retries c ON c.list_id = l.id AND c.step = 'conversation'"
TRANSCRIPT_EXPECTED = (
    "l.call_status = 'Succeeded' AND COALESCE(l.call_conversation, '') = ''"
    " AND (c.list_id IS NULL OR c.retry_at < c.since + INTERVAL %s SECOND)"
)
"""What is not there yet is asked for again while its next try lies within its grace."""
_RECORDING_EXPECTED = "r.retry_at < r.since + INTERVAL %s SECOND"
_LAGGING = f"{TRANSCRIPT_EXPECTED} AND COALESCE(l.leads_follow_id, '') IN ('', '0')"
_CALLED = "l.task_id = %s AND COALESCE(l.call_job_id, '') <> ''"
_FINAL = f"COALESCE(l.call_status, '') IN {FINAL_SQL}"

_CONVERSATIONS = (
    f"SELECT 'conversations' AS step, l.id FROM leads_task_list l{TRANSCRIPT_RETRY}"
    f" WHERE {_CALLED} AND ((%s AND NOT {_FINAL}) OR ({_LAGGING} AND (c.list_id IS NULL OR c.retry_at <= %s)))"
)
_FOLLOW_UPS = (
    f"SELECT 'follow_ups' AS step, l.id FROM leads_task_list l{TRANSCRIPT_RETRY}"
    " LEFT JOIN call_retries a ON a.list_id = l.id AND a.step = 'analysis'"
    f" WHERE {_CALLED} AND {_FINAL} AND (COALESCE(l.leads_follow_id, '') IN ('', '0') OR {UNJUDGED.format('l')})"
    f" AND NOT ({_LAGGING}) AND (a.list_id IS NULL OR a.retry_at <= %s)"
)
_RECORDINGS = (
    "SELECT 'recordings' AS step, l.id FROM leads_task_list l"
    " LEFT JOIN call_retries r ON r.list_id = l.id AND r.step = 'recording'"
    f" WHERE {_CALLED} AND l.call_status = 'Succeeded' AND COALESCE(l.call_task_id, '') <> ''"
    f" AND COALESCE(l.recording_url, '') = '' AND (r.list_id IS NULL OR ({_RECORDING_EXPECTED} AND r.retry_at <= %s))"
)
_WORK = (
    "SELECT step, MIN(id), MAX(id), COUNT(*) FROM ("
    " SELECT step, id, (ROW_NUMBER() OVER (PARTITION BY step ORDER BY id) - 1)"
    " DIV CASE step WHEN 'conversations' THEN %s WHEN 'follow_ups' THEN %s ELSE %s END AS chunk"
    f" FROM ({_CONVERSATIONS} UNION ALL {_FOLLOW_UPS} UNION ALL {_RECORDINGS}) w) n"
    " GROUP BY step, chunk ORDER BY step, chunk"
)
_NEXT_DUE = (
    "SELECT MIN(r.retry_at) FROM call_retries r JOIN leads_task_list l ON l.id = r.list_id"
    " WHERE r.task_id = %s AND r.retry_at > %s AND ("
    " (r.step = 'conversation' AND COALESCE(l.leads_follow_id, '') IN ('', '0')"
    "  AND COALESCE(l.call_conversation, '') = '')"
    " OR (r.step = 'analysis' AND COALESCE(l.leads_follow_id, '') IN ('', '0'))"
    " OR (r.step = 'recording' AND COALESCE(l.recording_url, '') = ''"
    f"  AND {_RECORDING_EXPECTED}))"
)


def work(
    cursor: Cursor,
    task_id: int,
    *,
    now: datetime,
    unfinished: bool,
    sizes: tuple[int, int, int],
    conversation_grace: float,
    recording_grace: float,
) -> list[Chunk]:
    """What the steps 4 to 6 can do now, as ranges of rows.

    Args:
        cursor: any.
        task_id: the task.
        now: UTC, naive.
        unfinished: whether calls without an outcome are asked for too, not only what is due for another try.
        sizes: rows a chunk of conversations, follow-ups and recordings.
        conversation_grace: seconds that a transcript may come after its call's outcome.
        recording_grace: seconds that a recording may.
    """
    conversations = (task_id, unfinished, conversation_grace, now)
    follow_ups = (task_id, conversation_grace, now)
    recordings = (task_id, recording_grace, now)
    cursor.execute(_WORK, (*sizes, *conversations, *follow_ups, *recordings))
    return [
        Chunk(step=str(step), first=int(first), last=int(last), count=int(count))
        for step, first, last, count in cursor.fetchall()
    ]


def next_due(cursor: Cursor, task_id: int, *, now: datetime, recording_grace: float) -> datetime | None:
    """When the next set-aside row is due for another try (UTC, naive), or None."""
    cursor.execute(_NEXT_DUE, (task_id, now, recording_grace))
    row = cursor.fetchone()
    due = row[0] if row else None
    return due if isinstance(due, datetime) else None


def judgements(cursor: Cursor, task_id: int) -> dict[str, int]:
    """The task's ledger in numbers: follow-ups by outcome, re-analyses, tokens."""
    cursor.execute(
        "SELECT outcome, COUNT(*) FROM call_follow_ups WHERE task_id = %s GROUP BY outcome"
        " UNION ALL SELECT 'reanalysed', COALESCE(SUM(request_id <> '' AND outcome IN ('analysed', 'default')), 0)"
        " FROM call_analyses WHERE task_id = %s"
        " UNION ALL SELECT 'kept_edits', COALESCE(SUM(request_id <> '' AND outcome = 'kept'), 0)"
        " FROM call_analyses WHERE task_id = %s"
        " UNION ALL SELECT 'input_tokens', COALESCE(SUM(input_tokens), 0) FROM call_analyses WHERE task_id = %s"
        " UNION ALL SELECT 'output_tokens', COALESCE(SUM(output_tokens), 0) FROM call_analyses WHERE task_id = %s",
        (task_id, task_id, task_id, task_id, task_id),
    )
    return {str(name): int(count) for name, count in cursor.fetchall()}

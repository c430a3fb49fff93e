"""``leads_task_list``: matching jobs, outcomes and transcripts, recordings (SPEC 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from clients.database import bulks, derived, flat, marks, unchanged
from clients.tables.tasks import CALL_TIMES, FINAL_SQL

Runs = list[list[int]]
"""Row ids as runs: ``[first, last]``, both included, in order."""


def ids_in(runs: Runs) -> tuple[str, list[int]]:
    """A condition on ``l.id`` for these runs, and its parameters."""
    singles = [first for first, last in runs if first == last]
    spans = [(first, last) for first, last in runs if first != last]
    parts = ["l.id BETWEEN %s AND %s"] * len(spans)
    if singles:
        parts.append(f"l.id IN ({marks(len(singles))})")
    return "(" + (" OR ".join(parts) or "FALSE") + ")", [*flat(spans), *singles]


# --- job ids (SPEC 3) -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A row without a job id."""

    id: int
    leads_id: str
    reference_id: str
    phone: str


def used_jobs(cursor: Cursor, task_id: int, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that a row of the task already has."""
    used: set[str] = set()
    for part in bulks([(job_id,) for job_id in job_ids], 1000):
        cursor.execute(
            f"SELECT call_job_id FROM leads_task_list WHERE task_id = %s AND call_job_id IN ({marks(len(part))})",
            (task_id, *flat(part)),
        )
        used.update(str(row[0]) for row in cursor.fetchall())
    return used


def unmatched_by(cursor: Cursor, task_id: int, column: str, values: Sequence[Any]) -> list[Unmatched]:
    """Rows of the task without a job id whose ``reference_id``, ``leads_id`` or ``leads_phone`` is among ``values``."""
    assert column in ("reference_id", "leads_id", "leads_phone")
    found: list[Unmatched] = []
    for part in bulks([(value,) for value in values], 1000):
        cursor.execute(
            "SELECT id, leads_id, COALESCE(reference_id, ''), COALESCE(leads_phone, '') FROM leads_task_list"
            f" WHERE task_id = %s AND {column} IN ({marks(len(part))}) AND COALESCE(call_job_id, '') = '' ORDER BY id",
            (task_id, *flat(part)),
        )
        found += [
            Unmatched(id=int(row[0]), leads_id=str(row[1]), reference_id=str(row[2]), phone=str(row[3]))
            for row in cursor.fetchall()
        ]
    return found


def save_jobs(cursor: Cursor, jobs: Sequence[tuple[int, str]]) -> int:
    """Give rows their job ids; a row that has one keeps it, a ``Failed`` of a row that had none is taken back.

    Returns:
        How many rows got theirs.
    """
    saved = 0
    for part in bulks(sorted(jobs)):
        cursor.execute(
            f"UPDATE ({derived(('id', 'job'), len(part))}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
            " SET t.call_status = IF(t.call_status = 'Failed', DEFAULT(t.call_status), t.call_status),"
            f" t.call_job_id = v.job, {unchanged(CALL_TIMES)}"
            " WHERE COALESCE(t.call_job_id, '') = ''",
            flat(part),
        )
        saved += cursor.rowcount
    return saved


def fail_unmatched(cursor: Cursor, task_id: int) -> int:
    """Rows that could have had a job and got none have failed (SPEC 3). Returns how many."""
    cursor.execute(
        f"UPDATE leads_task_list t SET t.call_status = 'Failed', {unchanged(CALL_TIMES)}"
        " WHERE task_id = %s AND COALESCE(call_job_id, '') = ''"
        f" AND COALESCE(call_status, '') NOT IN {FINAL_SQL}"
        " AND (COALESCE(reference_id, '') <> '' OR COALESCE(leads_phone, '') <> '')",
        (task_id,),
    )
    return int(cursor.rowcount)


# --- conversations (SPEC 4) -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """A called row, as far as the platform decides it. ``tries`` and ``since`` are of a transcript that lags."""

    id: int
    leads_id: Any
    call_job_id: str
    reference_id: str
    phone: str
    call_status: str
    conversation: str
    planed_time: datetime | None
    call_task_id: str
    calling_number: str
    updated_time: datetime | None
    recording_url: str
    followed: bool
    tries: int
    since: datetime | None


_CALL_COLUMNS = (
    "l.id, l.leads_id, l.call_job_id, COALESCE(l.reference_id, ''), COALESCE(l.leads_phone, ''),"
    " COALESCE(l.call_status, ''), COALESCE(l.call_conversation, ''), l.planed_time, COALESCE(l.call_task_id, ''),"
    " COALESCE(l.calling_number, ''), l.updated_time, COALESCE(l.recording_url, ''),"
    " COALESCE(l.leads_follow_id, '') NOT IN ('', '0'), COALESCE(r.tries, 0), r.since"
    " FROM leads_task_list l LEFT JOIN call_retries r ON r.list_id = l.id AND r.step = 'conversation'"
    " WHERE l.task_id = %s AND COALESCE(l.call_job_id, '') <> ''"
)


def _call_rows(cursor: Cursor) -> list[CallRow]:
    return [
        CallRow(
            id=int(row[0]),
            leads_id=row[1],
            call_job_id=str(row[2]),
            reference_id=str(row[3]),
            phone=str(row[4]),
            call_status=str(row[5]),
            conversation=str(row[6]),
            planed_time=row[7],
            call_task_id=str(row[8]),
            calling_number=str(row[9]),
            updated_time=row[10],
            recording_url=str(row[11]),
            followed=bool(row[12]),
            tries=int(row[13]),
            since=row[14],
        )
        for row in cursor.fetchall()
    ]


def without_outcome(cursor: Cursor, task_id: int, runs: Runs) -> list[CallRow]:
    """Of these rows those whose outcome is not final, or ``Succeeded`` without transcript and follow-up."""
    condition, parameters = ids_in(runs)
    cursor.execute(
        f"SELECT {_CALL_COLUMNS} AND {condition} AND (COALESCE(l.call_status, '') NOT IN {FINAL_SQL}"
        " OR (l.call_status = 'Succeeded' AND COALESCE(l.call_conversation, '') = ''"
        " AND COALESCE(l.leads_follow_id, '') IN ('', '0'))) ORDER BY l.id",
        (task_id, *parameters),
    )
    return _call_rows(cursor)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRow:
    """A call that was recorded. ``tries`` and ``since`` are of a recording that is not there yet."""

    id: int
    call_job_id: str
    call_task_id: str
    tries: int
    since: datetime | None


def without_recording(cursor: Cursor, task_id: int, runs: Runs) -> list[RecordedRow]:
    """Of these rows those that succeeded, were recorded, and have no URL; without those deleted for their age."""
    condition, parameters = ids_in(runs)
    cursor.execute(
        "SELECT l.id, l.call_job_id, l.call_task_id, COALESCE(r.tries, 0), r.since FROM leads_task_list l"
        " LEFT JOIN call_retries r ON r.list_id = l.id AND r.step = 'recording'"
        f" WHERE l.task_id = %s AND {condition} AND COALESCE(l.call_job_id, '') <> '' AND l.call_status = 'Succeeded'"
        " AND COALESCE(l.call_task_id, '') <> '' AND COALESCE(l.recording_url, '') = ''"
        " AND COALESCE(r.error_code, '') <> 'pruned' ORDER BY l.id",
        (task_id, *parameters),
    )
    return [
        RecordedRow(id=int(row[0]), call_job_id=str(row[1]), call_task_id=str(row[2]), tries=int(row[3]), since=row[4])
        for row in cursor.fetchall()
    ]


def call_page(cursor: Cursor, task_id: int, *, page: int, page_size: int) -> tuple[int, list[CallRow]]:
    """How many called rows the task has, and one page of them in order of id (SPEC 10)."""
    cursor.execute(
        "SELECT COUNT(*) FROM leads_task_list WHERE task_id = %s AND COALESCE(call_job_id, '') <> ''", (task_id,)
    )
    row = cursor.fetchone()
    total = int(row[0]) if row else 0
    cursor.execute(
        f"SELECT {_CALL_COLUMNS} ORDER BY l.id LIMIT %s OFFSET %s",
        (task_id, page_size, (page - 1) * page_size),
    )
    return total, _call_rows(cursor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a called row shall hold now.

    Attributes:
        call_status, conversation: empty ones leave the row's own.
        transcribed: the answer holds a transcript that is not less than the row's.
    """

    id: int
    call_status: str
    conversation: str
    transcribed: bool
    planed_time: datetime | None
    call_task_id: str
    calling_number: str
    updated_time: datetime | None


_SET_ATTEMPT = (
    "t.planed_time = v.planed, t.call_task_id = v.task, t.calling_number = v.number, t.updated_time = v.updated, "
    + unchanged(["call_time"])
)
_SAVE_OUTCOMES = (
    "UPDATE ({values}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id SET {assignments}"
    " WHERE NOT (t.call_status <=> 'Succeeded' AND v.is_succeeded = 0)"
    f" AND NOT (COALESCE(t.call_status, '') IN {FINAL_SQL} AND v.is_final = 0)"
    f" AND NOT (COALESCE(t.call_status, '') IN {FINAL_SQL}"
    " AND COALESCE(t.call_conversation, '') <> '' AND v.has_text = 0)"
)
_OUTCOME_COLUMNS = (
    *("id", "status", "conversation", "planed", "task", "number", "updated"),
    *("is_final", "is_succeeded", "has_text"),
)


def save_outcomes(cursor: Cursor, outcomes: Iterable[Outcome]) -> int:
    """Write outcomes; whoever comes late with less (an older status, no transcript) changes nothing.

    Returns:
        How many rows were written.
    """
    kinds: dict[tuple[bool, bool], list[Outcome]] = {}
    for outcome in outcomes:
        kinds.setdefault((bool(outcome.call_status), bool(outcome.conversation)), []).append(outcome)
    saved = 0
    for (is_final, has_text), alike in kinds.items():
        assignments = _SET_ATTEMPT
        if is_final:
            assignments += ", t.call_status = v.status"
        if has_text:
            assignments += ", t.call_conversation = v.conversation"
        for part in bulks(_outcome_values(outcome) for outcome in alike):
            values = derived(_OUTCOME_COLUMNS, len(part))
            cursor.execute(_SAVE_OUTCOMES.format(values=values, assignments=assignments), flat(part))
            saved += cursor.rowcount
    return saved


def _outcome_values(outcome: Outcome) -> tuple[Any, ...]:
    return (
        outcome.id,
        outcome.call_status,
        outcome.conversation,
        outcome.planed_time,
        outcome.call_task_id,
        outcome.calling_number,
        outcome.updated_time,
        int(bool(outcome.call_status)),
        int(outcome.call_status == "Succeeded"),
        int(outcome.transcribed),
    )


# --- recordings (SPEC 5) ----------------------------------------------------------------------------------------


def save_recordings(cursor: Cursor, urls: Sequence[tuple[int, str]]) -> int:
    """Save recording URLs of rows that have none. Returns how many were written."""
    saved = 0
    for part in bulks(sorted(urls)):
        cursor.execute(
            f"UPDATE ({derived(('id', 'url'), len(part))}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
            f" SET t.recording_url = v.url, {unchanged(CALL_TIMES)} WHERE COALESCE(t.recording_url, '') = ''",
            flat(part),
        )
        saved += cursor.rowcount
    return saved

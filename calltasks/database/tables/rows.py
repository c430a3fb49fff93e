"""``leads_task_list``: outcomes and transcripts, recordings (rules 4, 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, derived, flat, marks, unchanged
from calltasks.database.refusals import write_each_here
from calltasks.database.tables import needs
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables.needs import (
    CALL_TIMES,
    CALLED,
    CONVERSATION,
    RECORDING,
    UNLINKED,
    is_final,
    is_status,
    silent,
)
from calltasks.database.tables.retries import Retry
from calltasks.names import SUCCEEDED
from calltasks.rules.row_ranges import Ranges


def ids_in(ranges: Ranges) -> tuple[str, list[int]]:
    """A condition on ``l.id`` for these ranges, and its parameters."""
    singles = [first for first, last in ranges if first == last]
    spans = [(first, last) for first, last in ranges if first != last]
    parts = ["l.id BETWEEN %s AND %s"] * len(spans)
    if singles:
        parts.append(f"l.id IN ({marks(len(singles))})")
    return "(" + (" OR ".join(parts) or "FALSE") + ")", [*flat(spans), *singles]


def give_status(cursor: Cursor, ids: Iterable[int], status: str, condition: str) -> set[int]:
    """Give rows a status without a call, where ``condition`` (on ``l``) holds; inside a transaction or outside.

    Returns:
        Rows that the database refuses: they stay as they are, and stop no other.
    """

    def write(part: Sequence[Sequence[int]]) -> None:
        cursor.execute(
            f"UPDATE leads_task_list l SET l.call_status = '{status}', {unchanged(CALL_TIMES, 'l')}"
            f" WHERE l.id IN ({marks(len(part))}) AND {condition}",
            flat(part),
        )

    # One statement: what of it was done is undone with it, and the transaction goes on.
    parts = bulks([(id_,) for id_ in ids])
    return {one.item[0] for part in parts for one in write_each_here(cursor, write, part, undo="")}


ON_REQUEST = 100 * 365 * 86_400.0
"""A grace within which everything lies that was not given up for good."""


# --- conversations (rule 4) -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """A called row, as far as the platform decides it.

    Attributes:
        silent: whether it has no conversation, as the table compares.
        tries, since: of a transcript that lags.
        refusals: how often its outcome was not taken by the database, since it last was.
    """

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
    silent: bool
    followed: bool
    tries: int
    since: datetime | None
    refusals: int = 0


_CALL_COLUMNS = (
    "l.id, l.leads_id, l.call_job_id, COALESCE(l.reference_id, ''), COALESCE(l.leads_phone, ''),"
    " COALESCE(l.call_status, ''), COALESCE(l.call_conversation, ''), l.planed_time, COALESCE(l.call_task_id, ''),"
    " COALESCE(l.calling_number, ''), l.updated_time, COALESCE(l.recording_url, ''),"
    f" {silent()}, NOT ({UNLINKED}), COALESCE(c.tries, 0), c.since, COALESCE(o.tries, 0)"
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
            silent=bool(row[12]),
            followed=bool(row[13]),
            tries=int(row[14]),
            since=row[15],
            refusals=int(row[16]),
        )
        for row in cursor.fetchall()
    ]


def without_outcome(cursor: Cursor, task_id: int, ranges: Ranges, *, grace: float, now: datetime) -> list[CallRow]:
    """Of these rows those that have no outcome, or wait for a transcript, and are due. ``grace``: of the transcript,
    seconds; ``now``: UTC, naive."""
    condition, parameters = ids_in(ranges)
    cursor.execute(
        f"SELECT {_CALL_COLUMNS}{CONVERSATION.rows} AND {condition} AND {CONVERSATION.due_now} ORDER BY l.id",
        (task_id, True, grace, *parameters, now),
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


def without_recording(
    cursor: Cursor, task_id: int, ranges: Ranges, *, grace: float = ON_REQUEST, now: datetime | None = None
) -> list[RecordedRow]:
    """Of these rows those that succeeded, were recorded, and have no URL; without those deleted for their age.

    Args:
        cursor: any.
        task_id: the rows' task.
        ranges: which rows.
        grace: seconds that a recording may come late; without it, on request, any is asked for.
        now: UTC, naive: only what is due; None for all.
    """
    condition, parameters = ids_in(ranges)
    cursor.execute(
        f"SELECT l.id, l.call_job_id, l.call_task_id, COALESCE(r.tries, 0), r.since{RECORDING.rows}"
        f" AND {condition} AND (%s OR {RECORDING.due_now}) ORDER BY l.id",
        (task_id, grace, *parameters, now is None, now),
    )
    return [
        RecordedRow(id=int(row[0]), call_job_id=str(row[1]), call_task_id=str(row[2]), tries=int(row[3]), since=row[4])
        for row in cursor.fetchall()
    ]


def call_page(cursor: Cursor, task_id: int, *, page: int, page_size: int) -> tuple[int, list[CallRow]]:
    """How many called rows the task has, and one page of them in order of id (rule 10)."""
    cursor.execute(
        "SELECT COUNT(*) FROM leads_task_list WHERE task_id = %s AND COALESCE(call_job_id, '') <> ''", (task_id,)
    )
    row = cursor.fetchone()
    total = int(row[0]) if row else 0
    cursor.execute(
        f"SELECT {_CALL_COLUMNS} FROM leads_task_list l{needs.CALL_RETRIES} WHERE l.task_id = %s AND {CALLED}"
        " ORDER BY l.id LIMIT %s OFFSET %s",
        (task_id, page_size, (page - 1) * page_size),
    )
    return total, _call_rows(cursor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a called row shall hold now.

    Attributes:
        call_job_id: the row's, as it was read; one that has another call by now is left alone.
        call_status, conversation: empty ones leave the row's own.
        transcribed: the answer holds a transcript that is not less than the row's.
        late: of a transcript that is still expected; saved with the outcome, so that no talk is taken for silence.
    """

    id: int
    call_job_id: str
    call_status: str
    conversation: str
    transcribed: bool
    planed_time: datetime | None
    call_task_id: str
    calling_number: str
    updated_time: datetime | None
    late: Retry | None = None


_SET_ATTEMPT = (
    # A row's own zero date stays: the column may not take NULL.
    "t.planed_time = COALESCE(v.planed, t.planed_time), t.call_task_id = v.task,"
    " t.calling_number = v.number, t.updated_time = v.updated, " + unchanged(["call_time"])
)
_SAME_CALL = "CAST(CONVERT(t.call_job_id USING utf8mb4) AS BINARY) = CAST(v.job AS BINARY)"
_WITH_NO_LESS = (
    f" WHERE {_SAME_CALL} AND NOT ({is_status(SUCCEEDED, 't')} AND v.is_succeeded = 0)"
    f" AND NOT ({is_final('t')} AND v.is_final = 0)"
    f" AND NOT ({is_final('t')} AND NOT {silent('t')} AND v.has_text = 0)"
)
_OUTCOME_COLUMNS = (
    *("id", "job", "status", "conversation", "planed", "task", "number", "updated"),
    *("is_final", "is_succeeded", "has_text"),
)


def save_outcomes(cursor: Cursor, task_id: int, outcomes: Iterable[Outcome]) -> int:
    """Write outcomes; whoever comes late with less (an older status, no transcript) changes nothing.

    Args:
        cursor: inside a transaction, if anything is late.
        task_id: the rows' task.
        outcomes: at most one a row.

    Returns:
        How many rows were written.
    """
    outcomes = list(outcomes)
    retry_table.save(cursor, task_id, [outcome.late for outcome in outcomes if outcome.late])
    kinds: dict[tuple[bool, bool], list[Outcome]] = {}
    for outcome in outcomes:
        kinds.setdefault((bool(outcome.call_status), bool(outcome.conversation)), []).append(outcome)
    saved = 0
    for (has_outcome, has_text), alike in kinds.items():
        assignments = _SET_ATTEMPT
        if has_outcome:
            assignments += ", t.call_status = v.status"
        if has_text:
            assignments += ", t.call_conversation = v.conversation"
        for part in bulks(_outcome_values(outcome) for outcome in alike):
            values = derived(_OUTCOME_COLUMNS, len(part))
            cursor.execute(
                f"UPDATE ({values}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id SET {assignments}{_WITH_NO_LESS}",
                flat(part),
            )
            saved += cursor.rowcount
    return saved


def _outcome_values(outcome: Outcome) -> tuple[Any, ...]:
    return (
        outcome.id,
        outcome.call_job_id,
        outcome.call_status,
        outcome.conversation,
        outcome.planed_time,
        outcome.call_task_id,
        outcome.calling_number,
        outcome.updated_time,
        int(bool(outcome.call_status)),
        int(needs.final_status(outcome.call_status) == SUCCEEDED),
        int(outcome.transcribed),
    )


# --- recordings (rule 5) ----------------------------------------------------------------------------------------


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

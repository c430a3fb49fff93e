"""``leads_task_list``: matching jobs, outcomes and transcripts, recordings (SPEC 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    SILENT,
    UNLINKED,
    is_final,
    is_status,
)
from calltasks.database.tables.retries import Retry
from calltasks.database.tables.tasks import MATCHABLE_SQL

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


ON_REQUEST = 100 * 365 * 86_400.0
"""A grace within which everything lies that was not given up for good."""
PORTION_ROWS = 10_000
"""Rows that one statement reads of a whole task."""


# --- job ids (SPEC 3) -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRow:
    """A row as far as it decides about its job, its ids without blanks around them. Empty text stands for NULL.

    Attributes:
        job_id: the one that it has.
    """

    id: int
    task_id: int
    leads_id: str
    reference_id: str
    phone: str
    job_id: str


_MATCH_COLUMNS = (
    "id, task_id, leads_id, COALESCE(reference_id, ''), COALESCE(leads_phone, ''), COALESCE(call_job_id, '')"
)


def _match_rows(cursor: Cursor) -> list[MatchRow]:
    return [
        MatchRow(
            id=int(row[0]),
            task_id=int(row[1]),
            leads_id=str(row[2]).strip(),
            reference_id=str(row[3]).strip(),
            phone=str(row[4]),
            job_id=str(row[5]).strip(),
        )
        for row in cursor.fetchall()
    ]


def tasks_of_group(cursor: Cursor, task_id: int) -> list[int]:
    """The tasks whose rows the jobs of this task's group may be: those that have the same group, and itself."""
    cursor.execute(
        "SELECT o.id FROM call_tasks t JOIN call_tasks o ON o.job_group_id = t.job_group_id"
        " WHERE t.id = %s AND t.job_group_id <> ''",
        (task_id,),
    )
    return sorted({task_id, *(int(row[0]) for row in cursor.fetchall())})


def used_jobs(cursor: Cursor, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that a row has, of whatever task, unless the task is gone."""
    holders: dict[str, set[int]] = {}
    for part in bulks([(job_id,) for job_id in job_ids], 1000):
        cursor.execute(
            f"SELECT call_job_id, task_id FROM leads_task_list WHERE call_job_id IN ({marks(len(part))})", flat(part)
        )
        for job_id, task_id in cursor.fetchall():
            holders.setdefault(folded(str(job_id)), set()).add(int(task_id))
    tasks = sorted(set().union(*holders.values()))
    there: set[int] = set()
    for part in bulks([(task_id,) for task_id in tasks], 1000):
        cursor.execute(f"SELECT id FROM call_tasks WHERE id IN ({marks(len(part))})", flat(part))
        there.update(int(row[0]) for row in cursor.fetchall())
    return {job_id for job_id in job_ids if not there.isdisjoint(holders.get(folded(job_id), ()))}


def folded(job_id: str) -> str:
    """By what job ids are compared: one that a row has in another spelling is that row's all the same."""
    return job_id.strip().casefold()


def named_by(cursor: Cursor, tasks: Sequence[int], column: str, values: Sequence[str]) -> list[MatchRow]:
    """Rows of the tasks, with and without a job, whose ``reference_id``, or, where they have no reference, whose
    ``leads_id`` is among ``values`` by the column's own rule of comparison (``'a' = 'A'``, ``7 = '7x'``)."""
    condition = {"reference_id": "TRUE", "leads_id": "COALESCE(reference_id, '') = ''"}[column]
    found: list[MatchRow] = []
    for part in bulks([(value,) for value in values], max(1, 1000 // len(tasks))):
        cursor.execute(
            f"SELECT {_MATCH_COLUMNS} FROM leads_task_list WHERE task_id IN ({marks(len(tasks))})"
            f" AND {column} IN ({marks(len(part))}) AND {condition}",
            (*tasks, *flat(part)),
        )
        found += _match_rows(cursor)
    return found


def without_job(cursor: Cursor, task_id: int) -> Iterator[MatchRow]:
    """All rows of the task that have no job, in order of id, read in portions."""
    last = 0
    while True:
        cursor.execute(
            f"SELECT {_MATCH_COLUMNS} FROM leads_task_list"
            " WHERE task_id = %s AND id > %s AND COALESCE(call_job_id, '') = '' ORDER BY id LIMIT %s",
            (task_id, last, PORTION_ROWS),
        )
        portion = _match_rows(cursor)
        yield from portion
        if len(portion) < PORTION_ROWS:
            return
        last = portion[-1].id


def save_jobs(cursor: Cursor, tasks: Sequence[int], jobs: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Give rows their job ids, in transactions of its own.

    A row that has a job keeps it, a job that a row has meanwhile stays there, and a ``Failed`` of a row that had none
    is taken back. A row whose job id the database does not take is set aside and stops no other.

    Args:
        cursor: outside a transaction.
        tasks: all tasks that share the job group (:func:`tasks_of_group`).
        jobs: row and job.

    Returns:
        Those that were saved.
    """
    saved: list[tuple[int, str]] = []

    def claim(part: Sequence[tuple[int, str]]) -> None:
        cursor.execute("START TRANSACTION")
        claimed = claim_jobs(cursor, tasks, part)
        cursor.execute("COMMIT")
        saved.extend(claimed)

    for part in bulks(sorted(jobs)):
        pairs = [(int(row_id), str(job_id)) for row_id, job_id in part]
        refused = write_each_here(cursor, claim, pairs)
        retry_table.refuse_jobs(cursor, tasks, [(one.item[0], one.code) for one in refused])
    return saved


def claim_jobs(cursor: Cursor, tasks: Sequence[int], jobs: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """As :func:`save_jobs`, for at most 500, inside a transaction.

    The CRM's table has no unique key. Whoever gives away jobs of a group holds the rows of all its tasks in
    ``call_tasks``, so what is read about the jobs after that stays true until the transaction ends.
    """
    cursor.execute(f"SELECT id FROM call_tasks WHERE id IN ({marks(len(tasks))}) ORDER BY id FOR UPDATE", tuple(tasks))
    cursor.fetchall()
    used = used_jobs(cursor, [job_id for _, job_id in jobs])
    cursor.execute(
        f"SELECT id FROM leads_task_list WHERE id IN ({marks(len(jobs))}) AND COALESCE(call_job_id, '') = ''"
        " ORDER BY id FOR UPDATE",
        [row_id for row_id, _ in jobs],
    )
    waiting = {int(row[0]) for row in cursor.fetchall()}
    free = [(row_id, job_id) for row_id, job_id in jobs if row_id in waiting and job_id not in used]
    if free:
        cursor.execute(
            f"UPDATE ({derived(('id', 'job'), len(free))}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id"
            f" SET t.call_status = IF({is_status(needs.FAILED, 't')}, DEFAULT(t.call_status), t.call_status),"
            f" t.call_job_id = v.job, {unchanged(CALL_TIMES)}",
            flat(free),
        )
        retry_table.begin_anew(cursor, [row_id for row_id, _ in free])
    return free


_TO_FAIL = (
    "task_id = %s AND COALESCE(call_job_id, '') = ''"
    # Whose job is known, though the database did not take its id, has been called.
    " AND NOT EXISTS (SELECT 1 FROM call_retries x WHERE x.list_id = l.id AND x.step = 'job')"
    f" AND NOT {is_final()} AND {MATCHABLE_SQL}"
)


def any_to_fail(cursor: Cursor, task_id: int) -> bool:
    """Whether :func:`fail_unmatched` would find a row."""
    cursor.execute(f"SELECT 1 FROM leads_task_list l WHERE {_TO_FAIL} LIMIT 1", (task_id,))
    return cursor.fetchone() is not None


def fail_unmatched(cursor: Cursor, task_id: int) -> int:
    """Rows that could have had a job and got none have failed (SPEC 3). Returns how many."""
    cursor.execute(
        f"UPDATE leads_task_list l SET l.call_status = '{needs.FAILED}', {unchanged(CALL_TIMES, 'l')} WHERE {_TO_FAIL}",
        (task_id,),
    )
    return int(cursor.rowcount)


# --- conversations (SPEC 4) -------------------------------------------------------------------------------------


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
    f" {SILENT}, NOT ({UNLINKED}), COALESCE(c.tries, 0), c.since, COALESCE(o.tries, 0)"
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


def without_outcome(cursor: Cursor, task_id: int, runs: Runs, *, grace: float, now: datetime) -> list[CallRow]:
    """Of these rows those that have no outcome, or wait for a transcript, and are due. ``grace``: of the transcript,
    seconds; ``now``: UTC, naive."""
    condition, parameters = ids_in(runs)
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
    cursor: Cursor, task_id: int, runs: Runs, *, grace: float = ON_REQUEST, now: datetime | None = None
) -> list[RecordedRow]:
    """Of these rows those that succeeded, were recorded, and have no URL; without those deleted for their age.

    Args:
        cursor: any.
        task_id: the rows' task.
        runs: which rows.
        grace: seconds that a recording may come late; without it, on request, any is asked for.
        now: UTC, naive: only what is due; None for all.
    """
    condition, parameters = ids_in(runs)
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
    """How many called rows the task has, and one page of them in order of id (SPEC 10)."""
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
        call_status, conversation: empty ones leave the row's own.
        transcribed: the answer holds a transcript that is not less than the row's.
        late: of a transcript that is still expected; saved with the outcome, so that no talk is taken for silence.
    """

    id: int
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
_SAVE_OUTCOMES = (
    "UPDATE ({values}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id SET {assignments}"
    f" WHERE NOT ({is_status(needs.SUCCEEDED, 't')} AND v.is_succeeded = 0)"
    f" AND NOT ({is_final('t')} AND v.is_final = 0)"
    f" AND NOT ({is_final('t')}"
    " AND COALESCE(t.call_conversation, '') <> '' AND v.has_text = 0)"
)
_OUTCOME_COLUMNS = (
    *("id", "status", "conversation", "planed", "task", "number", "updated"),
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
        int(needs.final_status(outcome.call_status) == needs.SUCCEEDED),
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

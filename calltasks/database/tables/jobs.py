"""``leads_task_list``: which job is whose (rule 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, derived, flat, look_up, marks, unchanged
from calltasks.database.refusals import write_each_here
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables import withdrawals
from calltasks.database.tables.needs import CALL_TIMES, CALLED, MATCHABLE_SQL, is_final, is_status
from calltasks.database.tables.rows import give_status
from calltasks.names import CANCELLED, FAILED

_LEFT_OUT = "EXISTS (SELECT 1 FROM call_suppressions s WHERE s.list_id = t.id AND s.task_id = t.task_id)"
"""The row ``t`` was left out, by what was known then: the platform had not shown its job."""
CLAIM_ROWS = 1000
"""Rows that get their jobs in one transaction: those of ten pages, which are read together."""
PORTION_ROWS = 10_000
"""Rows that one statement reads of a whole task."""


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
        statement = f"SELECT call_job_id, task_id FROM leads_task_list WHERE {{job}} IN ({marks(len(part))})"
        look_up(cursor, statement, flat(part), job="call_job_id")
        for job_id, task_id in cursor.fetchall():
            # A row that has lost its task holds its job for nobody.
            holders.setdefault(folded(str(job_id)), set()).update([] if task_id is None else [int(task_id)])
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
        look_up(
            cursor,
            f"SELECT {_MATCH_COLUMNS} FROM leads_task_list WHERE task_id IN ({marks(len(tasks))})"
            f" AND {{named}} IN ({marks(len(part))}) AND {condition}",
            (*tasks, *flat(part)),
            named=column,
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

    A row that has a job keeps it, a job that a row has meanwhile stays there. Of a row that had none a ``Failed`` is
    taken back, and the ``Cancelled`` of one that was left out: it is called all the same. A row whose job id the
    database does not take is set aside and stops no other.

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

    for part in bulks(sorted(jobs), CLAIM_ROWS):
        pairs = [(int(row_id), str(job_id)) for row_id, job_id in part]
        refused = write_each_here(cursor, claim, pairs)
        retry_table.refuse_jobs(cursor, tasks, [(one.item[0], one.code) for one in refused])
    return saved


def claim_jobs(cursor: Cursor, tasks: Sequence[int], jobs: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """As :func:`save_jobs`, for at most ``CLAIM_ROWS``, inside a transaction.

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
            f" SET t.call_status = IF({is_status(FAILED, 't')} OR ({is_status(CANCELLED, 't')} AND {_LEFT_OUT}),"
            " DEFAULT(t.call_status), t.call_status),"
            f" t.call_job_id = v.job, {unchanged(CALL_TIMES)}",
            flat(free),
        )
        retry_table.begin_anew(cursor, [row_id for row_id, _ in free])
        withdrawals.take_up_again(cursor, [row_id for row_id, _ in free])
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


def fail_unmatched(cursor: Cursor, task_id: int) -> tuple[int, int]:
    """Rows that could have had a job and got none have failed (rule 3.7).

    Returns:
        How many did, and how many the database refuses to call so.
    """
    cursor.execute(f"SELECT l.id FROM leads_task_list l WHERE {_TO_FAIL}", (task_id,))
    ids = [int(row[0]) for row in cursor.fetchall()]
    refused = give_status(cursor, ids, FAILED, f"NOT ({CALLED}) AND NOT {is_final()}")
    return len(ids) - len(refused), len(refused)

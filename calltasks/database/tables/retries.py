"""``call_retries``: rows of a step that could not be done yet, and when to try again.

============= ==================================================================================================
step          what is not there yet
============= ==================================================================================================
conversation  the transcript of a call in which somebody spoke; ``since`` its outcome was known
recording     its recording
analysis      an answer of the model
outcome       an outcome that the platform has told and the database did not take: ``error_code`` is its number,
              ``''`` once it was taken
job           the same of a job id
============= ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, flat, marks

LONGEST = timedelta(hours=1)
"""Between two tries of what the database does not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """One row's tries of one step; times UTC, naive."""

    list_id: int
    step: str
    tries: int
    since: datetime
    retry_at: datetime
    error_code: str = ""


def next_try(*, since: datetime, now: datetime, delay: timedelta, grace: timedelta) -> datetime:
    """When to ask again for something that may appear until ``since + grace``.

    The last try falls on the end of the grace; a time at or after that end means that no more tries follow.
    """
    last = since + grace - min(timedelta(seconds=1), grace / 10)
    return min(now + delay, last) if now < last else since + grace + delay


def refused(*, list_id: int, step: str, code: str, tries: int, now: datetime, delay: float) -> Retry:
    """When to write again what the database did not take: after ``delay`` seconds, twice as long after each try."""
    pause = min(timedelta(seconds=delay) * 2 ** min(tries, 12), LONGEST)
    return Retry(list_id=list_id, step=step, tries=tries + 1, since=now, retry_at=now + pause, error_code=code)


def save(cursor: Cursor, task_id: int, retries: Sequence[Retry]) -> None:
    """Insert or renew."""
    for part in bulks([(r.list_id, r.step, task_id, r.tries, r.since, r.retry_at, r.error_code) for r in retries]):
        cursor.execute(
            "INSERT INTO call_retries (list_id, step, task_id, tries, since, retry_at, error_code) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, %s, %s)"] * len(part))
            + " ON DUPLICATE KEY UPDATE tries = VALUES(tries), since = VALUES(since), retry_at = VALUES(retry_at),"
            " error_code = VALUES(error_code)",
            flat(part),
        )


def begin_anew(cursor: Cursor, ids: Sequence[int]) -> None:
    """Calls of these rows begin now: what was tried before was of other rows that had these ids (a restored CRM)."""
    cursor.execute(
        "UPDATE call_retries SET tries = 0, since = UTC_TIMESTAMP(6), retry_at = UTC_TIMESTAMP(6), error_code = ''"
        f" WHERE list_id IN ({marks(len(ids))})",
        ids,
    )


def refuse_jobs(cursor: Cursor, tasks: Sequence[int], refused: Sequence[tuple[int, str]]) -> None:
    """Write down that the database did not take the job ids of these rows of the tasks (row, error number)."""
    for id_, code in refused:
        cursor.execute(
            "INSERT INTO call_retries (list_id, step, task_id, tries, since, retry_at, error_code)"
            " SELECT l.id, 'job', l.task_id, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), %s FROM leads_task_list l"
            f" WHERE l.id = %s AND l.task_id IN ({marks(len(tasks))})"
            " ON DUPLICATE KEY UPDATE tries = call_retries.tries + 1, error_code = VALUES(error_code)",
            (code, id_, *tasks),
        )


def settle(cursor: Cursor, ids: Sequence[int], step: str) -> None:
    """The database has taken what it had refused of these rows."""
    for part in bulks([(id_,) for id_ in ids]):
        cursor.execute(
            f"UPDATE call_retries SET tries = 0, error_code = '' WHERE step = %s AND list_id IN ({marks(len(part))})",
            (step, *flat(part)),
        )

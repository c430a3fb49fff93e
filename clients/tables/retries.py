"""``call_retries``: rows of a step that could not be done yet, and when to try again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pymysql.cursors import Cursor

from clients.database import bulks, flat, marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """One row's tries of one step. ``step`` is ``conversation``, ``recording`` or ``analysis``; times UTC, naive."""

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

"""``leads_task_list.recording_url`` of campaigns that are over: what is not in the archive, what is too old for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, derived, flat, marks, unchanged
from calltasks.database.tables.analyses import CALLED_AT
from calltasks.database.tables.needs import CALL_TIMES, CALLED, HAS_RECORDING_ID, HAS_SUCCEEDED

PRUNED = "pruned"
"""``call_retries.error_code`` of a recording that was deleted for its age: nothing fetches it again."""
_LONG_AGO, _NEVER = datetime(2000, 1, 1), datetime(9999, 12, 31)
_IN_ARCHIVE = "LEFT(CONVERT(COALESCE(l.recording_url, '') USING utf8mb4), CHAR_LENGTH(%s)) = %s"
_CONNECTED = f"{HAS_SUCCEEDED} AND {CALLED} AND {HAS_RECORDING_ID}"
_UNARCHIVED = (
    " FROM leads_task_list l JOIN call_tasks c ON c.id = l.task_id"
    " LEFT JOIN call_retries r ON r.list_id = l.id AND r.step = 'recording'"
    f" WHERE {_CONNECTED} AND NOT ({_IN_ARCHIVE}) AND COALESCE(r.error_code, '') <> '{PRUNED}'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnarchivedRow:
    """A call whose recording is not in the archive."""

    id: int
    task_id: int
    organization_id: str
    call_job_id: str
    call_task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedRow:
    """A call that may have been recorded. ``called_at``: wall clock."""

    id: int
    call_job_id: str
    call_task_id: str
    called_at: datetime | None
    archived: bool


def count_unarchived(cursor: Cursor, root: str, *, task_id: int | None) -> tuple[int, int]:
    """How many calls have no recording in the archive of this root, and how many of them a URL from elsewhere."""
    condition, parameters = _of_task(task_id)
    cursor.execute(
        f"SELECT COUNT(*), COALESCE(SUM(COALESCE(l.recording_url, '') <> ''), 0){_UNARCHIVED}{condition}",
        (f"{root}/", f"{root}/", *parameters),
    )
    row = cursor.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def unarchived(cursor: Cursor, root: str, *, task_id: int | None, after: int, limit: int) -> list[UnarchivedRow]:
    """The next such calls with an id above ``after``, in order of id."""
    condition, parameters = _of_task(task_id)
    cursor.execute(
        f"SELECT l.id, l.task_id, c.organization_id, l.call_job_id, l.call_task_id{_UNARCHIVED}{condition}"
        " AND l.id > %s ORDER BY l.id LIMIT %s",
        (f"{root}/", f"{root}/", *parameters, after, limit),
    )
    return [
        UnarchivedRow(
            id=int(row[0]),
            task_id=int(row[1]),
            organization_id=str(row[2] or ""),
            call_job_id=str(row[3]),
            call_task_id=str(row[4]),
        )
        for row in cursor.fetchall()
    ]


def save_lasting(cursor: Cursor, root: str, urls: Sequence[tuple[int, str]]) -> int:
    """Save URLs of the archive, in the place of URLs from elsewhere too. Returns how many rows changed."""
    saved = 0
    for part in bulks(sorted(urls)):
        cursor.execute(
            f"UPDATE ({derived(('id', 'url'), len(part))}) v STRAIGHT_JOIN leads_task_list l ON l.id = v.id"
            f" SET l.recording_url = v.url, {unchanged(CALL_TIMES, 'l')} WHERE NOT ({_IN_ARCHIVE})",
            [*flat(part), f"{root}/", f"{root}/"],
        )
        saved += cursor.rowcount
    return saved


def connected(cursor: Cursor, root: str, task_id: int) -> list[ConnectedRow]:
    """The task's calls that may have been recorded."""
    cursor.execute(
        f"SELECT l.id, l.call_job_id, l.call_task_id, {CALLED_AT}, {_IN_ARCHIVE}"
        f" FROM leads_task_list l WHERE l.task_id = %s AND {_CONNECTED}",
        (f"{root}/", f"{root}/", task_id),
    )
    return [
        ConnectedRow(
            id=int(row[0]),
            call_job_id=str(row[1]),
            call_task_id=str(row[2]),
            called_at=row[3],
            archived=bool(row[4]),
        )
        for row in cursor.fetchall()
    ]


def forget(cursor: Cursor, root: str, task_id: int, ids: Sequence[int]) -> int:
    """Empty the URLs of recordings that are about to be deleted, and note that nothing shall fetch them again.

    Inside a transaction. Returns how many URLs were emptied.
    """
    emptied = 0
    for part in bulks([(id_,) for id_ in sorted(ids)]):
        cursor.execute(
            "INSERT INTO call_retries (list_id, step, task_id, tries, since, retry_at, error_code) VALUES "
            + ", ".join(["(%s, 'recording', %s, 0, %s, %s, %s)"] * len(part))
            + " ON DUPLICATE KEY UPDATE since = VALUES(since), retry_at = VALUES(retry_at),"
            " error_code = VALUES(error_code)",
            [value for (id_,) in part for value in (id_, task_id, _LONG_AGO, _NEVER, PRUNED)],
        )
        cursor.execute(
            f"UPDATE leads_task_list l SET l.recording_url = '', {unchanged(CALL_TIMES, 'l')}"
            f" WHERE l.id IN ({marks(len(part))}) AND {_IN_ARCHIVE}",
            [*flat(part), f"{root}/", f"{root}/"],
        )
        emptied += cursor.rowcount
    return emptied


def _of_task(task_id: int | None) -> tuple[str, tuple[int, ...]]:
    return ("", ()) if task_id is None else (" AND l.task_id = %s", (task_id,))

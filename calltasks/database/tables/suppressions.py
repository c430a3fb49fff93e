"""``call_suppressions``: who is left out of a campaign, and why (rules 11.1, 11.7, 11.8)."""

from __future__ import annotations

from collections.abc import Sequence

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, flat
from calltasks.database.tables.needs import CALLED
from calltasks.database.tables.rows import give_status
from calltasks.names import CANCELLED

NOT_CALLED = (
    "FROM call_suppressions s JOIN leads_task_list l ON l.id = s.list_id AND l.task_id = s.task_id"
    f" WHERE COALESCE(l.call_job_id, '') = '' AND l.call_status = '{CANCELLED}'"
    " AND CAST(CONVERT(l.leads_id USING utf8mb4) AS BINARY) = CAST(s.leads_id AS BINARY)"
)
"""The entries that count: of rows that are left out, and are still those that they were."""


def suppress(cursor: Cursor, task_id: int, rows: Sequence[tuple[int, str, str]]) -> set[int]:
    """Leave rows (id, lead, reason) out: ``Cancelled``, with the reason; inside the transaction that would claim them.

    Returns:
        Rows that the database refuses to call so.
    """
    refused = give_status(cursor, [id_ for id_, _, _ in rows], CANCELLED, f"NOT ({CALLED})")
    out = [(row_id, task_id, leads_id[:191], reason) for row_id, leads_id, reason in rows if row_id not in refused]
    for part in bulks(out):
        # The row of an earlier task may have had the same id.
        cursor.execute(
            "INSERT INTO call_suppressions (list_id, task_id, leads_id, reason, created_at) VALUES "
            + ", ".join(["(%s, %s, %s, %s, UTC_TIMESTAMP(6))"] * len(part))
            + " ON DUPLICATE KEY UPDATE task_id = VALUES(task_id), leads_id = VALUES(leads_id),"
            " reason = VALUES(reason), created_at = VALUES(created_at)",
            flat(part),
        )
    return refused


def count(cursor: Cursor, task_id: int) -> dict[str, int]:
    """How many rows of the task are left out, by reason."""
    cursor.execute(f"SELECT s.reason, COUNT(*) {NOT_CALLED} AND s.task_id = %s GROUP BY s.reason", (task_id,))
    return {str(reason): int(number) for reason, number in cursor.fetchall()}

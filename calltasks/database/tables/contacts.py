"""``call_contacts``: who was handed over, by number: whom the organisation calls, or has called (rule 11.7).

It is written in the transaction that claims a row, before its request leaves. Until that commits nobody else sees it:
who looks for the calls that wait for a number looks again until no claim that began before can be open any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymysql.cursors import Cursor

from calltasks.database.connection import SHORT_ROWS, bulks, flat, in_one
from calltasks.database.tables import withdrawals
from calltasks.database.tables.needs import CALLED, is_final
from calltasks.database.tables.tasks import TaskRow
from calltasks.rules.phones import e164

_UNKNOWN = (
    # A wall-clock time as UTC; the row's own, as far as it has one and that is not to come.
    "SELECT l.id, COALESCE(l.leads_phone, ''), UTC_TIMESTAMP(6)"
    " - INTERVAL COALESCE(GREATEST(TIMESTAMPDIFF(SECOND, l.call_time, NOW()), 0), 0) SECOND"
    " FROM leads_task_list l LEFT JOIN call_contacts c ON c.list_id = l.id AND c.task_id = %s"
    " WHERE l.task_id = %s AND l.id > %s AND c.list_id IS NULL AND ({called}) ORDER BY l.id LIMIT %s"
)


def hand_over(cursor: Cursor, task_id: int, organization_id: str, rows: Sequence[tuple[int, str]]) -> None:
    """Rows (id and number in E.164) are about to be handed over, or are once more; inside the transaction that claims
    them."""
    _insert(cursor, "UTC_TIMESTAMP(6)", [(row_id, task_id, organization_id, phone) for row_id, phone in rows])


def enter(cursor: Cursor, task: TaskRow, *, dispatched: bool) -> None:
    """Enter those of the task's rows that another program has handed over, or an earlier version of this one, as of
    their ``call_time``, in transactions of its own; ``dispatched``: so are all that wait for their outcome."""
    called = f"{CALLED} OR NOT {is_final()}" if dispatched else CALLED
    last = 0
    while True:
        values = (task.task_id, task.task_id, last, SHORT_ROWS)
        cursor.execute(_UNKNOWN.format(called=called), values)
        found = cursor.fetchall()
        numbers = ((int(row_id), e164(str(phone)), since) for row_id, phone, since in found)
        entries = [
            (row_id, task.task_id, task.organization_id, phone, since) for row_id, phone, since in numbers if phone
        ]
        # Together: whoever is entered is not found again, and somebody of them may have said no.
        with in_one(cursor):
            _insert(cursor, "%s", entries)
            withdrawals.take_up_again(cursor, [int(entry[0]) for entry in entries])
        if len(found) < SHORT_ROWS:
            return
        last = int(found[-1][0])


def _insert(cursor: Cursor, claimed_at: str, values: Sequence[tuple[object, ...]]) -> None:
    for part in bulks(values, SHORT_ROWS):
        cursor.execute(
            "INSERT INTO call_contacts (list_id, task_id, organization_id, phone, claimed_at) VALUES "
            + ", ".join([f"(%s, %s, %s, %s, {claimed_at})"] * len(part))
            + " ON DUPLICATE KEY UPDATE task_id = VALUES(task_id), organization_id = VALUES(organization_id),"
            " phone = VALUES(phone), claimed_at = VALUES(claimed_at)",
            flat(part),
        )

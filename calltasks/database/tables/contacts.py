"""``call_contacts``: who was handed over, by number (rule 11.7) and reference: whom the organisation calls, or called.

It is written in the transaction that claims a row, before its request leaves. Until that commits nobody else sees it:
who looks for the calls that wait for a number looks again until no claim that began before can be open any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymysql.cursors import Cursor

from calltasks.database.connection import SHORT_ROWS, bulks, flat, in_one, marks
from calltasks.database.tables import withdrawals
from calltasks.database.tables.dispatches import Undialled
from calltasks.database.tables.gate import NUMBERS_A_STATEMENT
from calltasks.database.tables.needs import CALLED, is_final
from calltasks.database.tables.tasks import TaskRow
from calltasks.names import CANCELLED
from calltasks.rules.pairing import reference
from calltasks.rules.phones import e164

_UNKNOWN = (
    # A wall-clock time as UTC; the row's own, as far as it has one and that is not to come.
    "SELECT l.id, COALESCE(l.leads_phone, ''), l.leads_id, COALESCE(l.reference_id, ''), UTC_TIMESTAMP(6)"
    " - INTERVAL COALESCE(GREATEST(TIMESTAMPDIFF(SECOND, l.call_time, NOW()), 0), 0) SECOND"
    " FROM leads_task_list l LEFT JOIN call_contacts c ON c.list_id = l.id AND c.task_id = %s"
    " WHERE l.task_id = %s AND l.id > %s AND c.list_id IS NULL AND ({called}) ORDER BY l.id LIMIT %s"
)


_TWINS = (
    "SELECT 0, CAST(CONVERT(l.reference_id USING utf8mb4) AS BINARY), MIN(l.id) FROM leads_task_list l"
    " WHERE l.task_id = %s AND l.reference_id IN ({own})"
    f" AND (COALESCE(l.call_status, '') <> '{CANCELLED}' OR {CALLED}) GROUP BY l.reference_id"
    " UNION ALL SELECT 1, CAST(c.reference_id AS BINARY),"
    " TIMESTAMPDIFF(MICROSECOND, MAX(c.claimed_at), UTC_TIMESTAMP(6)) / 1000000 FROM call_contacts c"
    " LEFT JOIN leads_task_list l ON l.id = c.list_id AND l.task_id = c.task_id"
    " WHERE c.task_id = %s AND c.reference_id IN ({carried}) AND l.id IS NULL GROUP BY c.reference_id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Rows of one reference.

    Attributes:
        later: ids of rows for which an earlier one stands; who is left out stands for nobody.
        anew: of rows whose lead was handed over under a row that the CRM has deleted since: how many seconds ago.
    """

    later: frozenset[int]
    anew: dict[int, float]


def hand_over(cursor: Cursor, task: TaskRow, rows: Sequence[Undialled]) -> None:
    """Rows are about to be handed over, or are once more; inside the transaction that claims them."""
    _insert(cursor, "UTC_TIMESTAMP(6)", [_entry(task, row.id, row.phone, _carried(task, row)) for row in rows])


def twins(cursor: Cursor, task: TaskRow, rows: Sequence[Undialled]) -> Twins:
    """What these rows share their references with."""
    found: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for part in bulks([(row.reference_id or None, _carried(task, row)) for row in rows], NUMBERS_A_STATEMENT):
        own, carried = zip(*part, strict=True)
        some = marks(len(part))
        cursor.execute(_TWINS.format(own=some, carried=some), (task.task_id, *own, task.task_id, *carried))
        for gone, reference_id, number in cursor.fetchall():
            found[int(gone)][bytes(reference_id).decode()] = float(number)
    firsts, ages = found
    return Twins(
        later=frozenset(row.id for row in rows if firsts.get(_carried(task, row), row.id) < row.id),
        anew={row.id: ages[_carried(task, row)] for row in rows if _carried(task, row) in ages},
    )


def enter(cursor: Cursor, task: TaskRow, *, dispatched: bool) -> None:
    """Enter those of the task's rows that another program has handed over, or an earlier version of this one, as of
    their ``call_time``, in transactions of its own; ``dispatched``: so are all that wait for their outcome."""
    called = f"{CALLED} OR NOT {is_final()}" if dispatched else CALLED
    last = 0
    while True:
        values = (task.task_id, task.task_id, last, SHORT_ROWS)
        cursor.execute(_UNKNOWN.format(called=called), values)
        found = cursor.fetchall()
        entries = [
            (*_entry(task, int(row_id), number, reference(str(own), task.task_id, str(lead))), since)
            for row_id, phone, lead, own, since in found
            if (number := e164(str(phone)))
        ]
        # Together: whoever is entered is not found again, and somebody of them may have said no.
        with in_one(cursor):
            _insert(cursor, "%s", entries)
            withdrawals.take_up_again(cursor, [int(entry[0]) for entry in entries])
        if len(found) < SHORT_ROWS:
            return
        last = int(found[-1][0])


def _carried(task: TaskRow, row: Undialled) -> str:
    return reference(row.reference_id, task.task_id, row.leads_id)


def _entry(task: TaskRow, row_id: int, phone: str, carried: str) -> tuple[object, ...]:
    return row_id, task.task_id, task.organization_id, phone, carried[:191]


def _insert(cursor: Cursor, claimed_at: str, values: Sequence[tuple[object, ...]]) -> None:
    for part in bulks(values, SHORT_ROWS):
        cursor.execute(
            "INSERT INTO call_contacts (list_id, task_id, organization_id, phone, reference_id, claimed_at) VALUES "
            + ", ".join([f"(%s, %s, %s, %s, %s, {claimed_at})"] * len(part))
            + " ON DUPLICATE KEY UPDATE task_id = VALUES(task_id), organization_id = VALUES(organization_id),"
            " phone = VALUES(phone), reference_id = VALUES(reference_id), claimed_at = VALUES(claimed_at)",
            flat(part),
        )

"""``call_withdrawals``: calls that waited for somebody who said no, and what became of them (rule 11.10)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymysql.cursors import Cursor

from calltasks.database.connection import SHORT_ROWS, bulks, flat, marks
from calltasks.database.tables.gate import NEVER_LEFT
from calltasks.database.tables.ledger import SAME_CALL
from calltasks.database.tables.needs import CALLED, is_final, is_status
from calltasks.names import CANCELLED

WITHDRAWN, TOO_LATE, OVER, OTHER = "withdrawn", "too_late", "over", "other"
"""What became of a call: it was not made; or it was, after the customer had said no; or before that; or the job is of
another number, and nobody touches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A row that was handed over, whose number is opted out, and of which it is not known what became of its call.

    Attributes:
        said_no_at: when the opt-out was entered (UTC, naive).
        task_over: the task is complete: nobody gives its rows jobs any more.
        job_id: ``""``: it has none yet.
        waited: it was seen to wait before.
    """

    opt_out_id: int
    organization_id: str
    phone: str
    said_no_at: datetime
    list_id: int
    task_id: int
    task_over: bool
    job_group_id: str
    job_id: str
    waited: bool


def notice(cursor: Cursor) -> tuple[datetime, dict[int, float]]:
    """The opt-outs that are not carried out yet, each with the seconds since it was first seen here; and the moment at
    which this look begins (UTC, naive)."""
    cursor.execute("SELECT UTC_TIMESTAMP(6)")
    ((begun,),) = cursor.fetchall()
    cursor.execute(
        "SELECT id, TIMESTAMPDIFF(MICROSECOND, noticed_at, UTC_TIMESTAMP(6)) / 1000000 FROM call_opt_outs"
        " WHERE withdrawn_at IS NULL"
    )
    ages = {int(id_): None if age is None else float(age) for id_, age in cursor.fetchall()}
    for part in bulks([(id_,) for id_, age in ages.items() if age is None]):
        cursor.execute(
            "UPDATE call_opt_outs SET noticed_at = UTC_TIMESTAMP(6)"
            f" WHERE id IN ({marks(len(part))}) AND noticed_at IS NULL",
            flat(part),
        )
    return begun, {id_: age or 0.0 for id_, age in ages.items()}


def waiting(cursor: Cursor) -> list[Waiting]:
    """Of all open opt-outs that were not lifted: the calls of the organisation that may still be made, those that could
    when they were looked at before, and those that were made since and are over already. Whoever is to
    be sent, and was not, passes the gate before that."""
    cursor.execute(
        "SELECT o.id, o.organization_id, o.phone, o.created_at, l.id, t.id, t.task_type = '4',"
        " COALESCE(t.job_group_id, ''), COALESCE(l.call_job_id, ''), w.list_id IS NOT NULL FROM call_opt_outs o"
        " JOIN call_contacts c ON c.organization_id = o.organization_id AND c.phone = o.phone"
        " JOIN leads_task_list l ON l.id = c.list_id AND l.task_id = c.task_id"
        # Ids come again where a CRM is restored: the task must still be this organisation's.
        " JOIN call_tasks t ON t.id = c.task_id"
        " AND CAST(CONVERT(t.organization_id USING utf8mb4) AS BINARY) = CAST(o.organization_id AS BINARY)"
        f" LEFT JOIN call_withdrawals w ON w.list_id = l.id AND {SAME_CALL.format('w')}"
        " WHERE o.withdrawn_at IS NULL AND o.standing = 1 AND w.settled_at IS NULL"
        f" AND (w.list_id IS NOT NULL OR NOT {is_final()} OR ({CALLED} AND l.updated_time >="
        # A wall-clock time of whole seconds.
        "  o.created_at + INTERVAL TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW()) - 1 SECOND))"
        f" AND ({CALLED} OR NOT {NEVER_LEFT})"
    )
    return [
        Waiting(
            opt_out_id=int(row[0]),
            organization_id=str(row[1]),
            phone=str(row[2]),
            said_no_at=row[3],
            list_id=int(row[4]),
            task_id=int(row[5]),
            task_over=bool(row[6]),
            job_group_id=str(row[7]),
            job_id=str(row[8]).strip(),
            waited=bool(row[9]),
        )
        for row in cursor.fetchall()
    ]


def write_down(cursor: Cursor, calls: Iterable[tuple[Waiting, str]]) -> None:
    """Write down that calls may still be made (``""``), or what became of them."""
    for part in bulks((call.list_id, call.task_id, call.job_id, call.opt_out_id, outcome) for call, outcome in calls):
        cursor.execute(
            "INSERT INTO call_withdrawals (list_id, task_id, call_job_id, opt_out_id, outcome, noticed_at, settled_at)"
            " VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s, UTC_TIMESTAMP(6), IF(%s = '', NULL, UTC_TIMESTAMP(6)))"] * len(part))
            # The row of an earlier task may have had the same id.
            + " ON DUPLICATE KEY UPDATE"
            " noticed_at = IF(call_job_id = VALUES(call_job_id), noticed_at, VALUES(noticed_at)),"
            # An outcome stays, whoever comes late.
            " outcome = IF(call_job_id = VALUES(call_job_id) AND settled_at IS NOT NULL, outcome, VALUES(outcome)),"
            " settled_at = IF(call_job_id = VALUES(call_job_id) AND settled_at IS NOT NULL, settled_at,"
            " VALUES(settled_at)),"
            " task_id = VALUES(task_id), opt_out_id = VALUES(opt_out_id), call_job_id = VALUES(call_job_id)",
            flat([(*values, values[-1]) for values in part]),
        )


def carried_out(cursor: Cursor, opt_outs: Sequence[int], begun: datetime) -> None:
    """Nothing waits for these any more, as far as the look that began then saw: one that was taken up again since
    stays open."""
    for part in bulks([(id_,) for id_ in opt_outs]):
        cursor.execute(
            "UPDATE call_opt_outs SET withdrawn_at = UTC_TIMESTAMP(6)"
            f" WHERE id IN ({marks(len(part))}) AND withdrawn_at IS NULL AND noticed_at <= %s",
            (*flat(part), begun),
        )


def take_up_again(cursor: Cursor, rows: Sequence[int]) -> None:
    """Calls of these rows have turned up: who of them has said no is looked at again, and anew where a look that does
    not know of these calls is under way; inside the transaction that makes them known."""
    for part in bulks([(row,) for row in rows], SHORT_ROWS):
        cursor.execute(
            "SELECT o.id FROM call_contacts c JOIN call_opt_outs o ON o.organization_id = c.organization_id"
            f" AND o.phone = c.phone AND o.standing = 1 WHERE c.list_id IN ({marks(len(part))}) ORDER BY o.id",
            flat(part),
        )
        if found := [row[0] for row in cursor.fetchall()]:
            cursor.execute(
                f"UPDATE call_opt_outs SET withdrawn_at = NULL, noticed_at = NULL WHERE id IN ({marks(len(found))})",
                found,
            )


def count(cursor: Cursor, task_id: int) -> dict[str, int]:
    """How many calls of the task were withdrawn, and how many were made though the customer had said no before."""
    cursor.execute(
        f"SELECT COALESCE(SUM(w.outcome IN ('', '{WITHDRAWN}') AND {is_status(CANCELLED)}), 0),"
        f" COALESCE(SUM(w.outcome = '{TOO_LATE}'), 0) FROM call_withdrawals w"
        f" JOIN leads_task_list l ON l.id = w.list_id AND l.task_id = w.task_id AND {SAME_CALL.format('w')}"
        " WHERE w.task_id = %s",
        (task_id,),
    )
    row = cursor.fetchone()
    return {WITHDRAWN: int(row[0]), TOO_LATE: int(row[1])} if row else {WITHDRAWN: 0, TOO_LATE: 0}

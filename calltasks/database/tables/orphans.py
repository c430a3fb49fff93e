"""Follow-ups that another program wrote into ``dcc_leads_follow`` and never linked to their row (docs/design.md).

The program before this one inserted a follow-up and linked it in two steps. Stopped in between, it left a follow-up
without a row. To make another one would tell the salesperson twice; to take a person's own note for it would hide what
the call was judged to say. So one is taken only where all speaks for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import marks
from calltasks.database.tables.analyses import CALLED_AT, default_remark
from calltasks.database.tables.needs import silent

WITHIN = timedelta(days=1)
"""After the call; whoever follows up later is a person."""


def find(cursor: Cursor, task_id: int, leads: Mapping[int, Any]) -> dict[int, int]:
    """Unlinked follow-ups of rows, by row; inside a transaction that has locked the rows. ``leads``: whose they are.

    It is of the row's lead, was written within a day after the call and never changed since (its three times are one),
    is the only such one, and no row and no entry of our ledger knows it. After a call without a transcript it says
    what is always said then. Tasks that we dispatched ourselves have none: we link in the transaction that inserts.
    """
    if not leads:
        return {}
    # As texts: a number in one table may be a text in the other, and the two texts may be of two collations.
    unlinked = _unlinked(cursor, task_id, sorted({str(lead) for lead in leads.values()}))
    if not unlinked:
        return {}
    cursor.execute(
        f"SELECT l.id, l.leads_id, {CALLED_AT}, COALESCE(l.call_status, ''), {silent()}"
        f" FROM leads_task_list l WHERE l.id IN ({marks(len(leads))}) ORDER BY l.id",
        tuple(leads),
    )
    found: dict[int, int] = {}
    for id_, leads_id, called_at, status, speechless in cursor.fetchall():
        fitting = [
            follow_id
            for follow_id, written, remark in unlinked[str(leads_id)]
            if follow_id not in found.values()
            and called_at is not None
            and written is not None
            and called_at <= written <= called_at + WITHIN
            and (not speechless or remark.strip() == default_remark(str(status)))
        ]
        if len(fitting) == 1:
            found[int(id_)] = fitting[0]
    return found


def _unlinked(cursor: Cursor, task_id: int, leads: list[str]) -> dict[str, list[tuple[int, datetime, str]]]:
    """Follow-ups that nothing points to, with time and remark, by lead; locked, so that one row alone takes each."""
    # Without locks: where the CRM has no index on the lead, this reads the whole table.
    cursor.execute(
        f"SELECT f.id FROM dcc_leads_follow f WHERE f.leads_id IN ({marks(len(leads))})"
        " AND f.follow_time = f.frist_follow_time AND f.follow_time = f.new_follow_time"
        " AND NOT EXISTS (SELECT 1 FROM call_dispatches d JOIN call_tasks t ON t.id = d.task_id"
        "  WHERE d.task_id = %s AND (d.job_group_id IS NULL"
        "  OR CAST(d.job_group_id AS BINARY) = CAST(CONVERT(t.job_group_id USING utf8mb4) AS BINARY)))"
        " AND NOT EXISTS (SELECT 1 FROM call_follow_ups k WHERE k.follow_id = f.id)",
        (*leads, task_id),
    )
    candidates = [int(row[0]) for row in cursor.fetchall()]
    if not candidates:
        return {}
    cursor.execute(
        "SELECT f.id, f.leads_id, f.follow_time, COALESCE(f.leads_remark, '') FROM dcc_leads_follow f"
        f" WHERE f.id IN ({marks(len(candidates))})"
        " AND f.follow_time = f.frist_follow_time AND f.follow_time = f.new_follow_time ORDER BY f.id FOR UPDATE",
        candidates,
    )
    written = cursor.fetchall()
    follow_ids = [int(row[0]) for row in written]
    if not follow_ids:
        return {}
    some = marks(len(follow_ids))
    # Asked after they are locked: whoever had them before has linked them by now.
    cursor.execute(
        f"SELECT leads_follow_id FROM leads_task_list WHERE leads_follow_id IN ({some})"
        f" UNION SELECT follow_id FROM call_follow_ups WHERE follow_id IN ({some})",
        (*map(str, follow_ids), *follow_ids),
    )
    linked = {int(row[0]) for row in cursor.fetchall()}
    unlinked: dict[str, list[tuple[int, datetime, str]]] = defaultdict(list)
    for follow_id, leads_id, follow_time, remark in written:
        if int(follow_id) not in linked:
            unlinked[str(leads_id)].append((int(follow_id), follow_time, str(remark)))
    return unlinked

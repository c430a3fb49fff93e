"""Whom a task may call: whether anybody any more, and who of the rows that are about to be handed over is left out
(rules 11.1, 11.7, 11.8), by one statement for up to 900 numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, flat, look_up, marks
from calltasks.database.tables import dispatches
from calltasks.database.tables.analyses import CALLED_AT
from calltasks.database.tables.dispatches import NEVER_SENT, Undialled
from calltasks.database.tables.needs import CALLED, is_final, is_status
from calltasks.database.tables.tasks import TaskRow
from calltasks.names import CANCELLED
from calltasks.rules.gate import NOTHING, Known, Limits, reason

DAY = 86_400
NUMBERS_A_STATEMENT = 900
"""From 1,000 values on MariaDB makes a subquery of a list, and may read a whole organisation for it."""

_OPTED_OUT = (
    "SELECT phone, 1, 0, 0 FROM call_opt_outs WHERE organization_id = %s AND standing = 1 AND phone IN ({phones})"
)
NEVER_LEFT = (
    # Of a hundred thousand rows each would else be compared with every batch of its task.
    "EXISTS (SELECT 1 FROM call_dispatches d FORCE INDEX (idx_open) WHERE d.task_id = l.task_id"
    f" AND d.accepted_at IS NULL AND d.attempted_at = '{NEVER_SENT}' AND l.id BETWEEN d.first_id AND d.last_id)"
)
"""The row ``l`` is of a batch that is to be sent, and certainly was not."""
_NOT_CALLED = (
    "(l.id IS NOT NULL AND IF("
    f"{CALLED}, {is_status(CANCELLED)} AND COALESCE(l.call_task_id, '') = '',"
    f" {is_final()} OR {NEVER_LEFT}))"
)
"""Handed over, and nobody was called: cancelled before its first attempt, without a job at the end, or never sent."""
_AGE = (
    f"IF({is_final()}, TIMESTAMPDIFF(SECOND, {CALLED_AT}, NOW()), TIMESTAMPDIFF(SECOND, c.claimed_at, UTC_TIMESTAMP()))"
)
"""Seconds since a call: since the row's own time of it, once it has its outcome; until then since the handing over."""
_CALLS = (
    " UNION ALL SELECT phone, 0, SUM(age <= %s), SUM(age <= %s) FROM ("
    f"SELECT c.phone, {_AGE} AS age FROM call_contacts c"
    " LEFT JOIN leads_task_list l ON l.id = c.list_id AND l.task_id = c.task_id"
    " WHERE c.organization_id = %s AND c.phone IN ({phones}) AND c.task_id <> %s"
    f" AND NOT {_NOT_CALLED}"
    ") AS calls GROUP BY phone"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a task's rows must pass before they are handed over."""

    task: TaskRow
    limits: Limits

    def shut(self, cursor: Cursor) -> None:
        """Let no other campaign of the organisation through before this transaction ends, where it matters who else
        calls: two that begin at one moment would not see each other's."""
        if not self.limits.any:
            return
        look_up(
            cursor,
            "SELECT MIN(t.id) FROM call_tasks t WHERE {owner} = %s",
            (self.task.organization_id,),
            owner="t.organization_id",
        )
        row = cursor.fetchone()
        # Whoever claims holds its own task already, and asks for no other one but this.
        cursor.execute("SELECT 1 FROM call_tasks t WHERE t.id = %s FOR UPDATE", (row[0] if row else None,))
        cursor.fetchall()

    def left_out(self, cursor: Cursor, rows: Sequence[Undialled]) -> dict[int, str]:
        """Rows that are not to be called, and why."""
        known: dict[str, Known] = {}
        for part in bulks(
            ((phone,) for phone in sorted({row.phone for row in rows if row.phone})), NUMBERS_A_STATEMENT
        ):
            known |= self._known(cursor, flat(part))
        found = {row.id: reason(row.phone, known.get(row.phone, NOTHING), self.limits) for row in rows}
        return {row_id: why for row_id, why in found.items() if why}

    def _known(self, cursor: Cursor, phones: Sequence[str]) -> dict[str, Known]:
        owner, limits = self.task.organization_id, self.limits
        statement = _OPTED_OUT
        values: list[str | int] = [owner, *phones]
        if limits.any:
            statement += _CALLS
            values += [limits.not_called_within * DAY, limits.in_days * DAY, owner, *phones, self.task.task_id]
        cursor.execute(statement.replace("{phones}", marks(len(phones))), values)
        known: dict[str, Known] = {}
        for phone, opted_out, lately, often in cursor.fetchall():
            before = known.get(str(phone), NOTHING)
            known[str(phone)] = Known(
                opted_out=before.opted_out or bool(opted_out),
                lately=before.lately + int(lately or 0),
                often=before.often + int(often or 0),
            )
        return known


def dispatched(cursor: Cursor, row: TaskRow) -> bool:
    """Whether nobody is to be dialled any more."""
    if row.task_type >= 3:
        return True
    name = dispatches.group_name(row.task_id, row.create_time)
    ours = dispatches.ours(cursor, row.task_id, row.job_group_id, name)
    if row.job_group_id:
        # A group that we did not make ourselves is adopted as it is (rule 2.3); one of ours may be half dispatched.
        return row.task_type >= 2 or not ours
    # Calls that another program has made prove a group that the task no longer names: who is in it is not known.
    return row.task_type >= 2 and not ours and bool(dispatches.held_jobs(cursor, row.task_id))

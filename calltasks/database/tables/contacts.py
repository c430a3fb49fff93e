"""``call_contacts``: who was handed over, by number: whom the organisation calls, or has called (rule 11.7).

It is written in the transaction that claims a row, before its request leaves. Until that commits nobody else sees it:
who looks for the calls that wait for a number looks again until no claim that began before can be open any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, flat

ROWS_A_STATEMENT = 2_500
"""All batches of a step, sent for the first time or again, are one statement."""


def hand_over(cursor: Cursor, task_id: int, organization_id: str, rows: Sequence[tuple[int, str]]) -> None:
    """Rows (id and number in E.164) are about to be handed over, or are once more; inside the transaction that claims
    them."""
    values = [(row_id, task_id, organization_id, phone) for row_id, phone in rows]
    for part in bulks(values, ROWS_A_STATEMENT):
        cursor.execute(
            "INSERT INTO call_contacts (list_id, task_id, organization_id, phone, claimed_at) VALUES "
            + ", ".join(["(%s, %s, %s, %s, UTC_TIMESTAMP(6))"] * len(part))
            + " ON DUPLICATE KEY UPDATE task_id = VALUES(task_id), organization_id = VALUES(organization_id),"
            " phone = VALUES(phone), claimed_at = VALUES(claimed_at)",
            flat(part),
        )

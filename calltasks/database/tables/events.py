"""``call_events``: what happened, written in the transaction of the fact (rule 12.1), and in what order it is told.

A transaction that is committed late must not be passed over by who reads the table meanwhile. So an event gets its
place among its organisation's only after it was committed, from who reads (:func:`give_positions`): what is seen later
comes later, and writers wait for nobody. What was committed before another event was written has the smaller ``id``,
and who sees that one sees this one too: causes come before effects, ``task.complete`` after the task's last follow-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import bulks, derived, flat, marks, to_json

WRITTEN, REWRITTEN = "follow_up.written", "follow_up.rewritten"
ANALYSIS_FAILED = "analysis.failed"
OPTED_OUT = "call.opted_out"
TASK_TYPES = {2: "task.calling", 3: "task.calls_complete", 4: "task.complete"}
TASK_FAILED = "task.failed"
KINDS = (WRITTEN, REWRITTEN, ANALYSIS_FAILED, OPTED_OUT, *TASK_TYPES.values(), TASK_FAILED)

_ORGANIZATION = "COALESCE((SELECT g.organization_id FROM call_tasks g WHERE g.id = v.task_id), '')"
RETENTION = timedelta(days=30)
"""So long events can be replayed."""
PORTION = 2000
"""Events that get their positions in one transaction, or are deleted in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a task.

    Attributes:
        fact: what makes it this fact and no other, however often it is done; ids come again where a CRM is restored, so
            there is more in it than ids of rows.
        data: what is told of it: ids and codes, nothing of a person.
    """

    kind: str
    task_id: int
    fact: Sequence[object]
    data: Mapping[str, Any]

    @property
    def event_id(self) -> str:
        """The same for the same fact."""
        said = "\n".join(map(str, (self.kind, self.task_id, *self.fact)))
        return f"evt_{hashlib.sha256(said.encode('utf-8', 'replace')).hexdigest()[:32]}"


def emit(cursor: Cursor, events: Iterable[Event], organization_id: str | None = None) -> None:
    """Write events down, inside the transaction of what they tell; those that are written already stay as they are.

    ``organization_id``: whose they are, where the caller knows; else their tasks'.
    """
    events = list(events)
    if not events:
        return
    names = ("event_id", "task_id", "kind", "payload")
    rows = [(one.event_id, one.task_id, one.kind, to_json({"task_id": one.task_id, **one.data})) for one in events]
    whose, known = (_ORGANIZATION, ()) if organization_id is None else ("%s", (organization_id,))
    for part in bulks(rows):
        cursor.execute(
            f"INSERT INTO call_events (created_at, organization_id, {', '.join(names)})"
            f" SELECT UTC_TIMESTAMP(6), {whose}, v.* FROM ({derived(names, len(part))}) v"
            " ON DUPLICATE KEY UPDATE id = call_events.id",
            (*known, *flat(part)),
        )


def without_positions(cursor: Cursor) -> list[str]:
    """Organisations with subscriptions that have events without a position."""
    cursor.execute(
        "SELECT s.organization_id FROM (SELECT DISTINCT organization_id FROM call_event_subscriptions"
        " WHERE ended_at IS NULL) s WHERE EXISTS (SELECT 1 FROM call_events e"
        " WHERE e.organization_id = s.organization_id AND e.position IS NULL)"
    )
    return [str(row[0]) for row in cursor.fetchall()]


def give_positions(cursor: Cursor, organization_id: str) -> bool:
    """Give the organisation's next events their positions, inside a transaction; whether there may be more.

    Whoever does not get the lock leaves it to the one that has it: one that was frozen holds up nobody else's events.
    """
    cursor.execute(
        "SELECT last FROM call_event_positions WHERE organization_id = %s FOR UPDATE SKIP LOCKED", (organization_id,)
    )
    row = cursor.fetchone()
    if row is None:
        return False
    # Read without a lock: an event that is being written is not there yet, and nobody waits for it.
    cursor.execute(
        "SELECT id FROM call_events WHERE organization_id = %s AND position IS NULL ORDER BY id LIMIT %s",
        (organization_id, PORTION),
    )
    ids, last = [int(one[0]) for one in cursor.fetchall()], int(row[0])
    for part in bulks([(id_, last + place) for place, id_ in enumerate(ids, 1)]):
        cursor.execute(
            f"UPDATE ({derived(('id', 'position'), len(part))}) v STRAIGHT_JOIN call_events e ON e.id = v.id"
            " SET e.position = v.position",
            flat(part),
        )
    cursor.execute(
        "UPDATE call_event_positions SET last = %s WHERE organization_id = %s", (last + len(ids), organization_id)
    )
    return len(ids) == PORTION


def forget(cursor: Cursor) -> bool:
    """Delete the oldest events if they are older than :data:`RETENTION`; whether there may be more of them."""
    cursor.execute(
        "SELECT id, created_at < UTC_TIMESTAMP(6) - INTERVAL %s SECOND FROM call_events ORDER BY id LIMIT %s",
        (RETENTION.total_seconds(), PORTION),
    )
    old = [int(id_) for id_, is_old in cursor.fetchall() if is_old]
    if old:
        cursor.execute(f"DELETE FROM call_events WHERE id IN ({marks(len(old))})", old)
    return len(old) == PORTION

"""``call_event_subscriptions``: who is told what, and how far that is (rules 12.3, 12.4).

Whoever sends for a subscription holds it until ``due_at``, which moves on with everything that is sent. One that was
frozen meanwhile finds ``position`` moved, and stops: what it then sends once more the receiver has had already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import marks
from calltasks.database.tables.events import RETENTION
from calltasks.errors import WrongUseError

MOST = 20
"""Subscriptions of one organisation."""
LATE = timedelta(seconds=60)
"""What is written now may be committed so much later, and must not be older than a subscription that is made meanwhile.
Doubles do no harm, as their ids tell."""
HELD = timedelta(seconds=60)
"""Whoever sends is silent for longer than this only if it died."""
LOOKED_THROUGH = 5000
"""Positions that are looked through at once for events that a subscription wants."""
ROTATION = timedelta(hours=24)
"""So long the secret before counts too."""
DEAD_AFTER = timedelta(days=3)
"""What a receiver has refused for so long is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription as it is kept; secrets sealed. Times are UTC, naive."""

    id: int
    organization_id: str
    url: str
    kinds: list[str]
    batch: bool
    personal_data: bool
    secret: str
    old_secret: str
    old_until: datetime | None
    since: datetime
    position: int
    delivered: int
    dead: int
    failures: int
    failing_since: datetime | None
    last_error: str
    due_at: datetime
    created_at: datetime
    ended_at: datetime | None


COLUMNS = tuple(Subscription.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event on its way to a receiver; ``data`` holds what it says, personal data where that is asked for."""

    position: int
    event_id: str
    kind: str
    data: dict[str, Any]
    created_at: datetime


def add(
    cursor: Cursor,
    organization_id: str,
    *,
    url: str,
    kinds: Sequence[str],
    batch: bool,
    personal_data: bool,
    secret: str,
    since: datetime | None,
) -> int:
    """Subscribe, from ``since`` on (None: :data:`LATE` ago), inside a transaction; returns the subscription's id.

    Done again with the same secret, after a lost answer to COMMIT, it is the same subscription.

    Raises:
        WrongUseError: the organisation has as many as it may.
    """
    cursor.execute(
        "INSERT INTO call_event_positions (organization_id, last) VALUES (%s, 0) ON DUPLICATE KEY UPDATE last = last",
        (organization_id,),
    )
    cursor.execute(
        "SELECT id FROM call_event_subscriptions WHERE organization_id = %s AND secret = %s", (organization_id, secret)
    )
    if row := cursor.fetchone():
        return int(row[0])
    # Who adds another one meanwhile waits for the row above.
    cursor.execute("SELECT COUNT(*) FROM call_event_subscriptions WHERE organization_id = %s", (organization_id,))
    if (row := cursor.fetchone()) and int(row[0]) >= MOST:
        raise WrongUseError(f"an organisation has at most {MOST} subscriptions to events; unsubscribe one first")
    cursor.execute(
        "INSERT INTO call_event_subscriptions"
        " (organization_id, url, kinds, batch, personal_data, secret, since, due_at, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, COALESCE(%s, UTC_TIMESTAMP(6) - INTERVAL %s SECOND), UTC_TIMESTAMP(6),"
        " UTC_TIMESTAMP(6))",
        (organization_id, url, ",".join(kinds), int(batch), int(personal_data), secret, since, LATE.total_seconds()),
    )
    return int(cursor.lastrowid)


def of(cursor: Cursor, organization_id: str, subscription_id: int | None = None) -> list[tuple[Subscription, int]]:
    """The organisation's subscriptions, or one of them, each with how many positions it is behind."""
    cursor.execute(
        f"SELECT {', '.join(f's.{column}' for column in COLUMNS)},"
        " (SELECT GREATEST(p.last - s.position, 0) FROM call_event_positions p"
        "  WHERE p.organization_id = s.organization_id)"
        " + (SELECT COUNT(*) FROM call_events e WHERE e.organization_id = s.organization_id AND e.position IS NULL)"
        " FROM call_event_subscriptions s WHERE s.organization_id = %s AND (%s IS NULL OR s.id = %s) ORDER BY s.id",
        (organization_id, subscription_id, subscription_id),
    )
    return [(_subscription(row[:-1]), int(row[-1] or 0)) for row in cursor.fetchall()]


def _subscription(row: Sequence[object]) -> Subscription:
    values = dict(zip(COLUMNS, row, strict=True))
    for name in ("batch", "personal_data"):
        values[name] = bool(values[name])
    values["kinds"] = str(values["kinds"]).split(",")
    return Subscription(**values)  # type: ignore[arg-type]


def remove(cursor: Cursor, organization_id: str, subscription_id: int) -> bool:
    """Unsubscribe; whether there was such a subscription."""
    cursor.execute(
        "DELETE FROM call_event_subscriptions WHERE id = %s AND organization_id = %s",
        (subscription_id, organization_id),
    )
    return bool(cursor.rowcount)


def rotate(cursor: Cursor, organization_id: str, subscription_id: int, secret: str) -> bool:
    """Sign by a new secret from now on, and for :data:`ROTATION` by the old one too; what waits for another try is sent
    at once. Done again with the same secret, after a lost answer, it changes nothing."""
    cursor.execute(
        "UPDATE call_event_subscriptions SET"
        " old_until = IF(secret = %s, old_until, UTC_TIMESTAMP(6) + INTERVAL %s SECOND),"
        " old_secret = IF(secret = %s, old_secret, secret), secret = %s,"
        " due_at = IF(failures > 0, UTC_TIMESTAMP(6), due_at) WHERE id = %s AND organization_id = %s",
        (secret, ROTATION.total_seconds(), secret, secret, subscription_id, organization_id),
    )
    return bool(cursor.rowcount)


def replay(cursor: Cursor, organization_id: str, subscription_id: int, since: datetime) -> bool:
    """Tell everything since then once more, also what was passed over, at once."""
    cursor.execute(
        "UPDATE call_event_subscriptions SET position = 0, since = %s, dead = 0, failures = 0, failing_since = NULL,"
        " last_error = '', due_at = UTC_TIMESTAMP(6), ended_at = NULL WHERE id = %s AND organization_id = %s",
        (since, subscription_id, organization_id),
    )
    return bool(cursor.rowcount)


# --- delivery ---------------------------------------------------------------------------------------------------------


def take_due(cursor: Cursor, limit: int) -> list[int]:
    """Subscriptions for which something may be sent, inside a transaction: whoever asked holds them now."""
    cursor.execute(
        "SELECT s.id FROM call_event_subscriptions s JOIN call_event_positions p"
        " ON p.organization_id = s.organization_id WHERE s.ended_at IS NULL AND s.due_at <= UTC_TIMESTAMP(6)"
        " AND p.last > s.position ORDER BY s.due_at LIMIT %s",
        (limit,),
    )
    if not (found := [int(row[0]) for row in cursor.fetchall()]):
        return []
    cursor.execute(
        f"SELECT id FROM call_event_subscriptions WHERE id IN ({marks(len(found))}) AND due_at <= UTC_TIMESTAMP(6)"
        " FOR UPDATE SKIP LOCKED",
        found,
    )
    taken = [int(row[0]) for row in cursor.fetchall()]
    if taken:
        cursor.execute(
            # Time in which nobody tried, as no worker ran, is no time of refusals.
            "UPDATE call_event_subscriptions"
            " SET failing_since = failing_since + INTERVAL TIMESTAMPDIFF(SECOND, due_at, UTC_TIMESTAMP(6)) SECOND,"
            " due_at = UTC_TIMESTAMP(6) + INTERVAL %s SECOND"
            f" WHERE id IN ({marks(len(taken))})",
            (HELD.total_seconds(), *taken),
        )
    return taken


def oldest_age(cursor: Cursor) -> float:
    """Seconds since the oldest event that a subscription waits for was written; 0 if none does.

    One that is there no more has waited for as long as events are kept.
    """
    written = "COALESCE(e.created_at, UTC_TIMESTAMP(6) - INTERVAL %s SECOND)"
    cursor.execute(
        f"SELECT COALESCE(MAX(TIMESTAMPDIFF(MICROSECOND, GREATEST({written}, s.since), UTC_TIMESTAMP(6))), 0)"
        " FROM call_event_subscriptions s JOIN call_event_positions p ON p.organization_id = s.organization_id"
        " LEFT JOIN call_events e ON e.organization_id = s.organization_id AND e.position = s.position + 1"
        " WHERE s.ended_at IS NULL AND p.last > s.position",
        (RETENTION.total_seconds(),),
    )
    row = cursor.fetchone()
    return max(0.0, int(row[0]) / 1_000_000) if row else 0.0


def next_portion(cursor: Cursor, subscription_id: int, most: int) -> tuple[Subscription, list[Told]] | None:
    """The next events of a subscription, ``most`` of them; None: there are none, or it is over.

    What it does not want is passed over.
    """
    while True:
        cursor.execute(
            f"SELECT {', '.join(f's.{column}' for column in COLUMNS)}, p.last FROM call_event_subscriptions s"
            " JOIN call_event_positions p ON p.organization_id = s.organization_id"
            " WHERE s.id = %s AND s.ended_at IS NULL",
            (subscription_id,),
        )
        row = cursor.fetchone()
        if row is None:
            return None
        subscription, last = _subscription(row[:-1]), int(row[-1])
        until = min(last, subscription.position + LOOKED_THROUGH)
        if subscription.position >= last:
            let_go(cursor, subscription_id)
            return None
        # Halved by each failure, so that what the receiver never takes comes to stand alone.
        portion = _events(cursor, subscription, until, max(1, most >> subscription.failures))
        if portion:
            return subscription, portion
        if not _settle(cursor, subscription, until, "due_at = due_at", ()):
            return None


def _events(cursor: Cursor, subscription: Subscription, until: int, most: int) -> list[Told]:
    cursor.execute(
        "SELECT position, event_id, kind, payload, created_at FROM call_events"
        " WHERE organization_id = %s AND position > %s AND position <= %s AND created_at >= %s"
        f" AND kind IN ({marks(len(subscription.kinds))}) ORDER BY position LIMIT %s",
        (
            *(subscription.organization_id, subscription.position, until, subscription.since),
            *(*subscription.kinds, most),
        ),
    )
    told = [
        Told(position=int(position), event_id=event_id, kind=kind, data=json.loads(payload), created_at=created_at)
        for position, event_id, kind, payload, created_at in cursor.fetchall()
    ]
    if subscription.personal_data:
        _add_personal_data(cursor, subscription.organization_id, told)
    return told


def _add_personal_data(cursor: Cursor, organization_id: str, told: Sequence[Told]) -> None:
    """What follow-ups say now, and the sentences that decided: as long as they are still those of the events."""
    calls = {int(one.data["list_id"]): one.data for one in told if "leads_follow_id" in one.data}
    if not calls:
        return
    cursor.execute(
        "SELECT k.list_id, t.organization_id, k.call_job_id, k.follow_id, l.leads_id, f.leads_id, f.leads_remark,"
        " (SELECT a.evidence FROM call_analyses a WHERE a.list_id = k.list_id AND a.call_job_id = k.call_job_id"
        "  AND a.settled_at IS NOT NULL ORDER BY a.id DESC LIMIT 1)"
        " FROM call_follow_ups k JOIN leads_task_list l ON l.id = k.list_id JOIN call_tasks t ON t.id = l.task_id"
        " JOIN dcc_leads_follow f ON f.id = k.follow_id"
        f" WHERE k.list_id IN ({marks(len(calls))}) AND f.leads_id IS NOT NULL",
        list(calls),
    )
    for list_id, owner, call_job_id, follow_id, lead, lead_there, remark, evidence in cursor.fetchall():
        call = calls[int(list_id)]
        # Compared here: the two columns may be of two types, or of two collations.
        if (str(owner), call_job_id, int(follow_id), str(lead)) == (
            *(organization_id, call["call_job_id"], call["leads_follow_id"], str(lead_there)),
        ):
            said = {"leads_remark": str(remark or ""), "evidence": str(evidence or "")}
            for one in told:
                if one.data.get("list_id") == int(list_id) and "leads_follow_id" in one.data:
                    one.data.update(said)


def _settle(cursor: Cursor, was: Subscription, position: int, changes: str, values: Sequence[object]) -> bool:
    """Write down how far it is; False: somebody else has, meanwhile, or it is told again from another moment on."""
    cursor.execute(
        f"UPDATE call_event_subscriptions SET {changes}, position = %s WHERE id = %s AND position = %s AND since = %s"
        " AND ended_at IS NULL",
        (*values, position, was.id, was.position, was.since),
    )
    return bool(cursor.rowcount)


def delivered(cursor: Cursor, was: Subscription, told: Sequence[Told]) -> bool:
    """The receiver has taken these; whether it is ours to go on."""
    return _settle(
        cursor,
        was,
        told[-1].position,
        "failures = 0, failing_since = NULL, last_error = '', delivered = delivered + %s,"
        " due_at = UTC_TIMESTAMP(6) + INTERVAL %s SECOND",
        (len(told), HELD.total_seconds()),
    )


def failed(cursor: Cursor, was: Subscription, sent: Sequence[Told], error: str, again_in: float) -> None:
    """The receiver has refused these: they are sent again after so many seconds, but for those that it has refused for
    :data:`DEAD_AFTER`, which are passed over; what comes behind them has as long."""
    cursor.execute("SELECT UTC_TIMESTAMP(6)")
    row = cursor.fetchone()
    assert row is not None
    now: datetime = row[0]
    line = now - DEAD_AFTER
    # What is at its turn was in every request since the first failure; what has come meanwhile is younger.
    long = was.failing_since is not None and was.failing_since < line
    dead = list(takewhile(lambda one: one.created_at < line, sent)) if long else []
    _settle(
        cursor,
        was,
        dead[-1].position if dead else was.position,
        "dead = dead + %s, failures = %s, failing_since = %s, last_error = %s,"
        " due_at = UTC_TIMESTAMP(6) + INTERVAL %s SECOND",
        (
            *((len(dead), 1, None) if dead else (0, was.failures + 1, was.failing_since or now)),
            *(error[:80], round(again_in, 3)),
        ),
    )


def set_aside(cursor: Cursor, subscription_id: int, error: str, again_in: float) -> None:
    """Nothing could be sent, and that is not the receiver's fault: nothing of it counts towards giving up."""
    cursor.execute(
        "UPDATE call_event_subscriptions SET failures = GREATEST(failures, 1), failing_since = NULL, last_error = %s,"
        " due_at = UTC_TIMESTAMP(6) + INTERVAL %s SECOND WHERE id = %s",
        (error[:80], round(again_in, 3), subscription_id),
    )


def let_go(cursor: Cursor, subscription_id: int) -> None:
    """Whoever likes may go on with it, as far as it does not wait for another try."""
    cursor.execute(
        "UPDATE call_event_subscriptions SET due_at = UTC_TIMESTAMP(6) WHERE id = %s AND failures = 0",
        (subscription_id,),
    )


def end(cursor: Cursor, was: Subscription, error: str) -> None:
    """The receiver wants no more."""
    _settle(cursor, was, was.position, "ended_at = UTC_TIMESTAMP(6), last_error = %s", (error[:80],))

"""The campaigns of an organisation, for people to look at (rule 13.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pymysql.cursors import Cursor

from calltasks.database.connection import look_up, marks
from calltasks.database.tables.analyses import CALLED_AT, moment
from calltasks.database.tables.ledger import OF_TASK
from calltasks.database.tables.needs import CALLED, UNLINKED, final_status, is_final
from calltasks.database.tables.suppressions import NOT_CALLED


@dataclass(slots=True, kw_only=True)
class Campaign:
    """A call task in numbers.

    Attributes:
        created_at: wall clock, or None.
        called: rows with a job; ``over``: those that have their outcome.
        left_out: rows that nobody calls, and why that is written down.
        follow_ups: called rows with a follow-up; ``by_interest`` how they are judged.
        by_status: called rows by outcome; ``""``: none yet.
        tokens: that its judgements have cost.
    """

    task_id: int
    name: str
    task_type: int
    created_at: datetime | None
    leads: int = 0
    called: int = 0
    over: int = 0
    left_out: int = 0
    follow_ups: int = 0
    by_interest: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0, 2: 0})
    by_status: dict[str, int] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What happened within an hour. ``at``: its begin, wall clock."""

    at: datetime
    calls: int
    follow_ups: int


def recent(cursor: Cursor, organization_id: str, before: int | None, limit: int) -> list[Campaign]:
    """The organisation's campaigns, the newest first, from before an id; with their numbers."""
    look_up(
        cursor,
        "SELECT id, organization_id, task_name, task_type, create_time FROM call_tasks WHERE {owner} = %s"
        + ("" if before is None else f" AND id < {int(before)}")
        + f" ORDER BY id DESC LIMIT {int(limit)}",
        (organization_id,),
        owner="organization_id",
    )
    # The collation may take "ORG" for "org": the exact text decides whose it is.
    found = [
        Campaign(task_id=int(id_), name=str(name or ""), task_type=int(type_ or 1), created_at=moment(created))
        for id_, owner, name, type_, created in cursor.fetchall()
        if str(owner) == organization_id
    ]
    _count(cursor, found)
    return found


def one(cursor: Cursor, task_id: int) -> Campaign | None:
    """One campaign with its numbers; whose it is, the caller has seen to."""
    cursor.execute("SELECT task_name, task_type, create_time FROM call_tasks WHERE id = %s", (task_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    found = Campaign(task_id=task_id, name=str(row[0] or ""), task_type=int(row[1] or 1), created_at=moment(row[2]))
    _count(cursor, [found])
    return found


def _count(cursor: Cursor, campaigns: Sequence[Campaign]) -> None:
    by_id = {campaign.task_id: campaign for campaign in campaigns}
    if not by_id:
        return
    some = marks(len(by_id))
    cursor.execute(
        f"SELECT l.task_id, {CALLED}, COALESCE(l.call_status, ''), l.is_interested, NOT ({UNLINKED}), COUNT(*)"
        f" FROM leads_task_list l WHERE l.task_id IN ({some}) GROUP BY 1, 2, 3, 4, 5",
        list(by_id),
    )
    for task_id, called, status, interest, followed, count in cursor.fetchall():
        _add(by_id[int(task_id)], bool(called), str(status), interest, bool(followed), int(count))
    cursor.execute(f"SELECT l.task_id, COUNT(*) {NOT_CALLED} AND l.task_id IN ({some}) GROUP BY l.task_id", list(by_id))
    for task_id, count in cursor.fetchall():
        by_id[int(task_id)].left_out = int(count)
    cursor.execute(
        "SELECT a.task_id, SUM(a.input_tokens + a.output_tokens) FROM call_analyses a"
        f" WHERE a.task_id IN ({some}) GROUP BY a.task_id",
        list(by_id),
    )
    for task_id, tokens in cursor.fetchall():
        by_id[int(task_id)].tokens = int(tokens or 0)


def _add(campaign: Campaign, called: bool, status: str, interest: object, followed: bool, count: int) -> None:
    campaign.leads += count
    if not called:
        return
    outcome = final_status(status)
    campaign.called += count
    campaign.by_status[outcome] = campaign.by_status.get(outcome, 0) + count
    campaign.over += count if outcome else 0
    if followed:
        campaign.follow_ups += count
        if interest not in (None, ""):
            campaign.by_interest[int(str(interest))] += count


def hours(cursor: Cursor, task_id: int, offset: int) -> list[Hour]:
    """When calls were over and follow-ups were made, by the hour; ``offset``: seconds that the wall clock is ahead of
    UTC, in which our own times are."""
    hour = "DATE_FORMAT({}, '%%Y-%%m-%%d %%H:00:00')"
    cursor.execute(
        f"SELECT {hour.format(CALLED_AT)}, COUNT(*) FROM leads_task_list l"
        f" WHERE l.task_id = %s AND {CALLED} AND {is_final()} GROUP BY 1",
        (task_id,),
    )
    calls = {_hour(at): int(count) for at, count in cursor.fetchall() if at}
    made = hour.format("DATE_ADD(k.created_at, INTERVAL %s SECOND)")
    cursor.execute(
        f"SELECT {made}, COUNT(*) FROM call_follow_ups k WHERE {OF_TASK.format('k')} GROUP BY 1", (offset, task_id)
    )
    follow_ups = {_hour(at): int(count) for at, count in cursor.fetchall() if at}
    return [
        Hour(at=at, calls=calls.get(at, 0), follow_ups=follow_ups.get(at, 0))
        for at in sorted(calls.keys() | follow_ups.keys())
    ]


def _hour(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")

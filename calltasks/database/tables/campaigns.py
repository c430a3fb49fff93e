"""The campaigns of an organisation, for people to look at (rule 13.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from pymysql.cursors import Cursor

from calltasks.database.connection import look_up, marks
from calltasks.database.tables.analyses import moment
from calltasks.database.tables.ledger import OF_TASK
from calltasks.database.tables.needs import CALLED, UNLINKED, final_status
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


def one(cursor: Cursor, task_id: int, offset: int) -> tuple[Campaign, list[Hour]] | None:
    """One campaign with its numbers, and when its calls were over and its follow-ups made, by the hour. Whose it is,
    the caller has seen to. ``offset``: seconds that the wall clock is ahead of UTC, in which our own times are."""
    cursor.execute("SELECT task_name, task_type, create_time FROM call_tasks WHERE id = %s", (task_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    found = Campaign(task_id=task_id, name=str(row[0] or ""), task_type=int(row[1] or 1), created_at=moment(row[2]))
    calls = _count(cursor, [found], by_hour=True)
    return found, _hours(cursor, task_id, offset, calls)


def _count(cursor: Cursor, campaigns: Sequence[Campaign], *, by_hour: bool = False) -> Counter[str]:
    """Count the campaigns' rows, in one reading of them; returns how many calls were over in which hour, if wanted."""
    by_id, hours = {campaign.task_id: campaign for campaign in campaigns}, Counter[str]()
    if not by_id:
        return hours
    some, hour = marks(len(by_id)), "LEFT(l.updated_time, 13)" if by_hour else "''"
    cursor.execute(
        f"SELECT l.task_id, {CALLED}, l.call_status, l.is_interested, NOT ({UNLINKED}), {hour}, COUNT(*)"
        f" FROM leads_task_list l WHERE l.task_id IN ({some}) GROUP BY 1, 2, 3, 4, 5, 6",
        list(by_id),
    )
    for task_id, called, status, interest, followed, at, count in cursor.fetchall():
        _add(by_id[int(task_id)], bool(called), str(status or ""), interest, bool(followed), int(count))
        if called and final_status(str(status or "")) and at:
            hours[str(at)] += int(count)
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
    return hours


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


def _hours(cursor: Cursor, task_id: int, offset: int, calls: Counter[str]) -> list[Hour]:
    cursor.execute(
        "SELECT LEFT(DATE_ADD(k.created_at, INTERVAL %s SECOND), 13), COUNT(*) FROM call_follow_ups k"
        f" WHERE {OF_TASK.format('k')} GROUP BY 1",
        (offset, task_id),
    )
    follow_ups = {str(at): int(count) for at, count in cursor.fetchall() if at}
    found = []
    for hour in sorted(calls.keys() | follow_ups.keys()):
        # A zero date is none.
        with suppress(ValueError):
            at = datetime.strptime(hour, "%Y-%m-%d %H")
            found.append(Hour(at=at, calls=calls.get(hour, 0), follow_ups=follow_ups.get(hour, 0)))
    return found

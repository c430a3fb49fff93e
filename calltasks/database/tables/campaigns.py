"""The campaigns of an organisation in numbers, for people to look at (rule 13.1), and ``call_standings``, where the
numbers are kept: counting the rows of twenty large campaigns takes seconds, which nobody waits for who looks at a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from pymysql.cursors import Cursor

from calltasks.database.connection import look_up, marks
from calltasks.database.tables import needs, suppressions, task_options, tasks
from calltasks.database.tables.task_options import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How a task's rows stand.

    Attributes:
        leads: all rows; ``called`` those with a job, ``calls_over`` those of them that have their outcome.
        left_out: rows that nobody calls, and why that is written down.
        follow_ups: called rows with a follow-up; ``interest_0`` to ``interest_2`` how they are judged.
        tokens: that its judgements have cost.
    """

    leads: int = 0
    called: int = 0
    calls_over: int = 0
    left_out: int = 0
    follow_ups: int = 0
    interest_0: int = 0
    interest_1: int = 0
    interest_2: int = 0
    tokens: int = 0

    @property
    def to_call(self) -> int:
        """Rows that are called, or will be."""
        return self.leads - self.left_out

    @property
    def by_interest(self) -> tuple[int, int, int]:
        """How many cannot be told, are interested, are not."""
        return self.interest_0, self.interest_1, self.interest_2


_COLUMNS = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What was found to have happened within an hour. ``at``: its begin, UTC."""

    at: datetime
    calls: int
    follow_ups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A call task in numbers.

    Attributes:
        kept: what earlier starts of it were told.
        counts: of a task that was never counted, nothing but its leads.
        counted_at: when its rows were last counted, UTC; None: never.
        hours: when its calls were over and its follow-ups made, as our looks have seen it.
        begins: when its calls begin to be made, wall clock; None: that is not to come, or not known.
    """

    task: tasks.TaskRow
    name: str
    kept: Kept
    counts: Counts
    counted_at: datetime | None
    hours: list[Hour]
    begins: datetime | None = None

    @property
    def task_id(self) -> int:
        """Its id."""
        return self.task.task_id

    @property
    def task_type(self) -> int:
        """How far it is."""
        return self.task.task_type

    @property
    def to_be_counted(self) -> bool:
        """It was begun, and never counted: other programs' campaigns."""
        return self.counted_at is None and self.task_type > 1


def counts(rows: needs.Standing, *, left_out: int, tokens: int) -> Counts:
    """The numbers of a task whose rows stand like this."""
    return Counts(
        leads=rows.leads,
        called=rows.called,
        calls_over=rows.finished,
        left_out=left_out,
        follow_ups=rows.follow_ups,
        **{f"interest_{interest}": rows.by_interest.get(str(interest), 0) for interest in range(3)},
        tokens=tokens,
    )


def keep(cursor: Cursor, task: tasks.TaskRow, counted: Counts, began: datetime) -> None:
    """Write down how a task stands, unless what was counted later is there already.

    What had happened before the first count is of no hour that we know: it stands in the hour before it.

    Args:
        cursor: any.
        task: as it was read.
        counted: its numbers.
        began: when counting them began: UTC, naive.
    """
    hour = began.replace(minute=0, second=0, microsecond=0)
    counted_before = "EXISTS (SELECT 1 FROM call_standings s WHERE s.task_id = %s AND s.create_time <=> %s)"
    columns = ("task_id", "hour", *_COLUMNS, "counted_at", "create_time")
    older = "create_time <=> VALUES(create_time) AND counted_at > VALUES(counted_at)"
    cursor.execute(
        f"INSERT INTO call_standings ({', '.join(columns)})"
        f" SELECT %s, IF({counted_before}, %s, %s), {marks(len(columns) - 2)} FROM DUAL ON DUPLICATE KEY UPDATE "
        # The assignments are made from left to right: what they depend on comes last.
        + ", ".join(f"{column} = IF({older}, {column}, VALUES({column}))" for column in columns[2:]),
        (
            *(task.task_id, task.task_id, task.create_time, hour, hour - timedelta(hours=1)),
            *(*astuple(counted), began, task.create_time),
        ),
    )


def recount(cursor: Cursor, task_id: int, began: datetime, since: datetime) -> None:
    """Count a task's rows anew and write that down, unless it was counted since a time. Times are UTC, naive."""
    task = tasks.load(cursor, task_id)
    if task is None:
        return
    kept = _kept(cursor, [task])[task_id]
    if not kept or kept[-1][1] < since:
        keep(cursor, task, _count(cursor, task), began)


def recent(cursor: Cursor, organization_id: str, before: int | None, limit: int) -> list[Campaign]:
    """The organisation's campaigns, the newest first, from before an id; with their numbers."""
    return _campaigns(
        cursor,
        "{owner} = %s"
        + ("" if before is None else f" AND id < {int(before)}")
        + f" ORDER BY id DESC LIMIT {int(limit)}",
        organization_id,
        organization_id,
    )


def one(cursor: Cursor, task_id: int) -> Campaign | None:
    """One campaign. Whose it is, the caller has seen to."""
    return next(iter(_campaigns(cursor, "id = %s", task_id, None)), None)


def _campaigns(cursor: Cursor, condition: str, value: Any, organization_id: str | None) -> list[Campaign]:
    columns = "id, organization_id, task_type, job_group_id, create_time, task_name"
    look_up(cursor, f"SELECT {columns} FROM call_tasks WHERE {condition}", (value,), owner="organization_id")
    # The collation may take "ORG" for "org": the exact text decides whose it is.
    found = [(tasks.read(row), str(row[5] or "")) for row in cursor.fetchall()]
    found = [(task, name) for task, name in found if organization_id in (None, task.organization_id)]
    rows = [task for task, _ in found]
    # The hours of one are drawn; a list has too many of them.
    kept, told = _kept(cursor, rows, latest=organization_id is not None), task_options.kept_of(cursor, rows)
    # Who is to be called may change until the calls begin.
    leads = tasks.leads(cursor, [row.task_id for row in rows if row.task_type < 2 or not kept[row.task_id]])
    campaigns = []
    for task, name in found:
        standings = kept[task.task_id]
        counted = standings[-1][2] if standings else Counts()
        campaigns.append(
            Campaign(
                task=task,
                name=name,
                kept=told[task.task_id],
                counts=replace(counted, leads=leads.get(task.task_id, counted.leads)),
                counted_at=standings[-1][1] if standings else None,
                hours=_hours([(hour, counted) for hour, _, counted in standings]),
            )
        )
    return campaigns


def _kept(
    cursor: Cursor, of: Sequence[tasks.TaskRow], *, latest: bool = False
) -> dict[int, list[tuple[datetime, datetime, Counts]]]:
    """By task, the hours in which it was counted, or the ``latest`` alone, when last, and how it stood then."""
    kept: dict[int, list[tuple[datetime, datetime, Counts]]] = {task.task_id: [] for task in of}
    if not of:
        return kept
    of_these = f"FROM call_standings WHERE task_id IN ({marks(len(of))})"
    last = f"(SELECT task_id, MAX(hour) AS hour {of_these} GROUP BY task_id, create_time)"
    cursor.execute(
        f"SELECT task_id, create_time, hour, counted_at, {', '.join(_COLUMNS)} "
        + (f"FROM call_standings JOIN {last} AS l USING (task_id, hour)" if latest else of_these)
        + " ORDER BY task_id, hour",
        list(kept),
    )
    created = {task.task_id: task.create_time for task in of}
    for task_id, create_time, hour, counted_at, *numbers in cursor.fetchall():
        if create_time == created[int(task_id)]:
            counted = Counts(**dict(zip(_COLUMNS, map(int, numbers), strict=True)))
            kept[int(task_id)].append((hour, counted_at, counted))
    return kept


def _count(cursor: Cursor, task: tasks.TaskRow) -> Counts:
    rows = needs.standing(tasks.standing(cursor, task.task_id), in_group=bool(task.job_group_id))
    judged = tasks.judgements(cursor, task.task_id)
    left_out = sum(suppressions.count(cursor, task.task_id).values())
    return counts(rows, left_out=left_out, tokens=judged["input_tokens"] + judged["output_tokens"])


def _hours(standings: Sequence[tuple[datetime, Counts]]) -> list[Hour]:
    """What changed from one count to the next."""
    found = [
        Hour(
            at=hour,
            calls=max(0, counted.calls_over - before.calls_over),
            follow_ups=max(0, counted.follow_ups - before.follow_ups),
        )
        for (_, before), (hour, counted) in pairwise(standings)
    ]
    return [hour for hour in found if hour.calls or hour.follow_ups]

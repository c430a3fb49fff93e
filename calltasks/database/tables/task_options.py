"""``call_task_options``: what stays with a task from one run to the next.

Ids can come again (a CRM that was emptied or restored beside our tables): an entry counts for the task of this id and
this ``create_time`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pymysql.cursors import Cursor

from calltasks.database.connection import marks
from calltasks.database.tables.tasks import TaskRow, load
from calltasks.platform.strategy import Strategy
from calltasks.rules.gate import Limits

STRATEGY = "strategy"
"""Of the options."""
FIRST_REST, LONGEST_REST = 300, 86_400
"""Seconds between two looks at a task of which nothing was called: twice as long after each that found nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What earlier runs of a task were told.

    Attributes:
        options: those that a start gave, as a JSON object.
        paused: operators have paused the calls, and not resumed them.
        jobs_at_rest: jobs that its group listed when a run ended because none was of a lead; None: none ended so.
    """

    options: str = "{}"
    paused: bool = False
    jobs_at_rest: int | None = None


def kept(cursor: Cursor, task: TaskRow) -> Kept:
    """What stays with the task."""
    return kept_of(cursor, [task])[task.task_id]


def kept_of(cursor: Cursor, of: Sequence[TaskRow]) -> dict[int, Kept]:
    """What stays with tasks, by task."""
    found = {task.task_id: Kept() for task in of}
    if not of:
        return found
    cursor.execute(
        "SELECT task_id, create_time, options, paused, jobs_at_rest FROM call_task_options"
        f" WHERE task_id IN ({marks(len(found))})",
        list(found),
    )
    created = {task.task_id: task.create_time for task in of}
    for task_id, create_time, options, paused, jobs in cursor.fetchall():
        if create_time == created[int(task_id)]:
            at_rest = None if jobs is None else int(jobs)
            found[int(task_id)] = Kept(options=str(options), paused=bool(paused), jobs_at_rest=at_rest)
    return found


def limits(options: str) -> Limits:
    """How rarely a task's options, a JSON object, want people called."""
    given = json.loads(options)
    return Limits(**{field.name: int(given.get(field.name) or 0) for field in fields(Limits)})


def keep_options(cursor: Cursor, task: TaskRow, options: str) -> None:
    """Keep these options, a JSON object, in the place of others; inside a transaction."""
    _open(cursor, task)
    cursor.execute("UPDATE call_task_options SET options = %s WHERE task_id = %s", (options, task.task_id))


def settle_strategy(cursor: Cursor, task_id: int, otherwise: Strategy | None) -> str:
    """The options with the strategy by which the task's group is made, a JSON object; inside a transaction.

    Args:
        cursor: inside a transaction.
        task_id: a task that has no group yet.
        otherwise: the strategy where no start gave one. It is kept: a group that is made again after a lost answer
            gets no other one, whatever the setting is by then.
    """
    task = load(cursor, task_id, lock=True)
    if task is None:
        return Kept().options
    options = kept(cursor, task).options
    if otherwise is None or STRATEGY in json.loads(options):
        return options
    options = json.dumps(json.loads(options) | {STRATEGY: otherwise.given()}, separators=(",", ":"))
    keep_options(cursor, task, options)
    return options


def keep_paused(cursor: Cursor, task: TaskRow, paused: bool) -> None:
    """Keep whether the calls are paused; inside a transaction."""
    _open(cursor, task)
    cursor.execute("UPDATE call_task_options SET paused = %s WHERE task_id = %s", (paused, task.task_id))


def rest(cursor: Cursor, task: TaskRow, jobs: int) -> None:
    """Nothing was called, and the group lists so many jobs: leave the task alone for a while, longer each time; inside
    a transaction."""
    _open(cursor, task)
    cursor.execute(
        # The assignments are made from left to right.
        "UPDATE call_task_options SET rests = IF(jobs_at_rest <=> %s, LEAST(rests + 1, 20), 1), jobs_at_rest = %s,"
        " look_after = UTC_TIMESTAMP(6) + INTERVAL LEAST(%s * POW(2, rests - 1), %s) SECOND WHERE task_id = %s",
        (jobs, jobs, FIRST_REST, LONGEST_REST, task.task_id),
    )


def _open(cursor: Cursor, task: TaskRow) -> None:
    """Make the task's entry, if there is none; one of an earlier task of this id becomes its, empty."""
    cursor.execute(
        "INSERT IGNORE INTO call_task_options (task_id, create_time, options) VALUES (%s, %s, '{}')",
        (task.task_id, task.create_time),
    )
    if cursor.rowcount:
        return
    cursor.execute(
        "UPDATE call_task_options SET create_time = %s, options = '{}', paused = 0, jobs_at_rest = NULL, rests = 0,"
        " look_after = NULL WHERE task_id = %s AND NOT create_time <=> %s",
        (task.create_time, task.task_id, task.create_time),
    )

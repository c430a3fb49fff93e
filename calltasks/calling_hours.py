"""Which hours hold for a task's calls, as whoever starts it is told (rules 11.12, 11.13)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from calltasks.database.tables.task_options import Kept
from calltasks.database.tables.tasks import TaskRow
from calltasks.options import Options
from calltasks.platform.strategy import Strategy, told

NOT_CHANGED = "the strategy is not changed: the task has its job group, which keeps its own"
OWN_HOURS = "the hours of the platform's instance hold: neither --strategy nor OUTBOUND_BOT_STRATEGY is given"
NEVER = "the strategy's endTime has passed: nobody is called"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingHours:
    """When a task's calls are made.

    Attributes:
        strategy: by which its job group is made, or was; None: none, or one that we do not know.
        begins: when dialling begins, if that is later than now.
        over: the task has no job group yet, and one of this strategy would dial nobody.
        told: all of it for people, ``""`` where there is nothing to say.
    """

    strategy: Strategy | None
    begins: datetime | None
    over: bool
    told: str

    @property
    def begins_at(self) -> str:
        """``begins`` for programs; ``""``: now, or as the platform's instance has it."""
        return self.begins.isoformat(timespec="seconds") if self.begins else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A start. ``started``: False if the task was running already."""

    started: bool
    hours: CallingHours


def calling_hours(
    task: TaskRow, kept: Kept, given: Strategy | None, setting: Strategy | None, now: datetime
) -> CallingHours:
    """The hours of a task.

    Args:
        task: the task.
        kept: what stays with it.
        given: the strategy of a start, which counts until the task has its group; so does the ``setting``.
        setting: of this process; a worker's may be another one.
        now: with its zone.
    """
    of_task = Options().over(kept.options).strategy
    strategy = of_task if task.job_group_id else given or of_task or setting
    begins = strategy.begins(now) if strategy else now
    said = [NOT_CHANGED] if given and task.job_group_id else []
    if strategy is None and not task.job_group_id:
        said.append(OWN_HOURS)
    if begins is None:
        said.append(NEVER)
    elif begins > now:
        said.append(f"dialling begins at {told(begins)}")
    calling = task.task_type < 3
    return CallingHours(
        strategy=strategy,
        begins=begins if begins and begins > now and calling else None,
        over=begins is None and calling and not task.job_group_id,
        told="; ".join(said if calling else said[:1] if said[:1] == [NOT_CHANGED] else []),
    )

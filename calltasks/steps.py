"""What a workflow has activities do. A step of a row's journey is one declaration, beside its activity: what rows lack,
who does it, how much at once, and what is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypedDict, TypeVar

from pymysql.cursors import Cursor
from temporalio.common import RetryPolicy

from calltasks import options
from calltasks.database.tables.needs import Need
from calltasks.names import Turn
from calltasks.options import Options
from calltasks.rules.row_ranges import Ranges

REQUEST_ROWS = 1089
"""Eleven full requests of the platform: what ten pages of jobs yield goes on in one piece."""


class Head(TypedDict):
    """What every step is asked for: some rows of a task."""

    task_id: int
    organization_id: str
    rows: Ranges


@dataclass(slots=True, kw_only=True)
class Done:
    """What a piece of a step came to, as far as all steps have it in common; it may be counted up.

    Attributes:
        ready: rows that the next steps may go on with; None: all of the piece.
        under_way: rows of which only time can tell, by why.
        error: the last one, in one line; ``""``: none.
    """

    ready: Ranges | None = None
    under_way: dict[str, int] = field(default_factory=dict)
    api_calls: int = 0
    error: str = ""

    @property
    def unanswered(self) -> bool:
        """Whether some of it was not told and is worth asking again soon."""
        return False


T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D", bound=Done)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCall(Generic[T, R]):
    """An activity as workflows call it.

    Attributes:
        activity: its method.
        queue: task queue.
        priority: of queued work; 1 first.
        retry: of an attempt that failed.
        within: how long an attempt may take.
        heartbeat: a worker that is silent for longer has died; None: the activity is short.
        whole: when it is cancelled, it is over before anything else is done.
        errors_of: under which name its errors are remembered; ``""``: its own.
    """

    activity: Callable[[Any, T], Awaitable[R]]
    queue: str
    priority: int = Turn.CONVERSATIONS
    retry: RetryPolicy = field(default_factory=lambda: options.THREE_TRIES)
    within: timedelta = options.WORK_TIMEOUT
    heartbeat: timedelta | None = field(default_factory=lambda: options.HEARTBEAT)
    whole: bool = False
    errors_of: str = ""

    @property
    def name(self) -> str:
        """The activity's name."""
        return self.activity.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ActivityCall[T, D]):
    """One step of a row's journey: the rows that lack something, cut into pieces, each done by an activity.

    Attributes:
        need: which rows lack it. A review hands out by it, and the activity takes by it.
        request: what the activity is told of a piece; how patient it is stands in the options.
        after: name of the step whose rows it goes on with; ``""``: with rows that have got their job id.
        looks: only the platform can tell whether there is something to do, so all its rows are asked for at each look;
            and what was not told is asked for again. Others are set aside for a while when they have failed.
        rows: of a piece, at most; ``few``: and at least, if there are so many: several workers have their share then.
        at_once: pieces. Those of all steps together stay below the 90 activities that a workflow may have.
        counts: numbers that the progress shows, of a task; None: none.
    """

    need: Need
    request: Callable[[Head, Options], T]
    after: str = ""
    looks: bool = False
    rows: int = REQUEST_ROWS
    few: int = REQUEST_ROWS
    at_once: Callable[[Options], int] = lambda _: 4
    counts: Callable[[Cursor, int], dict[str, int]] | None = None

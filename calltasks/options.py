"""Timeouts and retry policies of the workflows, and their input."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from temporalio.common import RetryPolicy

from calltasks.platform.strategy import Strategy
from calltasks.rules.reanalysis import Answer, Asked

MONITOR_INTERVAL = timedelta(minutes=5)
MOST_TOKENS = 10**12
"""A ceiling of tokens is at most this."""

HEARTBEAT = timedelta(seconds=15)
"""A worker that is silent for longer has died; its activity is handed to another one."""
WORK_TIMEOUT = timedelta(hours=3)
"""A piece of work in its turn under a tight rate limit; that its worker lives is told by the heartbeats."""
WATCH_TIMEOUT = timedelta(seconds=60)
DELIVERY_TIMEOUT = timedelta(seconds=120)
"""Of one stretch of telling a receiver, its last request and the database's patience included."""

UNTIL_DONE = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(seconds=60)
)
"""For what the task cannot go on without: the database comes back."""
THREE_TRIES = RetryPolicy(
    initial_interval=timedelta(seconds=2),
    backoff_coefficient=2,
    maximum_interval=timedelta(seconds=60),
    maximum_attempts=3,
)
"""For a piece of work that is set aside after it and found again in the database."""
WATCHING = RetryPolicy(initial_interval=timedelta(seconds=10), backoff_coefficient=1)
"""The watch names its own pauses."""
WITHDRAWING = RetryPolicy(initial_interval=timedelta(seconds=2), backoff_coefficient=1)
"""It names its own pauses too; a database that is away is asked again soon."""


LONGEST = 31_536_000
"""A year, in seconds: nobody waits longer, and timers hold it."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST)]
Pause = Annotated[float, Field(gt=0, le=LONGEST)]
MOST_DAYS = 366
MOST_CALLS = 1000
Days = Annotated[int, Field(ge=0, le=MOST_DAYS)]


class Options(BaseModel):
    """How patient a task is, in seconds (rule 17.2), what it may cost, and how rarely people are called. They stay with
    the task: what a start does not give is as it was given before.

    Attributes:
        token_ceiling: input and output tokens that the task's judgements may cost; None for no ceiling.
        not_called_within: days in which no other campaign may have called a number; 0 for no such limit.
        at_most: calls of a number in ``in_days`` days, this one among them; 0 for no such limit.
        strategy: when its calls are made (docs/calling-hours.md); it counts until the task has its job group.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll_first: Seconds = 2
    poll_min: Pause = 10
    poll_max: Pause = 300
    match_grace: Seconds = 120
    conversation_grace: Seconds = 300
    retry_interval: Seconds = 60
    recording_grace: Seconds = 600
    token_ceiling: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    not_called_within: Days | None = None
    at_most: int | None = Field(default=None, ge=0, le=MOST_CALLS)
    in_days: Days | None = None

    strategy: Strategy | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.at_most is None) != (self.in_days is None):
            raise PydanticCustomError("together", "at_most and in_days go together")
        return self

    def kept(self) -> str:
        """Those that were given, as a JSON object."""
        return self.model_dump_json(exclude_unset=True, exclude_none=True)

    def over(self, kept: str) -> Options:
        """These, and those of an earlier start (:meth:`kept`) that are not given here."""
        known = {name: value for name, value in json.loads(kept).items() if name in Options.model_fields}
        return Options.model_validate(known | self.model_dump(exclude_unset=True, exclude_none=True))


class Carried(BaseModel):
    """What a run hands to the next one when it restarts as new.

    Attributes:
        asked: a start-call asked for the calls.
        dispatched_at: when dispatch was over; 0: it is not.
        list_first: what the group holds must be read before more is handed over; None: that is not known.
        handed: the last row and the latest entry that are known to be written down of what was handed over.
        stopped: operators have cancelled; ``cancelled``: and the platform took it.
        forced: re-analyses that are not done; ``answers``: what others came to.
    """

    started_at: str
    asked: bool = True
    dispatched_at: float
    assigned: int = 0
    list_first: bool | None = None
    handed: tuple[int, int] = (0, 0)
    paused: bool = False
    stopped: bool = False
    last_control: str = ""
    polls: int = 0
    api_calls: int = 0
    cancelled: bool = False
    jobs_seen: int | None = None
    counters: tuple[int, int] | None = None
    forced: list[Asked] = []
    answers: list[Answer] = []
    controls: list[str] = []


class CallTaskInput(BaseModel):
    """The workflow's input: one JSON object.

    Attributes:
        dial: whether it asks for the calls to be made. False: the monitor and re-analyses start runs that dial nobody.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: int = Field(ge=1, strict=True)
    options: Options = Options()
    dial: bool = True
    carried: Carried | None = None


def read_input(input: Any) -> tuple[CallTaskInput | None, str]:
    """The input, or what is wrong with it."""
    try:
        return CallTaskInput.model_validate(input), ""
    except ValidationError as error:
        return None, f'input must be a JSON object like {{"task_id": 42}}; {_first(error)}'


def read_options(given: Any) -> tuple[Options | None, str]:
    """Options as a signal brings them (None: none), or what is wrong with them."""
    try:
        return Options.model_validate({} if given is None else given), ""
    except ValidationError as error:
        return None, f'options must be a JSON object like {{"at_most": 3, "in_days": 30}}; {_first(error)}'


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg']}"

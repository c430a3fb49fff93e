"""Names, timeouts and retry policies of the workflows, and their input."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from temporalio.common import RetryPolicy

WORKFLOW = "CallTaskWorkflow"
MONITOR_WORKFLOW = "MonitorWorkflow"
MONITOR_SCHEDULE = "call-task-monitor"
MONITOR_INTERVAL = timedelta(minutes=5)

CALL_TASKS = "call-tasks"
"""Task queue of the workflows and of the activities on the database."""
OUTBOUND_BOT = "outbound-bot"
"""Task queue of the activities on the platform."""
ANALYSIS = "analysis"
"""Task queue of the activities on the model."""
QUEUES = (CALL_TASKS, OUTBOUND_BOT, ANALYSIS)


def workflow_id(task_id: int) -> str:
    """The workflow id of a call task."""
    return f"call-task-{task_id}"


MOST_TOKENS = 10**12
"""A ceiling of tokens is at most this."""

# Queued work goes in this order (SPEC, Always); 1 first.
CONVERSATIONS_FIRST, JOB_IDS, ANALYSES, RECORDINGS = 1, 2, 3, 4

HEARTBEAT = timedelta(seconds=15)
"""A worker that is silent for longer has died; its activity is handed to another one."""
WORK_TIMEOUT = timedelta(hours=3)
"""A piece of work in its turn under a tight rate limit; that its worker lives is told by the heartbeats."""
WATCH_TIMEOUT = timedelta(seconds=60)

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


class Options(BaseModel):
    """How patient a task is, in seconds (CONTRACT, Temporal), and what it may cost.

    Attributes:
        token_ceiling: input and output tokens that the task's judgements may cost; it stays with the task. None: as it
            was given before, or no ceiling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll_first: float = Field(default=2, ge=0)
    poll_min: float = Field(default=10, gt=0)
    poll_max: float = Field(default=300, gt=0)
    match_grace: float = Field(default=120, ge=0)
    conversation_grace: float = Field(default=300, ge=0)
    retry_interval: float = Field(default=60, ge=0)
    recording_grace: float = Field(default=600, ge=0)
    token_ceiling: int | None = Field(default=None, ge=1, le=MOST_TOKENS)


class Carried(BaseModel):
    """What a run hands to the next one when it restarts as new."""

    started_at: str
    dispatched_at: float
    polls: int = 0
    api_calls: int = 0
    cancelled: bool = False
    jobs_seen: int | None = None
    counters: tuple[int, int] | None = None
    forced: list[Force] = []
    controls: list[str] = []


class Force(BaseModel):
    """A request to analyse again: named calls, all, or those whose analysis failed (SPEC 7).

    Attributes:
        override: replace follow-ups that a person has edited or deleted.
        interest, since, until, prompt_version: take only these of the calls (``clients.tables.analyses.Narrowing``).
        max_tokens: stop before the next call once so much is spent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    call_job_ids: list[str] | None = None
    all: bool = False
    failed: bool = False
    request_id: str = ""
    override: bool = False
    interest: int | None = Field(default=None, ge=0, le=2)
    since: date | None = None
    until: date | None = None
    prompt_version: str = ""
    max_tokens: int | None = Field(default=None, ge=1)


class CallTaskInput(BaseModel):
    """The workflow's input: one JSON object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: int = Field(ge=1, strict=True)
    options: Options = Options()
    carried: Carried | None = None


Carried.model_rebuild()


def read_input(input: Any) -> tuple[CallTaskInput, str]:
    """The input; or one that stands for none, and what is wrong with it."""
    try:
        return CallTaskInput.model_validate(input), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        reason = f'input must be a JSON object like {{"task_id": 42}}; {where}: {first["msg"]}'
        return CallTaskInput(task_id=1), reason

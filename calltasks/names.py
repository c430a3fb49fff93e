"""Names that more than one part uses, each said here and nowhere else: of queues, runs, signals, statuses, priorities
and search attributes. Workflows load this in their sandbox: it needs the standard library and ``temporalio.common``."""

from __future__ import annotations

from enum import IntEnum

from temporalio.common import SearchAttributeKey

# --- runs and queues --------------------------------------------------------------------------------------------

WORKFLOW = "CallTaskWorkflow"
MONITOR_WORKFLOW = "MonitorWorkflow"
MONITOR_SCHEDULE = "call-task-monitor"
MONITOR_CHECK = "call-task-monitor-check"
WITHDRAW_WORKFLOW = "WithdrawWorkflow"
WITHDRAWALS = "call-task-withdrawals"
"""The one run that withdraws calls of people who said no."""
_RUN = "call-task-"

CALL_TASKS = "call-tasks"
"""Task queue of the workflows and of the activities on the database."""
OUTBOUND_BOT = "outbound-bot"
"""Task queue of the activities on the platform, and the rate limit of its calls."""
ANALYSIS = "analysis"
"""Task queue of the activities on the model, and the rate limit of its calls."""
QUEUES = (CALL_TASKS, OUTBOUND_BOT, ANALYSIS)


def workflow_id(task_id: int) -> str:
    """The workflow id of a call task."""
    return f"{_RUN}{task_id}"


def task_of(workflow_id: str) -> int | None:
    """The call task of a workflow id; None if it is of none."""
    number = workflow_id.removeprefix(_RUN)
    return int(number) if number != workflow_id and number.isdecimal() else None


# --- what a run may be asked and told ---------------------------------------------------------------------------

PROGRESS = "progress"
START_CALL = "start_call"
FORCE_ANALYZE = "force_analyze"
REANALYSES = "reanalyses"
REFRESH = "refresh"
CONTROL_CALLS = "control_calls"
"""An update: one of ``ACTIONS``, answered with what the platform said."""
ACTIONS = PAUSE, RESUME, CANCEL = "pause", "resume", "cancel"

# --- statuses and priorities ------------------------------------------------------------------------------------

FINAL = SUCCEEDED, FAILED, CANCELLED = "Succeeded", "Failed", "Cancelled"
"""Outcomes (rule 4.3). Letter case and blanks do not matter: ``FAILED`` is one too, and stays as the CRM spells it."""


class Turn(IntEnum):
    """In which order queued work goes, in Temporal's queues and in the rate limits (rule 14.3); 1 first."""

    CONTROLS = 1
    CONVERSATIONS = 2
    JOB_IDS = 3
    DISPATCH = 3
    ANALYSES = 4
    RECORDINGS = 5


# --- search attributes ------------------------------------------------------------------------------------------

ORGANIZATION = SearchAttributeKey.for_keyword("OrganizationId")
TASK = SearchAttributeKey.for_int("TaskId")
TASK_TYPE = SearchAttributeKey.for_keyword("TaskType")
"""A number, but the dev server's database has room for three of type Int."""
UNFINISHED = SearchAttributeKey.for_int("Unfinished")
ANALYSIS_FAILED = SearchAttributeKey.for_int("AnalysisFailed")
STALLED_SINCE = SearchAttributeKey.for_datetime("StalledSince")
SEARCH_ATTRIBUTES = (ORGANIZATION, TASK, TASK_TYPE, UNFINISHED, ANALYSIS_FAILED, STALLED_SINCE)
"""What runs can be found and sorted by, where the namespace has these registered (docs/operations.md)."""

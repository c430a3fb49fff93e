"""How a task stands, as everybody is told: the answer to the query, the run's result, command line, HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field

ENDED_BADLY = ("failed", "terminated", "canceled", "timed_out")
"""Phases of a run that did not come to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts of a task's calls, follow-ups and costs, in the order in which they are told of (rule 17.4)."""

    task_id: int | None
    task_type: int | None = None
    phase: str
    leads: int = 0
    called: int = 0
    unmatched: int = 0
    finished: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    recordings: int = 0
    recordings_missing: int = 0
    follow_ups: int = 0
    analysed: int = 0
    suppressed: int = 0
    analysis_failed: int = 0
    by_interest: dict[str, int] = field(default_factory=lambda: {"0": 0, "1": 0, "2": 0})
    reanalysed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    polls: int
    api_calls: int
    started_at: str
    updated_at: str
    over_ceiling: int = 0
    set_aside: int = 0
    token_ceiling: int | None = None
    kept_edits: int = 0
    analysing_again: int = 0
    suppressed_by_reason: dict[str, int] = field(default_factory=dict)
    withdrawn: int = 0
    too_late: int = 0
    last_error: str = ""
    dialling_begins: str = ""

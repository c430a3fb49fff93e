"""How a task stands, as people see it on a terminal: ``starter.py progress``, ``--watch`` and ``--wait``."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from calltasks.progress import Progress

TYPES = {1: "created", 2: "calling", 3: "calls complete", 4: "follow-up complete"}
INTERESTS = {"0": "cannot tell", "1": "interested", "2": "not interested"}


def in_order(progress: dict[str, Any]) -> dict[str, Any]:
    """The progress object with its fields in order: Temporal sorts them by name."""
    told = [field.name for field in dataclasses.fields(Progress)]
    return {name: progress[name] for name in (*told, *progress) if name in progress}


def fields(progress: dict[str, Any]) -> Table:
    """Every field of the progress object, one a line."""
    found = Table(title=f"call task {progress['task_id']}", show_header=False)
    for name, value in in_order(progress).items():
        found.add_row(name, _text(value))
    return found


def screen(progress: dict[str, Any], *, trouble: str = "") -> RenderableType:
    """What one looks at while a task runs: how far each step is, what came out, what went wrong.

    Args:
        progress: the progress object.
        trouble: why it could not be asked for anew, if so.
    """
    called = progress["called"]
    steps = Table.grid(padding=(0, 2))
    steps.add_column(min_width=11)
    steps.add_column(width=32)
    steps.add_column(justify="right")
    steps.add_column(style="dim")
    recorded = progress["recordings"] + progress["recordings_missing"]
    for name, done, whole, more in (
        ("job ids", called, progress["leads"], f"{progress['unmatched']} leads without a job"),
        ("calls over", progress["finished"], called, _counts(progress["by_status"])),
        ("follow-ups", progress["follow_ups"], called, _judgements(progress)),
        ("recordings", progress["recordings"], recorded, f"{progress['recordings_missing']} missing"),
    ):
        bar = ProgressBar(total=max(whole, 1), completed=done, width=32)
        steps.add_row(name, bar, f"{done} of {whole}", more)
    interests = {INTERESTS.get(name, name): count for name, count in progress["by_interest"].items()}
    tokens = str(progress["input_tokens"] + progress["output_tokens"])
    if progress.get("token_ceiling") is not None:
        tokens += f" of at most {progress['token_ceiling']}, calls beyond: {progress['over_ceiling']}"
    facts = Table.grid(padding=(0, 2))
    facts.add_column(min_width=11)
    facts.add_column(overflow="fold")
    facts.add_row("interest", _counts(interests))
    facts.add_row("tokens", tokens)
    facts.add_row("asked", f"{progress['polls']} polls, {progress['api_calls']} calls of the platform")
    facts.add_row("since", f"{progress['started_at']}, as of {progress['updated_at']}")
    if progress.get("last_error"):
        facts.add_row("last error", Text(progress["last_error"], style="yellow"))
    if trouble:
        facts.add_row("now", Text(trouble, style="bold yellow"))
    stage = TYPES.get(progress["task_type"], "not opened yet")
    return Panel(
        Group(steps, Text(), facts),
        title=f"call task {progress['task_id']}: {progress['phase']}",
        subtitle=f"task_type {progress['task_type']}, {stage}",
        title_align="left",
        subtitle_align="left",
        expand=False,
    )


def advice(progress: dict[str, Any]) -> str:
    """What to do about a run that did not come to its end."""
    reason = f": {progress['last_error']}" if progress.get("last_error") else ""
    again = f"start-call {progress['task_id']}"
    return f"the run has {progress['phase']}{reason}; mend it, then go on with: {again} (docs/operations.md, Runbook)"


def _judgements(progress: dict[str, Any]) -> str:
    parts = {"judged": progress["analysed"], "failed": progress["analysis_failed"]}
    parts |= {"judged again": progress["reanalysed"], "to be judged again": progress.get("analysing_again", 0)}
    return _counts({name: count for name, count in parts.items() if count or name == "judged"})


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _text(value: Any) -> str:
    return "" if value is None else _counts(value) if isinstance(value, dict) else str(value)

"""What a run counts beside what the database says, and how both are shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from temporalio import workflow

from activities.tasks import Review
from calltasks.database.tables.needs import standing
from calltasks.options import Carried
from calltasks.progress import Progress
from calltasks.steps import Done

ERROR_CHARACTERS = 200
NO_ROWS = standing([], in_group=False)
COUNTED = {field.name for field in fields(Progress)} & {field.name for field in fields(NO_ROWS)}
"""What a review counts of the rows and everybody is told."""


class Tally:
    """Counts of one run. ``last_error`` is the last thing that went wrong and
    has not gone well since, ``last_control`` what the platform
    answered to pause, resume or cancel, ``analysing_again`` how many re-analyses
    were asked for and are not part of a review yet, ``analysed_again`` those
    of them that are done."""

    def __init__(self, carried: Carried | None) -> None:
        self.started_at = carried.started_at if carried else _iso(workflow.info().workflow_start_time)
        self.polls = carried.polls if carried else 0
        self.api_calls = carried.api_calls if carried else 0
        self.under_way: Counter[str] = Counter()
        self.last_error = ""
        self.last_error_at = ""
        self._last_error_step = ""
        self.last_control = carried.last_control if carried else ""
        self.waiting = ""
        self.assigned = carried.assigned if carried else 0
        self.analysing_again = 0
        self.analysed_again = 0
        self.token_ceiling: int | None = None

    def note(self, error: str, step: str) -> None:
        """Remember what went wrong in a step; ``""``: it went well, so an error that it had before is over."""
        if error:
            self.last_error = error[:ERROR_CHARACTERS]
            self.last_error_at = _iso(workflow.now())
            self._last_error_step = step
        elif step == self._last_error_step:
            self.last_error = self.last_error_at = ""

    def did(self, done: Done) -> None:
        """Count a piece of a step."""
        self.api_calls += done.api_calls
        self.under_way.update(done.under_way)

    def progress(
        self, task_id: int | None, phase: str, review: Review | None, opens: datetime | None
    ) -> dict[str, Any]:
        """The progress object (rule 17.4)."""
        rows = review.rows if review else NO_ROWS
        suppressed = dict(review.suppressed) if review else {}
        counts = {name: getattr(rows, name) for name in COUNTED}
        # What a piece of an earlier look says late is over where no call is under way.
        under_way = self.under_way if rows.finished < rows.called else Counter[str]()
        progress = Progress(
            **counts | {"by_status": dict(under_way + Counter(rows.by_status))},
            task_id=task_id,
            task_type=review.task_type if review else None,
            phase=phase,
            suppressed=sum(suppressed.values()),
            suppressed_by_reason=suppressed,
            polls=self.polls,
            api_calls=self.api_calls,
            started_at=self.started_at,
            updated_at=_iso(workflow.now()),
            token_ceiling=self.token_ceiling,
            analysing_again=self.analysing_again,
            last_error=self.last_error,
            dialling_begins=opens.isoformat(timespec="seconds") if opens else "",
        )
        return asdict(progress) | (review.counts if review else {})

    def details(self, progress: dict[str, Any]) -> str:
        """The progress as the Temporal UI shows it on the run's page (Markdown)."""
        rows = [
            ("phase", f"{progress['phase']}, task_type {progress['task_type']}"),
            ("calls over", f"{progress['finished']} of {progress['called']}"),
            ("leads without a job", progress["unmatched"]),
            ("of these left out", _pairs(progress["suppressed_by_reason"])),
            ("withdrawn", f"{progress['withdrawn']}, dialled before they could be: {progress['too_late']}"),
            ("by status", _pairs(progress["by_status"])),
            ("follow-ups", f"{progress['follow_ups']}, of which {progress['analysed']} judged by the model"),
            ("analyses that failed", progress["analysis_failed"]),
            ("follow-ups that the database refuses", progress["set_aside"]),
            ("tokens", _tokens(progress)),
            ("interest", _pairs(progress["by_interest"])),
            ("recordings", f"{progress['recordings']}, {progress['recordings_missing']} missing"),
            ("waiting for", self.waiting or "work under way"),
            ("dialling", _dialling(self.last_control, progress["dialling_begins"])),
            ("last error", f"{self.last_error} ({self.last_error_at})" if self.last_error else "none"),
        ]
        return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _dialling(control: str, begins: str) -> str:
    return "; ".join(filter(None, (control, begins and f"begins at {begins}"))) or "as the platform does"


def _tokens(progress: dict[str, Any]) -> str:
    spent = f"{progress['input_tokens'] + progress['output_tokens']}"
    if progress["token_ceiling"] is not None:
        spent += f" of at most {progress['token_ceiling']}"
    if progress["over_ceiling"]:
        spent += f"; spent, calls not judged: {progress['over_ceiling']} (force_analyze with failed judges them)"
    return spent


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")

"""Who would be called if a task were started now, who not, and why (rule 11.9). Reads, and writes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pymysql.cursors import Cursor

from calltasks.database.tables import dispatches, gate, suppressions, task_options
from calltasks.database.tables.dispatches import Undialled
from calltasks.database.tables.gate import Gate
from calltasks.database.tables.tasks import TaskRow
from calltasks.options import Options
from calltasks.rules.gate import CALLED_LATELY, CALLED_OFTEN, NO_NUMBER, OPTED_OUT, Limits

PIECE = 2_000
"""Rows that are looked at at once."""
MOST_NAMED = 1_000
"""Leads a reason that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a start would do.

    Attributes:
        leads: rows of the task.
        to_call: rows that would be handed over.
        not_called: rows that are left out, those of earlier starts among them; ``by_reason`` in numbers.
        left_out: ``leads_id`` of those that this start would leave out, by reason, at most a thousand each.
        repeated: rows for which another one of the same ``reference_id`` stands.
        begun: rows that are handed over already, or over.
        limits: how rarely the task's options want people called.
        phase: of the run that is under way; ``""``: none is.
    """

    task_id: int
    leads: int
    to_call: int
    not_called: int
    by_reason: dict[str, int]
    left_out: dict[str, list[str]]
    repeated: int
    begun: int
    limits: Limits
    phase: str = ""

    def __str__(self) -> str:
        says = f"{self.leads:,} leads, {self.not_called:,} not called"
        words = {
            OPTED_OUT: "opted out",
            CALLED_LATELY: f"called within {_days(self.limits.not_called_within)}",
            CALLED_OFTEN: f"called {self.limits.at_most} times within {_days(self.limits.in_days)}",
            NO_NUMBER: "no number",
        }
        reasons = [f"{count:,} {words.get(why, why)}" for why, count in self.by_reason.items()]
        says += f": {', '.join(reasons)}" if reasons else ""
        others = {"repeated": self.repeated, "handed over already, or over": self.begun}
        says += "".join(f"; {count:,} {what}" for what, count in others.items() if count)
        return says + (f"; it is running: {self.phase}" if self.phase else "")


def _days(count: int) -> str:
    return f"{count} day{'s'[: count != 1]}"


def rehearse(cursor: Cursor, task: TaskRow, given: Options) -> DryRun:
    """What a start with these options, over those that stay with the task, would do with its rows."""
    options = given.over(task_options.kept(cursor, task).options)
    ahead = Gate(task=task, limits=task_options.limits(options.kept()))
    left_out: dict[str, list[str]] = defaultdict(list)
    reasons = Counter(suppressions.count(cursor, task.task_id))
    to_call = repeated = looked_at = 0
    stand: set[str] = set()
    for rows in () if gate.dispatched(cursor, task) else _pieces(cursor, task):
        out = ahead.left_out(cursor, rows)
        looked_at += len(rows)
        for row in rows:
            if why := out.get(row.id):
                reasons[why] += 1
                left_out[why] += [row.leads_id] if len(left_out[why]) < MOST_NAMED else []
            elif row.reference_id and row.reference_id in stand:
                repeated += 1
            else:
                to_call += 1
                stand.add(row.reference_id)
    cursor.execute("SELECT COUNT(*) FROM leads_task_list WHERE task_id = %s", (task.task_id,))
    leads = int((cursor.fetchone() or (0,))[0])
    known = [why for why in (OPTED_OUT, CALLED_LATELY, CALLED_OFTEN, NO_NUMBER) if reasons[why]]
    by_reason = {why: reasons[why] for why in dict.fromkeys((*known, *reasons)) if reasons[why]}
    not_called = sum(by_reason.values())
    return DryRun(
        task_id=task.task_id,
        leads=leads,
        to_call=to_call,
        not_called=not_called,
        by_reason=by_reason,
        left_out={why: left_out[why] for why in by_reason if why in left_out},
        repeated=repeated,
        begun=leads - to_call - repeated - not_called,
        limits=ahead.limits,
    )


def _pieces(cursor: Cursor, task: TaskRow) -> Iterator[list[Undialled]]:
    """Rows that a start would hand over, or leave out: those in no batch yet, and those of batches that never left."""
    name = dispatches.group_name(task.task_id, task.create_time)
    group_id = task.job_group_id or dispatches.known_group(cursor, task.task_id, name)
    open_ = dispatches.unresolved(cursor, task.task_id, group_id)
    spans: list[tuple[int, int | None]] = [(batch.first_id, batch.last_id) for batch in open_ if batch.unsent]
    spans.append((dispatches.written(cursor, task.task_id, group_id).last_id + 1, None))
    for first, last in spans:
        while rows := dispatches.undialled(cursor, task.task_id, first=first, last=last, limit=PIECE):
            yield rows
            first = rows[-1].id + 1

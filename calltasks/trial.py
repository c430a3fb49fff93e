"""A re-analysis tried out: what it would change, in the caller's process, nothing being written (rule 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from calltasks.concurrency import for_each
from calltasks.database.connection import Database
from calltasks.database.tables import follow_ups as table
from calltasks.database.tables import ledger, task_options
from calltasks.database.tables.analyses import FollowUp, Present, present
from calltasks.database.tables.follow_ups import FinishedCall
from calltasks.database.tables.tasks import TaskRow
from calltasks.judging import AT_ONCE, Judge
from calltasks.options import Options
from calltasks.rules.reanalysis import Reanalysis
from calltasks.rules.row_ranges import pack
from calltasks.token_ceiling import TokenCeiling

if TYPE_CHECKING:
    from calltasks.model.analysis import AnalysisModel

FIELDS = ("is_interested", "next_follow_time", "leads_remark")
ROWS = 200
"""Calls whose transcripts are in memory at once."""
NO_REQUEST = "trial"
"""Stands for a request's id, which is never of this form: so no call counts as judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a follow-up says. ``next_follow_time`` is wall clock."""

    is_interested: int | None
    next_follow_time: datetime | None
    leads_remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a re-analysis would do to one call.

    Attributes:
        action: ``update``, ``create``, ``same`` (the judgement is what stands there), ``keep`` (a person's edit),
            ``failed`` (no judgement, and the old one stays; where there is none, ``create`` makes a basic one).
        edit: what a person did to the follow-up: ``edited``, ``deleted`` or ``""``.
        before: None where there is no follow-up.
        differs: the fields in which ``after`` differs from ``before``.
        do_not_call: the sentence that refuses further calls, or ``""``.
        wrong_number: the number is not the lead's.
    """

    list_id: int
    call_job_id: str
    called_at: datetime | None
    action: str
    edit: str
    before: Opinion | None
    after: Opinion
    differs: list[str]
    evidence: str
    do_not_call: str
    wrong_number: bool
    error_code: str


@dataclass(slots=True, kw_only=True)
class Trial:
    """What a re-analysis would do. ``over_ceiling`` calls were not judged because the tokens were spent."""

    task_id: int
    selected: int
    by_action: dict[str, int] = field(default_factory=dict)
    over_ceiling: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    changes: list[Change] = field(default_factory=list)


async def try_out(
    database: Database, model: AnalysisModel, task: TaskRow, request: Reanalysis, advance: Callable[[int], None]
) -> Trial:
    """Judge calls as a re-analysis would, once each, and compare with what stands in the CRM, which is only read;
    ``advance`` is called with the number of selected calls after each of them."""
    await database.prepare()
    ids = await database.run(table.requested, task.task_id, request)
    kept = await database.run(task_options.kept, task)
    grace = Options().over(kept.options).conversation_grace
    trial = Trial(task_id=task.task_id, selected=len(ids))
    judge = Judge(database, model, task.organization_id, TokenCeiling(request.max_tokens))

    async def one(work: tuple[FinishedCall, Present, int | None]) -> None:
        call, there, word = work
        judged = await judge.judge(call, {})
        if judged.answer is not None:
            trial.input_tokens += judged.answer.input_tokens
            trial.output_tokens += judged.answer.output_tokens
        if judged.follow_up.outcome == "over_ceiling":
            trial.over_ceiling += 1
        else:
            said = judged.follow_up if word is None else replace(judged.follow_up, is_interested=word)
            change = _change(call, there, said, override=request.override)
            trial.changes.append(change)
            trial.by_action[change.action] = trial.by_action.get(change.action, 0) + 1
        advance(trial.selected)

    for start in range(0, len(ids), ROWS):
        some = ids[start : start + ROWS]
        calls = await database.run(
            table.to_analyse_again, task.task_id, pack(some), NO_REQUEST, conversation_grace=grace
        )
        standing = await database.run(present, some)
        said = {id_: there.is_interested for id_, there in standing.items() if not there.follow_id}
        word = ledger.persons_word(said, database.column("leads_task_list", "is_interested").start)
        await for_each([(call, standing[call.id], word.get(call.id)) for call in calls], one, at_once=AT_ONCE)
    trial.changes.sort(key=lambda change: change.list_id)
    return trial


def _change(call: FinishedCall, there: Present, follow_up: FollowUp, *, override: bool) -> Change:
    before = _opinion(there) if there.follow_id and there.change != "deleted" else None
    after = _opinion(follow_up)
    action = there.action(follow_up.outcome, override=override)
    differs = [name for name in FIELDS if getattr(before, name, None) != getattr(after, name)]
    return Change(
        list_id=call.id,
        call_job_id=call.call_job_id,
        called_at=call.called_at,
        action="same" if action == "update" and not differs else action,
        edit=there.change,
        before=before,
        after=after,
        differs=differs,
        evidence=follow_up.evidence,
        do_not_call=follow_up.do_not_call,
        wrong_number=follow_up.wrong_number,
        error_code=follow_up.error_code,
    )


def _opinion(one: Present | FollowUp) -> Opinion:
    return Opinion(**{name: getattr(one, name) for name in FIELDS})

"""Re-analysis tried out: what it would change, in the caller's process, nothing being written (SPEC 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from activities.follow_ups import FollowUpRequest, FollowUps
from calltasks.concurrency import for_each
from calltasks.database.connection import Database
from calltasks.database.tables import follow_ups as table
from calltasks.database.tables.analyses import FollowUp, Narrowing, Present, present
from calltasks.database.tables.follow_ups import FinishedCall
from calltasks.rules.row_ranges import pack
from calltasks.token_ceiling import TokenCeiling

FIELDS = ("is_interested", "next_follow_time", "leads_remark")
AT_ONCE = 8
"""Model calls under way: workers that share the rate limit keep most of it."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """Which calls of a task to try (as :class:`activities.tasks.Selection`), and how."""

    task_id: int
    organization_id: str
    call_job_ids: Sequence[str] | None = None
    failed: bool = False
    narrowed: Narrowing = field(default_factory=Narrowing)
    override: bool = False
    max_tokens: int | None = None


class Trials:
    """Tries re-analyses out.

    Args:
        database: only read from (and for the shared rate limit).
        follow_ups: with the configured model.
    """

    def __init__(self, database: Database, follow_ups: FollowUps) -> None:
        self._database = database
        self._follow_ups = follow_ups

    async def run(self, request: TrialRequest, advance: Callable[[int], None] = lambda selected: None) -> Trial:
        """Judge calls as a re-analysis would, once each, and compare with what stands in the CRM.

        ``advance`` is called with the number of selected calls after each of them.
        """
        await self._database.prepare()
        ids = await self._database.run(
            table.requested,
            request.task_id,
            job_ids=request.call_job_ids,
            failed=request.failed,
            narrowed=request.narrowed,
        )
        trial = Trial(task_id=request.task_id, selected=len(ids))
        ceiling = TokenCeiling(request.max_tokens)
        for start in range(0, len(ids), ROWS):
            await self._some(ids[start : start + ROWS], request, trial, ceiling, advance)
        trial.changes.sort(key=lambda change: change.list_id)
        return trial

    async def _some(
        self,
        ids: list[int],
        request: TrialRequest,
        trial: Trial,
        ceiling: TokenCeiling,
        advance: Callable[[int], None],
    ) -> None:
        asked = FollowUpRequest(
            task_id=request.task_id,
            organization_id=request.organization_id,
            rows=pack(ids),
            retry_interval=0,
            conversation_grace=0,
            request_id=NO_REQUEST,
            last_try=True,
        )
        calls = await self._database.run(
            table.to_analyse_again, request.task_id, asked.rows, NO_REQUEST, conversation_grace=0
        )
        standing = await self._database.run(present, ids)

        async def judge(call: FinishedCall) -> None:
            follow_up, input_tokens, output_tokens = await self._follow_ups.preview(call, asked, ceiling)
            trial.input_tokens += input_tokens
            trial.output_tokens += output_tokens
            if follow_up is None:
                trial.over_ceiling += 1
            else:
                change = _change(call, standing[call.id], follow_up, override=request.override)
                trial.changes.append(change)
                trial.by_action[change.action] = trial.by_action.get(change.action, 0) + 1
            advance(trial.selected)

        await for_each(calls, judge, at_once=AT_ONCE)


def _change(call: FinishedCall, there: Present, follow_up: FollowUp, *, override: bool) -> Change:
    after = Opinion(
        is_interested=follow_up.is_interested,
        next_follow_time=follow_up.next_follow_time,
        leads_remark=follow_up.leads_remark,
    )
    before = None
    if there.follow_id and there.change != "deleted":
        before = Opinion(
            is_interested=there.is_interested,
            next_follow_time=there.next_follow_time,
            leads_remark=there.leads_remark,
        )
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
        error_code=follow_up.error_code,
    )

"""Judge calls and write their follow-ups (SPEC 6, 7). Task queue ``analysis``.

The model is asked outside of any transaction; what it said is written in portions, each with its follow-ups, links and
ledger entries at once. A worker that dies loses the answers of its last portion only, and those are asked for again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

from temporalio import activity

from activities.judgement import PROMPT_VERSION, SYSTEM, InvalidAnswerError, fingerprint, question, read_answer, render
from activities.liveness import heartbeating
from activities.row_runs import Runs, pack
from activities.token_ceiling import TokenCeiling
from clients import telemetry
from clients.database import SERVICE as DATABASE
from clients.database import Database
from clients.errors import PermanentError, ServiceError
from clients.tables import analyses as analysis_table
from clients.tables import follow_ups as table
from clients.tables import retries as retry_table
from clients.tables.follow_ups import ROWS_A_TRANSACTION, FinishedCall, FollowUp, Rewritten
from clients.tables.retries import Retry

if TYPE_CHECKING:
    from clients.analysis import AnalysisModel

TRIES = 3
"""Before the model has failed for good (SPEC 6)."""
AT_ONCE = 50
"""Model calls that one activity has under way."""
PORTION_SECONDS = 30.0
"""Judgements are written at least this often, so that few are lost with a worker and sales sees them soon."""
MODEL_FAILED = "AI 分析未完成，请人工查看通话记录；"
FOLLOW = "dcc_leads_follow"
OVER_CEILING = "AI 分析未进行：本任务的 token 额度已用完，请人工查看通话记录；"
LEDGER = "call_analyses"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUpRequest:
    """Rows to follow up.

    Attributes:
        retry_interval: seconds; a call whose analysis failed is tried again after one to two of them.
        conversation_grace: seconds that a transcript may come late.
        request_id: of a re-analysis; empty for first follow-ups.
        last_try: a re-analysis that fails now has failed for good.
        override: replace follow-ups that a person has edited or deleted.
        max_tokens: what the whole re-analysis, or all judgements of the task, may cost; None for no ceiling.
        spent_tokens: what the re-analysis has cost, as far as its workflow knows.
    """

    task_id: int
    organization_id: str
    rows: Runs
    retry_interval: float
    conversation_grace: float
    request_id: str = ""
    last_try: bool = False
    override: bool = False
    max_tokens: int | None = None
    spent_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedUp:
    """How many rows got a follow-up (or a new judgement), by outcome.

    Attributes:
        again: rows whose analysis failed for now.
        kept_edits: rows whose follow-up was left as a person had made it.
        over_ceiling: rows whose call was not judged because the tokens were spent; first follow-ups say so.
    """

    written: int
    by_outcome: dict[str, int]
    by_interest: dict[str, int]
    again: Runs
    input_tokens: int
    output_tokens: int
    error: str = ""
    kept_edits: int = 0
    over_ceiling: int = 0


@dataclass(slots=True)
class _Portions:
    """Judgements that wait to be written, and what was written so far."""

    ceiling: TokenCeiling
    waiting: list[FollowUp] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    written: int = 0
    by_outcome: Counter[str] = field(default_factory=Counter)
    by_interest: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    kept_edits: int = 0
    over_ceiling: int = 0
    since: float = field(default_factory=monotonic)


class FollowUps:
    """The activities that judge calls."""

    def __init__(self, database: Database, model: AnalysisModel) -> None:
        self._database = database
        self._model = model

    @activity.defn
    async def follow_up(self, request: FollowUpRequest) -> FollowedUp:
        """Give each of these rows that has none its follow-up."""
        return await self._judge_all(request)

    @activity.defn
    async def analyse_again(self, request: FollowUpRequest) -> FollowedUp:
        """Judge these rows anew: update their follow-ups, create those that are missing."""
        return await self._judge_all(request)

    async def preview(
        self, call: FinishedCall, request: FollowUpRequest, ceiling: TokenCeiling
    ) -> tuple[FollowUp | None, int, int]:
        """What a re-analysis would write for a call, and its input and output tokens; nothing is written.

        None instead of a follow-up: the ceiling forbids the question. ``request`` is of a re-analysis, its last try.
        """
        portions = _Portions(ceiling=ceiling)
        await self._judge(call, request, portions)
        return next(iter(portions.waiting), None), portions.input_tokens, portions.output_tokens

    async def _judge_all(self, request: FollowUpRequest) -> FollowedUp:
        portions = _Portions(ceiling=await self._ceiling(request))
        async with heartbeating():
            calls = iter(await self._load(request))
            writing = asyncio.Lock()

            async def work() -> None:
                for call in calls:
                    await self._judge(call, request, portions)
                    full = len(portions.waiting) >= ROWS_A_TRANSACTION
                    due = full or monotonic() - portions.since > PORTION_SECONDS
                    if due and not writing.locked():
                        async with writing:
                            await self._write(request, portions)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(work())
            except ExceptionGroup as errors:
                # Only the database can fail here, a call cannot: the rest was stopped, the first error is ours.
                raise errors.exceptions[0] from None
            while portions.waiting:
                await self._write(request, portions)
            await self._database.run(retry_table.save, request.task_id, portions.retries)
        activity.logger.info(
            "task %d: %d calls judged (%s), %d to be tried again (last error: %s)",
            *(request.task_id, portions.written, dict(portions.by_outcome), len(portions.again)),
            portions.error or None,
        )
        return FollowedUp(
            written=portions.written,
            by_outcome=dict(portions.by_outcome),
            by_interest=dict(portions.by_interest),
            again=pack(portions.again),
            input_tokens=portions.input_tokens,
            output_tokens=portions.output_tokens,
            error=portions.error,
            kept_edits=portions.kept_edits,
            over_ceiling=portions.over_ceiling,
        )

    async def _ceiling(self, request: FollowUpRequest) -> TokenCeiling:
        """The ceiling, less what was spent: of an attempt that died only the ledger knows."""
        if request.max_tokens is None:
            return TokenCeiling(None)
        known = await self._database.run(analysis_table.spent_tokens, request.task_id, request.request_id)
        return TokenCeiling(request.max_tokens, max(known, request.spent_tokens))

    async def _load(self, request: FollowUpRequest) -> list[FinishedCall]:
        if request.request_id:
            return await self._database.run(
                table.to_analyse_again,
                request.task_id,
                request.rows,
                request.request_id,
                conversation_grace=request.conversation_grace,
            )
        return await self._database.run(
            table.to_follow_up,
            request.task_id,
            request.rows,
            conversation_grace=request.conversation_grace,
            now=(await self._database.now()).replace(tzinfo=None),
        )

    async def _judge(self, call: FinishedCall, request: FollowUpRequest, portions: _Portions) -> None:
        """Judge one call; what it leads to is added to the portions."""
        transcript = render(call.conversation)
        if not transcript:
            portions.waiting.append(without_conversation(call))
            return
        base = FollowUp(
            list_id=call.id,
            call_job_id=call.call_job_id,
            outcome="analysed",
            is_interested=0,
            leads_remark="",
            model=self._model.name[:80],
            prompt_version=PROMPT_VERSION,
            transcript_hash=fingerprint(call.conversation),
        )
        called_at = self._called_at(call)
        if not await portions.ceiling.admits():
            portions.over_ceiling += 1
            if not request.request_id:
                portions.waiting.append(_basic(call, "over_ceiling", OVER_CEILING))
            return
        tokens = 0
        try:
            answer = await self._model.complete(
                system=SYSTEM, user=question(transcript, called_at), tenant=request.organization_id
            )
            tokens = answer.input_tokens + answer.output_tokens
        except ServiceError as error:
            if error.service == DATABASE:
                # The rate limit is kept in the database: when that fails, the model has not.
                raise
            portions.error = str(error)
            refused = isinstance(error, PermanentError)
            telemetry.metrics.asked(request.organization_id, "refused" if refused else "failed")
            await self._failed(call, request, base, portions, error.code, for_good=refused)
            return
        finally:
            await portions.ceiling.settle(tokens)
        portions.input_tokens += answer.input_tokens
        portions.output_tokens += answer.output_tokens
        telemetry.metrics.spent(request.organization_id, answer.input_tokens, answer.output_tokens)
        base = replace(base, input_tokens=answer.input_tokens, output_tokens=answer.output_tokens)
        try:
            judgement = read_answer(answer.text, called_at=called_at, transcript=transcript)
        except InvalidAnswerError:
            portions.error = "DashScope completion: InvalidAnswer"
            telemetry.metrics.asked(request.organization_id, "unreadable")
            await self._failed(call, request, base, portions, "InvalidAnswer", for_good=False)
            return
        telemetry.metrics.asked(request.organization_id, "answered")
        next_time = judgement.next_follow_time
        portions.waiting.append(
            replace(
                base,
                is_interested=judgement.is_interested,
                leads_remark=self._database.fit(FOLLOW, "leads_remark", judgement.leads_remark),
                next_follow_time=self._database.moment(FOLLOW, "next_follow_time", next_time),
                evidence=self._database.fit(LEDGER, "evidence", judgement.evidence),
            )
        )

    async def _failed(
        self,
        call: FinishedCall,
        request: FollowUpRequest,
        base: FollowUp,
        portions: _Portions,
        code: str,
        *,
        for_good: bool,
    ) -> None:
        """Try again later; or, after the third try and where no retry can mend it, a basic follow-up (SPEC 6)."""
        if for_good or (request.last_try if request.request_id else call.tries + 1 >= TRIES):
            portions.waiting.append(replace(base, outcome="failed", leads_remark=MODEL_FAILED, error_code=code))
            return
        portions.again.append(call.id)
        if request.request_id:
            return
        now = (await self._database.now()).replace(tzinfo=None)
        delay = timedelta(seconds=request.retry_interval * random.uniform(1, 2))
        portions.retries.append(
            Retry(
                list_id=call.id,
                step="analysis",
                tries=call.tries + 1,
                since=call.since or now,
                retry_at=now + delay,
                error_code=code,
            )
        )

    async def _write(self, request: FollowUpRequest, portions: _Portions) -> None:
        """Write one portion; what comes in meanwhile waits for the next one."""
        portions.since = monotonic()
        portion = portions.waiting[:ROWS_A_TRANSACTION]
        del portions.waiting[:ROWS_A_TRANSACTION]
        rewritten = await self._write_portion(request, portion)
        portions.written += rewritten.judged
        portions.kept_edits += len(rewritten.kept)
        kept = set(rewritten.kept)
        for follow_up in portion:
            outcome = "kept" if follow_up.list_id in kept else follow_up.outcome
            portions.by_outcome[outcome] += 1
            telemetry.metrics.wrote("follow_ups", outcome)
            if follow_up.list_id not in kept:
                portions.by_interest[str(follow_up.is_interested)] += 1
                telemetry.metrics.followed_up(str(follow_up.is_interested))

    async def _write_portion(self, request: FollowUpRequest, portion: list[FollowUp]) -> Rewritten:
        now = await self._database.now()
        wall, utc = self._database.wall_clock(now), now.replace(tzinfo=None)
        if request.request_id:
            return await self._database.transaction(
                table.update,
                request.task_id,
                portion,
                request_id=request.request_id,
                now=wall,
                now_utc=utc,
                override=request.override,
            )
        created = await self._database.transaction(table.create, request.task_id, portion, now=wall, now_utc=utc)
        return Rewritten(judged=created, kept=[])

    def _called_at(self, call: FinishedCall) -> datetime:
        """The time of the call, aware; a row without any time was called just now."""
        zone = self._database.zone
        return (call.called_at or datetime.now(UTC).astimezone(zone)).replace(tzinfo=zone, microsecond=0)


def _basic(call: FinishedCall, outcome: str, remark: str) -> FollowUp:
    """A follow-up of a call that the model has not judged."""
    return FollowUp(
        list_id=call.id, call_job_id=call.call_job_id, outcome=outcome, is_interested=0, leads_remark=remark
    )


def without_conversation(call: FinishedCall) -> FollowUp:
    """The follow-up of a call without transcript (SPEC 6)."""
    return _basic(call, "default", analysis_table.default_remark(call.call_status))

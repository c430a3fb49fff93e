"""Judge calls and write their follow-ups (SPEC 6, 7). Task queue ``analysis``.

The model is asked outside of any transaction. What it said goes into our ledger at once, readable or not, and from
there into the CRM (:mod:`activities.portions`); whoever comes after takes it from the ledger.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from temporalio import activity

from activities.liveness import heartbeating
from activities.portions import Portions
from calltasks.concurrency import for_each
from calltasks.database.connection import SERVICE as DATABASE
from calltasks.database.connection import Database
from calltasks.database.tables import analyses as analysis_table
from calltasks.database.tables import follow_ups as table
from calltasks.database.tables import ledger
from calltasks.database.tables.analyses import FollowUp
from calltasks.database.tables.follow_ups import KNOWN, FinishedCall
from calltasks.database.tables.retries import Retry
from calltasks.errors import PermanentError, ServiceError, UnreadableAnswerError
from calltasks.observing import telemetry
from calltasks.rules.judgement import (
    PROMPT_VERSION,
    SYSTEM,
    InvalidAnswerError,
    fingerprint,
    question,
    read_answer,
    render,
)
from calltasks.rules.row_ranges import Runs, pack
from calltasks.token_ceiling import TokenCeiling

if TYPE_CHECKING:
    from calltasks.model.analysis import AnalysisModel

TRIES = 3
"""Before the model has failed for good (SPEC 6)."""
AT_ONCE = 50
"""Model calls that one activity has under way."""
MODEL_FAILED = "AI 分析未完成，请人工查看通话记录；"
FOLLOW = "dcc_leads_follow"
OVER_CEILING = "AI 分析未进行：本任务的 token 额度已用完，请人工查看通话记录；"
LEDGER = "call_analyses"
Known = dict[tuple[int, str, str, str], FollowUp]
"""What need not be asked again, by row, hash of the transcript, prompt and model; without these: a lost link."""


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
        set_aside: rows whose follow-up the database refused.
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
    set_aside: int = 0


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
        portions = Portions(database=self._database, request=request)
        follow_up = await self._judge(call, portions, ceiling, {})
        return follow_up, portions.input_tokens, portions.output_tokens

    async def _judge_all(self, request: FollowUpRequest) -> FollowedUp:
        portions = Portions(database=self._database, request=request)
        ceiling = await self._ceiling(request)
        async with heartbeating():
            calls = {call.id: call for call in await self._load(request)}
            known = await self._known(request, calls)

            async def judge(call: FinishedCall) -> None:
                if portions.failure is not None:
                    return
                try:
                    follow_up = await self._judge(call, portions, ceiling, known)
                    await portions.save_answers()
                    if follow_up is not None:
                        portions.waiting.append(follow_up)
                        await portions.write_due(calls)
                except ServiceError as error:
                    # Only the database can fail here, a call cannot. What is under way is paid for: it is awaited.
                    portions.failure = portions.failure or error

            await for_each(calls.values(), judge, at_once=AT_ONCE)
            await portions.finish(calls)
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
            set_aside=portions.set_aside,
        )

    async def _known(self, request: FollowUpRequest, calls: dict[int, FinishedCall]) -> Known:
        if not calls:
            return {}
        answers = await self._database.run(analysis_table.answers, list(calls), request.request_id)
        known = {
            (one.list_id, one.transcript_hash, one.prompt_version, one.model): self._fitted(one) for one in answers
        }
        if not request.request_id:
            for id_ in await self._database.run(ledger.entries, list(calls)):
                known[id_, "", "", ""] = _basic(calls[id_], KNOWN, "")
        return known

    def _fitted(self, follow_up: FollowUp) -> FollowUp:
        """As the CRM can hold it; the ledger keeps what was said."""
        return replace(follow_up, leads_remark=self._database.fit(FOLLOW, "leads_remark", follow_up.leads_remark))

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

    async def _judge(
        self, call: FinishedCall, portions: Portions, ceiling: TokenCeiling, known: Known
    ) -> FollowUp | None:
        """The follow-up of a call; None if there is none yet, or (over the ceiling of a re-analysis) no new one."""
        if lost := known.get((call.id, "", "", "")):
            return lost
        transcript, request = render(call.conversation), portions.request
        if not transcript:
            return without_conversation(call)
        base = replace(
            _basic(call, "analysed", ""),
            model=self._model.name[:80],
            prompt_version=PROMPT_VERSION,
            transcript_hash=fingerprint(call.conversation),
        )
        said = known.get((call.id, base.transcript_hash, base.prompt_version, base.model))
        if said is not None and said.call_job_id == call.call_job_id:
            return said
        if not await ceiling.admits():
            portions.over_ceiling += 1
            return None if request.request_id else _basic(call, "over_ceiling", OVER_CEILING)
        answer = replace(base, answer_id=uuid4().hex)
        try:
            answer = await self._ask(answer, transcript, self._called_at(call), request.organization_id)
        except UnreadableAnswerError as error:
            answer = replace(answer, input_tokens=error.input_tokens, output_tokens=error.output_tokens)
            self._keep(replace(answer, outcome="unreadable", error_code=error.code), portions)
            portions.error = str(error)
            return await self._failed(call, base, portions, error.code, for_good=False)
        except ServiceError as error:
            if error.service == DATABASE:
                # The rate limit is kept in the database: when that fails, the model has not.
                raise
            portions.error = str(error)
            refused = isinstance(error, PermanentError)
            telemetry.metrics.asked(request.organization_id, "refused" if refused else "failed")
            return await self._failed(call, base, portions, error.code, for_good=refused)
        finally:
            await ceiling.settle(answer.input_tokens + answer.output_tokens)
        self._keep(answer, portions)
        return self._fitted(answer)

    async def _ask(self, answer: FollowUp, transcript: str, called_at: datetime, tenant: str) -> FollowUp:
        """``answer`` with what the model says.

        Raises:
            UnreadableAnswerError: with what it cost.
            ServiceError: there is no answer.
        """
        said = await self._model.complete(system=SYSTEM, user=question(transcript, called_at), tenant=tenant)
        try:
            judgement = read_answer(said.text, called_at=called_at, transcript=transcript)
        except InvalidAnswerError:
            raise UnreadableAnswerError(
                *("DashScope", "completion", "InvalidAnswer"),
                input_tokens=said.input_tokens,
                output_tokens=said.output_tokens,
            ) from None
        next_time = judgement.next_follow_time
        return replace(
            answer,
            is_interested=judgement.is_interested,
            leads_remark=self._database.fit(LEDGER, "leads_remark", judgement.leads_remark),
            next_follow_time=self._database.moment(FOLLOW, "next_follow_time", next_time),
            evidence=self._database.fit(LEDGER, "evidence", judgement.evidence),
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
        )

    def _keep(self, answer: FollowUp, portions: Portions) -> None:
        """An answer was paid for, readable or not: the ledger has it next."""
        organization_id = portions.request.organization_id
        telemetry.metrics.asked(organization_id, "answered" if answer.outcome == "analysed" else "unreadable")
        telemetry.metrics.spent(organization_id, answer.input_tokens, answer.output_tokens)
        portions.input_tokens += answer.input_tokens
        portions.output_tokens += answer.output_tokens
        portions.answers.append(answer)

    async def _failed(
        self, call: FinishedCall, base: FollowUp, portions: Portions, code: str, *, for_good: bool
    ) -> FollowUp | None:
        """Try again later; or, after the third try and where no retry can mend it, a basic follow-up (SPEC 6)."""
        request = portions.request
        if for_good or (request.last_try if request.request_id else call.tries + 1 >= TRIES):
            return replace(base, outcome="failed", leads_remark=MODEL_FAILED, error_code=code)
        portions.again.append(call.id)
        if request.request_id:
            return None
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
        return None

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

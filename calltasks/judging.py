"""One call, one follow-up (rule 6): the model is asked, its answer read, the follow-up built. Nothing is written here.

The activity writes what comes out (:mod:`activities.follow_ups`), a trial only shows it (:mod:`calltasks.trial`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from calltasks.database.connection import SERVICE as DATABASE
from calltasks.database.connection import Database
from calltasks.database.tables.analyses import SECOND, FollowUp, default_remark
from calltasks.database.tables.follow_ups import KNOWN, FinishedCall
from calltasks.errors import PermanentError, ServiceError, UnreadableAnswerError
from calltasks.observing import telemetry
from calltasks.rules.judgement import (
    SYSTEM,
    InvalidAnswerError,
    Judgement,
    fingerprint,
    question,
    read_answer,
    render,
)
from calltasks.token_ceiling import TokenCeiling

if TYPE_CHECKING:
    from calltasks.model.analysis import AnalysisModel, Completion

AT_ONCE = 8
"""Questions that a trial or an evaluation has under way: workers that share the rate limit keep most of it."""
MODEL_FAILED = "AI 分析未完成，请人工查看通话记录；"
OVER_CEILING = "AI 分析未进行：本任务的 token 额度已用完，请人工查看通话记录；"
FOLLOW = "dcc_leads_follow"
LEDGER = "call_analyses"
INVALID = "InvalidAnswer"
"""Code of an answer that is no judgement."""
UNPROVEN = "RefusalUnproven"
"""Code of a judgement that speaks of a refusal of further calls which the customer's words do not prove (rule 6.11)."""
Known = dict[tuple[int, str, str, str], FollowUp]
"""What need not be asked again, by row, hash of the transcript, prompt and model; without these: a lost link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of a call.

    Attributes:
        follow_up: what its follow-up shall say, if it is not tried again.
        answer: what the model said, readable or not: it was paid for, and belongs into the ledger.
        second: what another model makes of it, for people to compare; it decides nothing.
        error: why there is no judgement, for people.
        passing: another try may go well.
    """

    follow_up: FollowUp
    answer: FollowUp | None = None
    second: FollowUp | None = None
    error: str = ""
    passing: bool = False


async def ask(model: AnalysisModel, transcript: str, called_at: datetime, tenant: str) -> tuple[Judgement, Completion]:
    """What the model makes of a transcript, and what it said. An answer that is no judgement is an
    UnreadableAnswerError, with what it cost."""
    said = await model.complete(system=SYSTEM, user=question(transcript, called_at), tenant=tenant)
    try:
        return read_answer(said.text, called_at=called_at, transcript=transcript), said
    except InvalidAnswerError:
        raise UnreadableAnswerError(
            *("DashScope", "completion", INVALID),
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            model=said.model,
        ) from None


class Judge:
    """Judges calls on behalf of an organisation, as far as ``ceiling`` admits, and none that has failed ``tries`` times
    (None: however often it has). As far as ``second`` admits, another model is asked about each answer."""

    def __init__(
        self,
        database: Database,
        model: AnalysisModel,
        organization_id: str,
        ceiling: TokenCeiling,
        tries: int | None = None,
        second: TokenCeiling | None = None,
    ) -> None:
        self._database = database
        self._model = model
        self._organization_id = organization_id
        self._ceiling = ceiling
        self._tries = tries
        self._second = second

    async def judge(self, call: FinishedCall, known: Known) -> Judged:
        """Judge a call, or take what is ``known`` of it.

        Raises:
            ServiceError: of the database; the model's are part of what came of the call.
        """
        if lost := known.get((call.id, "", "", "")):
            return Judged(follow_up=lost)
        transcript = render(call.conversation)
        if not transcript:
            return Judged(follow_up=without_conversation(call))
        base = replace(
            _basic(call, "analysed", ""),
            model=self._model.name[:80],
            prompt_version=self._model.version,
            transcript_hash=fingerprint(transcript),
            characters=len(transcript),
        )
        names = (self._model.name, self._model.fallback)
        answers = (known.get((call.id, base.transcript_hash, base.prompt_version, name[:80])) for name in names if name)
        said = next(filter(None, answers), None)
        if said is not None and said.call_job_id == call.call_job_id:
            return Judged(follow_up=self._fitted(said, call))
        if self._tries is not None and call.tries >= self._tries:
            # It has failed for good, and the database refused to take that.
            code = call.error_code.partition(":")[2]
            return Judged(follow_up=replace(base, outcome="failed", leads_remark=MODEL_FAILED, error_code=code))
        if not await self._ceiling.admits():
            return Judged(follow_up=_basic(call, "over_ceiling", OVER_CEILING))
        return await self._answered(call, base, transcript)

    async def _answered(self, call: FinishedCall, base: FollowUp, transcript: str) -> Judged:
        """What comes of putting a call to the model, and to the second one."""
        answer, called_at = replace(base, answer_id=uuid4().hex), self._called_at(call)
        try:
            answer = await self._ask(self._model, answer, transcript, called_at)
        except UnreadableAnswerError as error:
            answer = replace(
                answer,
                outcome="unreadable",
                error_code=error.code,
                model=(error.model or answer.model)[:80],
                input_tokens=error.input_tokens,
                output_tokens=error.output_tokens,
            )
            self._count("unreadable", answer)
            return _failed(base, error, answer)
        except ServiceError as error:
            if error.service == DATABASE:
                # The rate limit is kept in the database: when that fails, the model has not.
                raise
            self._count("refused" if isinstance(error, PermanentError) else "failed", answer)
            return _failed(base, error)
        finally:
            await self._ceiling.settle(answer.input_tokens + answer.output_tokens)
        self._count("answered", answer)
        if answer.do_not_call or answer.error_code == UNPROVEN:
            telemetry.metrics.refused(self._organization_id, "said" if answer.do_not_call else "unproven")
        second = await self._second_opinion(answer, transcript, called_at)
        return Judged(follow_up=self._fitted(answer, call), answer=answer, second=second)

    async def _second_opinion(self, first: FollowUp, transcript: str, called_at: datetime) -> FollowUp | None:
        """What the second model makes of a call; None if it is not asked, or does not answer: nothing hangs on it."""
        model = self._model.second
        if model is None or self._second is None or not await self._second.admits():
            return None
        asked = replace(first, answer_id=uuid4().hex, outcome=SECOND, model=model.name[:80])
        opinion = replace(asked, input_tokens=0, output_tokens=0)
        try:
            opinion = await self._ask(model, opinion, transcript, called_at)
        except UnreadableAnswerError as error:
            asked = replace(asked, leads_remark="", evidence="", error_code=error.code)
            opinion = replace(asked, input_tokens=error.input_tokens, output_tokens=error.output_tokens)
        except ServiceError:
            return None
        finally:
            await self._second.settle(opinion.input_tokens + opinion.output_tokens)
        self._count(SECOND, opinion)
        return opinion

    async def _ask(self, model: AnalysisModel, answer: FollowUp, transcript: str, called_at: datetime) -> FollowUp:
        """``answer`` with what a model says (as :func:`ask`)."""
        judgement, said = await ask(model, transcript, called_at, self._organization_id)
        next_time = judgement.next_follow_time
        return replace(
            answer,
            model=said.model[:80],
            is_interested=judgement.is_interested,
            leads_remark=self._database.fit(LEDGER, "leads_remark", judgement.leads_remark),
            next_follow_time=None if next_time is None else self._database.wall_clock(next_time),
            evidence=self._database.fit(LEDGER, "evidence", judgement.evidence),
            do_not_call=self._database.fit(LEDGER, "do_not_call", judgement.do_not_call),
            wrong_number=judgement.wrong_number,
            error_code=UNPROVEN if judgement.unproven else "",
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
        )

    def _fitted(self, follow_up: FollowUp, call: FinishedCall) -> FollowUp:
        """As the CRM can hold it, and of the call as it is now; the ledger keeps what was said."""
        said = follow_up.next_follow_time
        moment = said.replace(tzinfo=self._database.zone) if said else None
        if moment is not None and moment <= self._called_at(call):
            moment = None
        return replace(
            follow_up,
            leads_remark=self._database.fit(FOLLOW, "leads_remark", follow_up.leads_remark),
            next_follow_time=self._database.moment(FOLLOW, "next_follow_time", moment),
        )

    def _count(self, outcome: str, answer: FollowUp) -> None:
        telemetry.metrics.asked(self._organization_id, outcome)
        telemetry.metrics.spent(self._organization_id, outcome, answer.input_tokens, answer.output_tokens)

    def _called_at(self, call: FinishedCall) -> datetime:
        """The time of the call, aware; a row without any time was called just now."""
        zone = self._database.zone
        return (call.called_at or datetime.now(UTC).astimezone(zone)).replace(tzinfo=zone, microsecond=0)


def _failed(base: FollowUp, error: ServiceError, answer: FollowUp | None = None) -> Judged:
    failed = replace(base, outcome="failed", leads_remark=MODEL_FAILED, error_code=error.code)
    return Judged(follow_up=failed, answer=answer, error=str(error), passing=not isinstance(error, PermanentError))


def _basic(call: FinishedCall, outcome: str, remark: str) -> FollowUp:
    """A follow-up of a call that the model has not judged."""
    return FollowUp(
        list_id=call.id, call_job_id=call.call_job_id, outcome=outcome, is_interested=0, leads_remark=remark
    )


def without_conversation(call: FinishedCall) -> FollowUp:
    """The follow-up of a call without transcript (rule 6.4)."""
    return _basic(call, "default", default_remark(call.call_status))


def lost_link(call: FinishedCall) -> FollowUp:
    """Stands for the follow-up that the ledger knows and the row no longer names."""
    return _basic(call, KNOWN, "")

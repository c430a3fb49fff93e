"""Judge calls and write their follow-ups (rules 6, 7). Task queue ``analysis``.

The model is asked outside of any transaction (:mod:`calltasks.judging`). What it said goes into our ledger at once,
readable or not, and from there into the CRM (:mod:`activities.portions`); whoever comes after takes it from the ledger.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from temporalio import activity

from activities.conversations import CONVERSATIONS
from activities.liveness import heartbeating
from activities.portions import REFUSED, TRIES, Answers, Portions
from calltasks.concurrency import for_each
from calltasks.database.connection import Database
from calltasks.database.refusals import Refused
from calltasks.database.tables import analyses as analysis_table
from calltasks.database.tables import follow_ups as table
from calltasks.database.tables import ledger, needs, tasks
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables.analyses import FollowUp
from calltasks.database.tables.follow_ups import FinishedCall
from calltasks.database.tables.retries import Retry
from calltasks.errors import ServiceError
from calltasks.judging import Judge, Judged, Known, lost_link
from calltasks.names import ANALYSIS, Turn
from calltasks.rules.row_ranges import Ranges
from calltasks.steps import ActivityCall, Done, Step
from calltasks.token_ceiling import TokenCeiling

if TYPE_CHECKING:
    from calltasks.model.analysis import AnalysisModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUpRequest:
    """Rows to follow up.

    Attributes:
        retry_interval: seconds; a call whose analysis failed is tried again after one to two of them.
        conversation_grace: seconds that a transcript may come late.
        max_tokens: what all judgements of the task, or of the re-analysis, may cost; None for no ceiling.
    """

    task_id: int
    organization_id: str
    rows: Ranges
    retry_interval: float
    conversation_grace: float
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainRequest(FollowUpRequest):
    """Rows to judge anew.

    Attributes:
        request_id: of the re-analysis.
        last_try: what fails now has failed for good.
        override: replace follow-ups that a person has edited or deleted.
        spent_tokens: what the re-analysis has cost, as far as its workflow knows.
    """

    request_id: str
    last_try: bool
    override: bool = False
    spent_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class FollowedUp(Done):
    """How many rows got a follow-up (or a new judgement), by outcome.

    Attributes:
        again: rows whose analysis failed for now.
        kept_edits: rows whose follow-up was left as a person had made it.
        over_ceiling: rows whose call was not judged because the tokens were spent; first follow-ups say so.
        set_aside: rows whose follow-up the database refused.
    """

    written: int = 0
    by_outcome: dict[str, int] = field(default_factory=dict)
    by_interest: dict[str, int] = field(default_factory=dict)
    again: Ranges = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    kept_edits: int = 0
    over_ceiling: int = 0
    set_aside: int = 0


class FollowUps:
    """The activities that judge calls."""

    def __init__(self, database: Database, model: AnalysisModel) -> None:
        self._database = database
        self._model = model
        self._answers: WeakValueDictionary[tuple[int, str], Answers] = WeakValueDictionary()

    def _together(self, task_id: int, request_id: str = "") -> Answers:
        """What all pieces of a task, or of one re-analysis of it, have under way here."""
        return self._answers.setdefault((task_id, request_id), Answers(self._database, task_id, request_id))

    @activity.defn
    async def follow_up(self, request: FollowUpRequest) -> FollowedUp:
        """Give each of these rows that has none its follow-up."""
        answers = self._together(request.task_id)
        return await self._judge_all(
            First(database=self._database, request=request, answers=answers, done=FollowedUp())
        )

    @activity.defn
    async def analyse_again(self, request: AgainRequest) -> FollowedUp:
        """Judge these rows anew: update their follow-ups, create those that are missing."""
        again = Again(
            database=self._database,
            request=request,
            answers=self._together(request.task_id, request.request_id),
            done=FollowedUp(),
            request_id=request.request_id,
        )
        return await self._judge_all(again, request.spent_tokens)

    async def _judge_all(self, portions: Portions, spent: int = 0) -> FollowedUp:
        request, done = portions.request, portions.done
        ceiling = await self._ceiling(portions, spent)
        second = None if portions.request_id else await self._second(request.task_id)
        judge = Judge(self._database, self._model, request.organization_id, ceiling, portions.most_tries, second)
        async with heartbeating():
            with portions.judging(await portions.load()):
                await self._judge_each(portions, judge)
            await portions.finish()
        activity.logger.info(
            "task %d: %d calls judged (%s), %d to be tried again (last error: %s)",
            *(request.task_id, done.written, done.by_outcome, len(portions.again), done.error or None),
        )
        return done

    async def _judge_each(self, portions: Portions, judge: Judge) -> None:
        calls = portions.calls.values()
        recorded = [call.id for call in calls if call.recorded]
        known = await portions.known(recorded) if recorded else {}
        if calls:
            await self._database.run(analysis_table.check_writable)

        async def one(call: FinishedCall) -> None:
            if portions.failure is not None:
                return
            try:
                await portions.take(call, await judge.judge(call, known))
            except ServiceError as error:
                # Only the database can fail here, a call cannot. What is under way is paid for: it is awaited.
                portions.failure = portions.failure or error

        await for_each(calls, one, at_once=min(len(calls), self._model.under_way))

    async def _second(self, task_id: int) -> TokenCeiling | None:
        """What second opinions may cost the task still, if they are asked for."""
        if self._model.second is None:
            return None
        spent = await self._database.run(analysis_table.spent_on_second, task_id)
        return TokenCeiling(self._model.second_tokens, spent)

    async def _ceiling(self, portions: Portions, spent: int) -> TokenCeiling:
        """The ceiling, less what was spent: of an attempt that died only the ledger knows."""
        if (most := portions.request.max_tokens) is None:
            return TokenCeiling(None)
        known = await self._database.run(analysis_table.spent_tokens, portions.request.task_id, portions.request_id)
        return TokenCeiling(most, max(known, spent))


@dataclass(slots=True, kw_only=True)
class First(Portions):
    """First follow-ups: what fails is put off in the database, where a later review finds it."""

    most_tries: int | None = TRIES

    async def load(self) -> list[FinishedCall]:
        return await self.database.run(
            table.to_follow_up,
            self.request.task_id,
            self.request.rows,
            conversation_grace=self.request.conversation_grace,
            now=(await self.database.now()).replace(tzinfo=None),
        )

    async def known(self, ids: Sequence[int]) -> Known:
        entries = await self.database.run(ledger.entries, ids)
        return await Portions.known(self, ids) | {(id_, "", "", ""): lost_link(self.calls[id_]) for id_ in entries}

    async def put_off(self, call: FinishedCall, judged: Judged) -> bool:
        if not judged.passing or call.tries + 1 >= TRIES:
            return False
        now = (await self.database.now()).replace(tzinfo=None)
        delay = timedelta(seconds=self.request.retry_interval * random.uniform(1, 2))
        self.retries.append(
            Retry(
                list_id=call.id,
                step="analysis",
                tries=call.tries + 1,
                since=call.since or now,
                retry_at=now + delay,
                error_code=judged.follow_up.error_code,
            )
        )
        return True

    async def write(self, portion: Sequence[FollowUp], now: datetime, now_utc: datetime) -> set[int]:
        task_id = self.request.task_id
        self.done.written += await self.database.transaction(
            table.create, task_id, portion, now=now, now_utc=now_utc, start=self.start
        )
        return set()

    def refused(self, row: Refused[FollowUp], now: datetime) -> None:
        call = self.calls[row.item.list_id]
        since = call.since if call.since and call.error_code.startswith(REFUSED) else now
        pause = max(timedelta(seconds=self.request.retry_interval), min(now - since, retry_table.LONGEST))
        self.retries.append(
            Retry(
                list_id=call.id,
                step="analysis",
                # What has failed for good is not asked again; why it has, follows the database's number.
                tries=TRIES if row.item.outcome == "failed" else call.tries,
                since=since,
                retry_at=now + pause,
                error_code=f"{REFUSED}{row.code}:{row.item.error_code}".rstrip(":")[:80],
            )
        )


@dataclass(slots=True, kw_only=True)
class Again(Portions):
    """New judgements: what fails is named to the workflow, which asks for it again."""

    request: AgainRequest

    async def load(self) -> list[FinishedCall]:
        return await self.database.run(
            table.to_analyse_again,
            self.request.task_id,
            self.request.rows,
            self.request_id,
            conversation_grace=self.request.conversation_grace,
        )

    async def put_off(self, call: FinishedCall, judged: Judged) -> bool:
        if judged.passing and not self.request.last_try:
            self.again.append(call.id)
            return True
        # What stands there is worth more than a word on the ceiling.
        return judged.follow_up.outcome == "over_ceiling"

    async def write(self, portion: Sequence[FollowUp], now: datetime, now_utc: datetime) -> set[int]:
        judged, kept = await self.database.transaction(
            table.update,
            self.request.task_id,
            portion,
            request_id=self.request_id,
            now=now,
            now_utc=now_utc,
            override=self.request.override,
            start=self.start,
        )
        self.done.written += judged
        self.done.kept_edits += len(kept)
        return kept

    def refused(self, row: Refused[FollowUp], now: datetime) -> None:
        self.again.append(row.item.list_id)


FOLLOW_UP = Step(
    activity=FollowUps.follow_up,
    queue=ANALYSIS,
    priority=Turn.ANALYSES,
    need=needs.FOLLOW_UP,
    after=CONVERSATIONS.name,
    request=lambda head, options: FollowUpRequest(
        **head,
        retry_interval=options.retry_interval,
        conversation_grace=options.conversation_grace,
        max_tokens=options.token_ceiling,
    ),
    # A piece takes far longer than others, and no second worker can help with it. It is written in one transaction.
    rows=table.ROWS_A_TRANSACTION,
    few=table.ROWS_A_TRANSACTION,
    # With a ceiling one after another: each must know what the ones before it spent.
    at_once=lambda options: 8 if options.token_ceiling is None else 1,
    counts=tasks.judgements,
)
ANALYSE_AGAIN = ActivityCall(
    # First judgements and new ones ask the same model.
    activity=FollowUps.analyse_again,
    queue=ANALYSIS,
    priority=Turn.ANALYSES,
    errors_of=FOLLOW_UP.name,
)

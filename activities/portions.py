"""What becomes of judgements: first our ledger, then the CRM, in portions; what it refuses is set aside (SPEC 6, 7).

An answer of the model is in the ledger, by itself, before the CRM is written. So a CRM that refuses, a worker that dies
and an activity that is run again cost no second question. A row that the CRM refuses for good stands alone: it is tried
again, from the ledger, after pauses that double up to an hour.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

from calltasks.database.connection import SERVICE as DATABASE
from calltasks.database.connection import Database
from calltasks.database.refusals import Refused, write_each
from calltasks.database.tables import analyses as analysis_table
from calltasks.database.tables import follow_ups as table
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables.analyses import FollowUp
from calltasks.database.tables.follow_ups import KNOWN, ROWS_A_TRANSACTION, FinishedCall
from calltasks.database.tables.retries import Retry
from calltasks.errors import ServiceError
from calltasks.observing import telemetry

if TYPE_CHECKING:
    from activities.follow_ups import FollowUpRequest

TRIES = 3
"""Before the model has failed for good (SPEC 6)."""
PORTION_SECONDS = 30.0
"""Judgements are written at least this often, so that sales sees them soon."""
TOGETHER_SECONDS = 0.1
"""An answer waits so long for others, to be written down with them."""
REFUSED = f"{DATABASE}."
"""Begins the ``error_code`` of a row that the database has refused; its number follows."""


@dataclass(slots=True, kw_only=True)
class Portions:
    """The judgements of one activity, on their way into ledger and CRM.

    Attributes:
        answers: of the model, which are not in the ledger yet.
        waiting: what is to be written to the CRM.
        again: rows of a re-analysis that are to be tried again.
        failure: of the database, after which nothing new is begun.
        set_aside: rows that the database refused.
    """

    database: Database
    request: FollowUpRequest
    answers: list[FollowUp] = field(default_factory=list)
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
    failure: ServiceError | None = None
    set_aside: int = 0
    _since: float = field(default_factory=monotonic)
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def save_answers(self) -> None:
        """All answers so far are in the ledger; those that come meanwhile go together, in one statement."""
        async with self._saving:
            if self.answers:
                await asyncio.sleep(TOGETHER_SECONDS)
            answers, self.answers = self.answers, []
            if answers:
                now = (await self.database.now()).replace(tzinfo=None)

                async def record(some: Sequence[FollowUp]) -> None:
                    await self.database.run(
                        analysis_table.record, self.request.task_id, some, self.request.request_id, now_utc=now
                    )

                # An answer that even our ledger refuses goes to the CRM all the same: it was paid for.
                if refused := await write_each(record, answers):
                    self.error = f"{DATABASE} record: {refused[0].code}: answers not in the ledger: {len(refused)}"

    async def write_due(self, calls: dict[int, FinishedCall]) -> None:
        """Write a portion if it is full, or has waited long enough, and nobody is writing."""
        due = len(self.waiting) >= ROWS_A_TRANSACTION or monotonic() - self._since > PORTION_SECONDS
        if due and not self._writing.locked():
            async with self._writing:
                await self._write(calls)

    async def finish(self, calls: dict[int, FinishedCall]) -> None:
        """Write what is left; what failed is raised once the answers and tries are kept.

        Raises:
            ServiceError: the database is out of reach, or refuses whatever is written.
        """
        await self.save_answers()
        await self._save_retries()
        while self.waiting and self.failure is None:
            await self._write(calls)
        await self._save_retries()
        if self.failure is not None:
            raise self.failure

    async def _save_retries(self) -> None:
        retries, self.retries = self.retries, []
        if retries:
            await self.database.run(retry_table.save, self.request.task_id, retries)

    async def _write(self, calls: dict[int, FinishedCall]) -> None:
        """Write one portion; what comes in meanwhile waits for the next one."""
        self._since = monotonic()
        portion = self.waiting[:ROWS_A_TRANSACTION]
        del self.waiting[:ROWS_A_TRANSACTION]
        try:
            refused = await write_each(self._write_some, portion)
        except ServiceError as error:
            self.failure = self.failure or error
            return
        if refused:
            await self._set_aside(refused, calls)

    async def _write_some(self, portion: Sequence[FollowUp]) -> None:
        now = await self.database.now()
        wall, utc = self.database.wall_clock(now), now.replace(tzinfo=None)
        kept: set[int] = set()
        if self.request.request_id:
            rewritten = await self.database.transaction(
                table.update,
                self.request.task_id,
                portion,
                request_id=self.request.request_id,
                now=wall,
                now_utc=utc,
                override=self.request.override,
            )
            kept = set(rewritten.kept)
            self.written += rewritten.judged
            self.kept_edits += len(kept)
        else:
            self.written += await self.database.transaction(
                table.create, self.request.task_id, portion, now=wall, now_utc=utc
            )
        for follow_up in portion:
            if follow_up.outcome == KNOWN:
                continue
            outcome = "kept" if follow_up.list_id in kept else follow_up.outcome
            self.by_outcome[outcome] += 1
            telemetry.metrics.wrote("follow_ups", outcome)
            if follow_up.list_id not in kept:
                self.by_interest[str(follow_up.is_interested)] += 1
                telemetry.metrics.followed_up(str(follow_up.is_interested))

    async def _set_aside(self, refused: Sequence[Refused[FollowUp]], calls: dict[int, FinishedCall]) -> None:
        now = (await self.database.now()).replace(tzinfo=None)
        self.set_aside += len(refused)
        first = refused[0]
        self.error = (
            f"{DATABASE} follow_up: {first.code}: follow-ups refused: {self.set_aside}, row {first.item.list_id}"
        )
        for one in refused:
            telemetry.metrics.wrote("follow_ups", "refused")
            if self.request.request_id:
                self.again.append(one.item.list_id)
                continue
            call = calls[one.item.list_id]
            since = call.since if call.since and call.error_code.startswith(REFUSED) else now
            pause = max(timedelta(seconds=self.request.retry_interval), min(now - since, retry_table.LONGEST))
            self.retries.append(
                Retry(
                    list_id=call.id,
                    step="analysis",
                    # What has failed for good is not asked again; why it has, follows the database's number.
                    tries=TRIES if one.item.outcome == "failed" else call.tries,
                    since=since,
                    retry_at=now + pause,
                    error_code=f"{REFUSED}{one.code}:{one.item.error_code}".rstrip(":")[:80],
                )
            )

"""What becomes of judgements: first our ledger, then the CRM, in portions; what it refuses is set aside (rule 6.7).

An answer of the model is in the ledger, by itself, before the CRM is written. So a CRM that refuses, a worker that dies
and an activity that is run again cost no second question. A row that the CRM refuses for good stands alone: it is tried
again, from the ledger, after pauses that double up to an hour.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

from calltasks.database.connection import SERVICE as DATABASE
from calltasks.database.connection import Database
from calltasks.database.refusals import Refused, write_each
from calltasks.database.tables import analyses as analysis_table
from calltasks.database.tables import opt_outs
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables.analyses import FollowUp
from calltasks.database.tables.follow_ups import KNOWN, ROWS_A_TRANSACTION, FinishedCall
from calltasks.database.tables.retries import Retry
from calltasks.errors import PassingError, ServiceError
from calltasks.judging import Judged, Known
from calltasks.observing import telemetry
from calltasks.rules.row_ranges import pack

if TYPE_CHECKING:
    from activities.follow_ups import FollowedUp, FollowUpRequest

TRIES = 3
"""Before the model has failed for good (rule 6.5)."""
PORTION_SECONDS = 30.0
"""Judgements are written at least this often, so that sales sees them soon."""
TOGETHER_SECONDS = 0.5
"""An answer waits so long for others, to be written down with them; once no more are to come, it does not wait."""
PAUSES = (1, 2, 4, 8, 16)
"""Seconds between tries to write down what was answered while the database is away."""
REFUSED = f"{DATABASE}."
"""Begins the ``error_code`` of a row that the database has refused; its number follows."""


class Answers:
    """Answers about calls of one task (or of one re-analysis of it) on their way into the ledger, whichever piece of it
    they belong to: what comes within ``TOGETHER_SECONDS`` is one statement."""

    def __init__(self, database: Database, task_id: int, request_id: str) -> None:
        self._database = database
        self._task_id = task_id
        self._request_id = request_id
        self._expected = 0
        self._none_to_come = asyncio.Event()
        self._answers: list[FollowUp] = []
        self._saving: asyncio.Task[list[Refused[FollowUp]]] | None = None

    def expect(self, calls: int) -> None:
        """So many more calls are about to be judged."""
        self._expected += calls
        self._none_to_come.clear()

    def judged(self, calls: int = 1) -> None:
        """So many of them are, or will not be."""
        self._expected -= calls
        if not self._expected:
            self._none_to_come.set()

    async def save(self, answers: Sequence[FollowUp]) -> list[Refused[FollowUp]]:
        """Returns once they are in the ledger: what the ledger refuses of all that it was given with them.

        Raises:
            ServiceError: the database is out of reach, or refuses whatever is written.
        """
        if not answers:
            return []
        self._answers += answers
        if self._saving is None:
            self._saving = asyncio.create_task(self._save())
        # What was paid for is written down, though whoever asked for it is stopped.
        return await asyncio.shield(self._saving)

    async def _save(self) -> list[Refused[FollowUp]]:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none_to_come.wait(), TOGETHER_SECONDS)
        answers, self._answers, self._saving = self._answers, [], None
        for pause in PAUSES:
            # They are paid for: a database that comes back soon takes them still.
            with suppress(PassingError):
                return await self._record(answers)
            await asyncio.sleep(pause)
        return await self._record(answers)

    async def _record(self, answers: Sequence[FollowUp]) -> list[Refused[FollowUp]]:
        now = (await self._database.now()).replace(tzinfo=None)

        async def record(some: Sequence[FollowUp]) -> None:
            await self._database.run(analysis_table.record, self._task_id, some, self._request_id, now_utc=now)

        return await write_each(record, answers)


@dataclass(slots=True, kw_only=True)
class Portions(ABC):
    """The judgements of one activity, on their way into ledger and CRM.

    Attributes:
        calls: those that are judged, by row.
        answers: of the model, on their way into the ledger.
        waiting: what is to be written to the CRM.
        again: rows of a re-analysis that are to be tried again.
        failure: of the database, after which nothing new is begun.
        request_id: of the re-analysis; or ``""``.
        most_tries: after so many a call is not asked about again; None: however often it has failed.
    """

    database: Database
    request: FollowUpRequest
    answers: Answers
    done: FollowedUp
    request_id: str = ""
    most_tries: int | None = None
    calls: dict[int, FinishedCall] = field(default_factory=dict)
    waiting: list[FollowUp] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    failure: ServiceError | None = None
    _left: int = 0
    _since: float = field(default_factory=monotonic)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def start(self) -> str:
        """What ``is_interested`` holds that nobody has set."""
        return self.database.column("leads_task_list", "is_interested").start

    @contextmanager
    def judging(self, calls: Sequence[FinishedCall]) -> Iterator[None]:
        """These are judged within the block."""
        self.calls = {call.id: call for call in calls}
        self._left = len(self.calls)
        self.answers.expect(self._left)
        try:
            yield
        finally:
            self.answers.judged(self._left)

    # --- what first follow-ups and new judgements do each in their way

    @abstractmethod
    async def load(self) -> list[FinishedCall]:
        """The calls that are to be judged."""

    async def known(self, ids: Sequence[int]) -> Known:
        """What need not be asked again of these rows: what the model has answered already."""
        answers = await self.database.run(analysis_table.answers, ids, self.request_id)
        return {(one.list_id, one.transcript_hash, one.prompt_version, one.model): one for one in answers}

    @abstractmethod
    async def put_off(self, call: FinishedCall, judged: Judged) -> bool:
        """Whether nothing is written of a call now; if it is to be tried again, that is seen to."""

    @abstractmethod
    async def write(self, portion: Sequence[FollowUp], now: datetime, now_utc: datetime) -> set[int]:
        """Write a portion to the CRM in one transaction; returns the rows in which a person's word was kept."""

    @abstractmethod
    def refused(self, row: Refused[FollowUp], now: datetime) -> None:
        """The database does not take this row: it is to be tried again."""

    # --- from judgements to tables

    async def take(self, call: FinishedCall, judged: Judged) -> None:
        """See to what came of a call: an answer goes into the ledger, then what it says waits for its portion."""
        self._left -= 1
        self.answers.judged()
        if judged.answer is not None:
            self.done.input_tokens += judged.answer.input_tokens
            self.done.output_tokens += judged.answer.output_tokens
        self.done.error = judged.error or self.done.error
        self.done.over_ceiling += judged.follow_up.outcome == "over_ceiling"
        mine = [one for one in (judged.answer, judged.second) if one is not None]
        # An answer that even our ledger refuses goes to the CRM all the same: it was paid for.
        if refused := [one for one in await self.answers.save(mine) if one.item in mine]:
            self.done.error = f"{DATABASE} record: {refused[0].code}: answers not in the ledger: {len(refused)}"
        later = await self.put_off(call, judged)
        if not later:
            self.waiting.append(judged.follow_up)
            await self._write_due()

    async def _write_due(self) -> None:
        """Write a portion if it is full, or has waited long enough, and nobody is writing."""
        due = len(self.waiting) >= ROWS_A_TRANSACTION or monotonic() - self._since > PORTION_SECONDS
        if due and not self._writing.locked():
            async with self._writing:
                await self._write()

    async def finish(self) -> None:
        """Write what is left; what failed is raised once the answers and tries are kept.

        Raises:
            ServiceError: the database is out of reach, or refuses whatever is written.
        """
        await self._save_retries()
        while self.waiting and self.failure is None:
            await self._write()
        await self._save_retries()
        if self.failure is not None:
            raise self.failure
        self.done.again = pack(self.again)

    async def _save_retries(self) -> None:
        retries, self.retries = self.retries, []
        if retries:
            await self.database.run(retry_table.save, self.request.task_id, retries)

    async def _write(self) -> None:
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
            await self._set_aside(refused)

    async def _write_some(self, portion: Sequence[FollowUp]) -> None:
        now = await self.database.now()
        kept = await self.write(portion, self.database.wall_clock(now), now.replace(tzinfo=None))
        for follow_up in portion:
            if follow_up.outcome == KNOWN:
                continue
            outcome = "kept" if follow_up.list_id in kept else follow_up.outcome
            _add(self.done.by_outcome, outcome)
            telemetry.metrics.wrote("follow_ups", outcome)
            if follow_up.list_id not in kept:
                _add(self.done.by_interest, str(follow_up.is_interested))
                telemetry.metrics.followed_up(str(follow_up.is_interested))

    async def _set_aside(self, refused: Sequence[Refused[FollowUp]]) -> None:
        now = (await self.database.now()).replace(tzinfo=None)
        self.done.set_aside += len(refused)
        first = refused[0]
        self.done.error = (
            f"{DATABASE} follow_up: {first.code}: follow-ups refused: {self.done.set_aside}, row {first.item.list_id}"
        )
        for one in refused:
            telemetry.metrics.wrote("follow_ups", "refused")
            self.refused(one, now)
        # A word against further calls waits for no CRM.
        if said_no := [one.item for one in refused if one.item.do_not_call]:
            await self.database.transaction(opt_outs.heed_alone, self.request.task_id, said_no, now_utc=now)


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1

"""Hand the leads over, each exactly once (rule 2). Task queue ``outbound-bot``.

The API takes no client token, so every request that makes the platform dial is written down in ``call_dispatches``
before it leaves. If its answer is lost, nothing is sent again until the platform has had its time to list what it
accepted (``match_grace``) and a whole reading of the group shows who is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import claims as claiming
from activities.claims import Claim, Claimed
from activities.holdings import GroupReading, find_group, read_group
from activities.job_ids import match_all, match_by_reference
from activities.liveness import heartbeating
from activities.sending import Refusal, Sent, send_batch
from calltasks.clock import elapsed
from calltasks.database.connection import Database
from calltasks.database.tables import dispatches as table
from calltasks.database.tables import task_options
from calltasks.database.tables.dispatches import NOTHING, DoubtError, Written
from calltasks.database.tables.dispatches import group_name as group_name
from calltasks.database.tables.events import TASK_FAILED, Event, emit
from calltasks.errors import PassingError, PermanentError, ServiceError
from calltasks.names import Turn
from calltasks.observing import telemetry
from calltasks.options import Options
from calltasks.platform.errors import SERVICE, ValueRefusedError
from calltasks.platform.session import PlatformSession

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot

SEND_SECONDS = 20.0
"""A request must leave this soon after it was written down, or half the grace if that is less: a worker that was
frozen in between must not send what another one has taken over."""
LEAST_GRACE = 4.0
"""Seconds; however short a grace is asked for, a request must have time to leave."""
LEAST_WAIT = 0.1
"""Seconds after an error, however short a ``retry_interval`` is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRequest:
    """What to hand over.

    Attributes:
        grace: seconds that the platform may take to list what it accepted.
        retry_interval: seconds before a request that was refused for now is tried again.
        list_first: read what the group holds before anything is assigned.
        known: what this run knows to be written down: an older ledger has lost something.
    """

    task_id: int
    organization_id: str
    job_group_id: str
    grace: float
    retry_interval: float
    list_first: bool = False
    known: Written = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The task's job group; without an id, try again in ``retry_in`` seconds. ``found``: it was there already.
    ``options``: those of the task, with the strategy of a group that is new; ``""``: as they were."""

    job_group_id: str
    found: bool
    retry_in: float
    api_calls: int
    error: str = ""
    options: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """How far dispatch is.

    Attributes:
        done: nobody is left to be sent, and no batch is without its answer.
        assigned: contacts that the platform took now; ``rejected`` those that it refused, each for itself.
        suppressed: rows that were left out now.
        unresolved: batches without an answer.
        handed_over: every row was sent or left out; only batches without an answer are waited for.
        list_first: the group must be read before anything more is assigned.
        retry_in: seconds until the next step makes sense, longer if it changes nothing again.
        error: why something was not sent.
        known: what is written down now.
    """

    done: bool
    assigned: int
    rejected: int
    unresolved: int
    retry_in: float
    api_calls: int
    error: str = ""
    suppressed: int = 0
    handed_over: bool = False
    list_first: bool = False
    known: Written = NOTHING


class Dispatching:
    """The activities that make the platform dial."""

    def __init__(self, database: Database, platform: OutboundBot) -> None:
        self._database = database
        self._platform = platform

    @activity.defn
    async def open_job_group(self, request: DispatchRequest) -> Group:
        """Find the task's job group by its name, or create it.

        Raises:
            ApplicationError: ``PlatformRefused``, ``LedgerInDoubt`` or ``UnknownTask``, not to be retried.
        """
        session = self._platform.session(request.organization_id, Turn.DISPATCH)
        async with heartbeating(), self._for_good(request):
            return await self._open_group(request, session)

    async def _open_group(self, request: DispatchRequest, session: PlatformSession) -> Group:
        plan = await self._database.transaction(claiming.plan_group, request.task_id)
        settle = task_options.settle_strategy
        if plan.job_group_id:
            options = await self._database.transaction(settle, request.task_id, None)
            return Group(job_group_id=plan.job_group_id, found=True, retry_in=0, api_calls=0, options=options)
        creating = False
        try:
            found = await find_group(session, plan.name)
            waits = [_grace(request) - one.age for one in plan.tries if not one.unsent]
            if found is None and any(wait > 0 for wait in waits):
                return Group(job_group_id="", found=False, retry_in=max(waits), api_calls=session.calls)
            own = None if found else self._platform.strategy
            options = await self._database.transaction(settle, request.task_id, own)
            claim = await self._database.transaction(
                table.claim_group, request.task_id, plan.name, [one.id for one in plan.tries]
            )
            creating = not found
            group_id = found or await self._create_group(plan.name, claim, session, options)
            # The table decides: another attempt may have saved its group first.
            saved = await self._database.transaction(table.save_group, request.task_id, claim, group_id)
        except table.TakenOverError:
            return Group(job_group_id="", found=False, retry_in=1.0, api_calls=session.calls)
        except PassingError as error:
            if error.service != SERVICE:
                raise
            wait = _grace(request) if creating and error.sent else max(request.retry_interval, LEAST_WAIT)
            return Group(job_group_id="", found=False, retry_in=wait, api_calls=session.calls, error=str(error))
        found_it, calls = bool(found) or saved != group_id, session.calls
        return Group(job_group_id=saved, found=found_it, retry_in=0, api_calls=calls, options=options)

    async def _create_group(self, name: str, claim: int, session: PlatformSession, options: str) -> str:
        try:
            return await session.create_group(name, Options().over(options).strategy)
        except ServiceError as error:
            if isinstance(error, PermanentError) or (isinstance(error, PassingError) and not error.sent):
                await self._database.run(table.release, [claim])
            raise

    @activity.defn
    async def assign_contacts(self, request: DispatchRequest) -> Assigned:
        """Assign the next leads, eleven batches at most, and those whose batch got no answer, once that is safe.

        Raises:
            ApplicationError: ``PlatformRefused``, ``LedgerInDoubt`` or ``UnknownTask``, not to be retried.
        """
        session = self._platform.session(request.organization_id, Turn.DISPATCH)
        async with heartbeating(), self._for_good(request):
            return await self._assign(request, session)

    async def _assign(self, request: DispatchRequest, session: PlatformSession) -> Assigned:
        grace, sent = _grace(request), Sent()
        of_task = (request.task_id, request.job_group_id)
        standing = await self._database.transaction(
            claiming.standing, *of_task, grace=grace, list_first=request.list_first
        )
        if standing.over:
            return _outcome(request, Claimed(), sent, session)
        reading = None
        if standing.known is not None:
            reading = await self._read(request, session, standing.known)
            sent.error = reading.error
        whole = reading if reading and not reading.error else None
        ripe = [one.id for one in standing.unresolved if one.unsent or (whole and one.age >= grace)]
        send_before = _send_before(request)
        claimed = await self._database.transaction(
            claiming.claim,
            *of_task,
            grace=grace,
            ripe=ripe,
            reading=whole,
            list_first=request.list_first,
            known=request.known,
        )
        if claimed.unclaimed:
            sent.error = f"{SERVICE}: {claimed.unclaimed} jobs of the group belong to no lead; nothing is sent again"
        await self._send(request, session, claimed.claims, sent, send_before)
        await self._isolate(request, session, sent)
        # A contact at which the platform fails, alone and while it takes others, is sent as often as one without a job.
        vain = {one.id: one.tries + 1 for one in sent.lost if len(one.rows) == 1 and (sent.assigned or one.tries)}
        await self._database.run(table.fell_short, vain)
        if not (claimed.more or claimed.waiting or sent.open):
            # So far as this attempt knows, all is done; the ledger may know more.
            claimed.waiting = await self._database.run(table.unresolved, *of_task)
        return _outcome(request, claimed, sent, session)

    @asynccontextmanager
    async def _for_good(self, request: DispatchRequest) -> AsyncIterator[None]:
        """What no retry can mend, as the workflow's own failure; that a person is needed is told (rule 12.2)."""
        try:
            yield
        except DoubtError as error:
            failure = ApplicationError(str(error), type="LedgerInDoubt", non_retryable=True)
        except PermanentError as error:
            if error.service != SERVICE:
                raise
            failure = ApplicationError(str(error), type="PlatformRefused", non_retryable=True)
        else:
            return
        run_id = activity.info().workflow_run_id
        failed = Event(kind=TASK_FAILED, task_id=request.task_id, fact=(run_id,), data={"reason": failure.type})
        await self._database.run(emit, [failed])
        raise failure

    async def _read(self, request: DispatchRequest, session: PlatformSession, known: set[str]) -> GroupReading:
        """Read the group, and give the rows that it shows their job ids."""
        reading = await read_group(session, request.job_group_id, known)
        if reading.error:
            await self._database.run(match_by_reference, request.task_id, reading.jobs, whole=False)
        else:
            await self._database.run(match_all, request.task_id, reading.jobs)
        return reading

    async def _send(
        self,
        request: DispatchRequest,
        session: PlatformSession,
        claims: Sequence[Claim],
        sent: Sent,
        send_before: float,
    ) -> None:
        """Send batches that are written down, and write down what became of them.

        Raises:
            PermanentError: the platform refuses whatever is sent.
        """
        if not claims:
            return
        done = Sent()
        of_task = (request.task_id, request.job_group_id)
        try:
            outcomes = await asyncio.gather(
                *(send_batch(session, *of_task, claim, done, send_before) for claim in claims), return_exceptions=True
            )
        except asyncio.CancelledError:
            # Stopped: each batch has left and has its answer, or has not left and never will.
            done.released += [claim.id for claim, _ in done.refused]
            await self._write_down(done)
            raise
        refusals = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if refusals:
            # Nothing of these was taken: the next start sends them again at once.
            done.released += [claim.id for claim, _ in done.refused]
        await self._write_down(done)
        if refusals:
            raise refusals[0]
        sent.assigned += done.assigned
        sent.error = done.error or sent.error
        sent.refused += done.refused
        sent.lost += done.lost
        sent.open |= dict.fromkeys((claim.id for claim in claims), _grace(request)) | dict.fromkeys(done.released, 0.0)
        for id_ in done.accepted:
            del sent.open[id_]

    async def _write_down(self, done: Sent) -> None:
        await self._database.run(table.accept, done.accepted)
        await self._database.run(table.release, done.released)
        await self._database.run(table.fell_short, done.short)
        telemetry.metrics.wrote("dispatch", "assigned", done.assigned)

    async def _isolate(self, request: DispatchRequest, session: PlatformSession, sent: Sent) -> None:
        """One contact that the platform cannot take spoils its whole batch: halve until it stands alone.

        Where it takes nobody of a batch, that may be the request as well: whatever it took before.

        Raises:
            PermanentError: it takes nobody, whoever they are.
        """
        alone: list[Refusal] = []
        nobody: list[Refusal] = []
        batches, before = sent.refused, sent.assigned
        for number, batch in enumerate(batches):
            taken = sent.assigned
            found = await self._halve_all(request, session, batch, sent)
            (nobody if len(batch[0].rows) > 1 and sent.assigned == taken else alone).extend(found)
            if nobody and sent.assigned == before and (number or not before):
                # The second one, or nothing was taken at all: what is left would fare no better.
                nobody += batches[number + 1 :]
                break
        # Afterwards it took others, or it is one batch, of values that it does not take, beside others that it took.
        of_task = (request.task_id, request.job_group_id)
        took = bool(sent.assigned) or (len(batches) == 1 and await self._database.run(table.any_accepted, *of_task))
        wrong = took and len(batches) == 1 and all(isinstance(error, ValueRefusedError) for _, error in nobody)
        if wrong or sent.assigned > before:
            alone, nobody = alone + nobody, []
        if not took:
            alone, nobody = [], alone + nobody
        await self._fail(sent, alone)
        await self._release(sent, [claim for claim, _ in nobody])
        if nobody and not sent.error:
            raise nobody[0][1]

    async def _halve_all(
        self, request: DispatchRequest, session: PlatformSession, batch: Refusal, sent: Sent
    ) -> list[Refusal]:
        """Who of a batch is refused alone."""
        alone: list[Refusal] = []
        sent.refused = [batch]
        while sent.refused:
            claim, error = sent.refused.pop()
            if len(claim.rows) > 1:
                await self._halve(request, session, claim, sent)
            else:
                alone.append((claim, error))
        return alone

    async def _fail(self, sent: Sent, alone: Sequence[Refusal]) -> None:
        await self._database.run(table.fail, [claim.rows[0].id for claim, _ in alone])
        await self._database.run(table.accept, [claim.id for claim, _ in alone])
        for claim, error in alone:
            del sent.open[claim.id]
            sent.rejected[error.code] += 1
        telemetry.metrics.wrote("dispatch", "rejected", len(alone))

    async def _halve(self, request: DispatchRequest, session: PlatformSession, claim: Claim, sent: Sent) -> None:
        half = len(claim.rows) // 2
        parts = [claim.rows[:half], claim.rows[half:]]
        send_before = _send_before(request)
        # Taken over, be it by our own COMMIT whose answer was lost: the ledger knows who is left.
        with suppress(table.TakenOverError):
            halves, suppressed = await self._database.transaction(
                claiming.renew, request.task_id, request.job_group_id, claim, parts
            )
            del sent.open[claim.id]
            sent.suppressed += suppressed
            await self._send(request, session, halves, sent, send_before)

    async def _release(self, sent: Sent, claims: Sequence[Claim]) -> None:
        await self._database.run(table.release, [claim.id for claim in claims])
        sent.open |= dict.fromkeys((claim.id for claim in claims), 0.0)


def _send_before(request: DispatchRequest) -> float:
    return elapsed() + min(SEND_SECONDS, _grace(request) / 2)


def _grace(request: DispatchRequest) -> float:
    """Seconds after which the platform lists what it accepted of a batch."""
    return max(request.grace, LEAST_GRACE)


def _outcome(request: DispatchRequest, claimed: Claimed, sent: Sent, session: PlatformSession) -> Assigned:
    grace = _grace(request)
    waits = [*sent.open.values(), *(0.0 if one.unsent else max(grace - one.age, 0.0) for one in claimed.waiting)]
    retry_in = max(request.retry_interval, LEAST_WAIT) if sent.error else 0.0
    if waits and not (claimed.more and not sent.error):
        retry_in = max(min(waits), retry_in, 1.0)
    retry_in = max(retry_in, claimed.wait)
    suppressed = claimed.suppressed + sent.suppressed
    activity.logger.info(
        "task %d: %d contacts assigned, %s refused, %s left out, %d sent in vain, %d batches without an answer"
        " (last error: %s)",
        *(request.task_id, sent.assigned, dict(sent.rejected) or "none", dict(suppressed) or "none", claimed.failed),
        *(len(waits), sent.error or None),
    )
    for outcome, count in (*suppressed.items(), ("failed", claimed.failed)):
        telemetry.metrics.wrote("dispatch", outcome, count)
    return Assigned(
        done=not claimed.more and not waits,
        assigned=sent.assigned,
        rejected=sent.rejected.total(),
        suppressed=suppressed.total(),
        unresolved=len(waits),
        handed_over=not claimed.more,
        list_first=claimed.unread or (request.list_first and not claimed.read),
        retry_in=retry_in,
        api_calls=session.calls,
        error=sent.error,
        known=claimed.known,
    )

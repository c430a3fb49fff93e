"""Hand the leads over, each exactly once (SPEC 2). Task queue ``outbound-bot``.

The API takes no client token, so every request that makes the platform dial is written down in ``call_dispatches``
before it leaves. If its answer is lost, nothing is sent again until the platform has had its time to list what it
accepted (``match_grace``) and a full reading of the group shows who is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.job_ids import identify, match_by_reference, read_pages
from activities.liveness import heartbeating
from clients import telemetry
from clients.database import Database
from clients.errors import PassingError, PermanentError, ServiceError
from clients.platform import CONTACTS_A_CALL, SERVICE, Bot, PlatformSession, contact_json
from clients.send_deadline import TooLateError
from clients.tables import dispatches as table
from clients.tables import tasks as task_table
from clients.tables.dispatches import Dispatch, Undialled

PRIORITY = 2
BATCHES_AT_ONCE = 11
SEND_SECONDS = 20.0
"""A request must leave this soon after it was written down, or half the grace if that is less: a worker that was
frozen in between must not send what another one has taken over."""
LEAST_GRACE = 4.0
"""Seconds; however short a grace is asked for, a request must have time to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRequest:
    """What to hand over.

    Attributes:
        grace: seconds that the platform may take to list what it accepted.
        retry_interval: seconds before a request that was refused for now is tried again.
        list_first: read what the group holds before anything is assigned.
    """

    task_id: int
    organization_id: str
    job_group_id: str
    grace: float
    retry_interval: float
    list_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The task's job group; without an id, try again in ``retry_in`` seconds. ``found``: it was there already."""

    job_group_id: str
    found: bool
    retry_in: float
    api_calls: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """How far dispatch is. ``retry_in``: seconds until the next step makes sense; ``rejected``: contacts refused."""

    done: bool
    assigned: int
    rejected: int
    unresolved: int
    retry_in: float
    api_calls: int
    error: str = ""


@dataclass(slots=True)
class _Sent:
    """What became of some batches."""

    accepted: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    refused: list[tuple[int, list[Undialled]]] = field(default_factory=list)
    assigned: int = 0
    rejected: int = 0
    error: str = ""
    refusal: PermanentError | None = None


class Dispatching:
    """The activities that make the platform dial."""

    def __init__(self, database: Database, bot: Bot) -> None:
        self._database = database
        self._bot = bot

    @activity.defn
    async def open_job_group(self, request: DispatchRequest) -> Group:
        """Find the task's job group by its name, or create it.

        Raises:
            ApplicationError: ``PlatformRefused``, not to be retried.
        """
        session = self._bot.session(request.organization_id, PRIORITY)
        async with heartbeating():
            try:
                return await self._open_group(request, session)
            except PermanentError as error:
                if error.service != SERVICE:
                    raise
                raise refused(error) from None

    async def _open_group(self, request: DispatchRequest, session: PlatformSession) -> Group:
        row = await self._database.run(task_table.load, request.task_id)
        if row is None:
            raise ApplicationError(f"call task {request.task_id} was deleted", type="UnknownTask", non_retryable=True)
        name = group_name(request.task_id, row.create_time)
        tried = [batch for batch in await self._database.run(table.unresolved, request.task_id) if not batch.last_id]
        now = await self._now()
        try:
            found = await session.find_group(name)
            waits = [_ripe_at(batch, request) - now for batch in tried]
            if found is None and any(wait > timedelta() for wait in waits):
                wait = max(waits).total_seconds()
                return Group(job_group_id="", found=False, retry_in=wait, api_calls=session.calls)
            claim = await self._database.transaction(
                table.claim_group, request.task_id, [batch.id for batch in tried], now
            )
            group_id = found or await self._create_group(name, claim, session)
        except table.TakenOverError:
            return Group(job_group_id="", found=False, retry_in=1.0, api_calls=session.calls)
        except PassingError as error:
            if error.service != SERVICE:
                raise
            wait = _grace(request).total_seconds() if error.sent else request.retry_interval
            return Group(job_group_id="", found=False, retry_in=wait, api_calls=session.calls, error=str(error))
        await self._database.run(task_table.save_group, request.task_id, group_id)
        await self._database.run(table.accept, [claim], now)
        # The table decides: another attempt may have saved its group first, and that one will be found after a restart.
        saved = await self._database.run(task_table.load, request.task_id)
        group_id = saved.job_group_id if saved else group_id
        return Group(job_group_id=group_id, found=found is not None, retry_in=0, api_calls=session.calls)

    async def _create_group(self, name: str, claim: int, session: PlatformSession) -> str:
        try:
            return await session.create_group(name)
        except ServiceError as error:
            if isinstance(error, PermanentError) or (isinstance(error, PassingError) and not error.sent):
                await self._database.run(table.release, [claim])
            raise

    @activity.defn
    async def assign_contacts(self, request: DispatchRequest) -> Dispatched:
        """Assign the next leads, eleven batches at most, and those whose batch got no answer, once that is safe.

        Raises:
            ApplicationError: ``PlatformRefused``, not to be retried.
        """
        session = self._bot.session(request.organization_id, PRIORITY)
        async with heartbeating():
            try:
                return await self._assign(request, session)
            except PermanentError as error:
                if error.service != SERVICE:
                    raise
                raise refused(error) from None

    async def _assign(self, request: DispatchRequest, session: PlatformSession) -> Dispatched:
        now = await self._now()
        waiting = [batch for batch in await self._database.run(table.unresolved, request.task_id) if batch.last_id]
        ripe = [batch for batch in waiting if _ripe_at(batch, request) <= now]
        sent = _Sent()
        if ripe or request.list_first:
            if not await self._read_held(request, session, sent):
                return self._outcome(request, waiting, now, sent, session, more=True)
            for batch in ripe[:BATCHES_AT_ONCE]:
                await self._again(request, session, batch, sent)
        limit = BATCHES_AT_ONCE * CONTACTS_A_CALL
        send_before, now = self._send_before(request), await self._now()
        claims = await self._database.transaction(
            table.claim_next, request.task_id, batch=CONTACTS_A_CALL, limit=limit, now=now
        )
        await self._send(request, session, claims, sent, send_before)
        waiting = [batch for batch in await self._database.run(table.unresolved, request.task_id) if batch.last_id]
        more = sum(len(rows) for _, rows in claims) == limit
        return self._outcome(request, waiting, now, sent, session, more=more)

    async def _read_held(self, request: DispatchRequest, session: PlatformSession, sent: _Sent) -> bool:
        """Give the rows that the platform already has their job ids.

        Returns:
            False if it may have more than it showed: then nothing may be assigned again.
        """
        known = await self._database.run(table.held_jobs, request.task_id)
        reading = await read_pages(session, request.job_group_id, 1, None)
        jobs = await identify(session, reading)
        await self._database.run(match_by_reference, request.task_id, jobs)
        sent.error = reading.error
        if not reading.complete or reading.gone or not known <= reading.jobs.keys():
            sent.error = sent.error or "OutboundBot QueryJobsWithResult: jobs are missing from the answer"
            return False
        try:
            total = (await session.progress(request.job_group_id)).total_jobs
        except ServiceError as error:
            sent.error = str(error)
            return False
        return len(reading.jobs) >= total

    async def _again(self, request: DispatchRequest, session: PlatformSession, batch: Dispatch, sent: _Sent) -> None:
        """Assign once more what the platform turned out not to have of a batch without an answer."""
        rows = await self._database.run(
            table.undialled, request.task_id, first=batch.first_id, last=batch.last_id, limit=CONTACTS_A_CALL
        )
        if not rows:
            await self._database.run(table.accept, [batch.id], await self._now())
            return
        await self._send_anew(request, session, batch.id, rows, sent)

    async def _send_anew(
        self, request: DispatchRequest, session: PlatformSession, id_: int, rows: list[Undialled], sent: _Sent
    ) -> None:
        send_before, now = self._send_before(request), await self._now()
        with suppress(table.TakenOverError):
            span = (rows[0].id, rows[-1].id)
            ids = await self._database.transaction(table.renew, request.task_id, id_, [span], now)
            await self._send(request, session, [(ids[0], rows)], sent, send_before)

    async def _send(
        self,
        request: DispatchRequest,
        session: PlatformSession,
        claims: Sequence[tuple[int, list[Undialled]]],
        sent: _Sent,
        send_before: float,
    ) -> None:
        """Send batches that are written down, and write down what became of them."""
        if not claims:
            return
        done = _Sent()
        await asyncio.gather(*(_send_batch(session, request, id_, rows, done, send_before) for id_, rows in claims))
        now = await self._now()
        await self._database.run(table.accept, done.accepted, now)
        await self._database.run(table.release, done.released)
        sent.assigned += done.assigned
        sent.rejected += done.rejected
        telemetry.metrics.wrote("dispatch", "assigned", done.assigned)
        telemetry.metrics.wrote("dispatch", "rejected", done.rejected)
        sent.error = done.error or sent.error
        if done.refusal:
            raise done.refusal
        for id_, rows in done.refused:
            # One contact that the platform cannot take spoils its whole batch: halve until it stands alone.
            half = len(rows) // 2
            parts = [rows[:half], rows[half:]]
            with suppress(table.TakenOverError):
                spans = [(part[0].id, part[-1].id) for part in parts]
                ids = await self._database.transaction(table.renew, request.task_id, id_, spans, now)
                for part_id, part in zip(ids, parts, strict=True):
                    await self._send_anew(request, session, part_id, part, sent)

    def _send_before(self, request: DispatchRequest) -> float:
        return monotonic() + min(SEND_SECONDS, _grace(request).total_seconds() / 2)

    async def _now(self) -> datetime:
        return (await self._database.now()).replace(tzinfo=None)

    def _outcome(
        self,
        request: DispatchRequest,
        waiting: Sequence[Dispatch],
        now: datetime,
        sent: _Sent,
        session: PlatformSession,
        *,
        more: bool,
    ) -> Dispatched:
        retry_in = 0.0
        if sent.error:
            retry_in = request.retry_interval
        if waiting and not (more and not sent.error):
            due = min(_ripe_at(batch, request) for batch in waiting)
            retry_in = max((due - now).total_seconds(), retry_in, 1.0)
        activity.logger.info(
            "task %d: %d contacts assigned, %d refused, %d batches without an answer (last error: %s)",
            *(request.task_id, sent.assigned, sent.rejected, len(waiting), sent.error or None),
        )
        return Dispatched(
            done=not more and not waiting,
            assigned=sent.assigned,
            rejected=sent.rejected,
            unresolved=len(waiting),
            retry_in=retry_in,
            api_calls=session.calls,
            error=sent.error,
        )


def _grace(request: DispatchRequest) -> timedelta:
    return timedelta(seconds=max(request.grace, LEAST_GRACE))


def _ripe_at(batch: Dispatch, request: DispatchRequest) -> datetime:
    """From when on the platform lists what it accepted of a batch."""
    return batch.attempted_at + _grace(request)


async def _send_batch(
    session: PlatformSession,
    request: DispatchRequest,
    id_: int,
    rows: list[Undialled],
    sent: _Sent,
    send_before: float,
) -> None:
    contacts = [
        contact_json(phone=row.phone, name=row.name, reference_id=row.reference_id or history_reference(request, row))
        for row in rows
        if row.phone and not row.repeated
    ]
    if not contacts:
        sent.accepted.append(id_)
        return
    try:
        jobs = await session.assign(request.job_group_id, contacts, send_before=send_before)
    except TooLateError:
        sent.released.append(id_)
    except PermanentError as error:
        if error.service != SERVICE or not error.code.startswith("InvalidParameter"):
            sent.released.append(id_)
            sent.refusal = error
        elif len(rows) > 1:
            sent.refused.append((id_, rows))
        else:
            sent.accepted.append(id_)
            sent.rejected += 1
    except PassingError as error:
        sent.error = str(error)
        if not error.sent or error.service != SERVICE:
            sent.released.append(id_)
    else:
        # Fewer jobs than contacts: which of them were taken only the group itself can tell, once it lists them.
        if jobs >= len(contacts):
            sent.accepted.append(id_)
        sent.assigned += min(jobs, len(contacts))


def history_reference(request: DispatchRequest, row: Undialled) -> str:
    """The reference of a row that has none of its own, in the form that SPEC 3.2 matches."""
    return f"task_{request.task_id}_lead_{row.leads_id}"


def group_name(task_id: int, create_time: datetime | None) -> str:
    """A task's job group's name: the same at every try, another in another database that counts from 1 again."""
    return f"call-task-{task_id}" + (f"-{create_time:%Y%m%d%H%M%S}" if create_time else "")


def refused(error: PermanentError) -> ApplicationError:
    """What no retry can mend, as the workflow's own failure."""
    return ApplicationError(str(error), type="PlatformRefused", non_retryable=True)

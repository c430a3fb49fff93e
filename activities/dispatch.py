"""Hand the leads over, each exactly once (SPEC 2). Task queue ``outbound-bot``.

The API takes no client token, so every request that makes the platform dial is written down in ``call_dispatches``
before it leaves. If its answer is lost, nothing is sent again until the platform has had its time to list what it
accepted (``match_grace``) and a full reading of the group shows who is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.job_ids import identify, match_by_reference, read_pages
from activities.liveness import heartbeating
from clients.database import Database
from clients.errors import PassingError, PermanentError
from clients.platform import CONTACTS_A_CALL, Bot, PlatformSession, TooLateError, contact_json
from clients.tables import dispatches as table
from clients.tables import tasks as task_table
from clients.tables.dispatches import Dispatch, Undialled

PRIORITY = 2
BATCHES_AT_ONCE = 10
SEND_SECONDS = 20.0
"""A request must leave this soon after it was written down, or half the grace if that is less: a worker that was
frozen in between must not send what another one has taken over."""


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
                raise refused(error) from None

    async def _open_group(self, request: DispatchRequest, session: PlatformSession) -> Group:
        row = await self._database.run(task_table.load, request.task_id)
        if row is None:
            raise ApplicationError(f"call task {request.task_id} was deleted", type="UnknownTask", non_retryable=True)
        name = group_name(request.task_id, row.create_time)
        grace = timedelta(seconds=request.grace)
        now = (await self._database.now()).replace(tzinfo=None)
        tried = [batch for batch in await self._database.run(table.unresolved, request.task_id) if not batch.last_id]
        found = await session.find_group(name)
        if found is None:
            waits = [(batch.attempted_at + grace - now).total_seconds() for batch in tried]
            if any(wait > 0 for wait in waits):
                return Group(job_group_id="", found=False, retry_in=max(waits), api_calls=session.calls)
            if tried:
                await self._database.transaction(table.replace, request.task_id, [0], [(0, 0)], now)
            else:
                await self._database.run(table.attempt, request.task_id, [(0, 0)], now)
            try:
                group_id = await session.create_group(name)
            except PassingError as error:
                wait = float(request.grace) if error.sent else float(request.retry_interval)
                if not error.sent:
                    await self._database.run(table.release, request.task_id, [0])
                return Group(job_group_id="", found=False, retry_in=wait, api_calls=session.calls, error=str(error))
        else:
            group_id = found
            if not tried:
                # Nothing says that we made it, but the name does: from here on the record says so too.
                await self._database.run(table.attempt, request.task_id, [(0, 0)], now)
        await self._database.run(task_table.save_group, request.task_id, group_id)
        await self._database.run(table.accept, request.task_id, [0], now)
        return Group(job_group_id=group_id, found=found is not None, retry_in=0, api_calls=session.calls)

    @activity.defn
    async def assign_contacts(self, request: DispatchRequest) -> Dispatched:
        """Assign the next leads, ten batches at most, and those whose batch got no answer, once that is safe.

        Raises:
            ApplicationError: ``PlatformRefused``, not to be retried.
        """
        session = self._bot.session(request.organization_id, PRIORITY)
        async with heartbeating():
            try:
                return await self._assign(request, session)
            except PermanentError as error:
                raise refused(error) from None

    async def _assign(self, request: DispatchRequest, session: PlatformSession) -> Dispatched:
        now = (await self._database.now()).replace(tzinfo=None)
        grace = timedelta(seconds=request.grace)
        waiting = [batch for batch in await self._database.run(table.unresolved, request.task_id) if batch.last_id]
        ripe = [batch for batch in waiting if batch.attempted_at + grace <= now]
        sent = _Sent()
        if (ripe or request.list_first) and not await self._read_held(request, session, sent):
            return self._outcome(request, waiting, now, sent, session, more=True)
        if ripe:
            await self._again(request, session, ripe, sent)
        started = await self._database.run(table.started, request.task_id) or 0
        limit = BATCHES_AT_ONCE * CONTACTS_A_CALL
        rows = await self._database.run(table.undialled, request.task_id, first=started + 1, last=None, limit=limit)
        batches = [rows[start : start + CONTACTS_A_CALL] for start in range(0, len(rows), CONTACTS_A_CALL)]
        if batches:
            spans = [(batch[0].id, batch[-1].id) for batch in batches]
            send_before = self._send_before(request)
            await self._database.run(table.attempt, request.task_id, spans, now)
            await self._send(request, session, batches, sent, send_before)
        waiting = [batch for batch in await self._database.run(table.unresolved, request.task_id) if batch.last_id]
        return self._outcome(request, waiting, now, sent, session, more=len(rows) == limit)

    async def _read_held(self, request: DispatchRequest, session: PlatformSession, sent: _Sent) -> bool:
        """Give the rows that the platform already has their job ids; False if not all that it has could be read."""
        reading = await read_pages(session, request.job_group_id, 1, None)
        jobs = await identify(session, reading)
        await self._database.run(match_by_reference, request.task_id, jobs)
        sent.error = reading.error
        return reading.complete

    async def _again(
        self, request: DispatchRequest, session: PlatformSession, ripe: Sequence[Dispatch], sent: _Sent
    ) -> None:
        """Assign once more what the platform turned out not to have of batches without an answer."""
        for batch in ripe[:BATCHES_AT_ONCE]:
            rows = await self._database.run(
                table.undialled, request.task_id, first=batch.first_id, last=batch.last_id, limit=CONTACTS_A_CALL
            )
            now = (await self._database.now()).replace(tzinfo=None)
            if not rows:
                await self._database.run(table.accept, request.task_id, [batch.first_id], now)
                continue
            send_before = self._send_before(request)
            span = (batch.first_id, batch.last_id)
            await self._database.transaction(table.replace, request.task_id, [batch.first_id], [span], now)
            await self._send(request, session, [rows], sent, send_before, first=batch.first_id)

    def _send_before(self, request: DispatchRequest) -> float:
        return asyncio.get_running_loop().time() + min(SEND_SECONDS, request.grace / 2)

    async def _send(
        self,
        request: DispatchRequest,
        session: PlatformSession,
        batches: Sequence[Sequence[Undialled]],
        sent: _Sent,
        send_before: float,
        *,
        first: int | None = None,
    ) -> None:
        """Send batches that are written down, and write down what became of them."""
        done = _Sent()
        await asyncio.gather(
            *(
                _send_batch(session, request, list(rows), rows[0].id if first is None else first, done, send_before)
                for rows in batches
            )
        )
        now = (await self._database.now()).replace(tzinfo=None)
        await self._database.run(table.accept, request.task_id, done.accepted, now)
        await self._database.run(table.release, request.task_id, done.released)
        sent.assigned += done.assigned
        sent.rejected += done.rejected
        sent.error = done.error or sent.error
        if done.refusal:
            raise done.refusal
        for start, rows in done.refused:
            # One contact that the platform cannot take spoils its whole batch: halve until it stands alone.
            half = len(rows) // 2
            spans = [(start, rows[half - 1].id), (rows[half].id, rows[-1].id)]
            send_before = self._send_before(request)
            await self._database.transaction(table.replace, request.task_id, [start], spans, now)
            await self._send(request, session, [rows[:half]], sent, send_before, first=start)
            await self._send(request, session, [rows[half:]], sent, self._send_before(request))

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
        due = [(batch.attempted_at - now).total_seconds() + request.grace for batch in waiting]
        retry_in = 0.0
        if waiting or sent.error:
            retry_in = max(min(due, default=0.0), float(request.retry_interval) if sent.error else 1.0)
        if more and not sent.error:
            retry_in = 0.0
        activity.logger.info(
            "task %d: %d contacts assigned, %d refused, %d batches without an answer",
            *(request.task_id, sent.assigned, sent.rejected, len(waiting)),
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


async def _send_batch(
    session: PlatformSession,
    request: DispatchRequest,
    rows: list[Undialled],
    first: int,
    sent: _Sent,
    send_before: float,
) -> None:
    contacts = [
        contact_json(phone=row.phone, name=row.name, reference_id=row.reference_id or history_reference(request, row))
        for row in rows
        if row.phone and not row.repeated
    ]
    if not contacts:
        sent.accepted.append(first)
        return
    try:
        jobs = await session.assign(request.job_group_id, contacts, send_before=send_before)
    except TooLateError:
        sent.released.append(first)
    except PermanentError as error:
        if not error.code.startswith("InvalidParameter"):
            sent.released.append(first)
            sent.refusal = error
        elif len(rows) > 1:
            sent.refused.append((first, rows))
        else:
            sent.accepted.append(first)
            sent.rejected += 1
    except PassingError as error:
        sent.error = str(error)
        if not error.sent:
            sent.released.append(first)
    else:
        # Fewer jobs than contacts: which of them were taken only the group itself can tell, once it lists them.
        if jobs is None or jobs >= len(contacts):
            sent.accepted.append(first)
        sent.assigned += len(contacts) if jobs is None else min(jobs, len(contacts))


def history_reference(request: DispatchRequest, row: Undialled) -> str:
    """The reference of a row that has none of its own, in the form that SPEC 3.2 matches."""
    return f"task_{request.task_id}_lead_{row.leads_id}"


def group_name(task_id: int, create_time: datetime | None) -> str:
    """A task's job group's name: the same at every try, another in another database that counts from 1 again."""
    return f"call-task-{task_id}" + (f"-{create_time:%Y%m%d%H%M%S}" if create_time else "")


def refused(error: PermanentError) -> ApplicationError:
    """What no retry can mend, as the workflow's own failure."""
    return ApplicationError(str(error), type="PlatformRefused", non_retryable=True)

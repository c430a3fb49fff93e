"""Who said no is not called any more: calls that wait for them are withdrawn (rule 11.10). Task queue ``outbound-bot``.

``call_opt_outs`` is the list of work, whoever entered somebody there. One activity looks at it for all organisations,
as long as the program lives: an attempt is one look, which fails on purpose, and Temporal makes the next one. A worker
that dies, or a platform that is away, costs a look.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.dispatch import SEND_SECONDS
from activities.job_ids import identify, match_by_reference, read_pages
from activities.liveness import heartbeating, not_yet
from calltasks.concurrency import for_each
from calltasks.database.connection import Database
from calltasks.database.tables import withdrawals as table
from calltasks.database.tables.jobs import folded
from calltasks.database.tables.needs import final_status
from calltasks.database.tables.withdrawals import OTHER, OVER, TOO_LATE, WITHDRAWN, Waiting
from calltasks.errors import DeclinedError, PermanentError, ServiceError, ThrottledError
from calltasks.names import CANCELLED, REFRESH, Turn, workflow_id
from calltasks.observing import telemetry
from calltasks.platform.errors import SERVICE, AccessRefusedError, NoSuchJobError, ValueRefusedError
from calltasks.platform.session import IDS_A_CALL, PAGE_SIZE, Job, PlatformSession, moment
from calltasks.rules.phones import comparable

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot

LOOK_SECONDS = 5.0
"""Between two looks."""
CLAIM_SECONDS = SEND_SECONDS + 5
"""Who claimed a lead without knowing of the opt-out has sent it so soon after it was seen, or never does."""
UNKNOWN_SECONDS = 600.0
"""A call that the platform leaves out when it answers is waited for so long; a job that turns up later is looked at
again. There is no such limit while it does not answer, nor for a row that has no job id yet."""
PAGES_A_LOOK = 20
"""Of a group that no run reads, and of one such group: the calls of others wait meanwhile."""
MOST_IN_VAIN = 16
"""Requests to withdraw that change nothing, of a batch at one look."""
ORGANISATIONS_AT_ONCE = 8
REQUESTS_AT_ONCE = 4


@dataclass(slots=True)
class Look:
    """One look.

    Attributes:
        begun: when (UTC, naive).
        ages: of the open opt-outs, in seconds, since they were first seen.
        waiting: opt-outs of which some call is not over; ``in_danger``: those of whose calls one may be begun yet.
        outcomes: of calls that are over, or were withdrawn.
        unlisted: of tasks that have rows without a job id, one of these.
        error: the last one of the platform; ``""``: none.
    """

    begun: datetime
    ages: Mapping[int, float]
    waiting: set[int] = field(default_factory=set)
    in_danger: set[int] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unlisted: dict[int, Waiting] = field(default_factory=dict)
    error: str = ""

    def wait_for(self, call: Waiting, job: Job | None, *, answered: bool = True) -> None:
        """A call is not over; ``job``: as the platform tells of it, if it does; ``answered``: that it does not is all
        that it will say."""
        if job is not None or not answered or self.ages.get(call.opt_out_id, 0.0) < UNKNOWN_SECONDS:
            self.waiting.add(call.opt_out_id)
            if job is None or not job.dialling:
                self.in_danger.add(call.opt_out_id)


@dataclass(slots=True)
class Told:
    """What the platform tells of calls: their jobs, by id, and ids of which it has not answered at all."""

    jobs: dict[str, Job] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)

    def add(self, later: Told) -> None:
        """It was asked again."""
        self.jobs |= later.jobs
        self.unanswered |= later.unanswered


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """When a task is to be asked for its jobs again, how long it rested before, and which page of its group is next."""

    due: float
    pause: float
    page: int = 1


class OptOuts:
    """The activity that withdraws calls."""

    def __init__(self, database: Database, platform: OutboundBot, client: Client) -> None:
        self._database = database
        self._platform = platform
        self._client = client
        self._read_again: dict[int, Asked] = {}

    @activity.defn
    async def withdraw_calls(self) -> None:
        """Look once at who has said no and is still waited for, and withdraw those calls.

        Raises:
            ApplicationError: always: the next look is due.
        """
        async with heartbeating():
            begun, ages = await self._database.run(table.notice)
            look = Look(begun, ages)
            if ages:
                await self._withdraw(look, await self._database.run(table.waiting))
        telemetry.metrics.looked(max((ages.get(id_, 0.0) for id_ in look.in_danger), default=0.0))
        raise not_yet(f"calls wait for {len(look.waiting)} who said no", LOOK_SECONDS)

    async def _withdraw(self, look: Look, calls: Sequence[Waiting]) -> None:
        by_organisation: dict[str, list[Waiting]] = defaultdict(list)
        for call in calls:
            by_organisation[call.organization_id].append(call)

        async def one(organisation: str) -> None:
            session = self._platform.session(organisation, Turn.CONTROLS)
            await self._of_organisation(session, by_organisation[organisation], look)

        await for_each(by_organisation, one, at_once=ORGANISATIONS_AT_ONCE)
        await self._ask_for_jobs(look)
        # Who claimed a lead before the opt-out was seen is known by now, or does not send it any more.
        over = [id_ for id_, age in look.ages.items() if age >= CLAIM_SECONDS and id_ not in look.waiting]
        await self._database.run(table.carried_out, over, look.begun)
        if calls or over:
            activity.logger.info(
                "%d opt-outs open, calls wait for %d; withdrawn %d, too late %d; %d carried out (last error: %s)",
                *(len(look.ages), len(look.waiting), look.outcomes[WITHDRAWN], look.outcomes[TOO_LATE], len(over)),
                look.error or None,
            )

    async def _of_organisation(self, session: PlatformSession, calls: Sequence[Waiting], look: Look) -> None:
        by_group: dict[str, list[Waiting]] = defaultdict(list)
        for call in calls:
            if call.job_id:
                by_group[call.job_group_id].append(call)
            else:
                look.wait_for(call, None, answered=call.task_over)
                if not call.task_over:
                    look.unlisted[call.task_id] = call
        batches = [
            group[start : start + IDS_A_CALL]
            for group in by_group.values()
            for start in range(0, len(group), IDS_A_CALL)
        ]

        async def one(batch: Sequence[Waiting]) -> None:
            await self._batch(session, batch, look)

        await for_each(batches, one, at_once=REQUESTS_AT_ONCE)

    async def _batch(self, session: PlatformSession, calls: Sequence[Waiting], look: Look) -> None:
        """Withdraw at most 99 calls of one group: see how they stand, withdraw those that wait, see again."""
        told = await _told(session, calls, look)
        jobs = told.jobs
        still = [call for call in calls if (job := jobs.get(call.job_id)) and not _outcome(call, job)]
        # Before it is asked: what is withdrawn is known to be so, whoever sees it first.
        await self._database.run(table.write_down, [(call, "") for call in still])
        # Once it is over, what would follow a call under way is withdrawn too.
        if asked := [call for call in still if not jobs[call.job_id].dialling]:
            told.add(await _cancel(session, asked, look))
        waited = {call.list_id for call in still}
        settled = [
            # What somebody else has cancelled before it was seen to wait was not withdrawn.
            (call, outcome if outcome != WITHDRAWN or call.waited or call.list_id in waited else OVER)
            for call in calls
            if (outcome := _outcome(call, jobs.get(call.job_id)))
        ]
        await self._database.run(table.write_down, settled)
        for _, outcome in settled:
            look.outcomes[outcome] += 1
            telemetry.metrics.wrote("withdrawals", outcome)
        over = {call.list_id for call, _ in settled}
        for call in calls:
            if call.list_id not in over:
                look.wait_for(call, jobs.get(call.job_id), answered=call.job_id not in told.unanswered)

    async def _ask_for_jobs(self, look: Look) -> None:
        """See that somebody reads what the platform lists: without its job id no call can be withdrawn."""
        before, self._read_again = self._read_again, {}
        read = False
        for task_id, call in look.unlisted.items():
            now = monotonic()
            asked = before.get(task_id, Asked(due=now, pause=LOOK_SECONDS))
            if asked.due <= now:
                page = 1
                if not await self._run_reads(task_id) and call.job_group_id:
                    # It failed before its rows had their jobs, and nobody else reads them before it is started again.
                    page = asked.page if read else await self._read(call, asked.page, look)
                    read = True
                later = Asked(due=now + asked.pause, pause=min(asked.pause * 1.5, 60.0))
                asked = later if page == 1 else Asked(due=now, pause=asked.pause, page=page)
            self._read_again[task_id] = asked

    async def _run_reads(self, task_id: int) -> bool:
        """Ask the task's run to read its group; whether there is one, as far as is known."""
        try:
            await self._client.get_workflow_handle(workflow_id(task_id)).signal(REFRESH)
        except RPCError as error:
            return error.status != RPCStatusCode.NOT_FOUND
        return True

    async def _read(self, call: Waiting, first: int, look: Look) -> int:
        """Read pages of a group and give rows their jobs; returns the page to go on with, 1 behind the last one."""
        session = self._platform.session(call.organization_id, Turn.JOB_IDS)
        reading = await read_pages(session, call.job_group_id, first, first + PAGES_A_LOOK - 1)
        jobs = await identify(session, reading)
        whole = first == 1 and reading.complete
        await self._database.run(match_by_reference, call.task_id, jobs, whole=whole)
        look.error = reading.error or look.error
        following = first + PAGES_A_LOOK
        return following if (following - 1) * PAGE_SIZE < (reading.row_count or 0) else 1


async def _told(session: PlatformSession, calls: Sequence[Waiting], look: Look) -> Told:
    """What the platform tells of the calls now."""
    try:
        jobs = {folded(job.job_id): job for job in await session.jobs([call.job_id for call in calls])}
    except (NoSuchJobError, ValueRefusedError) as error:
        look.error = str(error)
        if len(calls) == 1:
            return Told()
        half = len(calls) // 2
        told = await _told(session, calls[:half], look)
        told.add(await _told(session, calls[half:], look))
        return told
    except ServiceError as error:
        if error.service != SERVICE:
            raise
        look.error = str(error)
        return Told(unanswered={call.job_id for call in calls})
    return Told({call.job_id: job for call in calls if (job := jobs.get(folded(call.job_id)))})


async def _cancel(session: PlatformSession, calls: Sequence[Waiting], look: Look) -> Told:
    """Withdraw calls that wait, and see how they stand then, whatever was answered.

    One call that the platform does not withdraw may spoil its whole batch. So a batch of which nothing has changed is
    halved, in another order at every look, and only so often: others wait.
    """
    told, vain = Told(), 0
    portions = [random.sample(calls, len(calls))]
    while portions and vain < MOST_IN_VAIN:
        portion = portions.pop()
        taken = await _taken(session, portion, look)
        told.add(now := await _told(session, portion, look))
        left = [call for call in portion if (job := now.jobs.get(call.job_id)) and _waits(call, job)]
        if len(left) < len(portion):
            portions += [left] if left and not taken else []
            continue
        vain += 1
        # What was taken may be done a moment later, unless it was asked for by a look before.
        if taken is False or (taken and all(call.waited for call in portion)):
            half = len(portion) // 2
            portions += [part for part in (portion[:half], portion[half:]) if half]
    return told


async def _taken(session: PlatformSession, calls: Sequence[Waiting], look: Look) -> bool | None:
    """Ask for it: whether the platform takes the request; None: it does not say, or would take no other one either."""
    try:
        await session.cancel_jobs(calls[0].job_group_id, [call.job_id for call in calls])
    except ServiceError as error:
        if error.service != SERVICE:
            raise
        look.error = str(error)
        said_no = isinstance(error, PermanentError | DeclinedError) or bool(error.request_id)
        return False if said_no and not isinstance(error, AccessRefusedError | ThrottledError) else None
    return True


def _waits(call: Waiting, job: Job) -> bool:
    return not job.dialling and not _outcome(call, job)


def _outcome(call: Waiting, job: Job | None) -> str:
    """What became of a call; ``""``: it may still be made."""
    if job is None:
        return ""
    numbers = {number for contact in job.contacts for number in comparable(contact.phone_number)}
    if numbers and call.phone not in numbers:
        return OTHER
    status = final_status(job.call_status)
    if not status:
        return ""
    said_no = call.said_no_at.replace(tzinfo=UTC)
    if any((_begun(attempt.actual_time, attempt.planed_time) or said_no) >= said_no for attempt in job.tasks):
        return TOO_LATE
    return WITHDRAWN if status == CANCELLED else OVER


def _begun(actual: int | None, planed: int | None) -> datetime | None:
    return moment(actual) or moment(planed)

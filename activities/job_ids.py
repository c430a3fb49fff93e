"""Which job belongs to which lead (SPEC 3). Task queue ``outbound-bot``."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pymysql.cursors import Cursor
from temporalio import activity

from activities.liveness import heartbeating
from activities.row_runs import Runs, pack
from clients import telemetry
from clients.database import Database
from clients.errors import ServiceError
from clients.platform import IDS_A_CALL, PAGE_SIZE, Bot, Contact, ListedJob, PlatformSession
from clients.tables import rows as table
from clients.tables.rows import Unmatched

PRIORITY = 2
"""Of the rate limit: after conversations (SPEC, Always)."""
PAGES_AT_ONCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Some pages of a task's job group.

    Attributes:
        first, last: page numbers from 1; reading stops at the group's last page.
    """

    task_id: int
    organization_id: str
    job_group_id: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesRead:
    """What some pages yielded.

    Attributes:
        row_count: jobs that the group has, by the platform's word; None if no page could be read.
        jobs: distinct jobs on these pages.
        matched: rows that got their job id.
        left_over: jobs that no row claims by its reference.
        failed_pages: pages that could not be read.
        error: of the last of them.
    """

    row_count: int | None
    jobs: int
    matched: Runs
    left_over: int
    failed_pages: int
    api_calls: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """All pages of a task's job group. ``may_fail``: rows that are still without a job have had their time."""

    task_id: int
    organization_id: str
    job_group_id: str
    may_fail: bool


@dataclass(slots=True)
class Reading:
    """Pages as they come in: jobs by id, in the order of the pages. ``gone``: the platform knows no such group."""

    row_count: int | None = None
    jobs: dict[str, ListedJob] = field(default_factory=dict)
    failed: int = 0
    gone: bool = False
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether every job of the group was seen: pages shift while jobs change (VENDOR_FACTS)."""
        return self.row_count is not None and not self.failed and len(self.jobs) >= self.row_count


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedJob:
    """A job and whom it calls."""

    job_id: str
    reference_id: str
    phone: str


class JobIds:
    """The activities that give rows their job ids."""

    def __init__(self, database: Database, bot: Bot) -> None:
        self._database = database
        self._bot = bot

    @activity.defn
    async def match_pages(self, pages: Pages) -> PagesRead:
        """Read some pages and match what they list by reference; a phone number decides nothing yet."""
        session = self._bot.session(pages.organization_id, PRIORITY)
        async with heartbeating():
            reading = await read_pages(session, pages.job_group_id, pages.first, pages.last)
            jobs = await identify(session, reading)
            matched, left_over = await self._database.run(match_by_reference, pages.task_id, jobs)
        telemetry.metrics.wrote("job_ids", "matched", len(matched))
        activity.logger.info(
            "read pages %d to %d of task %d: %d jobs, %d rows matched, %d pages failed (last error: %s)",
            *(pages.first, pages.last, pages.task_id, len(reading.jobs), len(matched), reading.failed),
            reading.error or None,
        )
        return _result(reading, matched, session, left_over=left_over)

    @activity.defn
    async def settle_jobs(self, settlement: Settlement) -> PagesRead:
        """Read all pages and match what is left by phone number too; then, if it is time, fail what got no job."""
        session = self._bot.session(settlement.organization_id, PRIORITY)
        async with heartbeating():
            reading, matched = await settle(self._database, session, settlement.task_id, settlement.job_group_id)
            telemetry.metrics.wrote("job_ids", "matched", len(matched))
            if settlement.may_fail and reading.complete:
                failed = await self._database.run(table.fail_unmatched, settlement.task_id)
                telemetry.metrics.wrote("job_ids", "failed", failed)
                activity.logger.info("task %d: %d rows have no job and failed", settlement.task_id, failed)
        return _result(reading, matched, session)


async def settle(
    database: Database, session: PlatformSession, task_id: int, group_id: str
) -> tuple[Reading, list[tuple[int, str]]]:
    """Read all pages of a group and match rows by reference, then by phone number."""
    reading = await read_pages(session, group_id, 1, None)
    jobs = await identify(session, reading)
    matched, _ = await database.run(match_by_reference, task_id, jobs)
    if reading.complete:
        # Only who has seen every reference may let a phone number decide: it could take another row's job.
        matched += await database.transaction(match_by_phone, task_id, jobs)
    return reading, matched


async def read_pages(session: PlatformSession, group_id: str, first: int, last: int | None) -> Reading:
    """Pages ``first`` to ``last`` (None: all), some at once; a page that cannot be read is counted, not raised."""
    reading = Reading()
    await _read_page(session, group_id, first, reading)
    if reading.row_count is None:
        return reading
    end = max(1, -(-reading.row_count // PAGE_SIZE))
    numbers = iter(range(first + 1, (end if last is None else min(last, end)) + 1))

    async def work() -> None:
        for number in numbers:
            await _read_page(session, group_id, number, reading)

    await asyncio.gather(*(work() for _ in range(PAGES_AT_ONCE)))
    return reading


async def _read_page(session: PlatformSession, group_id: str, number: int, reading: Reading) -> None:
    try:
        page = await session.page(group_id, number)
    except ServiceError as error:
        reading.error = str(error)
        if error.code == "NotExist.JobGroup":
            # A group that was deleted lists no jobs any more: what it did not yield yet, it never will.
            reading.gone, reading.row_count = True, reading.row_count or 0
        else:
            reading.failed += 1
        return
    reading.row_count = max(page.row_count, reading.row_count or 0)
    for job in page.jobs:
        reading.jobs.setdefault(job.id, job)


async def identify(session: PlatformSession, reading: Reading) -> list[IdentifiedJob]:
    """Whom each job calls. A page names no contact for a job that was not dialled yet: such are asked for by id."""
    known = [(job.id, _contact(job)) for job in reading.jobs.values()]
    unknown = [job_id for job_id, contact in known if contact is None]
    contacts = {job_id: contact for job_id, contact in known if contact is not None}
    batches = [unknown[start : start + IDS_A_CALL] for start in range(0, len(unknown), IDS_A_CALL)]
    for outcome in await asyncio.gather(*(session.jobs(batch) for batch in batches), return_exceptions=True):
        if isinstance(outcome, ServiceError):
            reading.failed += 1
            reading.error = str(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            for job in outcome:
                first = job.contacts[0] if job.contacts else Contact()
                contacts[job.job_id] = Contact(
                    phone_number=first.phone_number, reference_id=first.reference_id or job.reference_id
                )
    if any(job_id not in contacts for job_id in reading.jobs):
        reading.failed += 1
        reading.error = reading.error or "OutboundBot ListJobs: job not returned"
    return [
        IdentifiedJob(job_id=job_id, reference_id=contacts[job_id].reference_id, phone=contacts[job_id].phone_number)
        for job_id in reading.jobs
        if job_id in contacts
    ]


def _contact(job: ListedJob) -> Contact | None:
    contact = job.latest_task.contact if job.latest_task else None
    if contact is None or not (contact.reference_id or contact.phone_number):
        return Contact(reference_id=job.reference_id) if job.reference_id else None
    return Contact(phone_number=contact.phone_number, reference_id=contact.reference_id or job.reference_id)


def match_by_reference(
    cursor: Cursor, task_id: int, jobs: Sequence[IdentifiedJob]
) -> tuple[list[tuple[int, str]], int]:
    """SPEC 3.1 and 3.2. Returns the pairs of row and job that were saved, and how many jobs belong to no row yet."""
    used = table.used_jobs(cursor, task_id, [job.job_id for job in jobs])
    free = [job for job in jobs if job.job_id not in used]
    references = {job.reference_id for job in free if job.reference_id}
    rows: dict[str, list[Unmatched]] = defaultdict(list)
    for row in table.unmatched_by(cursor, task_id, "reference_id", sorted(references)):
        rows[row.reference_id].append(row)
    history = {lead: reference for reference in references if (lead := _history_lead(task_id, reference))}
    for row in table.unmatched_by(cursor, task_id, "leads_id", sorted(history)):
        # A number column compares "7x" equal to 7; the exact text decides.
        if not row.reference_id and row.leads_id in history:
            rows[history[row.leads_id]].append(row)
    pairs = _pair(cursor, free, rows, lambda job: job.reference_id)
    return pairs, len(free) - len(pairs)


def match_by_phone(cursor: Cursor, task_id: int, jobs: Sequence[IdentifiedJob]) -> list[tuple[int, str]]:
    """SPEC 3.3. Returns the pairs of row and job that were saved."""
    used = table.used_jobs(cursor, task_id, [job.job_id for job in jobs])
    free = [job for job in jobs if job.job_id not in used and job.phone]
    rows: dict[str, list[Unmatched]] = defaultdict(list)
    for row in table.unmatched_by(cursor, task_id, "leads_phone", sorted({job.phone for job in free})):
        rows[row.phone].append(row)
    return _pair(cursor, free, rows, lambda job: job.phone)


def _pair(
    cursor: Cursor,
    jobs: Iterable[IdentifiedJob],
    rows: dict[str, list[Unmatched]],
    key: Callable[[IdentifiedJob], str],
) -> list[tuple[int, str]]:
    """Each job to the first row of its key that has none yet, so that two rows alike get two jobs."""
    pairs = [(rows[key(job)].pop(0).id, job.job_id) for job in jobs if key(job) and rows.get(key(job))]
    table.save_jobs(cursor, pairs)
    return pairs


def _history_lead(task_id: int, reference_id: str) -> str:
    """The lead that an old reference, ``task_{task_id}_lead_{leads_id}``, names; ``""`` if it is none of the task."""
    match = re.fullmatch(rf"task_{task_id}_lead_(.+)", reference_id)
    return match[1] if match else ""


def _result(
    reading: Reading, matched: Sequence[tuple[int, str]], session: PlatformSession, *, left_over: int = 0
) -> PagesRead:
    return PagesRead(
        row_count=reading.row_count,
        jobs=len(reading.jobs),
        matched=pack(row_id for row_id, _ in matched),
        left_over=left_over,
        failed_pages=reading.failed,
        api_calls=session.calls,
        error=reading.error,
    )

"""Which job belongs to which lead (rule 3). Task queue ``outbound-bot``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymysql.cursors import Cursor
from temporalio import activity

from activities.liveness import heartbeating
from calltasks.concurrency import for_each
from calltasks.database.connection import Database
from calltasks.database.tables import jobs as table
from calltasks.database.tables.jobs import MatchRow
from calltasks.errors import ServiceError
from calltasks.names import Turn
from calltasks.observing import telemetry
from calltasks.platform.errors import SERVICE, NoSuchGroupError
from calltasks.platform.session import IDS_A_CALL, PAGE_SIZE, Contact, Job, ListedJob, PlatformSession
from calltasks.rules.pairing import IdentifiedJob, Pairing, lead_of, pair, reference_of
from calltasks.rules.phones import comparable
from calltasks.rules.row_ranges import Ranges, pack

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot

PAGES_AT_ONCE = 10
BATCHES_AT_ONCE = 10


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
        left_over: jobs that may be a row's, but only a reading of all pages can tell.
        failed_pages: pages that could not be read.
        error: of the last of them.
    """

    row_count: int | None
    jobs: int
    matched: Ranges
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
        """Whether every job of the group was seen: pages shift while jobs change (docs/vendors.md V7)."""
        return self.row_count is not None and not self.failed and len(self.jobs) >= self.row_count


class JobIds:
    """The activities that give rows their job ids."""

    def __init__(self, database: Database, platform: OutboundBot) -> None:
        self._database = database
        self._platform = platform

    @activity.defn
    async def match_pages(self, pages: Pages) -> PagesRead:
        """Read some pages and match what they list by reference; a phone number decides nothing yet."""
        session = self._platform.session(pages.organization_id, Turn.JOB_IDS)
        async with heartbeating():
            reading = await read_pages(session, pages.job_group_id, pages.first, pages.last)
            jobs = await identify(session, reading)
            whole = pages.first == 1 and reading.complete
            matched, left_over = await self._database.run(match_by_reference, pages.task_id, jobs, whole=whole)
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
        session = self._platform.session(settlement.organization_id, Turn.JOB_IDS)
        task_id = settlement.task_id
        async with heartbeating():
            reading = await read_pages(session, settlement.job_group_id, 1, None)
            jobs = await identify(session, reading)
            matched, left_over = await self._match_all(settlement, reading, jobs)
            if settlement.may_fail and left_over and reading.complete:
                matched += await self._match_by_other_contacts(session, settlement, reading, left_over)
            telemetry.metrics.wrote("job_ids", "matched", len(matched))
            if settlement.may_fail and reading.complete:
                failed, refused = await self._database.run(table.fail_unmatched, task_id)
                if refused:
                    reading.error = f"the database refuses to set {refused} rows without a job to Failed"
                telemetry.metrics.wrote("job_ids", "failed", failed)
                activity.logger.info("task %d: %d rows have no job and failed", task_id, failed)
        return _result(reading, matched, session)

    async def _match_all(
        self, settlement: Settlement, reading: Reading, jobs: Sequence[IdentifiedJob]
    ) -> tuple[list[tuple[int, str]], list[IdentifiedJob]]:
        """Rows and jobs that were saved, and jobs that may yet be some row's."""
        if not reading.complete:
            # Only who has seen every reference may let a phone number decide: it could take another row's job.
            whole = settlement.may_fail
            saved, _ = await self._database.run(match_by_reference, settlement.task_id, jobs, whole=whole)
            return saved, []
        found, saved = await self._database.run(match_all, settlement.task_id, jobs)
        if len(saved) < len(found.pairs):
            # Their rows may get others yet.
            reading.failed += 1
            reading.error = reading.error or "jobs went to rows of another task meanwhile"
        activity.logger.info(
            "read all pages of task %d: %d jobs, %d rows matched, %d jobs of no row, %d more of rows that have one",
            *(settlement.task_id, len(reading.jobs), len(saved), len(found.left_over), found.spare),
        )
        return saved, found.left_over

    async def _match_by_other_contacts(
        self, session: PlatformSession, settlement: Settlement, reading: Reading, jobs: Sequence[IdentifiedJob]
    ) -> list[tuple[int, str]]:
        """A page shows one contact of a job. Before a row fails, jobs of nobody are asked for all that they have."""
        if not await self._database.run(table.any_to_fail, settlement.task_id):
            return []
        told = await _by_id(session, [job.job_id for job in jobs], reading)
        saved, _ = await self._match_all(settlement, reading, told)
        return saved


async def read_pages(session: PlatformSession, group_id: str, first: int, last: int | None) -> Reading:
    """Pages ``first`` to ``last`` (None: all), some at once; a page that cannot be read is counted, not raised."""
    reading = Reading()
    if not await _read_page(session, group_id, first, reading) or reading.row_count is None:
        return reading
    end = max(1, -(-reading.row_count // PAGE_SIZE))
    numbers = range(first + 1, (end if last is None else min(last, end)) + 1)
    at_end = False

    async def read(number: int) -> None:
        nonlocal at_end
        if not at_end and not await _read_page(session, group_id, number, reading):
            # Beyond the end, whatever the group counts: the reading is not complete.
            at_end = True

    await for_each(numbers, read, at_once=PAGES_AT_ONCE)
    return reading


async def _read_page(session: PlatformSession, group_id: str, number: int, reading: Reading) -> bool:
    """Whether the page lists anything, as far as is known."""
    try:
        page = await session.page(group_id, number)
    except NoSuchGroupError as error:
        # A group that was deleted lists no jobs any more: what it did not yield yet, it never will.
        reading.error, reading.gone, reading.row_count = str(error), True, reading.row_count or 0
    except ServiceError as error:
        reading.error = str(error)
        reading.failed += 1
    else:
        reading.row_count = max(page.row_count, reading.row_count or 0)
        for job in page.jobs:
            reading.jobs.setdefault(job.id, job)
        return bool(page.jobs)
    return True


async def identify(session: PlatformSession, reading: Reading) -> list[IdentifiedJob]:
    """Whom each job calls. A page names no contact for a job that was not dialled yet: such are asked for by id."""
    known = {job.id: _shown(job) for job in reading.jobs.values()}
    unknown = [job_id for job_id, job in known.items() if job is None]
    asked = {job.job_id: job for job in await _by_id(session, unknown, reading)}
    return [job for job_id, shown in known.items() if (job := shown or asked.get(job_id))]


async def _by_id(session: PlatformSession, ids: Sequence[str], reading: Reading) -> list[IdentifiedJob]:
    """Jobs with all their contacts. Those that the platform does not tell of make the reading incomplete."""
    found: dict[str, IdentifiedJob] = {}

    async def ask(start: int) -> None:
        try:
            jobs = await session.jobs(ids[start : start + IDS_A_CALL])
        except ServiceError as error:
            reading.failed += 1
            reading.error = str(error)
        else:
            # Not the jobs themselves: a hundred thousand transcripts are more than a worker's memory.
            found.update((job.job_id, _told(job)) for job in jobs)

    await for_each(range(0, len(ids), IDS_A_CALL), ask, at_once=BATCHES_AT_ONCE)
    if not found.keys() >= set(ids):
        reading.failed += 1
        reading.error = reading.error or f"{SERVICE}: a job was not returned"
    return [found[job_id] for job_id in ids if job_id in found]


def _shown(job: ListedJob) -> IdentifiedJob | None:
    contact = job.latest_task.contact if job.latest_task else None
    if contact is None or not (contact.reference_id or contact.phone_number):
        contact = Contact()
    reference = contact.reference_id or job.reference_id
    if not (reference or contact.phone_number):
        return None
    others = (Contact(reference_id=job.reference_id),) if job.reference_id not in ("", reference) else ()
    return IdentifiedJob(job_id=job.id, reference_id=reference, phone=contact.phone_number, others=others)


def _told(job: Job) -> IdentifiedJob:
    dialled = (attempt.contact for attempt in job.tasks if attempt.contact)
    first, *others = [*job.contacts, *dialled] or [Contact()]
    return IdentifiedJob(
        job_id=job.job_id,
        reference_id=first.reference_id or job.reference_id,
        phone=first.phone_number,
        others=(*others, Contact(reference_id=job.reference_id)),
    )


def match_by_reference(
    cursor: Cursor, task_id: int, jobs: Sequence[IdentifiedJob], *, whole: bool = True
) -> tuple[list[tuple[int, str]], int]:
    """Rules 3.1 and 3.2, outside a transaction.

    Args:
        cursor: outside a transaction.
        task_id: the task whose rows get jobs.
        jobs: of its group.
        whole: these are all that the group has (:func:`calltasks.rules.pairing.pair`).

    Returns:
        The pairs of row and job that were saved, and how many jobs may yet be some row's.
    """
    found, saved = _match(cursor, task_id, jobs, whole=whole, by_phone=False)
    return saved, len(found.left_over) + len(found.pairs) - len(saved)


def match_all(cursor: Cursor, task_id: int, jobs: Sequence[IdentifiedJob]) -> tuple[Pairing, list[tuple[int, str]]]:
    """Rule 3 for all jobs of a group, by phone number too, outside a transaction.

    Returns:
        What was decided, and what of it was saved: not a job that went to a row of another task meanwhile.
    """
    return _match(cursor, task_id, jobs, whole=True, by_phone=True)


def _match(
    cursor: Cursor, task_id: int, jobs: Sequence[IdentifiedJob], *, whole: bool, by_phone: bool
) -> tuple[Pairing, list[tuple[int, str]]]:
    tasks = table.tasks_of_group(cursor, task_id)
    used = table.used_jobs(cursor, [job.job_id for job in jobs])
    free = [job for job in jobs if job.job_id not in used]
    references = sorted({reference for job in free for reference in job.references})
    rows = table.named_by(cursor, tasks, "reference_id", references)
    rows += table.named_by(cursor, tasks, "leads_id", sorted(filter(None, map(lead_of, references))))
    if by_phone and free:
        rows += _fitting(cursor, task_id, free)
    found = pair(free, rows, task_id=task_id, whole=whole, by_phone=by_phone)
    return found, table.save_jobs(cursor, tasks, found.pairs)


def _fitting(cursor: Cursor, task_id: int, jobs: Sequence[IdentifiedJob]) -> list[MatchRow]:
    """Rows without a job that share a number or a reference with a job, as we compare them and SQL cannot."""
    numbers = {number for job in jobs for number in job.phones}
    references = {reference for job in jobs for reference in job.references}
    return [
        row
        for row in table.without_job(cursor, task_id)
        if reference_of(row) in references or not numbers.isdisjoint(comparable(row.phone))
    ]


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

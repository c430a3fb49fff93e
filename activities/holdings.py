"""What the platform has of a task: a whole reading of its job group, and whose calls these are (rule 2.6)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from activities.job_ids import identify, read_pages
from calltasks.clock import elapsed
from calltasks.database.tables.dispatches import DoubtError
from calltasks.errors import ServiceError
from calltasks.platform.errors import SERVICE, NoSuchJobError
from calltasks.platform.session import IDS_A_CALL, PlatformSession
from calltasks.rules.pairing import IdentifiedJob
from calltasks.rules.phones import comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReading:
    """A job group as it was read.

    Attributes:
        jobs: those that it lists.
        error: why the platform may have more than that; ``""``: the reading is whole.
        began: by :func:`calltasks.clock.elapsed`.
    """

    jobs: list[IdentifiedJob]
    error: str
    began: float = 0.0


async def find_group(session: PlatformSession, name: str) -> str | None:
    """The group of this name; of several the one that was used.

    Raises:
        DoubtError: several were.
    """
    found = await session.find_groups(name)
    if len(found) > 1:
        used = [group_id for group_id in found if (await session.progress(group_id)).total_jobs]
        if len(used) > 1:
            raise DoubtError(
                f"{SERVICE} has {len(used)} job groups named {name} with calls; nobody is called. Put the id of the"
                " task's into its job_group_id"
            )
        found = used or sorted(found)
    return found[0] if found else None


async def read_group(session: PlatformSession, group_id: str, known: Iterable[str]) -> GroupReading:
    """Read all pages of a job group.

    The reading is whole if each page was read, each job has a contact, as many jobs are listed as the group counts by
    either of its counters, and every job of the group that a row has is among them.

    Args:
        session: the platform.
        group_id: the job group.
        known: ids of jobs that rows of the task have, whatever group they are of.
    """
    began = elapsed()
    pages = await read_pages(session, group_id, 1, None)
    jobs = await identify(session, pages)
    try:
        error = pages.error or await _hidden(session, group_id, set(known) - pages.jobs.keys(), len(pages.jobs))
    except ServiceError as failure:
        error = str(failure)
    if not error and (pages.gone or not pages.complete):
        error = f"{SERVICE}: the list of the group lacks jobs that it has"
    return GroupReading(jobs=jobs, error=error, began=began)


async def _hidden(session: PlatformSession, group_id: str, missing: set[str], listed: int) -> str:
    """Why the group has more jobs than it lists; ``""`` if nothing says that it has."""
    total = (await session.progress(group_id)).total_jobs
    if listed < total:
        return f"{SERVICE}: the job group lists {listed} of {total} jobs; nothing is sent before it lists all"
    ids = sorted(missing)
    for start in range(0, len(ids), IDS_A_CALL):
        try:
            found = await session.jobs(ids[start : start + IDS_A_CALL])
        except NoSuchJobError:
            continue
        # A row may have a job of another group, or one that is gone: no listing of this group will ever show it.
        if any(job.job_group_id in ("", group_id) for job in found):
            return f"{SERVICE}: the job group does not list a job that it has; nothing is sent before it lists all"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """A row as far as a job can be its own. ``rank``: of rows with one number those of a lower rank are held first."""

    id: int
    leads_id: str
    reference: str
    phone: str
    job_id: str
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Rows without a job id that the platform has, and jobs that belong to no row of the task."""

    rows: set[int]
    unclaimed: list[str]


def hold(jobs: Sequence[IdentifiedJob], leads: Sequence[Lead], own: Sequence[str]) -> Holding:
    """Whom the platform has: a row is held if its job or its reference is, or, as often as rows share it, its phone.

    A job whose reference and number are no row's may be any row's under another guise; not one whose reference names a
    lead of ours, and that lead's row was taken out of the task.

    Args:
        jobs: all that the group lists.
        leads: all rows of the task.
        own: beginnings of the references that this task's leads are given; the rest of one names the lead.
    """
    held: set[int] = set()
    with_job = {lead.job_id for lead in leads if lead.job_id}
    by_reference = _grouped(leads, lambda lead: filter(None, [lead.reference.strip()]))
    by_lead = _grouped(leads, lambda lead: [lead.leads_id.lower()])
    by_phone = _grouped(leads, lambda lead: comparable(lead.phone))
    nameless, gone = [], set()
    for job in jobs:
        if job.job_id in with_job:
            continue
        named = [lead for reference in job.references for lead in by_reference.get(reference, [])]
        if not named and (lost := _named_by(job, own)):
            named = [lead for leads_id in lost for lead in by_lead.get(leads_id, [])]
            gone.add(job.job_id)
        held.update(lead.id for lead in named if not lead.job_id)
        if not named:
            nameless.append(job)
    unclaimed = []
    for job in nameless:
        sharing = {lead.id: lead for number in job.phones for lead in by_phone.get(number, [])}
        waiting = [(lead.rank, lead.id) for lead in sharing.values() if not lead.job_id and lead.id not in held]
        if not sharing and job.job_id not in gone:
            unclaimed.append(job.job_id)
        elif waiting:
            held.add(min(waiting)[1])
    return Holding(rows=held, unclaimed=unclaimed)


def _named_by(job: IdentifiedJob, own: Sequence[str]) -> set[str]:
    """The leads, in lower case, that a job names by references of these beginnings."""
    texts = {reference.lower() for reference in job.references}
    return {text.removeprefix(way.lower()) for text in texts for way in own if text.startswith(way.lower())}


def _grouped(leads: Sequence[Lead], keys: Callable[[Lead], Iterable[str]]) -> dict[str, list[Lead]]:
    groups: dict[str, list[Lead]] = defaultdict(list)
    for lead in leads:
        for key in keys(lead):
            groups[key].append(lead)
    return groups

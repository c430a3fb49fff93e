"""Which job is which row's: rule 3, as a function of what the platform lists and what the CRM stores."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from calltasks.database.tables.jobs import MatchRow
from calltasks.platform.session import Contact
from calltasks.rules.phones import comparable

Key = tuple[str, str]
"""Reference (``""``: of no row) and number."""
_ANY = "any"
"""In the place of a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedJob:
    """A job and whom it calls: the contact that it shows first, and ``others`` that it has."""

    job_id: str
    reference_id: str
    phone: str
    others: tuple[Contact, ...] = ()

    @property
    def references(self) -> frozenset[str]:
        """Every reference that it carries, as references are compared: exactly, but for blanks around them."""
        found = (self.reference_id, *(contact.reference_id for contact in self.others))
        return frozenset(filter(None, (reference.strip() for reference in found)))

    @property
    def phones(self) -> frozenset[str]:
        """Every number that it calls, as numbers are compared."""
        return comparable(self.phone).union(*(comparable(contact.phone_number) for contact in self.others))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """What was decided.

    Attributes:
        pairs: ids of the task's rows and their jobs.
        left_over: jobs that may yet turn out to be some row's.
        spare: how many jobs are one more of a lead whose row has its job.
    """

    pairs: list[tuple[int, str]]
    left_over: list[IdentifiedJob]
    spare: int


def reference(own: str, task_id: int, leads_id: str) -> str:
    """The reference that a row's job carries: its own, or, lacking one, that of the old form (rule 3.2)."""
    return own or f"task_{task_id}_lead_{leads_id}"


def reference_of(row: MatchRow) -> str:
    """As :func:`reference`."""
    return reference(row.reference_id, row.task_id, row.leads_id)


def lead_of(reference: str) -> str:
    """The lead that a reference of the old form names; ``""`` if it is of another form."""
    match = re.fullmatch(r"task_\d+_lead_(.+)", reference, re.ASCII | re.DOTALL)
    return match[1] if match else ""


class _Offer:
    """Jobs that are still free, in order of id, by what they are asked for."""

    def __init__(self, jobs: Iterable[IdentifiedJob]) -> None:
        self.free = {job.job_id: job for job in sorted(jobs, key=lambda job: job.job_id)}
        self._queues: dict[Key, deque[str]] = defaultdict(deque)

    def add(self, job: IdentifiedJob, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queues[key].append(job.job_id)

    def give(self, rows: Iterable[MatchRow], keys: Callable[[MatchRow], Iterable[Key]]) -> dict[int, str]:
        """To each row the first free job that one of its keys asks for."""
        given: dict[int, str] = {}
        for row in rows:
            job_id = next(filter(None, map(self._take, keys(row))), "")
            if job_id:
                given[row.id] = job_id
        return given

    def _take(self, key: Key) -> str:
        queue = self._queues.get(key)
        while queue:
            job_id = queue.popleft()
            if self.free.pop(job_id, None):
                return job_id
        return ""


def pair(
    jobs: Iterable[IdentifiedJob], rows: Iterable[MatchRow], *, task_id: int, whole: bool, by_phone: bool
) -> Pairing:
    """Give each job to at most one row, and each row at most one job. The order of what comes in makes no difference.

    1. A job is the row's whose reference it carries. Where rows or jobs share a reference, those with the same number
       belong together; what is left of them goes by the order of ids.
    2. Else the row's with the same number, rows without a reference of their own first. A job whose reference names a
       row is not given away by its number, even if that row has its job: it is one more call of that lead.

    Args:
        jobs: that no row holds.
        rows: those that the jobs' references name, of all tasks that share the job group, with or without a job; and
            those of the task itself whose numbers the jobs call.
        task_id: the task whose rows get jobs.
        whole: these are all jobs of the group. If not, only that is decided which no further job can overturn: by
            references, where the numbers agree, or where the row has none to compare and shares with nobody.
        by_phone: the second rule too, which needs the whole of the jobs and of the rows.
    """
    known = {row.id: row for row in rows}
    named = {reference_of(row) for row in known.values()}
    waiting = [row for row in known.values() if not row.job_id]
    offer = _Offer(jobs)
    given = _by_reference(offer, waiting, whole=whole)
    if by_phone:
        given |= _by_phone(offer, named, [row for row in waiting if row.id not in given and row.task_id == task_id])
    wanted = {reference_of(row) for row in waiting if row.id not in given}
    left_over = [
        job for job in offer.free.values() if named.isdisjoint(job.references) or not wanted.isdisjoint(job.references)
    ]
    return Pairing(
        pairs=[(row_id, job_id) for row_id, job_id in sorted(given.items()) if known[row_id].task_id == task_id],
        left_over=left_over,
        spare=len(offer.free) - len(left_over),
    )


def _by_reference(offer: _Offer, rows: Iterable[MatchRow], *, whole: bool) -> dict[int, str]:
    for job in offer.free.values():
        offer.add(job, [(reference, number) for reference in job.references for number in (_ANY, *job.phones)])
    # A reference of one's own goes before the old form of one that has none.
    waiting = sorted(rows, key=lambda row: (not row.reference_id, row.id))
    given = offer.give(waiting, lambda row: [(reference_of(row), number) for number in sorted(comparable(row.phone))])
    waiting = [row for row in waiting if row.id not in given]
    if whole:
        return given | offer.give(waiting, lambda row: [(reference_of(row), _ANY)])
    shared = Counter(map(reference_of, waiting))
    alone = [row for row in waiting if shared[reference_of(row)] == 1 and not comparable(row.phone)]
    return given | offer.give(alone, lambda row: [(reference_of(row), _ANY)])


def _by_phone(offer: _Offer, named: set[str], rows: Iterable[MatchRow]) -> dict[int, str]:
    for job in sorted(offer.free.values(), key=lambda job: bool(job.references)):
        if named.isdisjoint(job.references):
            offer.add(job, [("", number) for number in job.phones])
    waiting = sorted(rows, key=lambda row: (bool(row.reference_id), row.id))
    return offer.give(waiting, lambda row: [("", number) for number in sorted(comparable(row.phone))])

"""The platform's state: job groups and their jobs, brought up to date from the clock whenever somebody looks."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from simulators.calls import FINAL, NEVER, PLANNED_BEFORE_MS, Attempt, CallPlan, Contact, Job
from simulators.clock import Clock
from simulators.conversations import Conversations
from simulators.options import SimulatorOptions
from simulators.strategy import Hours

STATUSES = ("Scheduling", "Executing", "Succeeded", "Paused", "Failed", "Cancelled")


class Group:
    """A job group: all its jobs, and those that are listed by now, in the order in which they became so."""

    def __init__(self, group_id: str, name: str, script_id: str, created: float, lines: int, hours: Hours) -> None:
        self.id = group_id
        self.hours = hours
        self.name = name
        self.script_id = script_id
        self.created = created
        self.visible_at = created
        self.jobs: list[Job] = []
        self.listed: list[Job] = []
        self.by_status: dict[str, dict[str, Job]] = {status: {} for status in STATUSES}
        self.lines = [created] * lines
        self.dials: Counter[str] = Counter()
        self.missing: list[Job] = []
        self._events: list[tuple[float, int, Job]] = []
        self._ticket = 0

    def add(self, job: Job, now: float) -> None:
        self.jobs.append(job)
        self.dials[job.contact.reference or job.contact.phone] += 1
        if job.visible_at <= now:
            self._settle(job, now)
        else:
            self._await(job, job.visible_at)

    def update(self, now: float) -> None:
        """Carries out every change of status up to `now`."""
        while self._events and self._events[0][0] <= now:
            moment, _, job = heapq.heappop(self._events)
            if moment == job.next_event:
                self._settle(job, now)

    def touch(self, job: Job, now: float) -> None:
        """Looks at a job anew after its plan has changed."""
        job.entry = job.row = None
        if job.visible_at <= now:
            self._settle(job, now)

    def progress(self) -> dict[str, int]:
        """Listed jobs by status."""
        return {status: len(jobs) for status, jobs in self.by_status.items()}

    def page(self, status: str, number: int, size: int) -> tuple[list[Job], int]:
        """Page `number` (from 1) of the listed jobs, of one status or of all (''), and how many there are."""
        first = (number - 1) * size
        if not status:
            return self.listed[first : first + size], len(self.listed)
        jobs = self.by_status.get(status, {})
        return list(islice(jobs.values(), first, first + size)), len(jobs)

    def _settle(self, job: Job, now: float) -> None:
        status = job.status_at(now)
        if status != job.status:
            if job.status:
                del self.by_status[job.status][job.id]
            else:
                self.listed.append(job)
            self.by_status[status][job.id] = job
            job.status = status
        job.next_event = NEVER
        moment = job.next_change(now) if status not in FINAL else NEVER
        if moment != NEVER:
            self._await(job, moment)

    def _await(self, job: Job, moment: float) -> None:
        job.next_event = moment
        self._ticket += 1
        heapq.heappush(self._events, (moment, self._ticket, job))


class World:
    """All groups and jobs. Not thread-safe: it lives on the server's event loop."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.clock = Clock(options.time_scale)
        self.conversations = Conversations(options.dialogues, options.refusal_rate)
        self.courses: dict[str, str] = {}
        self.groups: dict[str, Group] = {}
        self.jobs: dict[str, Job] = {}
        self._plan = CallPlan(options, self.conversations)

    def create_group(
        self, name: str, script_id: str = "", group_id: str = "", strategy: str = "", recall: str = ""
    ) -> Group:
        """A new group; ValueError if the strategies are none."""
        now = self.clock.now()
        made = group_id or _identifier(f"{self.options.seed}|group|{len(self.groups)}")
        hours = Hours(self.clock, strategy, recall)
        group = Group(made, name, script_id, now, max(1, self.options.concurrency), hours)
        self.groups[made] = group
        return group

    def assign(
        self, group: Group, contacts: Iterable[Contact], *, called_at: float | None = None, listed_after: float = 0.0
    ) -> list[Job]:
        """Adds a job for each contact. With `called_at` (a simulated second) the calls are over already; none is listed
        earlier than `listed_after` seconds from now."""
        now = self.clock.now()
        if called_at is None and self.options.calls_over and group.hours.place([], now) == now:
            called_at = now
        jobs = []
        for contact in contacts:
            if contact.phone in self.courses and not contact.course and not contact.turns:
                contact = replace(contact, course=self.courses[contact.phone], outcome="Succeeded")
            index = len(group.jobs)
            job = Job(_job_id(f"{self.options.seed}|{group.id}|{index}"), group.id, contact, now, group.hours)
            self._plan.fill(job, group.lines, index, called_at)
            job.visible_at = max(job.visible_at, now + listed_after)
            self.jobs[job.id] = job
            group.add(job, now)
            jobs.append(job)
        return jobs

    def add_group(
        self,
        name: str,
        contacts: Sequence[Contact],
        *,
        group_id: str = "",
        over: bool = True,
        called_at: float | None = None,
    ) -> Group:
        """A group that somebody else created; its calls are `over` (since Unix time `called_at`, or now) or to come."""
        group = self.create_group(name, group_id=group_id)
        moment = self.clock.now() if called_at is None else self.clock.moment(called_at)
        self.assign(group, contacts, called_at=moment if over else None)
        return group

    def delete_group(self, group_id: str) -> bool:
        """Deletes a group and its jobs as a person at the platform's console may; False when there is none."""
        group = self.groups.pop(group_id, None)
        for job in group.jobs if group else ():
            self.jobs.pop(job.id, None)
        return group is not None

    def find_group(self, group_id: str) -> Group | None:
        """The group, up to date."""
        group = self.groups.get(group_id)
        if group:
            group.update(self.clock.now())
        return group

    def find_job(self, job_id: str) -> Job | None:
        """The job if it is listed by now."""
        job = self.jobs.get(job_id)
        return job if job and job.visible_at <= self.clock.now() else None

    def find_attempt(self, task_id: str) -> tuple[Job, int] | None:
        """The job and the attempt's index that a task id names, if that attempt has begun."""
        job = self.jobs.get(task_id[:-2] + "00")
        if job is None:
            return None
        index = next((i for i in range(len(job.attempts)) if job.task_id(i) == task_id), None)
        if index is None or job.attempts[index].start > self.clock.now():
            return None
        return job, index

    def change(self, group: Group, jobs: Iterable[Job], step: Callable[[Job, float], None]) -> None:
        """Suspends, resumes or cancels (`Job.suspend`, `Job.resume`, `Job.cancel`)."""
        now = self.clock.now()
        group.update(now)
        for job in jobs:
            step(job, now)
            group.touch(job, now)

    def set_course(self, course: str, phones: Iterable[str]) -> int:
        """From now on, whoever is called at these numbers (spelled as they are assigned) answers, and the call goes so.

        Raises:
            ValueError: there is no such course.
        """
        if not self.conversations.known(course):
            raise ValueError("no such course")
        found = dict.fromkeys(phones, course)
        self.courses |= found
        return len(found)

    def refusals(self) -> list[dict[str, Any]]:
        """Who has refused further calls by now, in which words; `at` is when that call ended, in ms since 1970."""
        now = self.clock.now()
        return [
            {
                "phone": job.contact.phone,
                "reference_id": job.contact.reference,
                "group": job.group_id,
                "job_id": job.id,
                "sentence": job.conversation.refusal,
                "wrong_number": job.conversation.wrong_number,
                "at": self.clock.shown_ms(job.attempts[job.chosen].end),
            }
            for job in self.jobs.values()
            if job.conversation and job.conversation.refusal and job.chosen is not None
            if job.begun_at(now) > job.chosen and job.attempts[job.chosen].end <= now
        ]

    def truth(self, group: Group) -> list[dict[str, Any]]:
        """What every job of the group comes to, whether or not it has got there."""
        return [self._truth(job) for job in group.jobs]

    def _truth(self, job: Job) -> dict[str, Any]:
        now, chosen, talk = self.clock.now(), job.chosen, job.conversation
        attempt = job.attempts[chosen] if chosen is not None else None
        spoken = talk if talk and job.transcript_at != NEVER else None
        return {
            "job_id": job.id,
            "reference_id": job.contact.reference,
            "phone": job.contact.phone,
            "status": job.outcome,
            "status_now": job.status_at(now),
            "listed": job.visible_at <= now,
            "flips": job.flips,
            "attempts": [self._attempt(item) for item in job.attempts],
            "task_id": job.task_id(chosen) if chosen is not None else None,
            "planed_time": self.clock.shown_ms(attempt.start) - PLANNED_BEFORE_MS if attempt else None,
            "actual_time": self.clock.shown_ms(attempt.start) if attempt else None,
            "calling_number": job.calling_number if attempt else None,
            "transcript": [{"speaker": who, "text": text} for who, text in spoken.turns] if spoken else [],
            "transcript_ready": job.transcript_at <= now,
            "course": talk.course if talk else None,
            "interest": talk.interest if talk else None,
            "when": talk.when if talk else None,
            "do_not_call": talk.refusal if talk else None,
            "wrong_number": talk.wrong_number if talk else None,
            "recording": job.recording_at != NEVER,
            "recording_ready": job.recording_at <= now,
        }

    def _attempt(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "status": attempt.status,
            "start": self.clock.shown_ms(attempt.start),
            "end": self.clock.shown_ms(attempt.end),
            "calendar": self.clock.calendar(attempt.start),
        }


def _identifier(key: str) -> str:
    digits = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _job_id(key: str) -> str:
    return _identifier(key)[:-2] + "00"

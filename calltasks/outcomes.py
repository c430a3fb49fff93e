"""What the platform answered of calls, as the rows shall hold it (rule 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from calltasks.concurrency import for_each
from calltasks.database.connection import SERVICE as DATABASE
from calltasks.database.connection import Database, bulks
from calltasks.database.refusals import Refused, write_each
from calltasks.database.tables import rows as table
from calltasks.database.tables.jobs import folded
from calltasks.database.tables.needs import final_status
from calltasks.database.tables.rows import CallRow, Outcome
from calltasks.errors import ServiceError
from calltasks.names import SUCCEEDED
from calltasks.platform.errors import NoSuchJobError, ValueRefusedError
from calltasks.platform.session import IDS_A_CALL, Attempt, Job, PlatformSession, moment
from calltasks.rules.phones import comparable
from calltasks.transcripts import length, transcript, turns_of

CALLS_AT_ONCE = 6
TABLE = "leads_task_list"


@dataclass(slots=True)
class Answers:
    """Answers matched to rows."""

    jobs: list[tuple[CallRow, Job]] = field(default_factory=list)
    not_returned: list[CallRow] = field(default_factory=list)
    failed_calls: int = 0
    error: str = ""

    async def ask(self, session: PlatformSession, batch: Sequence[CallRow]) -> None:
        """Ask for the jobs of a batch; a request that fails is counted, not raised."""
        try:
            jobs = await session.jobs([row.call_job_id for row in batch])
        except ServiceError as error:
            self.error = str(error)
            refused = isinstance(error, NoSuchJobError | ValueRefusedError)
            if refused and len(batch) > 1:
                # One id that the platform refuses spoils its whole batch: halve until it stands alone.
                half = len(batch) // 2
                await self.ask(session, batch[:half])
                await self.ask(session, batch[half:])
            else:
                self.not_returned += batch if refused else []
                self.failed_calls += not refused
        else:
            found = match_answers(batch, jobs)
            self.jobs += found
            told = {row.id for row, _ in found}
            self.not_returned += [row for row in batch if row.id not in told]


async def save_outcomes(
    database: Database, task_id: int, outcomes: Sequence[Outcome]
) -> tuple[int, list[Refused[Outcome]]]:
    """Save outcomes, each with what is late of it; returns how many were, and which the database does not take."""
    saved = 0
    refused: list[Refused[Outcome]] = []

    async def write(some: Sequence[Outcome]) -> None:
        nonlocal saved
        together = database.transaction if any(outcome.late for outcome in some) else database.run
        saved += await together(table.save_outcomes, task_id, some)

    for part in bulks((outcome, outcome.conversation) for outcome in outcomes):
        refused += await write_each(write, [outcome for outcome, _ in part])
    return saved, refused


def refusal(operation: str, refused: Sequence[Refused[Any]]) -> str:
    """What to show of rows that the database does not take."""
    if not refused:
        return ""
    rows = "1 row" if len(refused) == 1 else f"{len(refused)} rows"
    return f"{DATABASE} {operation}: {refused[0].code}; {rows} set aside"


def expects_transcript(row: CallRow, job: Job, outcome: Outcome) -> bool:
    """Whether somebody spoke in a call that is over, as far as its status, its attempt or an earlier answer says
    (rule 4.8), and what was said is not there yet."""
    if not row.silent or outcome.conversation or row.followed:
        return False
    succeeded = final_status(outcome.call_status or row.call_status) == SUCCEEDED
    return succeeded or row.since is not None or (job.attempt is not None and job.attempt.spoken)


async def ask(session: PlatformSession, rows: Sequence[CallRow]) -> Answers:
    """Ask for the jobs of these rows, at most 99 a request."""
    answers = Answers()
    batches = [rows[start : start + IDS_A_CALL] for start in range(0, len(rows), IDS_A_CALL)]
    await for_each(batches, lambda batch: answers.ask(session, batch), at_once=CALLS_AT_ONCE)
    return answers


def match_answers(rows: Sequence[CallRow], jobs: Iterable[Job]) -> list[tuple[CallRow, Job]]:
    """Answers to rows: by job id; an unknown id by reference id and phone number together (rule 4.7)."""
    by_id: dict[str, list[CallRow]] = defaultdict(list)
    by_reference: dict[str, list[CallRow]] = defaultdict(list)
    for row in rows:
        # Two rows may have had one job before we came: both are told how it ended.
        by_id[folded(row.call_job_id)].append(row)
        by_reference[row.reference_id.strip()].append(row)
    found: dict[int, tuple[CallRow, Job]] = {}
    strangers = []
    for job in jobs:
        known = by_id.get(folded(job.job_id), [])
        for row in known:
            found.setdefault(row.id, (row, job))
        if not known:
            strangers.append(job)
    for job in strangers:
        for row in _called(job, by_reference):
            if row.id not in found:
                found[row.id] = (row, job)
                break
    return list(found.values())


def _called(job: Job, by_reference: dict[str, list[CallRow]]) -> Iterator[CallRow]:
    """Rows whose reference and whose number a contact of the job has."""
    for contact in job.contacts:
        if reference := (contact.reference_id or job.reference_id).strip():
            numbers = comparable(contact.phone_number)
            yield from (row for row in by_reference.get(reference, []) if numbers & comparable(row.phone))


def outcome_of(row: CallRow, job: Job, database: Database, now: datetime) -> Outcome:
    """What the row shall hold after this answer; never less than it holds already.

    A status that is not final is left unwritten, and so is the transcript of a call that is not over: a later attempt
    may replace it (rule 4.3).
    """
    status = job.call_status
    known = final_status(row.call_status)
    if known == SUCCEEDED or (known and status != SUCCEEDED):
        # As the CRM spells it.
        status = row.call_status
    final = bool(final_status(status))
    attempt = job.attempt or Attempt()
    turns = attempt.conversation if final else []
    planed = database.moment(TABLE, "planed_time", moment(attempt.planed_time))
    actual = database.moment(TABLE, "updated_time", moment(attempt.actual_time))
    return Outcome(
        id=row.id,
        call_job_id=row.call_job_id,
        call_status=status if final else "",
        conversation=transcript(turns, row.conversation, database),
        transcribed=bool(turns) and len(turns) >= length(turns_of(row.conversation)),
        planed_time=planed or row.planed_time,
        call_task_id=database.whole(TABLE, "call_task_id", attempt.task_id) or row.call_task_id,
        calling_number=database.whole(TABLE, "calling_number", attempt.calling_number) or row.calling_number,
        updated_time=actual or database.wall_clock(now),
    )


def changed(row: CallRow, outcome: Outcome) -> bool:
    """Whether the outcome differs from the row; ``updated_time`` alone, which may be now, does not count."""
    return (
        (outcome.call_status or row.call_status) != row.call_status
        or (bool(outcome.conversation) and outcome.conversation != row.conversation)
        or (outcome.planed_time, outcome.call_task_id, outcome.calling_number)
        != (row.planed_time, row.call_task_id, row.calling_number)
    )

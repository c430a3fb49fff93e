"""Outcomes and transcripts of calls (SPEC 4). Task queue ``outbound-bot``."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from temporalio import activity

from activities.liveness import heartbeating
from activities.row_runs import Runs, pack
from activities.transcripts import length, transcript, turns_of
from clients import telemetry
from clients.database import SERVICE as DATABASE
from clients.database import Database, bulks
from clients.errors import PermanentError, ServiceError
from clients.phones import comparable
from clients.platform import IDS_A_CALL, Attempt, Bot, Job, PlatformSession, moment
from clients.tables import retries as retry_table
from clients.tables import rows as table
from clients.tables.needs import FINAL, final_status
from clients.tables.refusals import Refused, write_each
from clients.tables.retries import Retry, next_try
from clients.tables.rows import CallRow, Outcome

PRIORITY = 1
"""Of the rate limit: before everything else (SPEC, Always)."""
CALLS_AT_ONCE = 6
TURN_ROWS = 50
"""Rows that are worked through before others get their turn of the event loop: a few milliseconds."""
TABLE = "leads_task_list"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """Rows to ask the platform about. ``grace`` and ``lag_retry``: seconds that a transcript may come late, and after
    which a late one is asked for again (growing)."""

    task_id: int
    organization_id: str
    rows: Runs
    grace: float
    lag_retry: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What the platform said.

    Attributes:
        ready: rows with a final outcome that wait for nothing more of the platform's, to be followed up.
        under_way: rows without an outcome, by the status that the platform gave.
        lagging: rows whose transcript is not there yet.
        not_returned: jobs that the platform left out of its answer, or gave in a form that cannot be read.
        failed_calls: requests that failed; their rows are asked for again later.
    """

    ready: Runs
    under_way: dict[str, int]
    lagging: int
    not_returned: int
    saved: int
    failed_calls: int
    api_calls: int
    error: str = ""


@dataclass(slots=True)
class _Answers:
    """Answers matched to rows."""

    jobs: list[tuple[CallRow, Job]] = field(default_factory=list)
    not_returned: list[CallRow] = field(default_factory=list)
    failed_calls: int = 0
    error: str = ""


class Conversations:
    """The activity that fetches outcomes and transcripts."""

    def __init__(self, database: Database, bot: Bot) -> None:
        self._database = database
        self._bot = bot

    @activity.defn
    async def fetch_conversations(self, request: FetchRequest) -> Fetched:
        """Ask for the outcome of these rows, as far as they have none, and save what changed."""
        session = self._bot.session(request.organization_id, PRIORITY)
        async with heartbeating():
            now = (await self._database.now()).replace(tzinfo=None)
            rows = await self._database.run(
                table.without_outcome, request.task_id, request.rows, grace=request.grace, now=now
            )
            answers = await ask(session, rows)
            result = await self._save(request, answers, session)
        activity.logger.info(
            "task %d: asked for %d calls, %d saved, %d transcripts late, %d not returned, %d requests failed "
            "(last error: %s)",
            *(request.task_id, len(rows), result.saved, result.lagging, result.not_returned, result.failed_calls),
            result.error or None,
        )
        return result

    async def _save(self, request: FetchRequest, answers: _Answers, session: PlatformSession) -> Fetched:
        now = await self._database.now()
        utc = now.replace(tzinfo=None)
        outcomes: list[Outcome] = []
        ready: list[int] = []
        # The grace runs for what the platform no longer returns as it does for what it returns without a transcript.
        late = [_late(row, utc, request) for row in answers.not_returned if final_status(row.call_status)]
        under_way: Counter[str] = Counter()
        for index, (row, job) in enumerate(answers.jobs):
            if index % TURN_ROWS == 0:
                await asyncio.sleep(0)
            outcome = outcome_of(row, job, self._database, now)
            status = final_status(outcome.call_status or row.call_status)
            if not status:
                under_way[job.status or "Unknown"] += 1
            elif expects_transcript(row, job, outcome):
                late.append(_late(row, utc, request))
                outcome = replace(outcome, late=late[-1])
            else:
                ready.append(row.id)
            if changed(row, outcome):
                outcomes.append(outcome)
        saved, refused = await save_outcomes(self._database, request.task_id, outcomes)
        asked = {row.id: row for row, _ in answers.jobs}
        await self._database.run(retry_table.save, request.task_id, [*late, *_set_aside(request, asked, refused, utc)])
        aside = {one.item.id for one in refused}
        settled = [row.id for row in asked.values() if row.refusals and row.id not in aside]
        await self._database.run(retry_table.settle, settled, "outcome")
        _count(asked, [outcome for outcome in outcomes if outcome.id not in aside])
        given_up = [retry.list_id for retry in late if retry.retry_at >= retry.since + timedelta(seconds=request.grace)]
        return Fetched(
            ready=pack({*ready, *given_up} - aside),
            under_way=dict(under_way),
            lagging=len(late) - len(given_up),
            not_returned=len(answers.not_returned),
            saved=saved,
            failed_calls=answers.failed_calls,
            api_calls=session.calls,
            error=answers.error or refusal("save_outcomes", refused),
        )


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
    (SPEC 4), and what was said is not there yet."""
    if not row.silent or outcome.conversation or row.followed:
        return False
    attempt = chosen_attempt(job)
    succeeded = final_status(outcome.call_status or row.call_status) == "Succeeded"
    return succeeded or row.since is not None or (attempt is not None and attempt.spoken)


def _set_aside(
    request: FetchRequest, rows: dict[int, CallRow], refused: Sequence[Refused[Outcome]], now: datetime
) -> list[Retry]:
    return [
        retry_table.refused(
            list_id=one.item.id,
            step="outcome",
            code=one.code,
            tries=rows[one.item.id].refusals,
            now=now,
            delay=request.lag_retry,
        )
        for one in refused
    ]


def _count(rows: dict[int, CallRow], written: Sequence[Outcome]) -> None:
    """Metrics: calls that came to their end."""
    ended = Counter(one.call_status for one in written if one.call_status not in ("", rows[one.id].call_status))
    for status in FINAL:
        telemetry.metrics.wrote("conversations", status, ended[status])


def _late(row: CallRow, now: datetime, request: FetchRequest) -> Retry:
    since = row.since or now
    delay = timedelta(seconds=min(request.lag_retry * 2 ** min(row.tries, 6), 60))
    retry_at = next_try(since=since, now=now, delay=delay, grace=timedelta(seconds=request.grace))
    return Retry(list_id=row.id, step="conversation", tries=row.tries + 1, since=since, retry_at=retry_at)


async def ask(session: PlatformSession, rows: Sequence[CallRow]) -> _Answers:
    """Ask for the jobs of these rows, at most 99 a request; a request that fails is counted, not raised."""
    answers = _Answers()
    batches = deque(rows[start : start + IDS_A_CALL] for start in range(0, len(rows), IDS_A_CALL))

    async def work() -> None:
        while batches:
            batch = batches.popleft()
            try:
                jobs = await session.jobs([row.call_job_id for row in batch])
            except ServiceError as error:
                answers.error = str(error)
                refused = isinstance(error, PermanentError) and error.code.startswith(("NotExist.Job", "InvalidParam"))
                if refused and len(batch) > 1:
                    # One id that the platform refuses spoils its whole batch: halve until it stands alone.
                    half = len(batch) // 2
                    batches.extendleft((batch[:half], batch[half:]))
                else:
                    answers.not_returned += batch if refused else []
                    answers.failed_calls += not refused
            else:
                found = match_answers(batch, jobs)
                answers.jobs += found
                told = {row.id for row, _ in found}
                answers.not_returned += [row for row in batch if row.id not in told]

    await asyncio.gather(*(work() for _ in range(CALLS_AT_ONCE)))
    return answers


def match_answers(rows: Sequence[CallRow], jobs: Iterable[Job]) -> list[tuple[CallRow, Job]]:
    """Answers to rows: by job id; an unknown id by reference id and phone number together (SPEC 4)."""
    by_id: dict[str, list[CallRow]] = defaultdict(list)
    by_reference: dict[str, list[CallRow]] = defaultdict(list)
    for row in rows:
        # Two rows may have had one job before we came: both are told how it ended.
        by_id[table.folded(row.call_job_id)].append(row)
        by_reference[row.reference_id.strip()].append(row)
    found: dict[int, tuple[CallRow, Job]] = {}
    strangers = []
    for job in jobs:
        known = by_id.get(table.folded(job.job_id), [])
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


def chosen_attempt(job: Job) -> Attempt | None:
    """The last attempt; of a job that succeeded the last connected one (SPEC 4)."""
    if final_status(job.status) == "Succeeded":
        for attempt in reversed(job.tasks):
            if attempt.connected:
                return attempt
    return job.tasks[-1] if job.tasks else None


def status_of(job: Job, attempt: Attempt | None) -> str:
    """The job's status; lacking it the attempt's, of which only ``Executing`` is not final (SPEC 4)."""
    if job.status or attempt is None:
        return final_status(job.status) or job.status
    if attempt.connected:
        return "Succeeded"
    if attempt.status in ("", "Executing"):
        return attempt.status
    return "Cancelled" if attempt.status == "Cancelled" else "Failed"


def outcome_of(row: CallRow, job: Job, database: Database, now: datetime) -> Outcome:
    """What the row shall hold after this answer; never less than it holds already.

    A status that is not final is left unwritten, and so is the transcript of a call that is not over: a later attempt
    may replace it (SPEC 4).
    """
    attempt = chosen_attempt(job)
    status = status_of(job, attempt)
    known = final_status(row.call_status)
    if known == "Succeeded" or (known and status != "Succeeded"):
        # As the CRM spells it.
        status = row.call_status
    final = bool(final_status(status))
    attempt = attempt or Attempt()
    turns = attempt.conversation if final else []
    planed = database.moment(TABLE, "planed_time", moment(attempt.planed_time))
    actual = database.moment(TABLE, "updated_time", moment(attempt.actual_time))
    return Outcome(
        id=row.id,
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

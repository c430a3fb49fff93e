"""Query execution (rule 10): one page of a task's calls, fresh from the platform. Runs in the caller's process: what
it returns holds transcripts, which must not pass through a workflow's history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from calltasks.database.connection import Database
from calltasks.database.tables import rows as table
from calltasks.database.tables.retries import Retry
from calltasks.database.tables.rows import CallRow, Outcome
from calltasks.errors import NoJobIdsError
from calltasks.outcomes import changed, expects_transcript, match_answers, outcome_of, save_outcomes
from calltasks.platform.session import IDS_A_CALL, PlatformSession, readable_jobs
from calltasks.recordings.finding import find, save_urls

if TYPE_CHECKING:
    from calltasks.recordings.archive import Archive


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPage:
    """A page of a task's calls.

    Attributes:
        jobs_data: the platform's jobs, as it spells them.
        updated_count: rows that changed.
        total: called rows of the task.
    """

    jobs_data: list[dict[str, Any]]
    updated_count: int
    page: int
    page_size: int
    total: int


async def query(
    database: Database,
    session: PlatformSession,
    archive: Archive | None,
    task_id: int,
    *,
    page: int,
    page_size: int,
    skip_recording: bool,
    apply_update: bool,
) -> ExecutionPage:
    """Ask the platform for one page of a task's calls, and save what changed.

    Raises:
        NoJobIdsError: there is nothing to ask for.
        ServiceError: the platform or the database failed.
    """
    total, rows = await database.run(table.call_page, task_id, page=page, page_size=page_size)
    if not total:
        raise NoJobIdsError(task_id)
    ids = [row.call_job_id for row in rows]
    batches = [ids[start : start + IDS_A_CALL] for start in range(0, len(ids), IDS_A_CALL)]
    raw = [job for part in await asyncio.gather(*map(session.raw_jobs, batches)) for job in part]
    updated = 0
    if apply_update:
        outcomes = list(_changes(database, rows, raw, await database.now()))
        updated, _ = await save_outcomes(database, task_id, outcomes)
        if not skip_recording:
            runs = [[row.id, row.id] for row in rows]
            found = await find(session, task_id, await database.run(table.without_recording, task_id, runs), archive)
            _, there = await save_urls(database, lambda urls: database.run(table.save_recordings, urls), found)
            updated += len(there - {outcome.id for outcome in outcomes})
    return ExecutionPage(jobs_data=raw, updated_count=updated, page=page, page_size=page_size, total=total)


def _changes(database: Database, rows: list[CallRow], raw: list[dict[str, Any]], now: datetime) -> Iterator[Outcome]:
    """What differs from the rows; of a transcript that is late the grace begins, for the task's run to ask for it."""
    utc = now.replace(tzinfo=None)
    for row, job in match_answers(rows, readable_jobs(raw)):
        outcome = outcome_of(row, job, database, now)
        if changed(row, outcome):
            if outcome.call_status and row.since is None and expects_transcript(row, job, outcome):
                late = Retry(list_id=row.id, step="conversation", tries=0, since=utc, retry_at=utc)
                outcome = replace(outcome, late=late)
            yield outcome

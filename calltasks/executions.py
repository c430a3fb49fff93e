"""Query execution (SPEC 10): one page of a task's calls, fresh from the platform. Runs in the caller's process: what
it returns holds transcripts, which must not pass through a workflow's history."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from calltasks.database.connection import Database
from calltasks.database.tables import rows as table
from calltasks.database.tables.retries import Retry
from calltasks.database.tables.rows import CallRow, RecordedRow
from calltasks.outcomes import changed, expects_transcript, match_answers, outcome_of, save_outcomes
from calltasks.platform.session import IDS_A_CALL, PlatformSession, readable_jobs
from calltasks.recordings.finding import find, save_urls

if TYPE_CHECKING:
    from calltasks.platform.outbound_bot import OutboundBot
    from calltasks.recordings.archive import Archive

PRIORITY = 1


class NoJobIdsError(Exception):
    """None of the task's calls has a job id yet."""


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


class Executions:
    """Looks at calls on request."""

    def __init__(self, database: Database, platform: OutboundBot, archive: Archive | None = None) -> None:
        self._database = database
        self._platform = platform
        self._archive = archive

    async def query(
        self,
        task_id: int,
        organization_id: str,
        *,
        page: int = 1,
        page_size: int = 20,
        skip_recording: bool = True,
        apply_update: bool = True,
    ) -> ExecutionPage:
        """Ask the platform for one page of a task's calls, and save what changed.

        Raises:
            NoJobIdsError: there is nothing to ask for.
            ServiceError: the platform or the database failed.
        """
        total, rows = await self._database.run(table.call_page, task_id, page=page, page_size=page_size)
        if not total:
            raise NoJobIdsError
        session = self._platform.session(organization_id, PRIORITY)
        ids = [row.call_job_id for row in rows]
        batches = [ids[start : start + IDS_A_CALL] for start in range(0, len(ids), IDS_A_CALL)]
        raw = [job for part in await asyncio.gather(*map(session.raw_jobs, batches)) for job in part]
        updated = 0
        if apply_update:
            updated = await self._save(task_id, rows, raw, session, skip_recording=skip_recording)
        return ExecutionPage(jobs_data=raw, updated_count=updated, page=page, page_size=page_size, total=total)

    async def _save(
        self,
        task_id: int,
        rows: list[CallRow],
        raw: list[dict[str, Any]],
        session: PlatformSession,
        *,
        skip_recording: bool,
    ) -> int:
        """Returns how many rows were written."""
        now = await self._database.now()
        outcomes = {}
        for row, job in match_answers(rows, readable_jobs(raw)):
            outcome = outcome_of(row, job, self._database, now)
            if changed(row, outcome):
                if outcome.call_status and row.since is None and expects_transcript(row, job, outcome):
                    outcome = replace(outcome, late=_expected(row.id, now))
                outcomes[row.id] = outcome
        saved, _ = await save_outcomes(self._database, task_id, list(outcomes.values()))
        if not skip_recording:
            runs = [[row.id, row.id] for row in rows]
            recorded: list[RecordedRow] = await self._database.run(table.without_recording, task_id, runs)
            found = await find(session, task_id, recorded, self._archive)
            _, there = await save_urls(
                self._database, lambda urls: self._database.run(table.save_recordings, urls), found
            )
            saved += sum(id_ not in outcomes for id_ in there)
        return saved


def _expected(list_id: int, now: datetime) -> Retry:
    """A transcript that the task's run shall ask for: its grace begins with the outcome."""
    utc = now.replace(tzinfo=None)
    return Retry(list_id=list_id, step="conversation", tries=0, since=utc, retry_at=utc)

"""Query execution (SPEC 10): one page of a task's calls, fresh from the platform. Runs in the caller's process: what
it returns holds transcripts, which must not pass through a workflow's history."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from activities.conversations import changed, match_answers, outcome_of
from activities.recordings import find, lasting
from clients.database import Database
from clients.platform import IDS_A_CALL, Bot, PlatformSession, readable_jobs
from clients.tables import rows as table
from clients.tables.rows import CallRow, RecordedRow

if TYPE_CHECKING:
    from clients.archive import Archive

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

    def __init__(self, database: Database, bot: Bot, archive: Archive | None = None) -> None:
        self._database = database
        self._bot = bot
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
        session = self._bot.session(organization_id, PRIORITY)
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
                outcomes[row.id] = outcome
        saved = await self._database.run(table.save_outcomes, outcomes.values())
        if not skip_recording:
            runs = [[row.id, row.id] for row in rows]
            recorded: list[RecordedRow] = await self._database.run(table.without_recording, task_id, runs)
            found = lasting(self._database, await find(session, task_id, recorded, self._archive))
            await self._database.run(table.save_recordings, found)
            saved += sum(id_ not in outcomes for id_, _ in found)
        return saved

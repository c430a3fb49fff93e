"""Recordings of connected calls (SPEC 5). Task queue ``outbound-bot``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import activity

from activities.liveness import heartbeating
from activities.row_runs import Runs
from clients.database import Database
from clients.errors import DeclinedError, PermanentError, ServiceError
from clients.platform import Bot, PlatformSession
from clients.tables import retries as retry_table
from clients.tables import rows as table
from clients.tables.retries import Retry, next_try
from clients.tables.rows import RecordedRow

PRIORITY = 4
"""Of the rate limit: after everything else (SPEC, Always)."""
BATCH = 50
"""Recordings asked for at once (SPEC 5)."""
FAILED_TRIES = 10
"""Requests that may fail before the time runs in which a recording may come late."""
TABLE = "leads_task_list"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingRequest:
    """Rows whose recordings to look for. ``grace`` and ``retry_interval``: seconds that a recording may come late,
    and after which a late one is asked for again (growing)."""

    task_id: int
    organization_id: str
    rows: Runs
    grace: float
    retry_interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingsSaved:
    """How many URLs were saved, how many recordings are not there (yet), how many requests failed."""

    saved: int
    missing: int
    failed_calls: int
    api_calls: int
    error: str = ""


class Recordings:
    """The activity that saves where recordings are."""

    def __init__(self, database: Database, bot: Bot) -> None:
        self._database = database
        self._bot = bot

    @activity.defn
    async def save_recordings(self, request: RecordingRequest) -> RecordingsSaved:
        """Ask for the recordings of these rows, as far as they have none, and save their URLs."""
        session = self._bot.session(request.organization_id, PRIORITY)
        async with heartbeating():
            rows = await self._database.run(table.without_recording, request.task_id, request.rows)
            found, errors = await ask(session, rows)
            urls = [(id_, url) for id_, url in found.items() if url == self._database.fit(TABLE, "recording_url", url)]
            saved = await self._database.run(table.save_recordings, [(id_, url) for id_, url in urls if url])
            there = {id_ for id_, url in urls if url}
            now = (await self._database.now()).replace(tzinfo=None)
            late = [self._late(row, now, request, errors.get(row.id, "")) for row in rows if row.id not in there]
            await self._database.run(retry_table.save, request.task_id, late)
        activity.logger.info(
            "task %d: %d recordings saved, %d not there, %d requests failed",
            *(request.task_id, saved, len(late), len(errors)),
        )
        return RecordingsSaved(
            saved=saved,
            missing=len(late),
            failed_calls=len(errors),
            api_calls=session.calls,
            error=next(iter(errors.values()), ""),
        )

    def _late(self, row: RecordedRow, now: datetime, request: RecordingRequest, error: str) -> Retry:
        # A request that failed says nothing about the recording: its time begins when the platform answers; but a
        # platform that never does must not hold a task open for ever.
        since = now if error and row.tries < FAILED_TRIES else row.since or now
        delay = timedelta(seconds=request.retry_interval * 2 ** min(row.tries, 4))
        retry_at = next_try(since=since, now=now, delay=delay, grace=timedelta(seconds=request.grace))
        return Retry(
            list_id=row.id, step="recording", tries=row.tries + 1, since=since, retry_at=retry_at, error_code=error[:80]
        )


async def ask(session: PlatformSession, rows: list[RecordedRow]) -> tuple[dict[int, str], dict[int, str]]:
    """The recordings' URLs by row (``""``: none yet), and the errors of the requests that failed, by row."""
    urls: dict[int, str] = {}
    errors: dict[int, str] = {}
    waiting = iter(rows)

    async def work() -> None:
        for row in waiting:
            try:
                urls[row.id] = await session.recording_url(row.call_task_id)
            except (PermanentError, DeclinedError):
                # How the platform says that there is no recording (yet) is not documented (VENDOR_FACTS).
                urls[row.id] = ""
            except ServiceError as error:
                errors[row.id] = str(error)

    await asyncio.gather(*(work() for _ in range(min(BATCH, len(rows)))))
    return urls, errors

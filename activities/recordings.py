"""Recordings of connected calls (SPEC 5). Task queue ``outbound-bot``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

from temporalio import activity

from activities.liveness import heartbeating
from activities.row_runs import Runs
from clients import telemetry
from clients.database import SERVICE as DATABASE
from clients.database import Database, bulks
from clients.errors import DeclinedError, PermanentError, ServiceError
from clients.platform import Bot, PlatformSession
from clients.tables import retries as retry_table
from clients.tables import rows as table
from clients.tables.refusals import write_each
from clients.tables.retries import Retry, next_try
from clients.tables.rows import RecordedRow
from settings import ArchiveSettings

if TYPE_CHECKING:
    # The archive's packages are heavy, and a workflow's file reads this one.
    from clients.archive import Archive

PRIORITY = 4
"""Of the rate limit: after everything else (SPEC, Always)."""
BATCH = 50
"""Recordings asked for at once (SPEC 5)."""
FAILED_TRIES = 10
"""Requests that may fail before the time runs in which a recording may come late."""
BROKEN_TRIES = 5
"""Failures to write, one after the other, after which the archive is left alone for a while."""
PIECE_SECONDS = 60.0
"""After so long no more audio is begun in one piece of work, so that others get their turn; the rest follows."""
REFUSED = ("InvalidAccessKeyId", "Forbidden", "SignatureDoesNot")
"""Codes that speak of us and not of a recording."""


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


@dataclass(slots=True)
class Found:
    """What became of rows: the URL to save (``""``: no recording yet) or the error of each that was dealt with. A row
    that is in neither was not begun, for lack of time."""

    urls: dict[int, str] = field(default_factory=dict)
    errors: dict[int, ServiceError] = field(default_factory=dict)


@asynccontextmanager
async def archive_of(settings: ArchiveSettings, *, check: bool = True) -> AsyncIterator[Archive | None]:
    """The archive that the settings name, or None; ``check``: known to be writable.

    Raises:
        SettingsError: ``RECORDING_ARCHIVE`` is wrong, or nothing can be written there.
    """
    if not settings.recording_archive:
        yield None
        return
    from clients.archive import Archive

    archive = Archive(settings)
    try:
        if check:
            await archive.check()
        yield archive
    finally:
        await archive.close()


class Recordings:
    """The activity that saves where recordings are; with an archive, it copies them there first."""

    def __init__(self, database: Database, bot: Bot, archive: Archive | None = None) -> None:
        self._database = database
        self._bot = bot
        self._archive = archive

    @activity.defn
    async def save_recordings(self, request: RecordingRequest) -> RecordingsSaved:
        """Ask for the recordings of these rows, as far as they have none, and save their URLs."""
        session = self._bot.session(request.organization_id, PRIORITY)
        async with heartbeating():
            now = (await self._database.now()).replace(tzinfo=None)
            rows = await self._database.run(
                table.without_recording, request.task_id, request.rows, grace=request.grace, now=now
            )
            found = await find(session, request.task_id, rows, self._archive, seconds=PIECE_SECONDS)
            saved, there = await save_urls(
                self._database, lambda urls: self._database.run(table.save_recordings, urls), found
            )
            now = (await self._database.now()).replace(tzinfo=None)
            begun = [row for row in rows if row.id not in there and (row.id in found.urls or row.id in found.errors)]
            late = [self._late(row, now, request, str(found.errors.get(row.id, ""))) for row in begun]
            await self._database.run(retry_table.save, request.task_id, late)
        failed, error = len(found.errors), str(next(iter(found.errors.values()), ""))
        if too_long := max((len(url) for id_, url in found.urls.items() if id_ not in there), default=0):
            # A fault of the CRM's, which no waiting mends: it is said, and the recordings count as missing.
            error = error or f"leads_task_list.recording_url is too short for a URL of {too_long} characters"
        for outcome, count in (("saved", saved), ("missing", len(late) - failed), ("failed", failed)):
            telemetry.metrics.wrote("recordings", outcome, max(0, count))
        activity.logger.info(
            "task %d: %d recordings saved, %d not there, %d requests failed (last error: %s)",
            *(request.task_id, saved, len(late), failed, error or None),
        )
        return RecordingsSaved(
            saved=saved,
            missing=len(late),
            failed_calls=failed,
            api_calls=session.calls,
            error=error,
        )

    def _late(self, row: RecordedRow, now: datetime, request: RecordingRequest, error: str) -> Retry:
        # A failure says nothing about whether there is a recording: its time begins when the platform answers; but a
        # platform that never does, or an archive that takes nothing, must not hold a task open for ever.
        since = now if error and row.tries < FAILED_TRIES else row.since or now
        delay = timedelta(seconds=request.retry_interval * 2 ** min(row.tries, 4))
        retry_at = next_try(since=since, now=now, delay=delay, grace=timedelta(seconds=request.grace))
        return Retry(
            list_id=row.id, step="recording", tries=row.tries + 1, since=since, retry_at=retry_at, error_code=error[:80]
        )


async def find(
    session: PlatformSession,
    task_id: int,
    rows: list[RecordedRow],
    archive: Archive | None,
    *,
    seconds: float = float("inf"),
) -> Found:
    """Ask the platform for the recordings of a task's rows and, with an archive, copy them there.

    Args:
        session: the platform.
        task_id: the task of all the rows.
        rows: of recorded calls.
        archive: None: the vendor's URLs are what is found.
        seconds: after so long no more of the rows are begun.
    """
    found = Found()
    waiting, until, broken = iter(rows), monotonic() + seconds, 0

    async def work() -> None:
        nonlocal broken
        for row in waiting:
            failure = None
            try:
                found.urls[row.id] = await _url(session, task_id, row, archive)
            except ServiceError as error:
                failure = found.errors[row.id] = error
            if failure is None or failure.service != "RecordingArchive":
                broken = 0
            else:
                broken += 1
            if broken >= BROKEN_TRIES and failure is not None:
                # A full disk is full for all of them: none is fetched in vain.
                found.errors.update((left.id, failure) for left in waiting)
            if monotonic() > until:
                return

    await asyncio.gather(*(work() for _ in range(min(BATCH, len(rows)))))
    return found


def lasting(database: Database, found: Found) -> list[tuple[int, str]]:
    """The URLs to save, by row: those that the column can hold whole."""
    return [
        (id_, url) for id_, url in found.urls.items() if url and database.whole("leads_task_list", "recording_url", url)
    ]


async def save_urls(
    database: Database, write: Callable[[Sequence[tuple[int, str]]], Awaitable[int]], found: Found
) -> tuple[int, set[int]]:
    """Save the URLs that were found; what the database does not take becomes the error of its row.

    Returns:
        How many rows were written, and which have what was found for them.
    """
    saved, urls = 0, sorted(lasting(database, found))

    async def count(some: Sequence[tuple[int, str]]) -> None:
        nonlocal saved
        saved += await write(some)

    for part in bulks(urls):
        for one in await write_each(count, [(int(id_), str(url)) for id_, url in part]):
            found.errors[one.item[0]] = PermanentError(DATABASE, "save_recordings", one.code)
    return saved, {id_ for id_, _ in urls} - found.errors.keys()


async def _url(session: PlatformSession, task_id: int, row: RecordedRow, archive: Archive | None) -> str:
    async def ask() -> str:
        try:
            return await session.recording_url(row.call_task_id)
        except (PermanentError, DeclinedError) as error:
            if error.code.startswith(REFUSED):
                raise
            # How the platform says that there is no recording (yet) is not documented (VENDOR_FACTS).
            return ""

    return await ask() if archive is None else await archive.keep(task_id, row.call_job_id, row.call_task_id, ask)

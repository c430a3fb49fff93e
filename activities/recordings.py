"""Recordings of connected calls (rule 5). Task queue ``outbound-bot``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from temporalio import activity

from activities.conversations import CONVERSATIONS
from activities.liveness import heartbeating
from calltasks.database.connection import Database
from calltasks.database.tables import needs
from calltasks.database.tables import retries as retry_table
from calltasks.database.tables import rows as table
from calltasks.database.tables.retries import Retry, next_try
from calltasks.database.tables.rows import RecordedRow
from calltasks.names import OUTBOUND_BOT, Turn
from calltasks.observing import telemetry
from calltasks.recordings.finding import FAILED_TRIES, find, save_urls
from calltasks.rules.row_ranges import Ranges
from calltasks.steps import Done, Step

if TYPE_CHECKING:
    # The vendor's SDK and the archive's packages are heavy, and a workflow's file reads this one.
    from calltasks.platform.outbound_bot import OutboundBot
    from calltasks.recordings.archive import Archive

PIECE_SECONDS = 60.0
"""After so long no more audio is begun in one piece of work, so that others get their turn; the rest follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingRequest:
    """Rows whose recordings to look for. ``grace`` and ``retry_interval``: seconds that a recording may come late,
    and after which a late one is asked for again (growing)."""

    task_id: int
    organization_id: str
    rows: Ranges
    grace: float
    retry_interval: float


@dataclass(slots=True, kw_only=True)
class RecordingsSaved(Done):
    """How many URLs were saved, how many recordings are not there (yet), how many requests failed."""

    saved: int
    missing: int
    failed_calls: int


class Recordings:
    """The activity that saves where recordings are; with an archive, it copies them there first."""

    def __init__(self, database: Database, platform: OutboundBot, archive: Archive | None = None) -> None:
        self._database = database
        self._platform = platform
        self._archive = archive

    @activity.defn
    async def save_recordings(self, request: RecordingRequest) -> RecordingsSaved:
        """Ask for the recordings of these rows, as far as they have none, and save their URLs."""
        session = self._platform.session(request.organization_id, Turn.RECORDINGS)
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


RECORDING = Step(
    activity=Recordings.save_recordings,
    queue=OUTBOUND_BOT,
    priority=Turn.RECORDINGS,
    need=needs.RECORDING,
    after=CONVERSATIONS.name,
    request=lambda head, options: RecordingRequest(
        **head, grace=options.recording_grace, retry_interval=options.poll_min
    ),
)

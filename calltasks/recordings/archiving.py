"""The archive of recordings as a whole: what older campaigns still lack, and what is too old to be kept (rule 5).
Runs in the caller's process, on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

from calltasks.database.connection import Database
from calltasks.database.tables import recordings as table
from calltasks.database.tables.recordings import ConnectedRow, UnarchivedRow
from calltasks.database.tables.rows import RecordedRow
from calltasks.errors import SettingsError
from calltasks.names import Turn
from calltasks.recordings.archive import Archive, ArchivedFile, stem
from calltasks.recordings.finding import find, save_urls
from calltasks.wiring import Clients

ROWS = 200
"""Calls that are dealt with before the next are looked for; after an interruption so many are looked at anew."""
HOPELESS = 20
"""Failures without a single success after which the rest would fail too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What ``recordings archive`` did.

    Attributes:
        calls: succeeded calls that had no recording in the archive when it began.
        vendor_urls: those of them that had a URL from elsewhere.
        archived: now there, and their lasting URLs saved.
        without_recording: the platform has none.
        failed: to be tried again.
        error: of one that failed.
    """

    task_id: int | None
    dry_run: bool
    calls: int
    vendor_urls: int
    archived: int = 0
    without_recording: int = 0
    failed: int = 0
    error: str = ""

    @property
    def done(self) -> int:
        """Calls that were dealt with."""
        return self.archived + self.without_recording + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What ``recordings prune`` did, or with ``dry_run`` would do: files and their bytes deleted, rows whose URL was
    emptied."""

    days: int
    dry_run: bool
    tasks: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0


async def archive_older(
    clients: Clients,
    *,
    task_id: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Archived], None] = lambda archived: None,
) -> Archived:
    """Copy to the archive what succeeded calls have elsewhere or lack: the platform is asked anew for each.

    What is done is saved as it goes: after an interruption, the same again goes on from there.

    Args:
        clients: the platform is not asked on a dry run.
        task_id: of this task only; None: of all.
        dry_run: only count.
        on_progress: told how far it is, after every 200 calls at most.

    Raises:
        SettingsError: there is no archive.
        ServiceError: the database failed, or everything fails.
    """
    database, archive = clients.database, await _archive(clients)
    calls, vendor_urls = await database.run(table.count_unarchived, archive.root, task_id=task_id)
    so_far = Archived(task_id=task_id, dry_run=dry_run, calls=calls, vendor_urls=vendor_urls)
    after = 0
    while not dry_run:
        rows = await database.run(table.unarchived, archive.root, task_id=task_id, after=after, limit=ROWS)
        if not rows:
            break
        after = rows[-1].id
        for (task, organization), alike in groupby(rows, lambda row: (row.task_id, row.organization_id)):
            session = clients.platform.session(organization, Turn.RECORDINGS)
            found = await find(session, task, [_recorded(row) for row in alike], archive)
            saved, _ = await save_urls(
                database, lambda urls: database.run(table.save_lasting, archive.root, urls), found
            )
            so_far = replace(
                so_far,
                archived=so_far.archived + saved,
                without_recording=so_far.without_recording + sum(not url for url in found.urls.values()),
                failed=so_far.failed + len(found.errors),
                error=str(next(iter(found.errors.values()), so_far.error)),
            )
            on_progress(so_far)
            if so_far.failed >= HOPELESS and so_far.failed == so_far.done:
                raise next(iter(found.errors.values()))
    return so_far


async def prune_older(
    clients: Clients,
    *,
    days: int,
    dry_run: bool = False,
    on_progress: Callable[[Pruned], None] = lambda pruned: None,
) -> Pruned:
    """Delete the recordings of calls that are older than so many days, and empty the URLs that lead to them.

    The age of one that no row knows any more counts from when it was archived. A URL is emptied before its file is
    deleted, so that none ever leads nowhere; what an interruption leaves is found the next time.

    Raises:
        SettingsError: there is no archive.
        ServiceError: the database or the archive failed.
    """
    database, archive = clients.database, await _archive(clients)
    pruned = Pruned(days=days, dry_run=dry_run)
    limit = await database.now() - timedelta(days=days)
    for task_id in await archive.tasks():
        files = await archive.files(task_id)
        rows = {
            stem(task_id, row.call_job_id, row.call_task_id): row
            for row in await database.run(table.connected, archive.root, task_id)
        }
        old = [file for file in files if _since(file, rows.get(file.stem), database) < limit]
        if not old:
            continue
        known = [rows[file.stem] for file in old if file.stem in rows]
        if not dry_run:
            await database.transaction(table.forget, archive.root, task_id, [row.id for row in known])
            await archive.delete([file.name for file in old])
        pruned = replace(
            pruned,
            tasks=pruned.tasks + 1,
            files=pruned.files + len(old),
            bytes=pruned.bytes + sum(file.size for file in old),
            rows=pruned.rows + sum(row.archived for row in known),
        )
        on_progress(pruned)
    return pruned


async def _archive(clients: Clients) -> Archive:
    archive = await clients.archive()
    if archive is None:
        raise SettingsError("settings: RECORDING_ARCHIVE is not set: there is no archive")
    return archive


def _since(file: ArchivedFile, row: ConnectedRow | None, database: Database) -> datetime:
    """When the age of a recording begins: with its call."""
    if row is not None and row.called_at is not None:
        return row.called_at.replace(tzinfo=database.zone)
    return file.modified or datetime.now(UTC)


def _recorded(row: UnarchivedRow) -> RecordedRow:
    return RecordedRow(id=row.id, call_job_id=row.call_job_id, call_task_id=row.call_task_id, tries=0, since=None)

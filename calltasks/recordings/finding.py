"""Recordings of calls: where they are, and the URLs to save (rule 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from calltasks.concurrency import for_each
from calltasks.database.connection import SERVICE as DATABASE
from calltasks.database.connection import Database, bulks
from calltasks.database.refusals import write_each
from calltasks.database.tables.rows import RecordedRow
from calltasks.errors import PermanentError, ServiceError
from calltasks.platform.session import PlatformSession

if TYPE_CHECKING:
    # The archive's packages are heavy, and a workflow's file reads this one.
    from calltasks.recordings.archive import Archive

BATCH = 50
"""Recordings asked for at once (rule 5.1)."""
FAILED_TRIES = 10
"""Requests that may fail before the time runs in which a recording may come late."""
BROKEN_TRIES = 5
"""Failures to write, one after the other, after which the archive is left alone for a while."""


@dataclass(slots=True)
class Found:
    """What became of rows: the URL to save (``""``: no recording yet) or the error of each that was dealt with. A row
    that is in neither was not begun, for lack of time."""

    urls: dict[int, str] = field(default_factory=dict)
    errors: dict[int, ServiceError] = field(default_factory=dict)


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

    async def look(row: RecordedRow) -> None:
        nonlocal broken
        failure = None
        try:
            found.urls[row.id] = await _url(session, task_id, row, archive)
        except ServiceError as error:
            failure = found.errors[row.id] = error
        broken = broken + 1 if failure is not None and failure.service == "RecordingArchive" else 0
        if broken >= BROKEN_TRIES and failure is not None:
            # A full disk is full for all of them: none is fetched in vain.
            found.errors.update((left.id, failure) for left in waiting)
        elif monotonic() > until:
            # The rest is for the next piece of work.
            deque(waiting, maxlen=0)

    await for_each(waiting, look, at_once=BATCH)
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
    ask = partial(session.recording_url, row.call_task_id)
    return await ask() if archive is None else await archive.keep(task_id, row.call_job_id, row.call_task_id, ask)

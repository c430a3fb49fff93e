"""A recording to be heard by a person: from the archive, or by a fresh URL of the platform, whole or a part of it.

The listener's program never sees where it comes from: a signed URL is a credential.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pymysql.cursors import Cursor

from calltasks.database.tables.recordings import PRUNED
from calltasks.names import Turn

if TYPE_CHECKING:
    from calltasks.recordings.archive import Archive
    from calltasks.wiring import Clients

CHUNK = 1 << 18
"""Bytes that are read from an archive at once."""
TYPES = {"mp3": "audio/mpeg", "m4a": "audio/mp4", "ogg": "audio/ogg", "opus": "audio/ogg"}
WAV_TYPE = "audio/wav"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """An answer to who wants to hear. ``status``: 200, 206 for a part, or 416 for one that is not there."""

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    task_id: int
    organization_id: str
    call_task_id: str
    url: str
    pruned: bool


async def hear(clients: Clients, list_id: int, wanted: str) -> Audio | None:
    """The recording of a row's call; None if there is none, or it was deleted for its age.

    Args:
        clients: the database, the archive, the platform.
        list_id: the row.
        wanted: a Range header, or empty.

    Raises:
        ServiceError: it cannot be fetched now.
    """
    found = await clients.database.run(_recorded, list_id)
    if found is None or found.pruned:
        return None
    archive = await clients.archive(check=False)
    if archive and found.url.startswith(f"{archive.root}/"):
        if archive.is_of(found.url, found.task_id) and (size := await archive.size(found.url)):
            return _answer(found.url, size, wanted, partial(_chunks, archive, found.url))
        return None
    if not found.call_task_id:
        return None
    session = clients.platform.session(found.organization_id, Turn.CONTROLS)
    signed = await session.recording_url(found.call_task_id)
    size = await clients.downloads.size(signed) if signed else 0
    return _answer(signed.partition("?")[0], size, wanted, partial(clients.downloads.part, signed)) if size else None


async def _chunks(archive: Archive, url: str, start: int, end: int) -> AsyncIterator[bytes]:
    for at in range(start, end, CHUNK):
        yield await archive.read(url, at, min(at + CHUNK, end))


def _answer(name: str, size: int, wanted: str, read: Callable[[int, int], AsyncIterator[bytes]]) -> Audio:
    kind = TYPES.get(name.rpartition(".")[2].lower(), WAV_TYPE)
    headers = {"content-type": kind, "accept-ranges": "bytes", "cache-control": "private, no-store"}
    start, end = _part(wanted, size)
    if start >= end:
        return Audio(status=416, headers=headers | {"content-range": f"bytes */{size}"}, chunks=read(0, 0))
    headers["content-length"] = str(end - start)
    if (start, end) == (0, size) and not _RANGE.fullmatch(wanted):
        return Audio(status=200, headers=headers, chunks=read(0, size))
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return Audio(status=206, headers=headers, chunks=read(start, end))


def _part(wanted: str, size: int) -> tuple[int, int]:
    """From where to before where a Range header asks; what cannot be read asks for all (RFC 9110)."""
    read = _RANGE.fullmatch(wanted.strip())
    if read is None or not (read[1] or read[2]):
        return 0, size
    if not read[1]:
        return max(size - int(read[2]), 0), size
    start, end = int(read[1]), int(read[2]) + 1 if read[2] else size
    return (0, size) if read[2] and end <= start else (start, min(end, size))


def _recorded(cursor: Cursor, list_id: int) -> _Recorded | None:
    cursor.execute(
        "SELECT l.task_id, t.organization_id, COALESCE(l.call_task_id, ''), COALESCE(l.recording_url, ''),"
        " COALESCE(r.error_code, '') FROM leads_task_list l JOIN call_tasks t ON t.id = l.task_id"
        " LEFT JOIN call_retries r ON r.list_id = l.id AND r.task_id = l.task_id AND r.step = 'recording'"
        " WHERE l.id = %s",
        (list_id,),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    return _Recorded(
        task_id=int(row[0]),
        organization_id=str(row[1]),
        call_task_id=str(row[2]),
        url=str(row[3]),
        pruned=str(row[4]) == PRUNED,
    )

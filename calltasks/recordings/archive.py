"""Where recordings are kept for good (rule 5.3): one fsspec URL, ``RECORDING_ARCHIVE``.

Audio is streamed from the vendor's signed URL into a spool file, whose size is compared with what was announced, and
only then put under its lasting name, in one step: renamed (``file``), or sent as one object (``oss``, ``s3``). So what
lies under a lasting name is always whole, whatever crashes.

Names hold the ids of task, job and attempt, and nothing of a person: ``{task_id}/{call_job_id}-{call_task_id}.wav``.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from calltasks.errors import PassingError, SettingsError
from calltasks.recordings.downloads import DOWNLOADS, Downloads, ExpiredError
from calltasks.recordings.stores import StoredFile, code, open_store
from calltasks.settings import ArchiveSettings

T = TypeVar("T")

SERVICE = "RecordingArchive"
THREADS = 8
WAV = ".wav"
PARTIAL = ".partial"
SPOOLED = "call-recording-"
STALE_SECONDS = 86_400
"""What a crash left in the spool directory is removed after so long."""
_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[A-Za-z0-9_]{1,80}")
"""Ids that may stand in a name as they are: where one ends and the next begins is never in doubt."""
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
_NAME = re.compile(rf"[A-Za-z0-9_-]+{_SUFFIX.pattern}")
"""Of a recording, below its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedFile(StoredFile):
    """A recording in the archive. ``name`` is relative to its root."""

    @property
    def stem(self) -> str:
        """The name without its suffix, as :func:`stem` makes it."""
        return self.name.rsplit(".", 1)[0]


def stem(task_id: int, call_job_id: str, call_task_id: str) -> str:
    """The lasting name of a call's recording, without its suffix."""
    return f"{task_id}/{_safe(call_job_id)}-{_safe(call_task_id)}"


class Archive:
    """The archive of one process; its blocking calls run in threads.

    Attributes:
        root: its URL, without a slash at the end: all lasting URLs begin with it.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self.root = settings.recording_archive
        self._store = open_store(settings)
        url = urlsplit(self.root)
        self._local = url.scheme == "file"
        # In a directory the spool lies beside the recordings: only there can a file be renamed into its place.
        self._spool = Path(url.path, PARTIAL) if self._local else Path(tempfile.gettempdir())
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="archive")
        self._room = asyncio.Semaphore(DOWNLOADS)
        self._downloads = Downloads()

    async def check(self) -> None:
        """See that files can be written and deleted; creates the directory of a ``file`` archive.

        Raises:
            SettingsError: they cannot.
        """
        try:
            await self._in_thread("check", self._probe)
        except PassingError as error:
            raise SettingsError(f"settings: RECORDING_ARCHIVE: nothing can be written there ({error.code})") from None

    async def keep(self, task_id: int, call_job_id: str, call_task_id: str, ask: Callable[[], Awaitable[str]]) -> str:
        """Have a call's recording in the archive; one that is there already is not fetched again.

        Args:
            task_id: of the call task; with the ids of job and attempt it makes the name.
            call_job_id: the job.
            call_task_id: the attempt.
            ask: asks the platform for a signed URL, ``""`` if there is no recording. Asked a second time if the first
                URL had expired.

        Returns:
            The lasting URL, or ``""``.

        Raises:
            PassingError: the recording could not be fetched, or not whole, or not be written; try again later.
        """
        start = stem(task_id, call_job_id, call_task_id)
        name = start + WAV
        if await self._in_thread("find", self._size, name):
            return self._url(name)
        for last_try in (False, True):
            signed = await ask()
            if not signed:
                return ""
            name = start + _suffix(signed)
            if name.endswith(WAV) or not await self._in_thread("find", self._size, name):
                try:
                    async with self._room:
                        await self._fetch(signed, name)
                except ExpiredError:
                    if last_try:
                        raise
                    continue
            return self._url(name)
        raise AssertionError("unreachable")

    def is_of(self, url: str, task_id: int) -> bool:
        """Whether a lasting URL names a recording of this task, and no other place that the CRM was made to hold."""
        return bool(_NAME.fullmatch(url.removeprefix(f"{self.root}/{task_id}/")))

    async def size(self, url: str) -> int:
        """Bytes of the recording that a lasting URL of ours names; 0 if there is none."""
        return await self._in_thread("find", self._size, url.removeprefix(f"{self.root}/"))

    async def read(self, url: str, start: int, end: int) -> bytes:
        """A part of it."""
        return await self._in_thread("read", self._store.read, url.removeprefix(f"{self.root}/"), start, end)

    async def tasks(self) -> list[int]:
        """Ids of the tasks that have recordings here."""
        names = await self._in_thread("list", self._store.directories)
        return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,18}", name))

    async def files(self, task_id: int) -> list[ArchivedFile]:
        """The recordings of one task."""
        found = await self._in_thread("list", self._store.files, str(task_id))
        return [ArchivedFile(name=f"{task_id}/{file.name}", size=file.size, modified=file.modified) for file in found]

    async def delete(self, names: Sequence[str]) -> None:
        """Delete recordings; one that is gone already is no error."""
        await self._in_thread("delete", self._store.delete, names)

    async def close(self) -> None:
        """Drop the connections, and wait for what is being written."""
        await self._downloads.close()
        await asyncio.to_thread(self._threads.shutdown)

    # --- fetching -------------------------------------------------------------------------------------------------

    async def _fetch(self, signed: str, name: str) -> None:
        spool = _Spool(self._spool, private=not self._local)
        try:
            size, rest = await self._downloads.stream(signed, partial(self._in_thread, "write", spool.write))
            await self._in_thread("write", self._commit, spool, rest, size, name)
        finally:
            spool.discard()

    # --- in threads -----------------------------------------------------------------------------------------------

    async def _in_thread(self, operation: str, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        except PassingError:
            raise
        except Exception as error:
            # What the stores' packages raise is documented nowhere; whatever it is, it may work later.
            raise PassingError(SERVICE, operation, code(error)) from None

    def _probe(self) -> None:
        if self._local:
            self._spool.mkdir(parents=True, exist_ok=True)
        self._sweep()
        spool, name = _Spool(self._spool, private=not self._local), f".probe-{secrets.token_hex(8)}"
        try:
            self._commit(spool, b"probe", 5, name)
            self._store.delete([name])
        finally:
            spool.discard()

    def _sweep(self) -> None:
        """Remove what crashed processes left in the spool directory."""
        for path in self._spool.glob(f"{SPOOLED}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _commit(self, spool: _Spool, rest: bytes, size: int, name: str) -> None:
        spool.write(rest)
        path = spool.finish(durable=self._local)
        if path.stat().st_size == size:
            self._store.put(path, name)
            if self._size(name) == size:
                return
            self._store.delete([name])
        raise PassingError(SERVICE, "write", "WrongSize")

    def _size(self, name: str) -> int:
        """Bytes of a file; 0 if there is none."""
        try:
            return self._store.size(name)
        except FileNotFoundError:
            return 0

    def _url(self, name: str) -> str:
        return f"{self.root}/{name}"


class _Spool:
    """A file of our own for one download, made when there is something to write. ``private``: only this user can read
    it; else, as it is to be renamed into the archive, whoever the umask lets."""

    def __init__(self, directory: Path, *, private: bool) -> None:
        self._path = directory / f"{SPOOLED}{secrets.token_hex(12)}"
        self._mode = 0o600 if private else 0o666
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        if self._file is None:
            self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, self._mode), "wb")
        self._file.write(data)

    def finish(self, *, durable: bool) -> Path:
        """Close the file; ``durable``: what is renamed afterwards is on the disk, even if the power fails."""
        assert self._file is not None
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())
        self._file.close()
        return self._path

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


def _suffix(signed: str) -> str:
    """The suffix of the file that a URL names; ``.wav`` where it has none to be trusted."""
    # Not urlsplit: it raises for some of what is no URL, and saying so is not the work of this function.
    found = os.path.splitext(signed.partition("?")[0])[1].lower()
    return found if _SUFFIX.fullmatch(found) else WAV


def _safe(id_: str) -> str:
    """An id as part of a name: as it is, or, where it holds anything odd, its safe characters and a hash."""
    if _ID.fullmatch(id_):
        return id_
    return re.sub(r"[^A-Za-z0-9_]", "_", id_)[:60] + "_" + hashlib.blake2b(id_.encode(), digest_size=6).hexdigest()

"""What an archive of recordings is made of: a directory, a bucket of OSS, or what fsspec calls a filesystem (S3).

All of it is blocking. A file appears under its name in one step, whole. Names are relative to the archive's root.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from calltasks.errors import SettingsError
from calltasks.settings import ArchiveSettings

PACKAGES = {"oss": "alibabacloud-oss-v2", "s3": "s3fs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file. ``name`` without its directory; ``modified`` None where the store does not say."""

    name: str
    size: int
    modified: datetime | None


class Store(Protocol):
    """Where files lie. Anything may be raised; what :func:`code` makes of it names the cause."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from one place to before another."""

    def put(self, path: Path, name: str) -> None:
        """Put a local file under a name, in one step; it is not needed afterwards."""

    def directories(self) -> list[str]:
        """Names of the directories in the root."""

    def files(self, directory: str) -> list[StoredFile]:
        """The files of a directory of the root; none if it does not exist."""

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; one that is gone already is no error."""


def open_store(settings: ArchiveSettings) -> Store:
    """The store that ``RECORDING_ARCHIVE`` names.

    Raises:
        SettingsError: its package is missing, or it cannot be what it says.
    """
    url = urlsplit(settings.recording_archive)
    try:
        if url.scheme == "file":
            return Directory(url.path)
        if url.scheme == "oss":
            return OssBucket(url.netloc, url.path.strip("/"), settings)
        return FsspecStore(settings.recording_archive)
    except ImportError:
        package = PACKAGES.get(url.scheme, url.scheme)
        need = f"{url.scheme}:// needs the package {package}; install it with: pip install {package}"
        raise SettingsError(f"settings: RECORDING_ARCHIVE: {need}") from None
    except Exception as error:
        raise SettingsError(f"settings: RECORDING_ARCHIVE: cannot be opened ({code(error)})") from None


def code(error: Exception) -> str:
    """``ENOSPC`` and the like for an OSError, a store's own code, else the error's type: never its text, which may
    quote a credential."""
    if isinstance(error, _OssError):
        return error.code
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number or 0, type(error).__name__)


class Directory:
    """A directory of this machine, or one that is mounted."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def size(self, name: str) -> int:
        return (self._root / name).stat().st_size

    def read(self, name: str, start: int, end: int) -> bytes:
        with (self._root / name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def put(self, path: Path, name: str) -> None:
        target = self._root / name
        target.parent.mkdir(exist_ok=True)
        path.replace(target)

    def directories(self) -> list[str]:
        return [entry.name for entry in os.scandir(self._root) if entry.is_dir()]

    def files(self, directory: str) -> list[StoredFile]:
        try:
            entries = list(os.scandir(self._root / directory))
        except FileNotFoundError:
            return []
        return [
            StoredFile(name=entry.name, size=stat.st_size, modified=datetime.fromtimestamp(stat.st_mtime, UTC))
            for entry, stat in ((entry, entry.stat()) for entry in entries if entry.is_file())
        ]

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            (self._root / name).unlink(missing_ok=True)
        for parent in {(self._root / name).parent for name in names} - {self._root}:
            # It stays while it holds anything.
            with suppress(OSError):
                parent.rmdir()


class OssBucket:
    """A bucket of Alibaba Cloud OSS, through its own SDK: fsspec's package for it signs as OSS accepts for old buckets
    only, and lists a whole directory to learn the size of one file."""

    def __init__(self, bucket: str, prefix: str, settings: ArchiveSettings) -> None:
        import alibabacloud_oss_v2 as oss

        self._sdk: Any = oss
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        endpoint = settings.oss_endpoint or f"https://oss-{settings.outbound_bot_region}.aliyuncs.com"
        region = re.search(r"oss-(.+?)(?:-internal)?\.aliyuncs\.com", endpoint)
        secret, token = settings.alibaba_cloud_access_key_secret, settings.alibaba_cloud_security_token
        config = oss.config.load_default()
        config.endpoint = endpoint
        config.region = region.group(1) if region else settings.outbound_bot_region
        config.credentials_provider = oss.credentials.StaticCredentialsProvider(
            settings.alibaba_cloud_access_key_id,
            secret.get_secret_value() if secret else "",
            token.get_secret_value() if token else None,
        )
        self._client: Any = oss.Client(config)

    def size(self, name: str) -> int:
        with self._translated():
            head = self._client.head_object(self._sdk.HeadObjectRequest(self._bucket, self._prefix + name))
        return int(head.content_length)

    def read(self, name: str, start: int, end: int) -> bytes:
        wanted = f"bytes={start}-{end - 1}"
        with self._translated():
            answer = self._client.get_object(
                self._sdk.GetObjectRequest(self._bucket, self._prefix + name, range_header=wanted)
            )
            return bytes(answer.body.content)

    def put(self, path: Path, name: str) -> None:
        with self._translated():
            request = self._sdk.PutObjectRequest(self._bucket, self._prefix + name)
            self._client.put_object_from_file(request, str(path))

    def directories(self) -> list[str]:
        found = [entry for page in self._pages("") for entry in page.common_prefixes or []]
        return [entry.prefix.rstrip("/").rsplit("/", 1)[-1] for entry in found]

    def files(self, directory: str) -> list[StoredFile]:
        found = [entry for page in self._pages(f"{directory}/") for entry in page.contents or []]
        return [
            StoredFile(name=entry.key.rsplit("/", 1)[-1], size=int(entry.size), modified=entry.last_modified)
            for entry in found
        ]

    def delete(self, names: Sequence[str]) -> None:
        with self._translated():
            for name in names:
                self._client.delete_object(self._sdk.DeleteObjectRequest(self._bucket, self._prefix + name))

    def _pages(self, below: str) -> list[Any]:
        request = self._sdk.ListObjectsV2Request(self._bucket, prefix=self._prefix + below, delimiter="/")
        with self._translated():
            return list(self._client.list_objects_v2_paginator().iter_page(request))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._sdk.exceptions.OperationError as error:
            inner = error.unwrap()
            if getattr(inner, "status_code", None) == 404 and getattr(inner, "code", "") != "NoSuchBucket":
                raise FileNotFoundError from None
            raise _OssError(getattr(inner, "code", "") or type(inner).__name__) from None


class _OssError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class FsspecStore:
    """A bucket, as fsspec's package for it sees it."""

    def __init__(self, url: str) -> None:
        import fsspec

        # Another process may have written what a listing of a minute ago did not show.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if url.startswith("s3:"):
            options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 2}}
        fs, path = fsspec.core.url_to_fs(url, **options)
        # Its own tries multiply with those of the SDK below it: a store that hangs would keep a thread for long.
        fs.retries = 1
        self._fs: Any = fs
        self._root = str(path)

    def size(self, name: str) -> int:
        return int(self._fs.info(f"{self._root}/{name}")["size"])

    def read(self, name: str, start: int, end: int) -> bytes:
        return bytes(self._fs.cat_file(f"{self._root}/{name}", start=start, end=end))

    def put(self, path: Path, name: str) -> None:
        self._fs.put_file(str(path), f"{self._root}/{name}")

    def directories(self) -> list[str]:
        return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in self._list("", "directory")]

    def files(self, directory: str) -> list[StoredFile]:
        return [
            StoredFile(
                name=entry["name"].rsplit("/", 1)[-1],
                size=int(entry["size"]),
                modified=_moment(entry.get("LastModified", entry.get("created"))),
            )
            for entry in self._list(f"/{directory}", "file")
        ]

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{name}")

    def _list(self, below: str, kind: str) -> list[dict[str, Any]]:
        try:
            return [entry for entry in self._fs.ls(f"{self._root}{below}", detail=True) if entry["type"] == kind]
        except FileNotFoundError:
            return []


def _moment(value: object) -> datetime | None:
    """What fsspec's packages mean by a time: each of them something else."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else None

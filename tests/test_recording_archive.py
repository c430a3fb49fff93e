"""The archive alone: a server that misbehaves, buckets, names, settings (rule 5)."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from aiohttp import web
from fsspec.registry import _registry

from calltasks.errors import PassingError, SettingsError
from calltasks.recordings import downloads
from calltasks.recordings.archive import Archive, stem
from calltasks.settings import ArchiveSettings, load
from devstack.stack import PROJECT

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
CALL = (42, "0f9a1c52-7a44-4d8e-9c1b-5b0d3e6f7a00", "0f9a1c52-7a44-4d8e-9c1b-5b0d3e6f7a01")


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def archive_in(directory: Path) -> AsyncIterator[Archive]:
    async with archive_at(f"file://{directory}") as archive:
        yield archive


@asynccontextmanager
async def archive_at(root: str) -> AsyncIterator[Archive]:
    archive = Archive(ArchiveSettings(recording_archive=root))
    try:
        await archive.check()
        yield archive
    finally:
        await archive.close()


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 100 s")


async def test_an_expired_link_is_asked_for_anew_once(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=403) if request.path == "/expired.wav" else web.Response(body=b"audio")

    async with answering(answer) as url, archive_in(tmp_path) as archive:

        async def ask() -> str:
            asked.append(f"{url}/{'new' if asked else 'expired'}.wav?Expires=1&Signature=a%2Bb%3D")
            return asked[-1]

        async def ask_in_vain() -> str:
            asked.append(f"{url}/expired.wav")
            return asked[-1]

        lasting = await archive.keep(*CALL, ask)
        assert (lasting, len(asked)) == (f"file://{tmp_path}/{stem(*CALL)}.wav", 2)
        with pytest.raises(PassingError, match="Recording GET: Http403"):
            await archive.keep(43, *CALL[1:], ask_in_vain)
        assert len(asked) == 4
    assert files(tmp_path) == [f"{stem(*CALL)}.wav"]


async def test_only_http_is_followed_and_only_whole_audio_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 1000)
    redirects = {"/to-file": "file:///etc/passwd", "/to-ftp": "ftp://127.0.0.1/a", "/round": "/round"}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if location := redirects.get(request.path):
            return web.Response(status=302, headers={"Location": location})
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/good.mp3"})
        if request.path == "/endless":
            stream = web.StreamResponse()
            await stream.prepare(request)
            for _ in range(20):
                await stream.write(b"x" * 100)
            return stream
        sizes = {"/good.mp3": 1000, "/large": 1001, "/nothing": 0}
        return web.Response(body=b"x" * sizes.get(request.path, 0), status=200 if request.path in sizes else 404)

    async with answering(answer) as url, archive_in(tmp_path) as archive:

        async def keep(signed: str) -> str:
            async def ask() -> str:
                return signed

            return await archive.keep(*CALL, ask)

        refused = {
            "file:///etc/passwd": "NotHttp",
            "ftp://127.0.0.1/a.wav": "NotHttp",
            "//127.0.0.1/a.wav": "NotHttp",
            "http:///a.wav": "NotHttp",
            "http://[": "ValueError",
            f"{url}/to-file": "NonHttpUrlRedirectClientError",
            f"{url}/to-ftp": "NonHttpUrlRedirectClientError",
            f"{url}/round": "TooManyRedirects",
            f"{url}/large": "TooLarge",
            f"{url}/endless": "TooLarge",
            f"{url}/nothing": "Empty",
            f"{url}/missing": "Http404",
            "http://127.0.0.1:1/a.wav": "ClientConnectorError",
        }
        for signed, code in refused.items():
            with pytest.raises(PassingError) as caught:
                await keep(signed)
            assert (caught.value.service, caught.value.code) == ("Recording", code), signed
        assert files(tmp_path) == []
        assert await keep("") == ""
        assert await keep(f"{url}/moved") == f"file://{tmp_path}/{stem(*CALL)}.wav", "named by the platform's URL"
        assert await keep("nowhere") == f"file://{tmp_path}/{stem(*CALL)}.wav", "there already"


async def test_another_kind_of_file_keeps_its_suffix(tmp_path: Path) -> None:
    served = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal served
        served += 1
        return web.Response(body=b"audio")

    async with answering(answer) as url, archive_in(tmp_path) as archive:

        async def ask() -> str:
            return f"{url}/a.MP3?Expires=1"

        for _ in range(2):
            assert await archive.keep(*CALL, ask) == f"file://{tmp_path}/{stem(*CALL)}.mp3"
    assert served == 1


async def test_a_killed_process_leaves_no_half_file(tmp_path: Path) -> None:
    sent, release = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Length": str(3 << 20)})
        await stream.prepare(request)
        await stream.write(b"x" * (2 << 20))
        sent.set()
        await release.wait()
        await stream.write(b"x" * (1 << 20))
        return stream

    code = (
        "import asyncio\nfrom calltasks.recordings.archive import Archive\n"
        "from calltasks.settings import ArchiveSettings, load\n"
        "async def ask(): return '{url}/a.wav'\n"
        "async def keep():\n    archive = Archive(load(ArchiveSettings))\n    await archive.check()\n"
        f"    await archive.keep(*{CALL!r}, ask)\n"
        "asyncio.run(keep())\n"
    )
    environment = {**os.environ, "RECORDING_ARCHIVE": f"file://{tmp_path}"}
    async with answering(answer) as url:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code.replace("{url}", url), cwd=PROJECT, env=environment
        )
        await sent.wait()
        await until(lambda: bool(files(tmp_path / ".partial")))
        child.send_signal(signal.SIGKILL)
        await child.wait()
        left = files(tmp_path)
        assert len(left) == 1 and left[0].startswith(".partial/")
        os.utime(tmp_path / left[0], (0, 0))
        release.set()
        async with archive_in(tmp_path) as archive:

            async def ask() -> str:
                return f"{url}/a.wav"

            await archive.keep(*CALL, ask)
    assert files(tmp_path) == [f"{stem(*CALL)}.wav"], "what the crash left is swept away after a day"
    assert (tmp_path / f"{stem(*CALL)}.wav").stat().st_size == 3 << 20


def test_a_name_holds_only_ids_and_is_no_path() -> None:
    odd = [
        stem(1, "../../etc", "a"),
        stem(1, "a/b", "c"),
        stem(1, "a_b", "c"),
        stem(1, "a", "b-c"),
        stem(1, "a-b", "c"),
    ]
    assert len(set(odd)) == len(odd)
    assert all(name.startswith("1/") and name.count("/") == 1 and ".." not in name for name in odd)


# --- buckets ----------------------------------------------------------------------------------------------------------


class Bucket:
    """What OSS and S3 have in common of their answers, for one bucket, path style."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.signed: set[str] = set()
        self.cut = False

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        bucket, _, key = request.path.lstrip("/").partition("/")
        self.signed.add(request.headers.get("Authorization", "").partition(" ")[0])
        if bucket != "bucket":
            return web.Response(status=404, text="<Error><Code>NoSuchBucket</Code></Error>")
        if request.method == "PUT":
            if request.headers.get("Expect") == "100-continue" and request.transport:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await request.read()
            self.files[key] = body[: len(body) // 2] if self.cut else body
            return web.Response(headers={"ETag": '"tag"'})
        if request.method == "DELETE":
            self.files.pop(key, None)
            return web.Response(status=204)
        if request.method == "GET" and not key:
            return web.Response(text=self._listed(request.query["prefix"]), content_type="application/xml")
        if request.method != "HEAD" or key not in self.files:
            return web.Response(status=404)
        size = len(self.files[key])
        headers = {"Content-Length": str(size), "Last-Modified": formatdate(time.time(), usegmt=True), "ETag": '"tag"'}
        return web.Response(headers=headers)

    def _listed(self, prefix: str) -> str:
        below = {key: key.removeprefix(prefix) for key in sorted(self.files) if key.startswith(prefix)}
        prefixes = {prefix + rest.partition("/")[0] + "/" for rest in below.values() if "/" in rest}
        files = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-18T14:05:00.000Z</LastModified><ETag>tag</ETag>"
            f"<Size>{len(self.files[key])}</Size><StorageClass>Standard</StorageClass></Contents>"
            for key, rest in below.items()
            if "/" not in rest
        )
        directories = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in sorted(prefixes))
        return (
            f"<ListBucketResult><Name>bucket</Name><Prefix>{prefix}</Prefix><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{len(below)}</KeyCount>{files}{directories}</ListBucketResult>"
        )


AUDIO = b"x" * 400_000


@pytest.mark.parametrize("scheme", ["oss", "s3"])
async def test_a_bucket_holds_whole_recordings(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    bucket = Bucket()

    async def audio(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=AUDIO)

    async with answering(bucket.answer) as endpoint, answering(audio) as url:
        for name, value in {
            "OSS_ENDPOINT": endpoint,
            "ALIBABA_CLOUD_ACCESS_KEY_ID": "key",
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "cn-north-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        asked = 0

        async def ask() -> str:
            nonlocal asked
            asked += 1
            return f"{url}/a.wav"

        root = f"{scheme}://bucket/some/prefix"
        async with archive_at(root) as archive:
            assert bucket.files == {}, "the probe is deleted"
            assert await archive.tasks() == []
            for _ in range(2):
                assert await archive.keep(*CALL, ask) == f"{root}/{stem(*CALL)}.wav"
            assert asked == 1
            assert bucket.files == {f"some/prefix/{stem(*CALL)}.wav": AUDIO}
            assert await archive.tasks() == [42]
            (file,) = await archive.files(42)
            assert (file.stem, file.size) == (stem(*CALL), len(AUDIO))
            assert file.modified is not None and file.modified.utcoffset() is not None
            await archive.delete([file.name, "42/gone.wav"])
            assert bucket.files == {} and await archive.files(42) == []
            bucket.cut = True
            with pytest.raises(PassingError, match="RecordingArchive write: "):
                await archive.keep(*CALL, ask)
            assert bucket.files == {}, "what is not whole is taken back"
        with pytest.raises(SettingsError, match="RECORDING_ARCHIVE: nothing can be written there"):
            async with archive_at(f"{scheme}://another/prefix"):
                pass
    assert bucket.signed == {"OSS4-HMAC-SHA256" if scheme == "oss" else "AWS4-HMAC-SHA256"}


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "/var/lib/recordings",
        "recordings",
        "file://recordings",
        "file:///",
        "http://127.0.0.1/recordings",
        "s3://",
        "s3://key:secret@bucket/prefix",
        "oss:///prefix",
        "s3://bucket/prefix?versioned",
    ],
)
def test_a_wrong_archive_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RECORDING_ARCHIVE", value)
    with pytest.raises(SettingsError) as caught:
        load(ArchiveSettings)
    text = str(caught.value)
    assert text.startswith("settings: RECORDING_ARCHIVE: must ") and "\n" not in text and "secret" not in text


@pytest.mark.parametrize(("scheme", "package"), [("oss", "alibabacloud_oss_v2"), ("s3", "s3fs")])
async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(_registry, scheme, raising=False)
    with pytest.raises(
        SettingsError, match=f"{scheme}:// needs the package {package.replace('_', '-')}; install it with"
    ):
        Archive(ArchiveSettings(recording_archive=f"{scheme}://bucket/prefix"))

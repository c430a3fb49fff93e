"""Audio from the vendor's signed URLs, streamed (rule 5)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from yarl import URL

from calltasks.errors import PassingError, SettingsError
from calltasks.proxies import proxy_for

DOWNLOADS = 16
"""Recordings that one process fetches at once."""
MAX_BYTES = 512 << 20
"""No recording is larger: two hours in the best quality that telephony has."""
CHUNK = 1 << 20
"""Bytes of one recording that are held in memory at most, or little more."""
TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=5, sock_read=20)
REDIRECTS = 3


class ExpiredError(PassingError):
    """The signed URL is not, or no more, valid: ask for a new one."""

    def __init__(self) -> None:
        super().__init__("Recording", "GET", "Http403")


class Downloads:
    """Fetches; one pool of connections a process."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    async def stream(self, signed: str, write: Callable[[bytes], Awaitable[None]]) -> tuple[int, bytes]:
        """Fetch what a URL names, handing it to ``write`` in pieces of about a megabyte.

        Returns:
            Its size in bytes, and its end, which ``write`` was not given.

        Raises:
            ExpiredError: the server refuses the URL (403).
            PassingError: it could not be fetched, or not whole, or is empty or larger than 512 MB, or the URL or what
                it redirects to is neither http nor https. Never quotes the URL, which is a credential.
        """
        size, held = 0, bytearray()
        try:
            url = _http_url(signed)
            # A redirect is followed through the same proxy, or directly too.
            async with self._session().get(url, max_redirects=REDIRECTS, proxy=proxy_for(signed)) as answer:
                if answer.status == 403:
                    raise ExpiredError
                if answer.status != 200:
                    raise _failure(f"Http{answer.status}")
                announced = answer.content_length
                if (announced or 0) > MAX_BYTES:
                    raise _failure("TooLarge")
                async for chunk in answer.content.iter_any():
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise _failure("TooLarge")
                    held += chunk
                    if len(held) >= CHUNK:
                        await write(bytes(held))
                        held.clear()
        except SettingsError:
            raise _failure("WrongProxy") from None
        except aiohttp.ClientPayloadError:
            raise _failure("Truncated") from None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _failure(type(error).__name__) from None
        if announced is not None and size != announced:
            raise _failure("Truncated")
        if not size:
            raise _failure("Empty")
        return size, bytes(held)

    async def size(self, signed: str) -> int:
        """Bytes of what a URL names; 0 if there is nothing. Signed URLs answer GET alone.

        Raises:
            PassingError: it cannot be told now.
        """
        try:
            async with self._session().get(
                _http_url(signed), max_redirects=REDIRECTS, proxy=proxy_for(signed)
            ) as answer:
                return (answer.content_length or 0) if answer.status == 200 else 0
        except (aiohttp.ClientError, TimeoutError, ValueError, SettingsError) as error:
            raise _failure(type(error).__name__) from None

    async def part(self, signed: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of what a URL names from one place to before another, as they come; a server that knows no ranges
        sends all, of which the part is taken.

        Raises:
            PassingError: it cannot be fetched.
        """
        headers = {"Range": f"bytes={start}-{end - 1}"}
        at = start
        try:
            async with self._session().get(
                _http_url(signed), max_redirects=REDIRECTS, proxy=proxy_for(signed), headers=headers
            ) as answer:
                if answer.status not in (200, 206):
                    raise _failure(f"Http{answer.status}")
                at = start if answer.status == 206 else 0
                async for chunk in answer.content.iter_any():
                    if wanted := chunk[max(start - at, 0) : max(end - at, 0)]:
                        yield wanted
                    if (at := at + len(chunk)) >= end:
                        return
        except (aiohttp.ClientError, TimeoutError, ValueError, SettingsError) as error:
            raise _failure(type(error).__name__) from None

    async def close(self) -> None:
        """Drop the connections."""
        if self._http:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            # The bytes are kept as they are sent: what is compared with Content-Length must not be unpacked.
            self._http = aiohttp.ClientSession(
                timeout=TIMEOUT,
                connector=aiohttp.TCPConnector(limit=DOWNLOADS),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http


def _failure(code: str) -> PassingError:
    return PassingError("Recording", "GET", code)


def _http_url(signed: str) -> URL:
    # As it is: a signature does not survive being quoted anew.
    url = URL(signed, encoded=True)
    if url.scheme not in ("http", "https") or not url.host:
        raise _failure("NotHttp")
    return url

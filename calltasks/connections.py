"""Connections to one address, by aiohttp, kept open: they carry requests that vendors' SDKs have made.

What the SDKs use of their own (httpx, requests) costs a multiple of the CPU.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import aiohttp
from yarl import URL

from calltasks.proxies import proxy_for

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 5.0
"""A connection is closed when it was not used for so long."""
BUFFER_BYTES = 1 << 20
"""An answer of a hundred calls is read without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """For one event loop. ``at_once``: as many connections at most; ``seconds``: until an answer goes on.

    Raises:
        SettingsError: what the environment names is no proxy for HTTP.
    """

    def __init__(self, address: str, at_once: int, *, seconds: float, trusted: ssl.SSLContext) -> None:
        self._at_once, self._trusted = at_once, trusted
        self._timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=seconds)
        # Of the environment's proxies only the one for this address: another one's form is no matter of ours.
        self._proxy = proxy_for(address)

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._at_once, keepalive_timeout=IDLE_SECONDS, ssl=self._trusted),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=BUFFER_BYTES,
            proxy=self._proxy,
        )

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """Send one request, its ``url`` as it is, and read the whole answer. Redirects are not followed.

        Raises:
            TimeoutError, aiohttp.ClientError: nobody has answered, or not to the end.
        """
        asking = self._session.request(
            method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
        )
        async with asking as answer:
            return Answer(status=answer.status, headers=answer.headers, body=await answer.read())

    async def close(self) -> None:
        """Close them all."""
        await self._session.close()

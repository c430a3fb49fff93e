"""How requests get to the model: the SDK makes them and reads what comes back, aiohttp carries them.

The SDK asks an httpx client to send. All that such a client does besides (merging, cookies, redirects, streams) is not
needed here and costs more CPU than the rest of a call.
"""

from __future__ import annotations

import json as json_text
from functools import cached_property
from typing import Any

import aiohttp
import httpx

from calltasks.proxies import proxy_for

TIMEOUT_SECONDS = 60.0
CONNECT_SECONDS = 5.0
IDLE_SECONDS = 5.0
"""A connection is closed when it was not used for so long."""


class Connections(httpx.AsyncClient):
    """Connections to one address, kept open: an httpx client as far as the SDK uses one, with ``request`` alone."""

    def __init__(self, base_url: str, key: str, at_once: int) -> None:
        """``at_once``: as many connections at most.

        Raises:
            SettingsError: what the environment names is no proxy for HTTP.
        """
        super().__init__(transport=httpx.AsyncBaseTransport(), trust_env=False)
        self._address = base_url
        self._headers_of_all = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            # What httpx can decode, whatever else is installed.
            "Accept-Encoding": "gzip, deflate",
        }
        self._at_once = at_once
        # Of the environment's proxies only the one for this address: another one's form is no matter of ours.
        self._proxy = proxy_for(base_url)
        self._trusted = httpx.create_ssl_context()

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        """Made in the event loop that uses it."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._at_once, keepalive_timeout=IDLE_SECONDS, ssl=self._trusted),
            headers=self._headers_of_all,
            timeout=aiohttp.ClientTimeout(
                connect=TIMEOUT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=TIMEOUT_SECONDS
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            proxy=self._proxy,
        )

    async def request(  # type: ignore[override]
        self, method: str, url: str, *, json: Any, headers: dict[str, str], **_: Any
    ) -> httpx.Response:
        """Send ``json`` and read the whole answer, as the SDK asks for it.

        Raises:
            httpx.TransportError: nobody has answered.
        """
        body = json_text.dumps(json, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        try:
            async with self._session.request(
                method, self._address + url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                said = await answer.read()
        except TimeoutError as error:
            raise httpx.ReadTimeout(type(error).__name__) from error
        except aiohttp.ClientError as error:
            raise httpx.NetworkError(type(error).__name__) from error
        return httpx.Response(answer.status, headers=answer.raw_headers, content=said)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()

"""What DashScope's SDK sends by: it asks an httpx client, and needs next to nothing of what such a client does."""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx
from pydantic_core import to_json

from calltasks.connections import Connections

TIMEOUT_SECONDS = 60.0


class Transport(httpx.AsyncClient):
    """An httpx client as far as the SDK uses one: ``request`` alone, without merging, cookies, streams, hooks."""

    def __init__(self, base_url: str, key: str, at_once: int) -> None:
        """``at_once``: requests under way at most.

        Raises:
            SettingsError: what the environment names is no proxy for HTTP.
        """
        super().__init__(transport=httpx.AsyncBaseTransport(), trust_env=False)
        self._address = base_url
        # A client of one's own must bring the key itself.
        self._key = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._connections = Connections(base_url, at_once, seconds=TIMEOUT_SECONDS, trusted=httpx.create_ssl_context())

    async def request(  # type: ignore[override]
        self, method: str, url: str, *, json: Any, headers: dict[str, str], **_: Any
    ) -> httpx.Response:
        """Send ``json`` and read the whole answer.

        Raises:
            httpx.TransportError: nobody has answered.
        """
        try:
            # Four times faster than the standard library's.
            answer = await self._connections.send(method, self._address + url, self._key | headers, to_json(json))
        except TimeoutError as error:
            raise httpx.ReadTimeout(type(error).__name__) from error
        except aiohttp.ClientError as error:
            raise httpx.NetworkError(type(error).__name__) from error
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "content-encoding"}
        return httpx.Response(answer.status, headers=headers, content=answer.body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.close()

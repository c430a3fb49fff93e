"""How requests get to the platform: the SDK signs them and reads what comes back, connections of ours carry them.

What may make somebody's telephone ring goes from a thread, by connections that look at the clock right before they
write. All else goes from the event loop, at a third of the CPU. The SDK's own ways cost several times as much and know
no ``NO_PROXY``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import certifi
from darabonba.core import DaraCore
from darabonba.request import DaraRequest
from darabonba.response import DaraResponse
from urllib3 import PoolManager, ProxyManager, Timeout
from urllib3.connection import HTTPConnection
from urllib3.util import make_headers

from calltasks.connections import CONNECT_SECONDS, Connections
from calltasks.platform.send_deadline import POOLS
from calltasks.proxies import proxy_for

READ_SECONDS = 10.0
_TIMEOUT = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
_SOCKET: list[tuple[int, int, int]] = [*HTTPConnection.default_socket_options]
if hasattr(socket, "TCP_USER_TIMEOUT"):
    # Linux would go on sending what nobody waits for any more, for minutes: it may arrive after others have taken over.
    _SOCKET.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_SECONDS * 1000)))
_used: ContextVar[Transport | None] = ContextVar("transport", default=None)


class Transport:
    """Connections to one address."""

    def __init__(self, origin: str, at_once: int) -> None:
        """``origin``: scheme and host; ``at_once``: requests under way.

        Raises:
            SettingsError: what the environment names is no proxy for HTTP.
        """
        self._origin = origin
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(certifi.where())
        self._connections = Connections(f"{origin}/", at_once, seconds=READ_SECONDS, trusted=trusted)
        options: dict[str, Any] = {"maxsize": at_once, "ssl_context": trusted, "socket_options": _SOCKET}
        proxy = proxy_for(f"{origin}/")
        self._manager = ProxyManager(proxy, proxy_headers=_key(proxy), **options) if proxy else PoolManager(**options)
        self._manager.pool_classes_by_scheme = POOLS

    @contextmanager
    def used(self) -> Iterator[None]:
        """What the SDK sends meanwhile, in this thread or this task, goes by these connections."""
        before = _used.set(self)
        try:
            yield
        finally:
            _used.reset(before)

    def carry(self, request: DaraRequest) -> DaraResponse:
        """Send a request from a thread.

        Raises:
            urllib3.exceptions.HTTPError: nobody has answered.
            TooLateError: its time had passed.
        """
        answer = self._manager.urlopen(
            request.method,
            self._url(request),
            redirect=False,
            body=request.body,
            # As urllib3 spells them: it would add a second Host and Accept for a proxy.
            headers={name.title(): value for name, value in request.headers.items()},
            retries=False,
            timeout=_TIMEOUT,
        )
        return _response(answer.status, answer.headers.items(), answer.data)

    async def carry_async(self, request: DaraRequest) -> DaraResponse:
        """Send a request from the event loop.

        Raises:
            TimeoutError, aiohttp.ClientError: nobody has answered.
        """
        answer = await self._connections.send(request.method, self._url(request), request.headers, request.body)
        return _response(answer.status, answer.headers.items(), answer.body)

    async def close(self) -> None:
        """Close those of the event loop."""
        await self._connections.close()

    def _url(self, request: DaraRequest) -> str:
        return f"{self._origin}{request.pathname}?{urlencode(request.query)}"


def _response(status: int, headers: Any, body: bytes) -> DaraResponse:
    response = DaraResponse()
    response.status_code, response.body = status, body
    response.headers = {name.lower(): value for name, value in headers}
    return response


def _key(proxy: str) -> dict[str, str]:
    """What a proxy lets in by, if its address has a user."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    return make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")


_own, _own_async = DaraCore.do_action, DaraCore.async_do_action


def _carried(request: DaraRequest, runtime: Any = None) -> DaraResponse:
    transport = _used.get()
    return _own(request, runtime) if transport is None else transport.carry(request)


async def _carried_async(request: DaraRequest, runtime: Any = None) -> DaraResponse:
    transport = _used.get()
    return await (_own_async(request, runtime) if transport is None else transport.carry_async(request))


# The SDK offers no other way to the connections that it makes. Whoever else uses it in this process keeps its own.
DaraCore.do_action = staticmethod(_carried)
DaraCore.async_do_action = staticmethod(_carried_async)

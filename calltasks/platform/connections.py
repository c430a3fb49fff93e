"""How requests get to the platform: the SDK signs them and reads what comes back, these connections carry them.

The SDK's own way, by ``requests``, costs twice the CPU, knows no ``NO_PROXY`` and has no place to look at the clock.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import certifi
from darabonba.core import DaraCore
from darabonba.request import DaraRequest
from darabonba.response import DaraResponse
from urllib3 import PoolManager, ProxyManager, Timeout
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError
from urllib3.util import make_headers

from calltasks.platform.send_deadline import POOLS
from calltasks.proxies import proxy_for

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
_thread = threading.local()


class Connections:
    """Connections to one address, kept open and used by many threads."""

    def __init__(self, origin: str, at_once: int) -> None:
        """``origin``: scheme and host; ``at_once``: connections to keep.

        Raises:
            SettingsError: what the environment names is no proxy for HTTP.
        """
        self._origin = origin
        trusted = ssl.create_default_context() if origin.startswith("https:") else None
        if trusted is not None:
            trusted.load_verify_locations(certifi.where())
        options: dict[str, Any] = {"maxsize": at_once, "ssl_context": trusted}
        if proxy := proxy_for(f"{origin}/"):
            self._manager: PoolManager = ProxyManager(proxy, proxy_headers=_key(proxy), **options)
        else:
            self._manager = PoolManager(**options)
        self._manager.pool_classes_by_scheme = POOLS

    @contextmanager
    def used(self) -> Iterator[None]:
        """What the SDK sends in this thread meanwhile goes by these connections."""
        _thread.connections = self
        try:
            yield
        finally:
            _thread.connections = None

    def carry(self, request: DaraRequest) -> DaraResponse:
        """Send a request once and return its answer.

        Raises:
            urllib3.exceptions.HTTPError: nobody has answered.
            TooLateError: its time had passed.
        """
        answer = self._manager.urlopen(
            request.method,
            f"{self._origin}{request.pathname}?{urlencode(request.query)}",
            redirect=False,
            body=request.body,
            headers=request.headers,
            retries=False,
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )
        response = DaraResponse()
        response.status_code, response.body = answer.status, answer.data
        response.headers = {name.lower(): value for name, value in answer.headers.items()}
        return response


def never_left(error: BaseException) -> bool:
    """Whether a request certainly did not reach the platform: nobody answered, no proxy did, or not with its own
    certificate."""
    if isinstance(error, SSLError):
        return isinstance(error.args[0] if error.args else None, ssl.SSLCertVerificationError)
    return isinstance(error, NewConnectionError | ConnectTimeoutError | ProxyError)


def _key(proxy: str) -> dict[str, str]:
    """What a proxy lets in by, if its address has a user."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    return make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")


_own_way = DaraCore.do_action


def _carried(request: DaraRequest, runtime: Any = None) -> DaraResponse:
    connections: Connections | None = getattr(_thread, "connections", None)
    return _own_way(request, runtime) if connections is None else connections.carry(request)


# The SDK offers no other way to the connections that it makes. Whoever else uses it in this process keeps its own.
DaraCore.do_action = staticmethod(_carried)

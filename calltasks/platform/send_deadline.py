"""Requests that must not leave after their time.

A worker can be frozen at any moment, and signing, encoding and connecting take milliseconds: the clock is looked at by
the connection itself, right before it writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from calltasks.clock import elapsed
from calltasks.proxies import proxy_for

_request = threading.local()


class TooLateError(Exception):
    """A request was not sent, because its time had passed."""


@contextmanager
def leaving_before(deadline: float | None) -> Iterator[None]:
    """What this thread sends meanwhile leaves before ``deadline`` (:func:`calltasks.clock.elapsed`; None: at any time).

    Raises:
        TooLateError: its time had passed; nothing was sent.
    """
    _request.deadline = deadline
    try:
        yield
    finally:
        _request.deadline = None


def watched(adapter: HTTPAdapter) -> HTTPAdapter:
    """The same adapter, with connections that keep to :func:`leaving_before`, those to a proxy too, and through the
    proxy that the environment names for the address: the SDK knows no ``NO_PROXY``."""
    through_proxy, send = adapter.proxy_manager_for, adapter.send

    def proxy_manager_for(*arguments: Any, **options: Any) -> Any:
        manager = through_proxy(*arguments, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def sent(request: PreparedRequest, **options: Any) -> Response:
        url = request.url or ""
        proxy = proxy_for(url)
        return send(request, **options | {"proxies": {urlsplit(url).scheme: proxy} if proxy else {}})

    adapter.poolmanager.pool_classes_by_scheme = _POOLS
    adapter.send = sent  # type: ignore[method-assign,assignment]
    adapter.proxy_manager_for = proxy_manager_for  # type: ignore[method-assign]
    return adapter


def _in_time() -> None:
    deadline = getattr(_request, "deadline", None)
    if deadline is not None and elapsed() > deadline:
        raise TooLateError


class _Connection(HTTPConnection):
    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _in_time()
        super().send(data)


class _TLSConnection(_Connection, HTTPSConnection): ...


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


_POOLS = {"http": _Pool, "https": _TLSPool}

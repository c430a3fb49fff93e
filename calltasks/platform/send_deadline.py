"""Requests that must not leave after their time, and whether one has left.

A worker can be frozen at any moment, and signing, encoding and connecting take milliseconds: the clock is looked at by
the connection itself, right before it writes. What went wrong tells nothing about that: behind a proxy an answer that
is lost looks like a proxy that cannot be reached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from calltasks.clock import elapsed

_request = threading.local()


class TooLateError(Exception):
    """A request was not sent, because its time had passed."""


@contextmanager
def leaving_before(deadline: float | None) -> Iterator[None]:
    """What this thread sends meanwhile leaves before ``deadline`` (:func:`calltasks.clock.elapsed`; None: at any time).

    Raises:
        TooLateError: its time had passed; nothing was sent.
    """
    _request.deadline, _request.left = deadline, False
    try:
        yield
    finally:
        _request.deadline = None


def has_left() -> bool:
    """Whether anything of this thread's last request was written."""
    return bool(getattr(_request, "left", True))


def _in_time() -> None:
    deadline = getattr(_request, "deadline", None)
    if deadline is not None and elapsed() > deadline:
        raise TooLateError


class _Connection(HTTPConnection):
    def connect(self) -> None:
        try:
            super().connect()
        finally:
            # What a proxy is asked for the way is no request of the platform's.
            _request.left = False

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _in_time()
        _request.left = True
        super().send(data)


class _TLSConnection(_Connection, HTTPSConnection): ...


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS = {"http": _Pool, "https": _TLSPool}
"""Of connections that keep to :func:`leaving_before`, by scheme."""

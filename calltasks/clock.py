"""The clock that deadlines are measured by."""

from __future__ import annotations

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Seconds since some moment in the past; never set, and it goes on while the machine is suspended.

    ``time.monotonic()`` stands still then (on Linux): a worker would wake up and believe that it is in time for what
    another one has taken over hours ago. Where the system has no such clock, the monotonic one stands in.
    """
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

"""Heartbeats of activities that take longer than a moment, and attempts that are one look of many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

BEAT_SECONDS = 2.0
"""Well below the heartbeat timeout of ``calltasks.options``. The answer to a beat tells of a stop."""


@asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Tell the server that this worker lives, so that it hands the work on soon after the worker died."""

    async def beat() -> None:
        while True:
            # The first one says nothing that the start did not say: what is short needs none.
            await asyncio.sleep(BEAT_SECONDS)
            activity.heartbeat()

    beats = asyncio.create_task(beat())
    try:
        yield
    finally:
        beats.cancel()


def not_yet(reason: str, pause: float) -> ApplicationError:
    """An attempt that fails on purpose: Temporal makes the next one after ``pause`` seconds, without an event."""
    return ApplicationError(
        f"{reason}; next look in {pause:.0f} s",
        type="NotYet",
        next_retry_delay=timedelta(seconds=pause),
        category=ApplicationErrorCategory.BENIGN,
    )

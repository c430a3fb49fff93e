"""Tell receivers what happened (rule 12). Task queue ``call-events``: a slow receiver takes no other work's place.

One run watches for all subscriptions: a look is one cheap statement, however many there are. What is due goes to
:meth:`Delivery.deliver`, a lane for each receiver. How far it is, and when it is tried again, is in the database.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.liveness import heartbeating
from calltasks.database.connection import Database
from calltasks.database.tables import event_subscriptions as table
from calltasks.database.tables import events
from calltasks.database.tables.event_subscriptions import Subscription, Told
from calltasks.errors import PassingError, ServiceError, SettingsError
from calltasks.observing import telemetry

if TYPE_CHECKING:
    from calltasks.events.receivers import Receivers, Reply

T = TypeVar("T")

LOOK_SECONDS = 5.0
"""Between two looks for events that somebody waits for."""
PORTIONS = 5
"""Of an organisation's events that get their positions in one look: nobody waits for another one's long history."""
SLICE_SECONDS = 45.0
"""A receiver is told so long at a stretch."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 4 * 3600.0
"""Seconds until a receiver that failed is tried again: twice as long each time, and never longer than this."""
OUR_PAUSE = 300.0
"""Seconds until it is tried again where what failed is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """How many events a receiver took, and what ended that; ``""``: there were no more, or it is others' turn."""

    events: int
    error: str = ""


class Delivery:
    """The activities that tell receivers."""

    def __init__(self, database: Database, receivers: Receivers) -> None:
        self._database = database
        self._receivers = receivers

    @activity.defn
    async def watch_events(self, most: int) -> list[int]:
        """Return subscriptions for which something may be sent now, at most so many; each is held for who sends it.

        An attempt is one look. It fails on purpose where nothing is due, and Temporal makes the next one after a pause:
        waiting costs no event of the history.
        """
        async with heartbeating():
            for organization_id in await self._database.run(events.without_positions):
                for _ in range(PORTIONS):
                    if not await self._database.transaction(events.give_positions, organization_id):
                        break
            telemetry.metrics.watched(await self._database.run(table.oldest_age))
            due = await self._database.transaction(table.take_due, most)
        if due:
            return due
        raise ApplicationError(
            f"nothing is due; next look in {LOOK_SECONDS:.0f} s",
            type="NotYet",
            next_retry_delay=timedelta(seconds=LOOK_SECONDS),
            category=ApplicationErrorCategory.BENIGN,
        )

    @activity.defn
    async def deliver_events(self, subscription_id: int) -> Delivered:
        """Tell one receiver what it waits for, in order, one request at a time, until there is no more or it fails."""
        async with heartbeating():
            try:
                return await self._deliver(subscription_id, monotonic() + SLICE_SECONDS)
            except asyncio.CancelledError:
                # This worker stops: another one goes on at once.
                await asyncio.shield(self._database.run(table.let_go, subscription_id))
                raise
            except PassingError:
                # The database is away: whoever looks when it is back finds the subscription held no more.
                raise
            except Exception as error:
                # Its text may quote what was to be sent.
                name = f"{error.service} {error.code}" if isinstance(error, ServiceError) else type(error).__name__
                activity.logger.error("subscription %d: nothing can be sent: %s", subscription_id, name)
                await self._database.run(table.set_aside, subscription_id, name, OUR_PAUSE)
                return Delivered(events=0, error=name)

    async def _deliver(self, subscription_id: int, until: float) -> Delivered:
        count = 0
        while monotonic() < until:
            found = await self._next(subscription_id)
            if found is None:
                return Delivered(events=count)
            subscription, told = found
            while told and monotonic() < until:
                taken, error, ours = await self._send(subscription, told)
                count += taken
                if not ours:
                    return Delivered(events=count, error=error)
                position = told[taken - 1].position
                subscription = replace(subscription, position=position, failures=0, failing_since=None)
                told = told[taken:]
        # What is left waits for nothing but its turn.
        await self._database.run(table.let_go, subscription_id)
        return Delivered(events=count)

    async def _next(self, subscription_id: int) -> tuple[Subscription, list[Told]] | None:
        from calltasks.events.messages import BATCH

        return await self._database.run(table.next_portion, subscription_id, BATCH)

    async def _send(self, subscription: Subscription, told: Sequence[Told]) -> tuple[int, str, bool]:
        """Send the next request; how many events were taken, what went wrong, whether it is ours to go on."""
        from calltasks.events.messages import message
        from calltasks.events.receivers import NOT_ALLOWED
        from calltasks.events.subscriptions import valid_secrets

        one, now = message(told, batch=subscription.batch), datetime.now(UTC)
        try:
            headers = one.headers(valid_secrets(subscription, now), now)
        except SettingsError:
            await self._database.run(table.set_aside, subscription.id, "Secret", OUR_PAUSE)
            return 0, "Secret", False
        reply = await self._receivers.post(subscription.url, one.body, headers)
        telemetry.metrics.told(reply.error or "ok", one.holds)
        if not reply.error:
            # What was taken is written down also if this worker is stopped now.
            ours = await _whole(self._database.run(table.delivered, subscription, told[: one.holds]))
            return one.holds, "", ours
        activity.logger.warning("subscription %d: %s", subscription.id, reply.error)
        if reply.gone:
            await self._database.run(table.end, subscription, reply.error)
        elif reply.error == NOT_ALLOWED:
            await self._database.run(table.set_aside, subscription.id, reply.error, OUR_PAUSE)
        else:
            pause = _pause(subscription, reply)
            await self._database.run(table.failed, subscription, told[: one.holds], reply.error, pause)
        return 0, reply.error, False


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """What it returns; who is stopped meanwhile stops behind it."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _pause(subscription: Subscription, reply: Reply) -> float:
    """Seconds until the next try: as the receiver wishes, or longer each time, not at the same moment as others'."""
    if reply.retry_after is not None:
        return reply.retry_after
    pause = min(FIRST_PAUSE * 2.0 ** min(subscription.failures, 20), LONGEST_PAUSE)
    return pause * random.uniform(0.8, 1.2)

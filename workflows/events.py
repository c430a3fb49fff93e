"""``EventsWorkflow``: the one run that has receivers told what happened (rule 12)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from activities.events import Delivery
from calltasks import options
from calltasks.names import EVENTS, EVENTS_WORKFLOW

LANES = 50
"""Receivers that are told at the same time."""
LAST_SECONDS = 3.0
"""Lanes have so long to end before a restart as new."""
ONCE = RetryPolicy(maximum_attempts=1)
"""What became of a delivery is in the database: one that died is found again there."""


@workflow.defn(name=EVENTS_WORKFLOW)
class EventsWorkflow:
    """Watches for events that somebody waits for, and has each receiver told in a lane of its own, for ever."""

    @workflow.run
    async def run(self) -> None:
        """Never ends; it restarts as new when Temporal suggests it."""
        lanes: set[asyncio.Task[None]] = set()
        while not workflow.info().is_continue_as_new_suggested():
            due = await workflow.execute_activity_method(
                Delivery.watch_events,
                LANES - len(lanes),
                task_queue=EVENTS,
                start_to_close_timeout=options.WATCH_TIMEOUT,
                heartbeat_timeout=options.HEARTBEAT,
                retry_policy=options.WATCHING,
            )
            for subscription_id in due:
                lane = asyncio.create_task(self._deliver(subscription_id))
                lanes.add(lane)
                lane.add_done_callback(lanes.discard)
            await workflow.wait_condition(lambda: len(lanes) < LANES)
        # Nobody waits for the slowest lane: one that is left then is stopped by the answer to its next heartbeat, lets
        # go of what it holds, and is handed out again. What was just handed out is done by then, most of the time.
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: not lanes, timeout=LAST_SECONDS)
        workflow.continue_as_new()

    async def _deliver(self, subscription_id: int) -> None:
        try:
            await workflow.execute_activity_method(
                Delivery.deliver_events,
                subscription_id,
                task_queue=EVENTS,
                start_to_close_timeout=options.DELIVERY_TIMEOUT,
                heartbeat_timeout=options.HEARTBEAT,
                retry_policy=ONCE,
                summary=f"subscription {subscription_id}",
            )
        except ActivityError as error:
            workflow.logger.warning("subscription %d: %s", subscription_id, type(error.cause).__name__)

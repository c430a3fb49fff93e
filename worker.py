"""One worker process: clients → activities → workers.

``python worker.py [--queue NAME …]`` polls until SIGTERM or SIGINT, then finishes or hands back what it holds.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.conversations import Conversations
from activities.dispatch import Dispatching
from activities.events import Delivery
from activities.follow_ups import FollowUps
from activities.job_groups import JobGroups
from activities.job_ids import JobIds
from activities.liveness import BEAT_SECONDS
from activities.monitoring import Monitoring
from activities.opt_outs import OptOuts
from activities.recordings import Recordings
from activities.tasks import Tasks
from calltasks.database import endpoint, schema
from calltasks.errors import ending
from calltasks.events.subscriptions import start_delivery
from calltasks.names import ANALYSIS, CALL_TASKS, EVENTS, OUTBOUND_BOT, QUEUES
from calltasks.observing import logs, telemetry
from calltasks.settings import (
    AnalysisSettings,
    DatabaseSettings,
    EncryptionSettings,
    EventSettings,
    PlatformSettings,
    TelemetrySettings,
    TracingSettings,
    load,
    require,
)
from calltasks.temporal.connection import connect, registered_search_attributes
from calltasks.temporal.withdrawals import keep_withdrawing
from calltasks.wiring import Clients
from workflows.call_task import CallTaskWorkflow
from workflows.events import EventsWorkflow
from workflows.monitor import MonitorWorkflow
from workflows.withdraw import WithdrawWorkflow

log = logging.getLogger("worker")

SHUTDOWN = timedelta(seconds=20)
"""What runs when the worker is stopped has so long to finish; the rest is handed to another worker."""
ACTIVITIES_AT_ONCE = 100
"""Of one task queue in one worker. More than one task may have, so that a big one leaves room for others."""
GARBAGE = 50_000
"""New objects after which those among them are looked for that nobody uses any more: almost none, for what is read of a
campaign is freed at once (tests/test_garbage.py). Each look holds up everything else while it lasts."""
SANDBOX = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(
        "activities",
        "calltasks.database.tables",
        "calltasks.names",
        "calltasks.options",
        "calltasks.platform.strategy",
        "calltasks.progress",
        "calltasks.rules",
        "calltasks.steps",
        "pydantic",
    )
)
"""Every run loads ``workflows`` anew, without what would make a replay differ (the clock, chance, files, the network);
what activities and workflows tell each other is loaded once."""


def build_worker(
    client: Client,
    queue: str,
    activities: Sequence[Callable[..., Any]],
    workflow: type[CallTaskWorkflow] = CallTaskWorkflow,
) -> Worker:
    """The worker of one task queue, as production and tests run it; ``workflow`` is of call tasks."""
    return Worker(
        client,
        task_queue=queue,
        workflows=[workflow, MonitorWorkflow, WithdrawWorkflow, EventsWorkflow] if queue == CALL_TASKS else [],
        activities=activities,
        workflow_runner=SANDBOX,
        max_concurrent_activities=ACTIVITIES_AT_ONCE,
        # One poll at a time: long pieces that come at once are dealt out in turn, not all to one worker.
        max_concurrent_activity_task_polls=1 if queue == ANALYSIS else 5,
        graceful_shutdown_timeout=SHUTDOWN,
        max_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
    )


@asynccontextmanager
async def workers(
    client: Client, queues: Sequence[str] = QUEUES, workflow: type[CallTaskWorkflow] = CallTaskWorkflow
) -> AsyncIterator[list[Worker]]:
    """The workers of some task queues with the clients that they need, made from the environment.

    Raises:
        SettingsError: a setting that these queues need is missing or wrong.
        SchemaError: the database is not as it must be.
        ServiceError: the database is out of reach.
    """
    async with Clients() as clients:
        database = clients.database
        await endpoint.check(database)
        await database.prepare(await database.run(schema.check, database.zone))
        activities: dict[str, list[Callable[..., Any]]] = {queue: [] for queue in queues}
        if CALL_TASKS in activities:
            tasks = Tasks(database, await registered_search_attributes(client), client, workflow.journey)
            activities[CALL_TASKS] = [
                tasks.open_task,
                tasks.review_task,
                tasks.mark_dispatched,
                tasks.keep,
                tasks.select_for_analysis,
                Monitoring(database, client).take_up_tasks,
            ]
        if OUTBOUND_BOT in activities:
            activities[OUTBOUND_BOT] = await _platform_activities(clients, client)
        if ANALYSIS in activities:
            activities[ANALYSIS] = await _analysis_activities(clients)
        if EVENTS in activities:
            delivery = Delivery(database, clients.receivers)
            activities[EVENTS] = [delivery.watch_events, delivery.deliver_events]
        yield [build_worker(client, queue, functions, workflow) for queue, functions in activities.items()]


async def _platform_activities(clients: Clients, client: Client) -> list[Callable[..., Any]]:
    await clients.database.open_limit(OUTBOUND_BOT)
    archive, platform, database = await clients.archive(), clients.platform, clients.database
    if platform.strategy is None:
        log.info("OUTBOUND_BOT_STRATEGY is not set: new job groups dial in the hours of the platform's instance")
    dispatching, job_ids, job_groups = Dispatching(database, platform), JobIds(database, platform), JobGroups(platform)
    return [
        dispatching.open_job_group,
        dispatching.assign_contacts,
        job_ids.match_pages,
        job_ids.settle_jobs,
        job_groups.watch_calls,
        job_groups.control_calls,
        Conversations(database, platform).fetch_conversations,
        Recordings(database, platform, archive).save_recordings,
        OptOuts(database, platform, client).withdraw_calls,
    ]


async def _analysis_activities(clients: Clients) -> list[Callable[..., Any]]:
    await clients.database.open_limit(ANALYSIS)
    follow_ups = FollowUps(clients.database, clients.model)
    return [follow_ups.follow_up, follow_ups.analyse_again]


async def run(queues: Sequence[str]) -> None:
    """Poll until SIGTERM or SIGINT."""
    # A thread that computes gives way after 1 ms instead of 5: what is short does not wait for what is long.
    sys.setswitchinterval(0.001)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    platform = [PlatformSettings] if OUTBOUND_BOT in queues else []
    analysis = [AnalysisSettings] if ANALYSIS in queues else []
    receivers = [EventSettings] if EVENTS in queues else []
    require(DatabaseSettings, TelemetrySettings, TracingSettings, *platform, *analysis, *receivers, EncryptionSettings)
    told = load(TelemetrySettings)
    logs.configure(told.log_format)
    client = await connect(telemetry.start(told))
    async with workers(client, queues) as built, AsyncExitStack() as stack:
        for worker in built:
            await stack.enter_async_context(worker)
        await keep_withdrawing(client)
        await start_delivery(client)
        stack.callback(asyncio.create_task(telemetry.watch_event_loop()).cancel)
        # What is there now stays. Going through it again and again took a tenth of the CPU, 0.1 s each time, in which
        # everything else waits.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE)
        log.info("worker ready, polling %s", ", ".join(queues))
        await stop.wait()
        log.info("worker stops: finishing what it holds")
    log.info("worker stopped")


def main(
    queue: Annotated[list[str] | None, typer.Option(help="Poll only this task queue (repeatable).")] = None,
) -> None:
    """Run one worker process on all task queues until SIGTERM or SIGINT."""
    queues = queue or list(QUEUES)
    unknown = [name for name in queues if name not in QUEUES]
    if unknown:
        print(f"worker: no task queue {', '.join(unknown)}; there are {', '.join(QUEUES)}", file=sys.stderr)
        raise typer.Exit(2)
    with ending("worker"):
        asyncio.run(run(queues))


if __name__ == "__main__":
    status = 1
    # Threads of Temporal's runtime may call into the interpreter while it is taken down, which aborts the process (seen
    # at one end in fifty): the last thing done at exit is to leave.
    atexit.register(lambda: os._exit(status))
    try:
        typer.run(main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)

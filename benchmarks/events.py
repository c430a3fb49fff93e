"""What it costs to tell a receiver of a campaign, in batches: the CPU of writing and of sending its events."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from aiohttp import web

from benchmarks.figures import ANSWERED, WARM_UP, Figure, Sizes, at_most
from benchmarks.site import Bench
from calltasks.database.tables.events import Event, emit
from devstack.processes import Child

SHARE = 10.0
"""Per cent of the campaign's CPU."""
PORTION = 500


@asynccontextmanager
async def _receiving() -> AsyncIterator[tuple[str, set[str]]]:
    """A receiver that takes everything: its URL, and the ids that came."""
    seen: set[str] = set()

    async def take(request: web.Request) -> web.Response:
        seen.update(event["id"] for event in json.loads(await request.read())["events"])
        return web.Response(status=204)

    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/", seen
    await runner.cleanup()


async def delivery(sizes: Sizes) -> list[Figure]:
    """A campaign, then all its events to a receiver that asks for them from the beginning."""
    leads = sizes.large
    async with Bench.open(*ANSWERED) as bench, _receiving() as (url, seen):
        worker = await bench.worker()
        await bench.run(await bench.task(WARM_UP), WARM_UP, worker)
        ran = await bench.run(await bench.task(leads, organization="told"), leads, worker)
        campaign = sum(ran.cpu[name] for name in ("workers", "temporal", "mariadb"))
        writing = await asyncio.to_thread(_written, bench, leads)
        began = monotonic()
        with bench.metering(worker) as spent:
            subscribe = ("events", "subscribe", url, "--organization", "told", "--batch", "--since", "2020-01-01")
            await asyncio.to_thread(bench.stack.starter, *subscribe)
            while len(seen) < leads:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        seconds = monotonic() - began
        sending = sum(spent[name] for name in ("workers", "temporal", "mariadb"))
        idle = await _idle(bench, worker)
    share = 100 * (writing + sending) / campaign
    details = {"leads": leads, "campaign_cpu": campaign, "writing_cpu": writing, "sending_cpu": sending}
    return [
        at_most("events: CPU of telling in batches", share, SHARE, "% of the campaign's", **details),
        Figure(name="events told", value=leads / seconds, unit="a second"),
        Figure(name="events: looking for some while there are none", value=idle, unit="% of a processor"),
    ]


def _written(bench: Bench, count: int) -> float:
    """CPU seconds, here and of the database, of writing so many events in portions."""
    with bench.stack.mariadb.connect(bench.stack.mariadb.database) as connection, connection.cursor() as cursor:
        data = {"call_job_id": "x" * 36, "leads_id": 1, "outcome": "analysed", "is_interested": 1, "next": "x" * 19}
        with bench.metering() as spent:
            before = resource.getrusage(resource.RUSAGE_THREAD)
            for start in range(0, count, PORTION):
                numbers = range(start, min(start + PORTION, count))
                emit(
                    cursor,
                    [
                        Event(kind="follow_up.written", task_id=0, fact=(number,), data={"list_id": number} | data)
                        for number in numbers
                    ],
                    "nobody",
                )
                connection.commit()
            after = resource.getrusage(resource.RUSAGE_THREAD)
        own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return own + spent["mariadb"]


async def _idle(bench: Bench, worker: Child) -> float:
    began = monotonic()
    with bench.metering(worker) as spent:
        await asyncio.sleep(30)
    return 100 * (spent["workers"] + spent["mariadb"] + spent["temporal"]) / (monotonic() - began)

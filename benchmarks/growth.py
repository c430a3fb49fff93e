"""Figures of size and time: memory, waiting, long campaigns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.figures import ANSWERED, WARM_UP, Figure, Sizes, at_least, at_most
from benchmarks.site import UNLIMITED, Bench


async def memory(sizes: Sizes) -> list[Figure]:
    """Peak memory of a fresh worker that runs one task."""
    peaks: dict[int, float] = {}
    runs: dict[int, dict[str, Any]] = {}
    async with Bench.open(*ANSWERED) as site:
        for leads in (sizes.leads, sizes.large):
            task_id = await site.task(leads)
            worker = await site.worker()
            ran = await site.run(task_id, leads, worker)
            peaks[leads] = peak_megabytes(worker.pid)
            runs[leads] = {
                "leads_a_second": round(ran.rate),
                "cpu_seconds": {name: round(spent, 1) for name, spent in ran.cpu.items()},
                "statements": ran.statements,
                "history": await site.events(task_id),
                "billable_actions": await site.actions(task_id),
            }
            await asyncio.to_thread(worker.stop)
    few, many = peaks[sizes.leads], peaks[sizes.large]
    return [
        at_most(f"peak memory of a worker, {sizes.large:,} leads", many, 350, "MB", runs=runs),
        at_most(f"the same against {sizes.leads:,} leads", many / few, 1.3, "times", megabytes=peaks),
    ]


async def closing(sizes: Sizes) -> list[Figure]:
    """From the end of the last call to type 4, with 10 s polls and a model that takes 1 s."""
    arguments = ("--time-scale", "20", "--concurrency", "100", "--model-latency", "1.0")
    async with Bench.open(*ANSWERED, *arguments, settings={"ANALYSIS_QPM": "6000000"}) as site:
        await site.worker()
        task_id = await site.task(sizes.small, over=False)
        handle = await site.start(task_id, {"poll_min": 10, "poll_max": 10})
        closed = await site.typed(task_id, 4)
        await handle.result()
        truth = site.simulators(f"groups/{site.group_of(task_id)}/jobs", None)
        last = max(attempt["end"] for job in truth for attempt in job["attempts"]) / 1000
        return [
            at_most("from the last call's end to type 4", closed - last, 20, "s", calls=site.stats()["calls"]),
        ]


async def idle(sizes: Sizes) -> list[Figure]:
    """What a task costs whose calls are under way while nothing changes: 20 seconds, polls from one a second on."""
    arguments = ("--seconds-per-call", "3600", "--concurrency", str(sizes.small))
    async with Bench.open(*arguments) as site:
        worker = await site.worker()
        task_id = await site.task(sizes.small, over=False)
        handle = await site.start(task_id, {"poll_min": 1, "poll_max": 60})
        await asyncio.sleep(8)
        site.simulators("reset_stats", {})
        with site.metering(worker) as spent, site.questions() as questions:
            await asyncio.sleep(20)
        calls = site.stats()["calls"]
        await handle.terminate()
        polls = calls.get("DescribeJobGroup", {}).get("ok", 0)
        return [
            at_most(
                "calls an idle poll",
                sum(sum(count.values()) for count in calls.values()) / max(polls, 1),
                1,
                "calls",
                calls=calls,
                statements=questions[0],
                worker_cpu_seconds=round(spent["workers"], 2),
            )
        ]


async def waiting(sizes: Sizes) -> list[Figure]:
    """Two workers against one where waiting dominates: model 2 s, 50 calls in flight a worker."""
    leads = sizes.leads
    settings = {**UNLIMITED, "ANALYSIS_CONCURRENCY": "50"}
    async with Bench.open(*ANSWERED, "--model-latency", "2.0", settings=settings) as site:
        first = await site.worker()
        await site.run(await site.task(WARM_UP), WARM_UP, first)
        one = await site.run(await site.task(leads), leads, first)
        second = await site.worker()
        await site.run(await site.task(WARM_UP), WARM_UP, first, second)
        two = await site.run(await site.task(leads), leads, first, second)
        seconds = {"one": round(one.seconds, 1), "two": round(two.seconds, 1)}
        return [at_least("two workers against one, waiting", two.rate / one.rate, 1.8, "times", seconds=seconds)]


async def trickle(sizes: Sizes) -> list[Figure]:
    """A large task whose calls end over simulated hours; both workers are replaced half way."""
    scale = 120.0
    arguments = ("--time-scale", str(scale), "--concurrency", "600", "--seconds-per-call", "60")
    options = {"poll_min": 10 / scale * 5, "poll_max": 300 / scale * 5}
    async with Bench.open(*ANSWERED, *arguments) as site:
        worker = await site.worker()
        task_id = await site.task(sizes.large, over=False)
        began = monotonic()
        handle = await site.start(task_id, options)
        await site.until(lambda: site.followed_up(task_id) > sizes.large // 3, 900)
        await asyncio.to_thread(worker.kill)
        await asyncio.to_thread(worker.start)
        result = await handle.result()
        seconds = monotonic() - began
        runs = await site.events(task_id)
        lost = sizes.large - result["follow_ups"]
        details = {
            "billable_actions": await site.actions(task_id),
            "runs": runs,
            "seconds": round(seconds),
            "simulated_hours": round(seconds * scale / 3600, 1),
            "polls": result["polls"],
            "calls": site.stats()["calls"],
            "peak_megabytes": round(peak_megabytes(worker.pid)),
        }
        return [
            at_most("events of the longest run, trickling", max(length for length, _ in runs), 10_000, "events"),
            at_most("bytes of the longest run, trickling", max(size for _, size in runs) / 1e6, 10, "MB"),
            at_most("rows lost or doubled by restarts", abs(lost), 0, "rows", **details),
        ]


def peak_megabytes(process: int) -> float:
    """The largest resident size that a process ever had."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

"""Figures of a model that takes its time: calls a second, memory and the event loop's lateness of one worker."""

from __future__ import annotations

import re
import urllib.request
from typing import Any

from benchmarks.figures import ANSWERED, WARM_UP, Figure, Sizes, at_least, at_most
from benchmarks.growth import peak_megabytes
from benchmarks.sharing import sustained
from benchmarks.site import UNLIMITED, Bench, FloorProcess
from devstack.processes import free_port

VENDORS_LIMIT = 15_000
"""Calls a minute that DashScope lets qwen-plus be asked, as documented."""
HIGHER_LIMIT = 18_000
"""One that lets 250 a second pass: a limit is used to 0.93, so that nothing is turned away."""
LATE = re.compile(r'^call_tasks_event_loop_late_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)', re.MULTILINE)


async def model(sizes: Sizes) -> list[Figure]:
    """One worker beside the floor, which has no limit and 500 questions under way; model 300 ms and 2 s."""
    return [
        *await _asked(sizes, 0.3, VENDORS_LIMIT, 225),
        *await _asked(sizes, 2.0, VENDORS_LIMIT, 225),
        *await _asked(sizes, 2.0, HIGHER_LIMIT, 250),
    ]


async def _asked(sizes: Sizes, latency: float, limit: int, wanted: float) -> list[Figure]:
    address = f"127.0.0.1:{free_port()}"
    settings = {**UNLIMITED, "ANALYSIS_QPM": str(limit), "METRICS_ADDRESS": address}
    leads = 2 * sizes.leads
    async with Bench.open(*ANSWERED, "--model-latency", str(latency), settings=settings) as site:
        with FloorProcess(site) as process:
            await process.run(await site.task(WARM_UP), WARM_UP)
            task_id = await site.task(leads)
            site.simulators("reset_stats", {})
            ran = await process.run(task_id, leads)
            floor = _told(_rate(site), peak_megabytes(process.pid), ran.late, ran.seconds)
        worker = await site.worker()
        await site.run(await site.task(WARM_UP), WARM_UP, worker)
        task_id = await site.task(leads)
        site.simulators("reset_stats", {})
        before = _lateness(address)
        ran = await site.run(task_id, leads, worker)
        late = quantile(0.99, {bound: count - before[bound] for bound, count in _lateness(address).items()})
        rate, megabytes = _rate(site), peak_megabytes(worker.pid)
        details = {"worker": _told(rate, megabytes, late, ran.seconds), "floor": floor, "leads": leads}
    how = f"model {latency:g} s, limit {limit:,} a minute"
    return [
        at_least(f"model calls a second of one worker, {how}", rate, wanted, "calls/s", **details),
        at_most(f"peak memory of the worker, {how}", megabytes, 350, "MB", floor=floor["peak_megabytes"]),
        at_most(f"lateness of its event loop, 99 of 100, {how}", 1000 * late, 100, "ms", floor=floor["late_ms"]),
    ]


def _told(rate: float, megabytes: float, late: float, seconds: float) -> dict[str, Any]:
    return {
        "calls_a_second": round(rate),
        "peak_megabytes": round(megabytes),
        "late_ms": round(1000 * late, 1),
        "seconds": round(seconds, 1),
    }


def _rate(site: Bench) -> float:
    return sustained(site.stats()["per_second"]["model"])


def _lateness(address: str) -> dict[float, int]:
    """Beats of the event loop that were no later than each bound, so far."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=30) as answer:
        return {float(bound): int(count) for bound, count in LATE.findall(answer.read().decode())}


def quantile(share: float, counts: dict[float, int]) -> float:
    """The value below which this share lies, evenly spread within a bucket; of the last bucket its lower bound."""
    wanted, below, lower = share * counts[float("inf")], 0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted and count > below:
            return lower if bound == float("inf") else lower + (bound - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    return lower

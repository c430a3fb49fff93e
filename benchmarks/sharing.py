"""Figures of several organisations and several workers: fair shares, and limits that hold for all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from time import time

from benchmarks.figures import ANSWERED, Figure, Sizes, at_least, at_most
from benchmarks.site import UNLIMITED, Bench

TRIES = 5
"""Small tasks alone, and beside the big one; their medians count."""


async def fairness(sizes: Sizes) -> list[Figure]:
    """A task of 20 leads beside another organisation's big one, against the same alone."""
    return [
        *await _beside(sizes, "limits out of the way", UNLIMITED, 2.0),
        *await _beside(sizes, "limits as by default", {}, 1.3),
    ]


async def _beside(sizes: Sizes, how: str, settings: Mapping[str, str], most: float) -> list[Figure]:
    big = sizes.large // 2
    async with Bench.open(*ANSWERED, settings=settings) as site:
        worker = await site.worker()
        await site.run(await site.task(20), 20, worker)

        async def small() -> float:
            task_id = await site.task(20, organization="B")
            began = time()
            handle = await site.start(task_id)
            seconds = await site.typed(task_id, 4) - began
            await handle.result()
            return seconds

        alone = [await small() for _ in range(TRIES)]
        task_id = await site.task(big, organization="A")
        handle = await site.start(task_id)
        await site.until(lambda: site.followed_up(task_id) > 400, 120)
        beside = [await small() for _ in range(TRIES)]
        done = site.followed_up(task_id)
        await handle.terminate()
        assert done < big, "the big task was over before the small ones were"
        return [
            at_most(
                f"20 leads of B beside {big:,} of A, against alone, {how}",
                median(beside) / median(alone),
                most,
                "times",
                seconds_alone=[round(value, 2) for value in alone],
                seconds_beside=[round(value, 2) for value in beside],
                followed_up_of_a=done,
            )
        ]


async def limits(sizes: Sizes) -> list[Figure]:
    """Peaks and use of both limits, three workers together, default settings (50 a second, 1,200 a minute)."""
    leads = 4 * sizes.small
    async with Bench.open(*ANSWERED, settings={}) as site:
        workers = [await site.worker() for _ in range(3)]
        task_id = await site.task(leads)
        site.simulators("reset_stats", {})
        ran = await site.run(task_id, leads, *workers)
        stats = site.stats()
        series = stats["per_second"]
        details = {"calls": stats["calls"], "statements": ran.statements}
        return [
            at_most("platform: most calls in any second, of 50", stats["platform_peak_1s"], 50, "calls", **details),
            at_least("platform: share used while there is work", used(series["platform"], 50), 0.9, "times"),
            at_most("model: most calls in any minute, of 1,200", stats["model_peak_60s"], 1200, "calls"),
            at_least("model: share used while there is work", used(series["model"], 20), 0.9, "times"),
        ]


def used(calls: Sequence[int], limit: float) -> float:
    """Mean share of the limit while there was always work."""
    return sustained(calls, limit / 2) / limit


def sustained(calls: Sequence[int], busy_from: float | None = None) -> float:
    """Mean calls a second from the 3rd busy second to the 3rd last; busy: more than half of the most, if not told."""
    least = max(calls, default=0) / 2 if busy_from is None else busy_from
    busy = [second for second, count in enumerate(calls) if count > least]
    return mean(calls[busy[0] + 2 : busy[-1] - 1] if len(busy) > 6 else [0])

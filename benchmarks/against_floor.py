"""Figures against the floor: what durability costs, and how many calls, statements and events a lead takes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from time import monotonic
from typing import Any

import aiohttp

from benchmarks.figures import ANSWERED, WARM_UP, Figure, Sizes, at_most
from benchmarks.site import Bench, FloorProcess, Ran
from calltasks.rules.judgement import SYSTEM, question
from devstack.processes import Child
from devstack.stack import SIMULATED_ACCOUNT

PAGE, BATCH = 100, 99


async def tax(sizes: Sizes) -> list[Figure]:
    """Durability tax, CPU, history, statements and vendor calls of a finished task; model and vendor latency 0."""
    async with Bench.open(*ANSWERED) as site:
        rates = await _against_floor(site, sizes, sizes.leads, two=True)
        few = await _against_floor(site, sizes, sizes.small, two=False)
        figures = [
            rates.against("one", 1.25, f"{sizes.leads:,} leads"),
            few.against("one", 1.6, f"{sizes.small:,} leads"),
            rates.against("two", 1.0, f"{sizes.leads:,} leads"),
            rates.cpu("one", 1.2),
        ]
        worker = site.stack.workers[0]
        for leads, events, statements in ((sizes.small, 80, 90), (sizes.leads, 36, 60)):
            figures += await _counts(site, worker, leads, events, statements, sizes.rounds)
        return [*figures, await _headroom(site, rates.runs["one"][-1])]


async def latency(sizes: Sizes) -> list[Figure]:
    """Durability tax with a model that takes 300 ms."""
    async with Bench.open(*ANSWERED, "--model-latency", "0.3") as site:
        rates = await _against_floor(site, sizes, sizes.leads, two=False)
        return [rates.against("one", 1.25, "model 300 ms")]


@dataclass(slots=True)
class _Rates:
    """Runs of the same work, round by round: by the floor (``bare``: without the model's SDK), one worker, two."""

    runs: dict[str, list[Ran]]

    def against(self, name: str, most: float, how: str) -> Figure:
        """Time against the floor's, round by round; their median."""
        ratios = [ran.seconds / floor.seconds for floor, ran in self._pairs(name)]
        workers = {"one": "one worker's", "two": "two workers'"}[name]
        return at_most(
            f"{workers} time against the floor's, {how}",
            median(ratios),
            most,
            "times",
            ratios=[round(ratio, 3) for ratio in ratios],
            **self._told(),
        )

    def cpu(self, name: str, most: float) -> Figure:
        """CPU against the floor's, likewise."""
        ratio = median(ran.cpu["workers"] / floor.cpu["workers"] for floor, ran in self._pairs(name))
        return at_most("CPU of one worker a lead, against the floor's", ratio, most, "times", **self._told())

    def _pairs(self, name: str) -> list[tuple[Ran, Ran]]:
        return list(zip(self.runs["floor"], self.runs[name], strict=True))

    def _told(self) -> dict[str, Any]:
        """Of each program the medians of its rounds."""
        return {
            name: {
                "seconds": round(median(ran.seconds for ran in runs), 2),
                "cpu_ms_a_lead": round(median(1000 * ran.cpu["workers"] / ran.leads for ran in runs), 3),
                "statements": median(ran.statements for ran in runs),
                "cpu_seconds_of_all": {part: round(spent, 1) for part, spent in runs[-1].cpu.items()},
            }
            for name, runs in self.runs.items()
        }


async def _against_floor(site: Bench, sizes: Sizes, leads: int, *, two: bool) -> _Rates:
    """Interleaved, so that whatever else the machine does meets all of them alike."""
    names = ("bare", "floor", "one", *(["two"] if two else []))
    rates = _Rates({name: [] for name in names})
    first = site.stack.workers[0] if site.stack.workers else await site.worker()
    second = await site.worker() if two else None
    if second:
        await asyncio.to_thread(second.stop)
    with FloorProcess(site) as floor, FloorProcess(site, "bare") as bare:
        for program in (floor, bare):
            await program.run(await site.task(WARM_UP), WARM_UP)
        await site.run(await site.task(WARM_UP), WARM_UP, first)
        for _ in range(sizes.rounds):
            rates.runs["bare"].append(await bare.run(await site.task(leads), leads))
            rates.runs["floor"].append(await floor.run(await site.task(leads), leads))
            rates.runs["one"].append(await site.run(await site.task(leads), leads, first))
            if second:
                await asyncio.to_thread(second.start)
                await site.run(await site.task(5 * WARM_UP), 5 * WARM_UP, first, second)
                rates.runs["two"].append(await site.run(await site.task(leads), leads, first, second))
                await asyncio.to_thread(second.stop)
    return rates


async def _counts(site: Bench, worker: Child, leads: int, events: int, statements: int, rounds: int) -> list[Figure]:
    counted = [await _count(site, worker, leads) for _ in range(rounds)]
    size = f"{leads:,} leads"
    return [
        at_most(
            f"history events per 1,000 leads, {size}",
            1000 * median(one["events"] for one in counted) / leads,
            events,
            "events",
            runs=[one["runs"] for one in counted],
        ),
        at_most(
            f"SQL statements per 1,000 leads, {size}",
            1000 * median(one["statements"] for one in counted) / leads,
            statements,
            "statements",
            statements=[one["statements"] for one in counted],
        ),
        at_most(
            f"platform calls against the least possible, {size}",
            median(one["platform"] for one in counted),
            1.005,
            "times",
            calls=counted[-1]["calls"],
            all_calls_against_least=[one["all"] for one in counted],
        ),
    ]


async def _count(site: Bench, worker: Child, leads: int) -> dict[str, Any]:
    """What one run of a task cost in events, statements and vendor calls, these against the least possible."""
    task_id = await site.task(leads)
    site.simulators("reset_stats", {})
    ran = await site.run(task_id, leads, worker)
    stats, runs = site.stats(), await site.events(task_id)
    answered = stats["calls"]["model"]["ok"]
    # Each answered call costs one question to the model and one for its recording.
    pages, batches = -(-leads // PAGE), -(-leads // BATCH)
    return {
        "events": sum(length for length, _ in runs),
        "runs": runs,
        "statements": ran.statements,
        "platform": stats["platform_calls"] / (pages + batches + answered),
        "all": round((stats["platform_calls"] + stats["model_calls"]) / (pages + batches + 2 * answered), 3),
        "calls": stats["calls"],
    }


async def _headroom(site: Bench, ran: Ran) -> Figure:
    """How busy the simulators were, and how fast they answer when nothing but them is asked."""
    rate = await _bare_rate(site)
    asked = 0.4 * ran.rate
    return Figure(
        name="simulators: bare answers a second",
        value=rate,
        unit="calls/s",
        target="more than is asked of them",
        met=rate > 2 * asked,
        details={
            "model_calls_a_second_in_the_run": round(asked),
            "cpu_share_of_one_processor_in_the_run": round(ran.cpu["simulators"] / ran.seconds, 2),
        },
    )


async def _bare_rate(site: Bench, calls: int = 3_000, at_once: int = 32) -> float:
    """Model answers a second to a client that does nothing else."""
    said = "机器人：您好，请问您最近有购车打算吗？\n客户：想了解一下价格。\n" * 8
    body = {
        "model": "qwen-plus",
        "input": {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question(said, datetime(2025, 1, 6, 10))},
            ]
        },
        "parameters": {"result_format": "message", "response_format": {"type": "json_object"}},
    }
    data = json.dumps(body, ensure_ascii=False).encode()
    url = f"{site.stack.simulator_url}/api/v1/services/aigc/text-generation/generation"
    key = {"Authorization": f"Bearer {SIMULATED_ACCOUNT['DASHSCOPE_API_KEY']}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=key) as session:
        numbers = iter(range(calls))

        async def work() -> None:
            for _ in numbers:
                async with session.post(url, data=data) as answer:
                    await answer.read()
                    assert answer.status == 200

        began = monotonic()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return calls / (monotonic() - began)

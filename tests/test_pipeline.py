"""A whole call task, from creation to follow-up complete, equals what the platform says happened."""

import asyncio
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from simulators import SimulatorOptions
from tests.comparison import assert_finished, assert_nothing_went_back
from tests.pipeline import QUICK, Sites


async def test_a_thousand_leads_come_out_as_the_platform_recorded_them(
    sites: Sites, record_property: Callable[[str, Any], None]
) -> None:
    site = await sites(SimulatorOptions(calls_over=True, cancelled_rate=0.1))
    site.add_leads(1000)
    task_id = await site.create_task()
    begun = site.questions()
    async with site.working():
        before = site.questions()
        await site.client.start_workflow(
            WORKFLOW,
            {"task_id": task_id, "options": {"poll_first": 0, "match_grace": 5}},
            id=workflow_id(task_id),
            task_queue=CALL_TASKS,
        )
        result = await site.result(task_id)
        statements = site.questions() - before
    history = await site.handle(task_id).fetch_history()
    stats = site.stats()
    least = 10 + math.ceil(1000 / 99) + result["by_status"]["Succeeded"]
    asked = sum(sum(stats["calls"][name].values()) for name in ("QueryJobsWithResult", "ListJobs", "DownloadRecording"))
    figures = {
        "statements": statements,
        "statements of the worker's start": before - begun,
        "events": len(history.events),
        "history bytes": sum(event.ByteSize() for event in history.events),
        "calls": stats["calls"],
        "calls against the least possible": round(asked / least, 3),
        "seconds": seconds_between(result["started_at"], result["updated_at"]),
    }
    for name, figure in figures.items():
        record_property(name, figure)
        print(f"{name}: {figure}")
    assert (result["outcome"], result["called"], site.task(task_id)["task_type"]) == ("complete", 1000, 4)
    assert_finished(site, task_id, result)
    assert stats["model_calls"] == result["analysed"]
    assert asked <= 1.1 * least
    assert len(history.events) <= 150
    assert statements <= 200
    assert before - begun <= 90, "tables are read once, rights tried once"


def seconds_between(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


async def test_calls_that_take_their_time_come_out_the_same(sites: Sites) -> None:
    site = await sites(
        SimulatorOptions(
            time_scale=40,
            concurrency=60,
            cancelled_rate=0.1,
            transcript_lag=40,
            transcript_lag_share=0.5,
            transcript_never=0.03,
            recording_lag=60,
        )
    )
    site.add_leads(300)
    task_id = await site.create_task()
    site.watch_writes()
    async with site.working():
        result = await site.run(task_id, QUICK.model_copy(update={"conversation_grace": 4, "recording_grace": 5}))
    assert result["outcome"] == "complete"
    assert_finished(site, task_id, result)
    assert_nothing_went_back(site, task_id)
    assert site.seen_types(task_id) == [1, 2, 3, 4]


async def test_no_task_is_called_complete_before_it_is(sites: Sites) -> None:
    """Whoever asks at every moment of small tasks is never told that they are over while they are not."""
    site = await sites(SimulatorOptions(calls_over=True))
    site.add_leads(3)
    wrong = []
    async with site.working(), site.calls() as calls:
        for _ in range(5):
            task_id = await site.create_task()
            assert await calls.start_call(task_id, QUICK)
            ended = asyncio.create_task(site.result(task_id))
            while not ended.done():
                seen = await calls.progress(task_id)
                if seen["phase"] == "complete" and seen["task_type"] < 4:
                    wrong.append((seen["task_type"], seen["leads"], seen["called"]))
            assert (await ended)["task_type"] == 4
    assert wrong == []

"""A whole call task, from creation to follow-up complete, equals what the platform says happened."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import SimulatorOptions
from tests.comparison import assert_finished, assert_nothing_went_back
from tests.pipeline import QUICK, Sites, opening_sites


@pytest.fixture
async def sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        yield sites


async def test_a_thousand_leads_come_out_as_the_platform_recorded_them(
    sites: Sites, record_property: Callable[[str, Any], None]
) -> None:
    site = await sites(SimulatorOptions(calls_over=True, cancelled_rate=0.1, transcript_never=0.02))
    site.add_leads(1000)
    task_id = await site.create_task()
    before = site.questions()
    async with site.working():
        result = await site.run(task_id)
    statements = site.questions() - before
    history = await site.handle(task_id).fetch_history()
    stats = site.stats()
    print(result)
    print("statements", statements, "events", len(history.events), "calls", stats["calls"])
    assert result["outcome"] == "complete"
    assert site.task(task_id)["task_type"] == 4
    assert result["called"] == 1000
    assert_finished(site, task_id, result)


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
    print(result, site.stats()["calls"])
    assert result["outcome"] == "complete"
    assert_finished(site, task_id, result)
    assert_nothing_went_back(site, task_id)
    assert site.seen_types(task_id) == [1, 2, 3, 4]

"""A worker that is killed in the middle of any step, and another one in its place: the same end state."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import Fault, SimulatorOptions
from tests.pipeline import QUICK, Sites, WorkerProcess, assert_finished, opening_sites

STEPS = {
    "dispatch, before the platform has the contacts": Fault(target="AssignJobs", kind="hang", count=1, seconds=3),
    "dispatch, after the platform has the contacts": Fault(target="AssignJobs", kind="lost_answer", count=1),
    "the job group": Fault(target="CreateJobGroup", kind="lost_answer", count=1),
    "job ids": Fault(target="QueryJobsWithResult", kind="hang", count=1, seconds=3),
    "conversations": Fault(target="ListJobs", kind="hang", count=1, seconds=3),
    "recordings": Fault(target="DownloadRecording", kind="hang", count=5, seconds=3),
    "analyses": Fault(target="model", kind="hang", count=5, seconds=3),
}


@pytest.fixture
async def sites(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sites]:
    async with opening_sites(mariadb, temporal, monkeypatch) as sites:
        yield sites


async def test_a_worker_killed_in_the_middle_of_each_step_leaves_the_same_end_state(
    sites: Sites, tmp_path: Path
) -> None:
    async def prove(name: str, fault: Fault) -> None:
        site = await sites(SimulatorOptions(calls_over=True))
        site.add_leads(210)
        task_id = await site.create_task()
        site.sim.set_faults(fault)
        worker = WorkerProcess(site, tmp_path / f"{name}.log")
        try:
            worker.start()
            async with site.calls() as calls:
                await calls.start_call(task_id, QUICK.model_copy(update={"match_grace": 3}))
            async with asyncio.timeout(60):
                while not site.sim.faults.counts:
                    await asyncio.sleep(0.005)
            worker.kill()
            worker.start()
            result = await site.result(task_id)
        finally:
            worker.kill()
        assert result["called"] == 210
        assert site.sim.bot.contacts_assigned == 210
        assert site.stats()["groups_of_one_name"] == []
        assert_finished(site, task_id, result)

    async with asyncio.TaskGroup() as group:
        for name, fault in STEPS.items():
            group.create_task(prove(name, fault), name=name)

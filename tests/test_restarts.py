"""A worker that is killed in the middle of any step, and another one in its place: the same end state."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import WorkflowUpdateStage

from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from simulators import Fault, SimulatorOptions
from tests.comparison import assert_finished, assert_nothing_went_back
from tests.pipeline import QUICK, Sites, eventually
from tests.programs import Program, own_environment

STEPS = {
    "dispatch, before the platform has the contacts": Fault(target="AssignJobs", kind="hang", count=1, seconds=3),
    "dispatch, after the platform has the contacts": Fault(target="AssignJobs", kind="lost_answer", count=1),
    "job ids": Fault(target="QueryJobsWithResult", kind="hang", count=1, seconds=3),
    "conversations": Fault(target="ListJobs", kind="hang", count=1, seconds=3),
    "recordings": Fault(target="DownloadRecording", kind="hang", count=5, seconds=3),
    "analyses": Fault(target="model", kind="hang", count=5, seconds=3),
}


@pytest.mark.long
async def test_a_worker_killed_in_the_middle_of_each_step_leaves_the_same_end_state(
    sites: Sites, tmp_path: Path
) -> None:
    async def prove(name: str, fault: Fault) -> None:
        site = await sites(SimulatorOptions(calls_over=True))
        site.add_leads(110)
        task_id = await site.create_task()
        site.sim.set_faults(fault)
        worker = Program({**own_environment(), **site.environment}, tmp_path / name, "worker.py")
        try:
            worker.start()
            async with site.calls() as calls:
                await calls.start_call(task_id, QUICK.model_copy(update={"match_grace": 3}))

            async def struck() -> bool:
                return bool(site.sim.faults.counts)

            # The first program is slow: everything is imported for it.
            await eventually(struck)
            worker.kill()
            worker.start()
            result = await site.result(task_id, 170)
        finally:
            worker.kill()
        assert result["called"] == 110
        assert site.sim.outbound_bot.contacts_assigned == 110
        assert site.stats()["groups_of_one_name"] == []
        assert_finished(site, task_id, result)

    async with asyncio.TaskGroup() as group:
        for name, fault in STEPS.items():
            group.create_task(prove(name, fault), name=name)


async def test_a_run_that_restarts_as_new_again_and_again_loses_nothing(restarting_sites: Sites) -> None:
    site = await restarting_sites(SimulatorOptions(time_scale=20, concurrency=30, late_rate=0.1, late_lag=40))
    site.add_leads(60)
    task_id = await site.create_task()
    site.watch_writes()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, analysed=5)
        await calls.force_analyze(task_id, every=True)
        result = await site.result(task_id)
    runs = await site.runs()
    assert len(runs) > 2
    assert result["started_at"] <= min(run.start_time for run in runs).isoformat(timespec="seconds")
    assert result["outcome"] == "complete" and result["reanalysed"] >= 5
    assert_finished(site, task_id, result)
    assert_nothing_went_back(site, task_id)


async def test_a_control_of_a_closed_task_holds_no_restart_up(restarting_sites: Sites) -> None:
    """It is asked for before the run has seen its task, whose table is locked meanwhile."""
    site = await restarting_sites(SimulatorOptions(calls_over=True))
    site.add_leads(30)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.result(task_id)
        site.sql("LOCK TABLES call_tasks WRITE")
        await site.client.start_workflow(
            WORKFLOW, {"task_id": task_id, "dial": False}, id=workflow_id(task_id), task_queue=CALL_TASKS
        )
        run = site.handle(task_id)
        control = await run.start_update("control_calls", "pause", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        for _ in range(40):
            await run.signal("force_analyze", {"all": True})
        site.sql("UNLOCK TABLES")
        assert not (await control.result())["done"]
        assert (await site.result(task_id))["outcome"] == "complete"

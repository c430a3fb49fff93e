"""A stop stops: within seconds, in every phase, dispatch included; and every other signal is served at once too."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from calltasks.options import Options
from simulators import Fault, SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Site, Sites, eventually
from tests.test_who_dials import says

SOON = 8.0
"""Seconds within which what was asked for is done, on a machine that is busy too."""
SLOW = {"OUTBOUND_BOT_QPS": "4"}
PATIENT = QUICK.model_copy(update={"match_grace": 4, "poll_min": 4, "poll_max": 10})
LEADS = 1_400


@contextmanager
def soon() -> Iterator[None]:
    began = monotonic()
    yield
    assert monotonic() - began < SOON


def dialled_now(site: Site) -> int:
    """Calls that the platform has begun."""
    now = site.sim.world.clock.now()
    return sum(job.begun_at(now) > 0 for group in site.sim.world.groups.values() for job in group.jobs)


async def begun(site: Site, leads: int = 1) -> None:
    async def assigned() -> bool:
        return site.sim.outbound_bot.contacts_assigned >= leads

    await eventually(assigned)


async def test_a_pause_in_dispatch_stops_it_and_resume_goes_on(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=5, concurrency=5_000, answer_rate=0), **SLOW)
    site.add_leads(LEADS)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
        await begun(site, 99)
        with soon():
            assert await calls.control(task_id, "pause") == {"done": True, "answer": "pause: done"}
        handed_over, dialled = site.sim.outbound_bot.contacts_assigned, dialled_now(site)
        assert handed_over < LEADS
        await says(site, task_id, "resume: the calls are paused")
        with soon():
            assert (await calls.progress(task_id))["phase"] == "dispatching"
        await asyncio.sleep(3)
        assert (site.sim.outbound_bot.contacts_assigned, dialled_now(site)) == (handed_over, dialled)
        with soon():
            assert (await calls.control(task_id, "resume"))["done"]
            await begun(site, handed_over + 1)
        await says(site, task_id, "resume: done")
        await begun(site, LEADS)
        assert site.sim.outbound_bot.contacts_assigned == LEADS and site.stats()["dialled_twice"] == []
        await site.handle(task_id).terminate()


async def test_a_cancel_in_dispatch_hands_nothing_more_over_and_holds_nothing_up(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=5, answer_rate=0), **SLOW)
    site.add_leads(LEADS)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
        await begun(site, 99)
        with soon():
            assert (await calls.control(task_id, "cancel"))["done"]
        handed_over = site.sim.outbound_bot.contacts_assigned
        result = await site.result(task_id)
        assert handed_over == site.sim.outbound_bot.contacts_assigned == result["called"] < LEADS
        assert (result["outcome"], result["task_type"]) == ("cancelled", 4)
        rest = [row for row in site.rows(task_id) if not row["call_job_id"]]
        assert {row["call_status"] for row in rest} == {"Cancelled"} and len(rest) == LEADS - handed_over
        assert not await calls.start_call(task_id) or (await site.result(task_id))["called"] == handed_over
    assert site.sim.outbound_bot.contacts_assigned == handed_over


STUCK = {
    "no group can be made": Fault(target="CreateJobGroup", kind="status_503"),
    "the group's answer was lost": Fault(target="CreateJobGroup", kind="lost_late", seconds=60),
    "nothing is taken": Fault(target="AssignJobs", kind="status_503"),
    "everything is throttled": Fault(target="AssignJobs", kind="throttle", seconds=0.05),
    "no answer comes": Fault(target="AssignJobs", kind="hang", seconds=5),
}


@pytest.mark.parametrize("how", STUCK)
async def test_a_stop_is_heard_while_dispatch_is_stuck(sites: Sites, how: str) -> None:
    site = await sites()
    site.add_leads(120)
    task_id = await site.create_task()
    site.sim.set_faults(STUCK[how])
    options = Options(poll_first=0, match_grace=30, retry_interval=30)
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, options)

        async def struck() -> bool:
            return bool(site.sim.faults.counts)

        await eventually(struck)
        for action in ("pause", "resume", "pause"):
            with soon():
                assert (await calls.control(task_id, action))["done"]
        site.sim.set_faults()
        with soon():
            assert (await calls.control(task_id, "cancel"))["done"]
        before = site.sim.outbound_bot.contacts_assigned
        if STUCK[how].target == "CreateJobGroup":
            with soon():
                result = await site.result(task_id)
            assert (result["outcome"], result["task_type"], result["called"]) == ("cancelled", 1, 0)
        await asyncio.sleep(1)
    assert site.sim.outbound_bot.contacts_assigned == before


async def test_a_run_that_ends_by_a_cancel_tells_who_asked_for_it(sites: Sites) -> None:
    """Another connection holds the task's options back, so that the run is done before the cancel is."""
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    site.sim.set_faults(STUCK["no group can be made"])
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        assert (await calls.control(task_id, "pause"))["done"]
        site.sql("START TRANSACTION")
        site.sql("UPDATE call_task_options SET paused = paused WHERE task_id = %s", task_id)
        asked = asyncio.create_task(calls.control(task_id, "cancel"))

        async def kept_waiting() -> bool:
            described = await site.handle(task_id).describe()
            return any(pending.activity_type.name == "keep" for pending in described.raw_description.pending_activities)

        await eventually(kept_waiting)
        await asyncio.sleep(1)  # in which a run that does not wait is over
        site.sql("COMMIT")
        assert await asked == {"done": True, "answer": "cancel: done"}
        assert (await site.result(task_id))["outcome"] == "cancelled"


async def test_a_stop_is_heard_while_the_database_is_away(sites: Sites) -> None:
    """Rights are taken away, so that every claim fails and is tried again; the platform is told all the same."""
    site = await sites(SimulatorOptions(time_scale=5, answer_rate=0), **SLOW)
    site.add_leads(LEADS)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
        await begun(site, 99)
        site.sql("RENAME TABLE call_dispatches TO elsewhere")
        with soon():
            assert (await calls.control(task_id, "pause"))["done"]
        handed_over = site.sim.outbound_bot.contacts_assigned
        site.sql("RENAME TABLE elsewhere TO call_dispatches")
        await asyncio.sleep(1)
        assert site.sim.outbound_bot.contacts_assigned == handed_over
        await site.handle(task_id).terminate()


async def test_a_refresh_within_the_first_wait_is_served_at_once(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK.model_copy(update={"poll_first": 600}))
        await begun(site, 5)

        async def dispatched() -> bool:
            return bool(site.task(task_id)["task_type"] == 2)

        await eventually(dispatched)
        await calls.signal(task_id, "refresh")
        with soon():
            result = await site.result(task_id)
    assert_finished(site, task_id, result)


async def test_while_dispatch_is_paused_calls_are_finished_looked_at_and_judged_again(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=0), **SLOW)
    site.add_leads(LEADS)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
        await begun(site, 99)
        assert (await calls.control(task_id, "pause"))["done"]
        site.enter_environment()
        handed_over = site.sim.outbound_bot.contacts_assigned
        await calls.signal(task_id, "refresh")
        await site.until(task_id, finished=99, follow_ups=99)
        await calls.force_analyze(
            task_id, call_job_ids=[next(r["call_job_id"] for r in site.rows(task_id) if r["leads_follow_id"])]
        )
        with soon():
            assert (await calls.analysed_again(task_id, every=0.1))["reanalysed"] == 1
        progress = await site.progress(task_id)
        assert (progress["phase"], progress["task_type"]) == ("dispatching", 1)
        assert site.sim.outbound_bot.contacts_assigned == handed_over < LEADS
        assert {row["call_status"] for row in site.rows(task_id)} == {"Failed", None}
        await site.handle(task_id).terminate()


async def test_dispatch_restarts_as_new_and_a_pause_outlives_that(restarting_sites: Sites) -> None:
    """The server suggests it at 60 events; a platform that throttles makes far more."""
    site = await restarting_sites()
    site.add_leads(120)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="status_503"))
    options = QUICK.model_copy(update={"retry_interval": 0.05, "poll_max": 0.1})
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, options)

        async def runs() -> int:
            return len(await site.runs())

        async def several() -> bool:
            return await runs() >= 3

        await eventually(several)
        for run in await site.histories():
            assert len(run.events) < 300
        assert (await calls.control(task_id, "pause"))["done"]
        site.sim.set_faults()
        before = await runs()

        async def once_more() -> bool:
            await calls.signal(task_id, "refresh")
            return await runs() > before

        await eventually(once_more)
        await says(site, task_id, "| dialling | pause: done |")
        await says(site, task_id, "calls are paused")
        assert site.sim.outbound_bot.contacts_assigned == 0
        assert (await calls.control(task_id, "resume"))["done"]
        result = await site.result(task_id)
    assert site.stats()["dialled_twice"] == [] and site.sim.outbound_bot.contacts_assigned == 120
    assert_finished(site, task_id, result)


async def test_a_pause_outlives_the_run(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=0), **SLOW)
    site.add_leads(LEADS)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
        await begun(site, 99)
        assert (await calls.control(task_id, "pause"))["done"]
        handed_over = site.sim.outbound_bot.contacts_assigned
        await site.handle(task_id).terminate()
        assert await calls.start_call(task_id)
        await says(site, task_id, "calls are paused")
        await says(site, task_id, "pause: done, by an earlier run")
        assert site.sim.outbound_bot.contacts_assigned == handed_over
        assert (await calls.control(task_id, "resume"))["done"]
        await begun(site, LEADS)
        assert site.sim.outbound_bot.contacts_assigned == LEADS and site.stats()["dialled_twice"] == []
        await site.handle(task_id).terminate()

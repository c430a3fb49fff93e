"""Dispatch (rule 2): everybody is dialled once, whatever answer is lost and however often it is started."""

import asyncio

import pytest
from temporalio.client import WorkflowFailureError

from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Site, Sites, phone, side_by_side

PATIENT = QUICK.model_copy(update={"match_grace": 2})


def assert_all_dialled_once(site: Site, task_id: int, count: int) -> None:
    """Every reference of the task has one job in one group of the task's name."""
    stats = site.stats()
    assert stats["dialled_twice"] == [] and stats["groups_of_one_name"] == []
    references = sorted(job["reference_id"] for job in site.truth(task_id))
    assert references == sorted(row["reference_id"] for row in site.rows(task_id))[:count]
    assert site.sim.outbound_bot.contacts_assigned == count


FAULTS = [
    Fault(target="AssignJobs", kind="lost_answer", count=2),
    Fault(target="AssignJobs", kind="lost_late", count=2, seconds=1),
    Fault(target="AssignJobs", kind="partial", count=2),
    Fault(target="AssignJobs", kind="reset", count=3),
    Fault(target="AssignJobs", kind="throttle", count=3, seconds=0.3),
    Fault(target="AssignJobs", kind="permanent", count=3),
    Fault(target="CreateJobGroup", kind="lost_answer", count=1),
    Fault(target="CreateJobGroup", kind="lost_late", count=1, seconds=1),
    Fault(target="CreateJobGroup", kind="empty", count=2),
    Fault(target="ListJobGroups", kind="wrong_shape", count=2),
]


async def test_whatever_answer_is_lost_everybody_is_dialled_once(sites: Sites) -> None:
    async def prove(site: Site, fault: Fault) -> None:
        site.add_leads(110)
        task_id = await site.create_task()
        site.sim.set_faults(fault)
        result = await site.run(task_id, PATIENT)
        assert site.sim.faults.counts, "the fault struck nothing"
        assert result["called"] == 110
        assert_all_dialled_once(site, task_id, 110)
        assert_finished(site, task_id, result)

    cases = {f"{fault.target} {fault.kind}": fault for fault in FAULTS}
    await side_by_side(sites, cases, prove, SimulatorOptions(calls_over=True))


async def test_a_lead_without_a_number_is_not_dialled_and_holds_nobody_up(sites: Sites) -> None:
    site = await sites()
    site.add_leads(40)
    site.sql("UPDATE dcc_leads SET leads_user_phone = '' WHERE leads_id = 7")
    site.sql("UPDATE dcc_leads SET leads_user_phone = NULL WHERE leads_id = 8")
    site.sql("UPDATE dcc_leads SET leads_user_phone = '\\n' WHERE leads_id = 9")
    site.sql("UPDATE dcc_leads SET leads_user_phone = '无' WHERE leads_id = 10")
    site.sql("UPDATE dcc_leads SET leads_user_phone = '+86 139-0000-0011' WHERE leads_id = 11")
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id)
    rows = {row["leads_id"]: row for row in site.rows(task_id)}
    assert (result["called"], result["unmatched"], result["task_type"]) == (36, 4, 4)
    assert (result["suppressed"], result["suppressed_by_reason"]) == (4, {"no_number": 4})
    assert {rows[lead]["call_status"] for lead in (7, 8, 9, 10)} == {"Cancelled"}
    assert site.sim.outbound_bot.contacts_assigned == 36
    assert {job["phone"] for job in site.truth(task_id)} == {phone(n) for n in range(1, 41) if n not in (7, 8, 9, 10)}
    assert_finished(site, task_id, result)


async def test_a_refusal_for_good_is_one_clear_line_and_a_new_start_goes_on(sites: Sites) -> None:
    site = await sites()
    site.add_leads(120)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", code="NotExist.Script"))
    async with site.working():
        with pytest.raises(WorkflowFailureError) as failure:
            await site.run(task_id)
        assert "NotExist.Script" in str(failure.value.cause) and "\n" not in str(failure.value.cause)
        assert site.task(task_id)["task_type"] == 1
        site.sim.set_faults()
        result = await site.run(task_id)
    assert_all_dialled_once(site, task_id, 120)
    assert_finished(site, task_id, result)


async def test_a_group_of_somebody_else_is_adopted_as_it_is(sites: Sites) -> None:
    site = await sites()
    contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 21)]
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in range(1, 26)]
    task_id = site.old_task(rows, contacts, task_type=1)
    site.watch_writes()
    async with site.working():
        result = await site.run(task_id)
    assert site.sim.outbound_bot.contacts_assigned == 0
    assert (result["called"], result["unmatched"]) == (20, 5)
    assert site.seen_types(task_id) == [2, 3, 4]
    assert_finished(site, task_id, result)


async def test_two_starts_at_once_dial_once(sites: Sites) -> None:
    site = await sites()
    site.add_leads(110)
    task_id = await site.create_task()
    async with site.working(), site.calls() as one, site.calls() as other:
        started = await asyncio.gather(*(calls.start_call(task_id, QUICK) for calls in (one, other, one, other)))
        assert sorted(started) == [False, False, False, True]
        result = await site.result(task_id)
    assert_all_dialled_once(site, task_id, 110)
    assert_finished(site, task_id, result)


async def test_a_second_start_starts_nothing_and_one_after_the_end_changes_nothing(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=20))
    site.add_leads(40)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        assert await calls.start_call(task_id, QUICK)
        assert not await calls.start_call(task_id, QUICK)
        first = await site.result(task_id)
        before, stats = site.everything(), site.stats()["calls"]
        assert await calls.start_call(task_id, QUICK)
        second = await site.result(task_id)
    assert site.everything() == before
    assert site.stats()["calls"] == stats
    varying = ("started_at", "updated_at", "polls", "api_calls", "last_error")
    assert {name: value for name, value in second.items() if name not in varying} == {
        name: value for name, value in first.items() if name not in varying
    }


async def test_the_same_lead_twice_in_a_task_is_dialled_once(sites: Sites) -> None:
    site = await sites()
    site.add_leads(30)
    task_id = await site.create_task()
    columns = "task_id, leads_id, leads_name, leads_phone, call_time, call_job_id, reference_id"
    site.sql(f"INSERT INTO leads_task_list ({columns}) SELECT {columns} FROM leads_task_list WHERE leads_id IN (5, 6)")
    async with site.working():
        result = await site.run(task_id)
    assert site.stats()["dialled_twice"] == []
    assert site.sim.outbound_bot.contacts_assigned == 30
    assert (result["called"], result["unmatched"], result["outcome"]) == (30, 2, "complete")


async def test_calls_that_are_paused_resumed_and_cancelled_end_the_task(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=20, concurrency=4))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, finished=4)
        for signal in ("pause_calls", "resume_calls", "cancel_calls"):
            await calls.signal(task_id, signal)
        result = await site.result(task_id)
    stats = site.stats()["calls"]
    assert stats["SuspendJobs"] == stats["ResumeJobs"] == stats["CancelJobs"] == {"ok": 1}
    assert (result["outcome"], result["task_type"]) == ("cancelled", 4)
    assert result["by_status"]["Cancelled"] > 20
    assert_finished(site, task_id, result)

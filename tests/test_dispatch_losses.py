"""What is lost while leads are handed over: rows that people take out, entries that a database loses, a whole run."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from simulators import Contact, Fault, SimulatorOptions
from tests.pipeline import ORGANIZATION, Site, Sites, eventually, phone
from tests.test_dispatch_gate import SOON, assert_dialled_once, half_dispatched, ours


def handed_over(site: Site, leads: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return site.sim.outbound_bot.contacts_assigned >= leads

    return enough


async def test_a_lead_that_is_taken_out_of_the_task_holds_nobody_up(sites: Sites) -> None:
    """Its job stays in the group, and is no row's any more."""
    site = await sites()
    site.add_leads(20)
    task_id = await site.create_task()
    half_dispatched(site, task_id, ours(site, task_id, 12))
    site.sql("DELETE FROM leads_task_list WHERE leads_id = 5")
    async with site.working():
        result = await site.run(task_id, SOON)
    assert (result["called"], result["task_type"]) == (19, 4)
    assert_dialled_once(site, range(1, 21))


async def test_a_job_of_nobody_keeps_no_later_start_from_those_that_were_in_no_batch(sites: Sites) -> None:
    """Somebody tries the robot out in the task's group; then the run is ended, and begun again."""
    site = await sites()
    site.add_leads(20)
    task_id = await site.create_task()
    group = site.sim.world.find_group(half_dispatched(site, task_id, ours(site, task_id, 12)))
    assert group is not None
    site.sim.world.assign(group, [Contact(phone=phone(99))])
    site.sql("UPDATE call_dispatches SET accepted_at = attempted_at, last_id = last_id - 8 WHERE last_id > 0")
    async with site.working():
        result = await site.run(task_id, SOON)
    assert (result["called"], result["task_type"]) == (20, 4)
    assert_dialled_once(site, [*range(1, 21), 99])


LOST = {
    "all entries": "DELETE FROM call_dispatches WHERE last_id > 0",
    "the last ones": "DELETE FROM call_dispatches WHERE last_id > 0 ORDER BY id DESC LIMIT 1",
    "what was answered too": "DELETE FROM call_dispatches",
}


@pytest.mark.parametrize("lost", LOST)
async def test_a_database_that_loses_its_last_entries_while_a_run_goes_on_has_nobody_called_again(
    sites: Sites, lost: str
) -> None:
    """The server failed over to a copy that was behind; the platform has not listed yet what it was handed."""
    site = await sites()
    site.add_leads(120)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="lost_late", count=1, seconds=6))
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SOON)
        await eventually(handed_over(site, 120))

        async def waits() -> bool:
            return bool((await site.progress(task_id))["last_error"])

        await eventually(waits)
        site.sql(LOST[lost])
        # Leads that are entered now are called all the same.
        row = {"task_id": task_id, "leads_id": 500, "leads_phone": phone(500), "call_job_id": ""}
        site.insert("leads_task_list", [{**row, "reference_id": f"{task_id}{ORGANIZATION}500"}])
        result = await site.result(task_id)
    assert (result["called"], result["task_type"]) == (121, 4)
    assert_dialled_once(site, [*range(1, 121), 500])


def take_out(site: Site, *leads: int) -> list[dict[str, Any]]:
    """Delete the rows of these leads; returns what a mapper that had read them before would insert for them."""
    columns = "task_id, leads_id, leads_name, leads_phone, reference_id, '' AS call_job_id, call_time"
    rows = site.sql(f"SELECT {columns} FROM leads_task_list WHERE leads_id IN %s ORDER BY id", leads)
    site.sql("DELETE FROM leads_task_list WHERE leads_id IN %s", leads)
    return rows


def enter_anew(site: Site, *leads: int) -> None:
    """As some mappers save a list: its rows are deleted, and inserted once more."""
    site.sql("START TRANSACTION")
    site.insert("leads_task_list", take_out(site, *leads))
    site.sql("COMMIT")


@pytest.mark.parametrize("known_by", ["reference", "lead"])
async def test_rows_that_the_crm_deletes_and_enters_anew_are_the_same_leads(sites: Sites, known_by: str) -> None:
    """The new rows take the calls of those that were handed over already."""
    site = await sites(SimulatorOptions(answer_rate=0, calls_over=True), OUTBOUND_BOT_QPS="8")
    site.add_leads(1_200)
    task_id = await site.create_task()
    if known_by == "lead":
        site.sql("UPDATE leads_task_list SET reference_id = NULL")
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SOON)
        await eventually(handed_over(site, 99))
        enter_anew(site, 5, 6, 1199)
        assert site.sim.outbound_bot.contacts_assigned < 1_089
        result = await site.result(task_id)
    assert_dialled_once(site, range(1, 1_201))
    assert (result["called"], result["task_type"]) == (1_200, 4)
    assert site.sql("SELECT id FROM leads_task_list WHERE leads_follow_id IS NULL") == []


async def test_leads_of_which_nobody_was_called_are_called_when_they_were_entered_anew(sites: Sites) -> None:
    site = await sites(SimulatorOptions(answer_rate=0, calls_over=True))
    site.add_leads(120)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", code="NotExist.Script"))
    async with site.working():
        with pytest.raises(WorkflowFailureError):
            await site.run(task_id, SOON)
        site.sim.set_faults()
        enter_anew(site, *range(1, 121))
        result = await site.run(task_id, SOON)
    assert_dialled_once(site, range(1, 121))
    assert (result["called"], result["task_type"]) == (120, 4)


async def test_rows_that_are_entered_anew_while_dispatch_is_paused_are_called(sites: Sites) -> None:
    site = await sites(SimulatorOptions(answer_rate=0, calls_over=True), OUTBOUND_BOT_QPS="4")
    site.add_leads(1_000)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SOON)
        await eventually(handed_over(site, 99))
        await calls.control(task_id, "pause")
        taken = site.sim.outbound_bot.contacts_assigned
        assert taken < 1_000
        enter_anew(site, 5, 6, 999, 1_000)
        await calls.control(task_id, "resume")
        result = await site.result(task_id)
    assert_dialled_once(site, range(1, 1_001))
    assert (result["called"], result["task_type"]) == (1_000, 4)

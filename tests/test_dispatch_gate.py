"""What may be sent again, and what must not (rule 2.7): readings that lack something, contacts that are never taken,
refusals, ids that came again. Every reason not to send is shown, and what changes nothing waits ever longer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from activities.holdings import Lead, hold
from calltasks.database.tables.dispatches import group_name
from calltasks.options import Options
from calltasks.rules.pairing import IdentifiedJob
from simulators import Contact, Fault, SimulatorOptions
from simulators.signature import ApiError
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, eventually, phone

SOON = QUICK.model_copy(update={"match_grace": 4})
SHY = QUICK.model_copy(update={"match_grace": 4, "retry_interval": 0.3, "poll_max": 60})


def dials(site: Site) -> Counter[str]:
    """How often each number was dialled, whatever its job says of itself."""
    return Counter(job.contact.phone for group in site.sim.world.groups.values() for job in group.jobs)


def assert_dialled_once(site: Site, leads: Iterable[int]) -> None:
    assert dials(site) == Counter({phone(number): 1 for number in leads})


async def steps(site: Site, task_id: int) -> tuple[int, list[float]]:
    """How often the current run has looked what to assign, and how long dispatch waited in between."""
    looks, waits = 0, []
    for event in (await site.handle(task_id).fetch_history()).events:
        if event.activity_task_scheduled_event_attributes.activity_type.name == "assign_contacts":
            looks += 1
        dispatch = re.search(rb"batches without an answer|until the job group", event.user_metadata.summary.data)
        if dispatch and event.HasField("timer_started_event_attributes"):
            waits.append(event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta().total_seconds())
    return looks, waits


def ours(site: Site, task_id: int, leads: int) -> list[Contact]:
    return [Contact(phone=phone(n), reference=f"{task_id}{ORGANIZATION}{n}") for n in range(1, leads + 1)]


def half_dispatched(site: Site, task_id: int, contacts: list[Contact], *, over: bool = True) -> str:
    """A run before this one made the group, and sent everybody; it never heard the platform's answer."""
    group = site.sim.world.add_group("ours", contacts, over=over)
    site.sql("UPDATE call_tasks SET job_group_id = %s WHERE id = %s", group.id, task_id)
    rows = site.rows(task_id)
    entry = {"task_id": task_id, "job_group_id": group.id, "attempted_at": "2026-01-01"}
    site.insert("call_dispatches", [{**entry, "first_id": 0, "last_id": 0, "accepted_at": "2026-01-01"}])
    site.insert("call_dispatches", [{**entry, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]}])
    return group.id


# --- a listing that is not whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["by-name", "with-a-batch-without-an-answer"])
async def test_a_listing_shorter_than_its_counters_sends_nothing_and_is_looked_at_ever_more_rarely(
    sites: Sites, found: str
) -> None:
    site = await sites()
    site.add_leads(14)
    task_id = await site.create_task()
    if found == "by-name":
        # Our ledger was lost, or restored from before the campaign.
        name = group_name(task_id, site.task(task_id)["create_time"])
        site.sim.world.add_group(name, ours(site, task_id, 14))
    else:
        half_dispatched(site, task_id, ours(site, task_id, 14))
    site.sim.set_faults(Fault(target="QueryJobsWithResult", kind="vanish", count=1, seconds=6))
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SHY)

        async def looked_thrice() -> bool:
            return len((await steps(site, task_id))[1]) >= 3

        await eventually(looked_thrice)
        assert (await site.progress(task_id))["last_error"]
        _, waits = await steps(site, task_id)
        assert waits[0] >= 0.3
        assert waits[2] > waits[1]
        result = await site.result(task_id)
    assert result["called"] == 14
    assert site.sim.outbound_bot.contacts_assigned == 0
    assert_dialled_once(site, range(1, 15))


async def test_a_counter_that_is_always_ahead_waits_as_long_as_it_is_told(sites: Sites, monkeypatch: Any) -> None:
    import simulators.outbound_bot as platform

    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    half_dispatched(site, task_id, ours(site, task_id, 4))
    group = platform.OutboundBot._group

    def ahead(outbound_bot: Any, one: Any) -> bytes:
        count = len(one.listed)
        return group(outbound_bot, one).replace(b'"TotalJobs": %d' % count, b'"TotalJobs": %d' % (count + 1))

    monkeypatch.setattr(platform.OutboundBot, "_group", ahead)
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, Options(poll_first=0, retry_interval=60))

        async def waiting() -> bool:
            return bool((await steps(site, task_id))[1])

        await eventually(waiting)
        looks, waits = await steps(site, task_id)
        assert (looks, waits) == (1, [60.0])
        assert "4 of 5 jobs" in (await site.progress(task_id))["last_error"]
        await site.handle(task_id).terminate()
    assert site.sim.outbound_bot.contacts_assigned == 0


# --- who is held ------------------------------------------------------------------------------------------------


def lead(row_id: int, *, reference: str = "", number: str = "", job: str = "", rank: int = 0) -> Lead:
    return Lead(id=row_id, leads_id=str(row_id), reference=reference, phone=number, job_id=job, rank=rank)


def job(job_id: str, *, reference: str = "", number: str = "") -> IdentifiedJob:
    return IdentifiedJob(job_id=job_id, reference_id=reference, phone=number)


HOLDINGS: dict[str, tuple[list[IdentifiedJob], list[Lead], set[int], list[str]]] = {
    "its reference": ([job("a", reference="r1")], [lead(1, reference="r1"), lead(2, reference="r2")], {1}, []),
    "its reference, with blanks": ([job("a", reference=" r1 ")], [lead(1, reference="r1")], {1}, []),
    "its number, in another form": (
        [job("a", number="+86 139 0000 0001")],
        [lead(1, number="13900000001"), lead(2, number="13900000002")],
        {1},
        [],
    ),
    "its number, as often as rows share it": (
        [job("a", number=phone(1)), job("b", number=phone(1))],
        [lead(1, number=phone(1)), lead(2, number=phone(1)), lead(3, number=phone(1))],
        {1, 2},
        [],
    ),
    "its number, those whose batch was taken first": (
        [job("a", number=phone(1))],
        [lead(1, number=phone(1), rank=1), lead(2, number=phone(1)), lead(3, number=phone(1), rank=2)],
        {2},
        [],
    ),
    "its reference before another's number": (
        [job("a", reference="r1", number=phone(2))],
        [lead(1, reference="r1", number=phone(1)), lead(2, reference="r2", number=phone(2))],
        {1},
        [],
    ),
    "one that has its job is not held for another": (
        [job("a", number=phone(1)), job("b", number=phone(2))],
        [lead(1, number=phone(1), job="a"), lead(2, number=phone(1)), lead(3, number=phone(2))],
        {3},
        [],
    ),
    "a job of nobody": ([job("a", number=phone(9)), job("b")], [lead(1, number=phone(1))], set(), ["a", "b"]),
    "a job of a lead that was taken out of the task is nobody's secret": (
        [job("a", reference="1org9", number=phone(9)), job("b", reference="task_1_lead_9")],
        [lead(1, reference="1org1", number=phone(1))],
        set(),
        [],
    ),
    "its lead, though its reference and its number were edited": (
        [job("a", reference="1org1", number=phone(9))],
        [lead(1, reference="x", number=phone(1)), lead(2, reference="1org2", number=phone(2))],
        {1},
        [],
    ),
    "a number that is now another's, of a lead that was taken out": (
        [job("a", reference="1org9", number=phone(1))],
        [lead(1, reference="1org1", number=phone(1))],
        {1},
        [],
    ),
    "a job too many of somebody": (
        [job("a", number=phone(1)), job("b", number=phone(1))],
        [lead(1, number=phone(1))],
        {1},
        [],
    ),
}


@pytest.mark.parametrize("name", HOLDINGS)
def test_a_row_is_held_by(name: str) -> None:
    jobs, leads, held, unclaimed = HOLDINGS[name]
    holding = hold(jobs, leads, ["1org", "task_1_lead_"])
    assert (holding.rows, holding.unclaimed) == (held, unclaimed)


def anonymous(site: Site) -> None:
    """The platform lists its jobs without the references that it was given."""
    assign = site.sim.world.assign

    def assigning(group: Any, contacts: Iterable[Contact], **more: Any) -> Any:
        return assign(group, [replace(contact, reference="") for contact in contacts], **more)

    site.sim.world.assign = assigning  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["lost_answer", "partial"])
async def test_jobs_without_references_are_recognised_by_their_numbers(sites: Sites, kind: Any) -> None:
    site = await sites()
    site.add_leads(20)
    site.sql("UPDATE dcc_leads SET leads_user_phone = %s WHERE leads_id = 2", phone(1))
    task_id = await site.create_task()
    anonymous(site)
    site.sim.set_faults(Fault(target="AssignJobs", kind=kind, count=1))
    async with site.working():
        result = await site.run(task_id, SOON)
    assert site.sim.faults.counts
    assert (result["called"], result["task_type"]) == (20, 4)
    assert dials(site) == Counter([phone(1), phone(1), *(phone(number) for number in range(3, 21))])
    assert len({row["call_job_id"] for row in site.rows(task_id)}) == 20


async def test_while_the_group_has_a_job_of_nobody_nothing_is_sent_again(sites: Sites) -> None:
    site = await sites()
    site.add_leads(20)
    task_id = await site.create_task()
    group = half_dispatched(site, task_id, ours(site, task_id, 12))
    stranger = site.sim.world.find_group(group)
    assert stranger is not None
    site.sim.world.assign(stranger, [Contact(phone=phone(99))])
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SHY)

        async def said() -> bool:
            return "1 jobs of the group belong to no lead" in (await site.progress(task_id))["last_error"]

        await eventually(said)
        assert site.sim.outbound_bot.contacts_assigned == 0
        # Somebody enters whom that job calls: now the others may be.
        site.insert(
            "leads_task_list", [{"task_id": task_id, "leads_id": 99, "leads_phone": phone(99), "call_job_id": ""}]
        )
        result = await site.result(task_id)
    assert result["called"] == 21
    assert_dialled_once(site, [*range(1, 21), 99])


async def test_a_job_of_another_group_in_a_row_holds_nobody_up(sites: Sites) -> None:
    site = await sites()
    site.add_leads(20)
    task_id = await site.create_task()
    elsewhere = site.sim.world.add_group("another", [Contact(phone=phone(1), reference="x")])
    rows = site.rows(task_id)
    site.sql("UPDATE leads_task_list SET call_job_id = %s WHERE id = %s", elsewhere.jobs[0].id, rows[0]["id"])
    site.sql("UPDATE leads_task_list SET call_job_id = 'gone' WHERE id = %s", rows[1]["id"])
    site.sim.set_faults(Fault(target="AssignJobs", kind="success_false", code="InternalError", count=1))
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SOON)

        async def all_sent() -> bool:
            return site.sim.outbound_bot.contacts_assigned == 18

        await eventually(all_sent)
        await site.handle(task_id).terminate()
    assert_dialled_once(site, [1, *range(3, 21)])


# --- contacts that the platform does not take -------------------------------------------------------------------


def dropping(site: Site, refuse: Callable[[Contact], bool], code: str = "", status: int = 400) -> Counter[str]:
    """The platform makes no job for some contacts; with a code it fails at every request that has one of them. What
    was sent is counted by number."""
    assign, sent = site.sim.world.assign, Counter[str]()

    def assigning(group: Any, contacts: Iterable[Contact], **more: Any) -> Any:
        contacts = list(contacts)
        sent.update(contact.phone for contact in contacts)
        if code and any(map(refuse, contacts)):
            raise ApiError(status, code, "no")
        return assign(group, [contact for contact in contacts if not refuse(contact)], **more)

    site.sim.world.assign = assigning  # type: ignore[method-assign]
    return sent


async def test_a_contact_without_a_job_is_sent_three_times_and_holds_nobody_up(sites: Sites) -> None:
    site = await sites()
    site.add_leads(20)
    task_id = await site.create_task()
    sent = dropping(site, lambda contact: contact.phone == phone(7))
    async with site.working():
        result = await site.run(task_id, SOON)
        row = site.rows(task_id)[6]
        assert (result["called"], result["task_type"], row["call_status"]) == (19, 4, "Failed")
        assert sent == Counter({phone(number): 1 for number in range(1, 21)}) + Counter({phone(7): 2})
        assert site.sql("SELECT * FROM call_dispatches WHERE accepted_at IS NULL") == []
    assert_dialled_once(site, [number for number in range(1, 21) if number != 7])


@pytest.mark.long
async def test_a_contact_at_which_the_platform_fails_is_singled_out(sites: Sites) -> None:
    site = await sites()
    site.add_leads(2)
    task_id = await site.create_task()
    sent = dropping(site, lambda contact: contact.phone == phone(2), "InternalError", 500)
    async with site.working():
        result = await site.run(task_id, SOON)
    assert (result["called"], result["task_type"], result["by_status"]["Failed"] >= 1) == (1, 4, True)
    assert sent == {phone(1): 2, phone(2): 4}
    assert_dialled_once(site, [1])


async def test_a_contact_that_is_refused_alone_fails_and_the_others_are_called(sites: Sites) -> None:
    site = await sites()
    site.add_leads(30)
    task_id = await site.create_task()
    sent = dropping(site, lambda contact: contact.phone in (phone(7), phone(8), phone(30)), "InvalidParameter")
    async with site.working():
        result = await site.run(task_id, SOON)
    assert (result["called"], result["by_status"]["Failed"] >= 3) == (27, True)
    assert {row["leads_id"] for row in site.rows(task_id) if not row["call_job_id"]} == {7, 8, 30}
    assert_dialled_once(site, [number for number in range(1, 30) if number not in (7, 8)])
    assert sent[phone(7)] < 10


async def test_a_request_that_is_refused_whoever_its_contacts_are_marks_nobody(sites: Sites) -> None:
    site = await sites()
    site.add_leads(120)
    task_id = await site.create_task()
    assign = site.sim.world.assign
    dropping(site, lambda contact: True, "InvalidParameter.Script")
    async with site.working():
        with pytest.raises(WorkflowFailureError) as failure:
            await site.run(task_id, SOON)
        assert "InvalidParameter.Script" in str(failure.value.cause)
        assert {row["call_status"] for row in site.rows(task_id)} == {None}
        site.sim.world.assign = assign  # type: ignore[method-assign]
        result = await site.run(task_id, SOON)
    assert (result["called"], result["task_type"]) == (120, 4)
    assert_dialled_once(site, range(1, 121))


async def test_of_two_groups_of_one_name_that_which_was_used_is_the_tasks(sites: Sites) -> None:
    """Our ledger was lost; once a group was made twice, because the first answer came late."""
    site = await sites()
    site.add_leads(14)
    task_id = await site.create_task()
    name = group_name(task_id, site.task(task_id)["create_time"])
    used = site.sim.world.add_group(name, ours(site, task_id, 14))
    site.sim.world.create_group(name)
    async with site.working():
        result = await site.run(task_id, SOON)
    assert (result["called"], site.task(task_id)["job_group_id"]) == (14, used.id)
    assert_dialled_once(site, range(1, 15))


# --- ids that came again ----------------------------------------------------------------------------------------


def emptied(site: Site) -> None:
    for table in ("call_tasks", "leads_task_list", "dcc_leads_follow", "dcc_leads"):
        site.sql(f"TRUNCATE {table}")


@pytest.mark.parametrize("first", [1, 100])
async def test_a_crm_that_counts_from_one_again_has_its_leads_called(sites: Sites, first: int) -> None:
    """The same leads as before, or others; the time tells that they were entered anew."""
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working():
        assert (await site.run(task_id))["called"] == 5
        emptied(site)
        site.add_leads(5, first=first)
        again = await site.create_task()
        site.sql("UPDATE call_tasks SET create_time = create_time + INTERVAL 7 DAY")
        site.sql("UPDATE leads_task_list SET call_time = call_time + INTERVAL 7 DAY")
        assert again == task_id
        result = await site.run(again)
    assert (result["called"], result["leads"]) == (5, 5)
    assert site.sim.outbound_bot.contacts_assigned == 10


CHANGES = {
    "create_time was edited": "UPDATE call_tasks SET create_time = create_time + INTERVAL 1 DAY, job_group_id = ''",
    "create_time was emptied": "UPDATE call_tasks SET create_time = NULL, job_group_id = ''",
    "the group was taken out": "UPDATE call_tasks SET job_group_id = ''",
    "a lead was corrected": "UPDATE leads_task_list SET leads_id = leads_id + 1000",
    "call_time was renewed": "UPDATE leads_task_list SET call_time = call_time + INTERVAL 1 DAY",
    "the organisation was corrected": "UPDATE call_tasks SET organization_id = 'org8'",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_the_crm_changes_in_a_task_nobody_is_called_again(sites: Sites, change: str) -> None:
    site = await sites(SimulatorOptions())
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, SOON)

        async def sent() -> bool:
            return site.sim.outbound_bot.contacts_assigned == 5

        await eventually(sent)
        await site.handle(task_id).terminate()
        # As if no answer had come, and no job had been seen yet.
        site.sql("UPDATE call_dispatches SET accepted_at = NULL WHERE last_id > 0")
        site.sql("UPDATE leads_task_list SET call_job_id = ''")
        site.sql("UPDATE call_tasks SET task_type = 1")
        site.sql(CHANGES[change])
        await calls.start_call(task_id, SOON)
        await site.until(task_id, called=5)
        await site.handle(task_id).terminate()
    assert_dialled_once(site, range(1, 6))
    assert len(site.sim.world.groups) == 1


async def test_where_it_cannot_be_told_who_was_called_nobody_is_and_one_line_says_why(sites: Sites) -> None:
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
        site.sql("UPDATE leads_task_list SET call_time = NULL, call_job_id = ''")
        site.sql("UPDATE call_tasks SET create_time = NULL, job_group_id = '', task_type = 1")
        with pytest.raises(WorkflowFailureError) as failure:
            await site.run(task_id)
        assert "call_dispatches" in str(failure.value.cause) and "\n" not in str(failure.value.cause)
        assert site.sim.outbound_bot.contacts_assigned == 5


async def test_rows_that_were_replaced_under_a_task_are_not_taken_for_those_before(sites: Sites) -> None:
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
        site.sql(
            "UPDATE leads_task_list SET leads_id = leads_id + 100, leads_phone = leads_phone + 100, call_job_id = '',"
            " call_time = call_time + INTERVAL 1 DAY, call_status = NULL, leads_follow_id = NULL"
        )
        site.sql("UPDATE call_tasks SET task_type = 1")
        with pytest.raises(WorkflowFailureError, match="Workflow execution failed") as failure:
            await site.run(task_id)
        assert "are other leads now" in str(failure.value.cause)
    assert site.sim.outbound_bot.contacts_assigned == 5

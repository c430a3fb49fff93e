"""Who said no is not called where they wait already (rules 11.10, 11.11): the real parts, looks in quick succession."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from activities import opt_outs as withdrawing
from calltasks.database.tables import opt_outs, withdrawals
from calltasks.database.tables.opt_outs import PERSON, Refusal
from calltasks.errors import PassingError
from calltasks.names import WITHDRAWALS
from calltasks.platform.errors import SERVICE
from calltasks.platform.session import PlatformSession
from calltasks.rules.phones import e164
from calltasks.temporal.withdrawals import keep_withdrawing
from calltasks.wiring import Clients
from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, eventually, phone, side_by_side

OTHER = "org8"
WAITING = SimulatorOptions(concurrency=1, seconds_per_call=600, answer_rate=0, retry_rate=0)
"""The first of a group is called, the others wait until the clock is moved on."""
PATIENT = QUICK.model_copy(update={"match_grace": 30})


@pytest.fixture(autouse=True)
def _in_quick_succession(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawing, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(withdrawing, "CLAIM_SECONDS", 1.0)


@asynccontextmanager
async def withdrawing_from(site: Site) -> AsyncIterator[None]:
    async with site.working():
        await keep_withdrawing(site.client)
        try:
            yield
        finally:
            await site.client.get_workflow_handle(WITHDRAWALS).terminate()


async def say_no(site: Site, *numbers: int, organization: str = ORGANIZATION) -> None:
    """A person enters these leads' numbers."""
    refusals = [Refusal(phone=e164(phone(one)), source=PERSON, evidence="asked for it") for one in numbers]
    site.enter_environment()
    async with Clients() as clients:
        now = (await clients.database.now()).replace(tzinfo=None)
        await clients.database.transaction(opt_outs.enter, organization, refusals, now_utc=now)


async def start(site: Site, leads: Sequence[int], organization: str = ORGANIZATION) -> int:
    """A task of these leads, all of them with the platform and with their job ids."""
    task_id = await site.create_task(leads, organization)
    async with site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
    await site.until(task_id, called=len(leads))
    return task_id


async def handed_over(site: Site, count: int) -> None:
    async def taken() -> bool:
        return site.sim.outbound_bot.contacts_assigned == count

    await eventually(taken)


async def carried_out(site: Site, count: int = 1) -> None:
    async def done() -> bool:
        found = site.sql("SELECT COUNT(withdrawn_at) AS done, COUNT(*) AS every FROM call_opt_outs")[0]
        return bool(found["every"] == found["done"] == count)

    await eventually(done)


def statuses(site: Site, task_id: int) -> dict[str, str]:
    """How the platform says that each number's job stands, now."""
    return {job["phone"]: job["status_now"] for job in site.truth(task_id)}


async def ended(site: Site, task_id: int) -> dict[str, Any]:
    site.sim.world.clock.advance(100_000)
    return await site.result(task_id)


async def test_a_call_that_waits_is_withdrawn_and_nobody_elses_is(sites: Sites) -> None:
    site = await sites(WAITING)
    site.add_leads(9)
    site.insert(
        "dcc_leads",
        [
            {"leads_id": 100 + n, "organization_id": OTHER, "leads_user_name": "x", "leads_user_phone": phone(n)}
            for n in range(1, 5)
        ],
    )
    async with withdrawing_from(site):
        mine = [await start(site, [1, 2, 3, 4]), await start(site, [5, 6, 3, 2])]
        others = await start(site, [101, 102, 103, 104], OTHER)
        await say_no(site, 3, 9)
        await carried_out(site, 2)
        for task_id in mine:
            assert {number for number, how in statuses(site, task_id).items() if how == "Cancelled"} == {phone(3)}
        assert "Cancelled" not in statuses(site, others).values()
        results = [await ended(site, task_id) for task_id in (*mine, others)]
    for task_id, result in zip((*mine, others), results, strict=True):
        assert_finished(site, task_id, result)
    assert [(result["withdrawn"], result["too_late"]) for result in results] == [(1, 0), (1, 0), (0, 0)]
    assert [job["attempts"] for task_id in mine for job in site.truth(task_id) if job["phone"] == phone(3)] == [[], []]
    rows = [row for row in site.rows(mine[0]) if row["leads_phone"] == phone(3)]
    assert site.follow_ups()[rows[0]["leads_follow_id"]]["leads_remark"] == "外呼状态：Cancelled；"
    whose = "SELECT o.phone, w.outcome FROM call_withdrawals w JOIN call_opt_outs o ON o.id = w.opt_out_id"
    assert [(row["phone"], row["outcome"]) for row in site.sql(whose)] == [(e164(phone(3)), "withdrawn")] * 2


async def test_a_call_under_way_is_too_late_and_no_other_follows_it(sites: Sites) -> None:
    """What is being dialled cannot be withdrawn; it can as soon as it has ended and waits for its next attempt."""
    site = await sites(
        SimulatorOptions(concurrency=2, seconds_per_call=600, answer_rate=0, retry_rate=1, retry_after=90)
    )
    site.add_leads(2)
    async with withdrawing_from(site):
        task_id = await start(site, [1, 2])
        group = site.sim.world.find_group(site.task(task_id)["job_group_id"])
        assert group is not None

        async def under_way() -> bool:
            return set(statuses(site, task_id).values()) == {"Executing"}

        await eventually(under_way)
        await say_no(site, 1)
        await asyncio.sleep(2)
        assert statuses(site, task_id)[phone(1)] == "Executing"
        assert site.sql("SELECT * FROM call_opt_outs WHERE withdrawn_at IS NOT NULL") == []
        first = next(job for job in group.jobs if job.contact.phone == phone(1))
        site.sim.world.clock.advance(first.attempts[0].end - site.sim.world.clock.now() + 1)
        await carried_out(site)
        result = await ended(site, task_id)
    assert_finished(site, task_id, result)
    assert {job["phone"]: len(job["attempts"]) > 1 for job in site.truth(task_id)} == {phone(1): False, phone(2): True}
    # It was called before the refusal, and not after it.
    assert (result["withdrawn"], result["too_late"]) == (1, 0)


async def test_what_was_dialled_after_the_refusal_is_said(sites: Sites) -> None:
    """The platform does not take the request for a while, and dials."""
    site = await sites(WAITING)
    site.add_leads(3)
    async with withdrawing_from(site):
        task_id = await start(site, [1, 2, 3])
        site.sim.set_faults(Fault(target="CancelJobs", kind="status_503"))
        await say_no(site, 2, 3)

        async def tried() -> bool:
            return site.sim.faults.counts["CancelJobs:status_503"] > 2

        await eventually(tried)
        second = next(job for job in site.sim.world.jobs.values() if job.contact.phone == phone(2))
        site.sim.world.clock.advance(second.attempts[0].start - site.sim.world.clock.now() + 1)
        site.sim.set_faults()

        async def withdrawn() -> bool:
            return statuses(site, task_id)[phone(3)] == "Cancelled"

        await eventually(withdrawn)
        result = await ended(site, task_id)
        await carried_out(site, 2)
    assert_finished(site, task_id, result)
    assert result["withdrawn"] == 1 and (await progress_of(site, task_id))["too_late"] == 1


async def test_what_was_dialled_and_over_before_anybody_looked_is_counted(sites: Sites) -> None:
    site = await sites(WAITING)
    site.add_leads(3)
    async with site.working():
        task_id = await start(site, [1, 2, 3])
        await say_no(site, 2)
        await ended(site, task_id)
        await keep_withdrawing(site.client)
        await carried_out(site)
        await site.client.get_workflow_handle(WITHDRAWALS).terminate()
    assert await progress_of(site, task_id) == {"withdrawn": 0, "too_late": 1}
    assert "CancelJobs" not in site.stats()["calls"]


async def progress_of(site: Site, task_id: int) -> dict[str, int]:
    site.enter_environment()
    async with Clients() as clients:
        return await clients.database.run(withdrawals.count, task_id)


LOST = {
    "the answer is lost": Fault(target="CancelJobs", kind="lost_answer", count=2),
    "the answer is cut": Fault(target="CancelJobs", kind="reset", count=2),
    "it says no": Fault(target="CancelJobs", kind="success_false", count=2, code="InternalError"),
    "it refuses the whole batch": Fault(target="CancelJobs", kind="permanent", count=2, code="InvalidParameter"),
    "it is throttled": Fault(target="CancelJobs", kind="throttle", count=2, seconds=0.2),
    "nothing is told of jobs": Fault(target="ListJobs", kind="html", count=6),
}


async def test_whatever_becomes_of_the_answer_the_call_is_withdrawn(sites: Sites) -> None:
    async def prove(site: Site, fault: Fault) -> None:
        site.add_leads(4)
        await keep_withdrawing(site.client)
        task_id = await start(site, [1, 2, 3, 4])
        site.sim.set_faults(fault)
        await say_no(site, 2, 4)
        await carried_out(site, 2)
        assert site.sim.faults.counts, "no fault struck"
        result = await ended(site, task_id)
        assert_finished(site, task_id, result)
        assert (result["withdrawn"], result["too_late"]) == (2, 0)
        await site.client.get_workflow_handle(WITHDRAWALS).terminate()

    await side_by_side(sites, LOST, prove, WAITING)


@pytest.mark.parametrize("says_so", [True, False], ids=["an error", "nothing"])
async def test_a_call_that_the_platform_does_not_withdraw_keeps_no_other_one_waiting(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, says_so: bool
) -> None:
    site = await sites(WAITING)
    site.add_leads(8)
    async with withdrawing_from(site):
        task_id = await start(site, range(1, 9))
        stuck = {row["call_job_id"] for row in site.rows(task_id) if row["leads_phone"] in (phone(3), phone(6))}
        cancel_jobs = PlatformSession.cancel_jobs

        async def spoiled(session: PlatformSession, group_id: str, ids: Sequence[str]) -> None:
            if stuck.isdisjoint(ids):
                await cancel_jobs(session, group_id, ids)
            elif says_so:
                raise PassingError(SERVICE, "CancelJobs", "InternalError", request_id="r-1")

        with monkeypatch.context() as patch:
            patch.setattr(PlatformSession, "cancel_jobs", spoiled)
            await say_no(site, *range(2, 9))

            async def withdrawn() -> bool:
                return list(statuses(site, task_id).values()).count("Cancelled") == 5

            await eventually(withdrawn)
            assert statuses(site, task_id)[phone(3)] == statuses(site, task_id)[phone(6)] == "Scheduling"
        await carried_out(site, 7)
        result = await ended(site, task_id)
    assert (result["withdrawn"], result["too_late"]) == (7, 0)


async def test_an_outage_of_the_platform_gives_no_call_up_however_long_it_lasts(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawing, "UNKNOWN_SECONDS", 0.5)
    site = await sites(WAITING)
    site.add_leads(3)
    async with withdrawing_from(site):
        task_id = await start(site, [1, 2, 3])
        site.sim.set_faults(Fault(target="ListJobs", kind="status_503"))
        await say_no(site, 2)

        async def asked_in_vain() -> bool:
            return site.sim.faults.counts["ListJobs:status_503"] > 3

        await asyncio.sleep(4)  # far longer than a call may stay unknown: time must pass
        await eventually(asked_in_vain)
        assert site.sql("SELECT withdrawn_at FROM call_opt_outs") == [{"withdrawn_at": None}]
        site.sim.set_faults()
        await carried_out(site)
        assert statuses(site, task_id)[phone(2)] == "Cancelled"
        result = await ended(site, task_id)
    assert (result["withdrawn"], result["too_late"]) == (1, 0)


async def test_a_row_without_its_job_id_is_read_and_withdrawn(sites: Sites) -> None:
    """The platform lists what it took only later; the run has its pages read, though nothing else asks for it."""
    site = await sites(SimulatorOptions(**_of(WAITING) | {"listing_lag": 3}))
    site.add_leads(3)
    task_id = await site.create_task([1, 2, 3])
    never = PATIENT.model_copy(update={"poll_first": 3600, "poll_min": 3600, "poll_max": 3600, "match_grace": 3600})
    async with withdrawing_from(site), site.calls() as calls:
        await calls.start_call(task_id, never)
        await handed_over(site, 3)
        await say_no(site, 2)
        await carried_out(site)
        assert statuses(site, task_id)[phone(2)] == "Cancelled"
        await site.handle(task_id).terminate()


async def test_rows_of_a_run_that_failed_are_read_and_withdrawn_and_never_given_up(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody follows a task whose dispatch was not over; the platform lists its jobs only after a while."""
    monkeypatch.setattr(withdrawing, "UNKNOWN_SECONDS", 0.5)
    site = await sites(SimulatorOptions(**_of(WAITING) | {"listing_lag": 6}))
    site.add_leads(3)
    task_id = await site.create_task()
    async with withdrawing_from(site), site.calls() as calls:
        await calls.start_call(task_id, PATIENT)
        await handed_over(site, 3)
        await site.handle(task_id).terminate()
        site.sql("UPDATE call_tasks SET task_type = 1 WHERE id = %s", task_id)
        await say_no(site, 2)
        await asyncio.sleep(3)
        assert [row["call_job_id"] for row in site.rows(task_id)] == ["", "", ""]
        assert site.sql("SELECT withdrawn_at FROM call_opt_outs") == [{"withdrawn_at": None}]
        await carried_out(site)
        assert statuses(site, task_id)[phone(2)] == "Cancelled"
        assert site.sql("SELECT outcome FROM call_withdrawals") == [{"outcome": "withdrawn"}]


async def test_who_was_never_sent_is_not_waited_for(sites: Sites) -> None:
    """The platform refuses everybody, and the run has failed; the next start leaves out who has said no meanwhile."""
    site = await sites(WAITING)
    site.add_leads(3)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", code="InvalidParameter"))
    async with withdrawing_from(site):
        with pytest.raises(WorkflowFailureError):
            await site.run(task_id, PATIENT)
        assert len(site.sql("SELECT 1 FROM call_contacts")) == 3
        await say_no(site, 2)
        await carried_out(site)
        site.sim.set_faults()
        async with site.calls() as calls:
            await calls.start_call(task_id, PATIENT)
        await site.until(task_id, called=2)
        result = await ended(site, task_id)
    assert result["suppressed_by_reason"] == {"opted_out": 1} and phone(2) not in statuses(site, task_id)


async def test_a_job_that_turns_up_after_its_row_was_given_up_is_withdrawn(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawing, "UNKNOWN_SECONDS", 0.5)
    site = await sites(SimulatorOptions(**_of(WAITING) | {"late_rate": 0.5, "late_lag": 12.0}))
    site.add_leads(9)
    task_id = await site.create_task()
    async with withdrawing_from(site), site.calls() as calls:
        await calls.start_call(task_id, QUICK.model_copy(update={"match_grace": 4}))
        await handed_over(site, 9)
        late = next(job for job in list(site.sim.world.jobs.values())[1:] if job.visible_at > job.assigned)
        await say_no(site, next(number for number in range(1, 10) if phone(number) == late.contact.phone))
        await carried_out(site)
        row = next(row for row in site.rows(task_id) if row["leads_phone"] == late.contact.phone)
        assert row["call_job_id"] == ""

        async def withdrawn() -> bool:
            return "Cancelled" in statuses(site, task_id).values()

        await eventually(withdrawn)
        await carried_out(site)
        result = await ended(site, task_id)
    assert_finished(site, task_id, result)
    assert result["withdrawn"] == 1


async def test_a_campaign_that_another_program_dialled_is_withdrawn_from_too(sites: Sites) -> None:
    """Also for those who had said no before: what waits there is still to be called."""
    site = await sites(WAITING)
    numbers = range(1, 5)
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"old-{n}"} for n in numbers]
    task_id = site.old_task(rows, [Contact(phone=phone(n), reference=f"old-{n}") for n in numbers], over=False)
    async with withdrawing_from(site):
        await say_no(site, 3)
        await carried_out(site)
        async with site.calls() as calls:
            await calls.start_call(task_id, PATIENT)
        await site.until(task_id, called=4)

        async def withdrawn(number: int) -> bool:
            return statuses(site, task_id)[phone(number)] == "Cancelled"

        await eventually(lambda: withdrawn(3))
        await say_no(site, 4)
        await eventually(lambda: withdrawn(4))
        result = await ended(site, task_id)
    assert result["withdrawn"] == 2


async def test_a_job_of_another_number_and_an_opt_out_that_was_lifted_withdraw_nothing(sites: Sites) -> None:
    site = await sites(WAITING)
    site.add_leads(4)
    async with site.working():
        task_id = await start(site, [1, 2, 3, 4])
        # The CRM was restored: the row that was handed over then is another person's now.
        site.sql("UPDATE call_contacts SET phone = %s WHERE phone = %s", e164(phone(77)), e164(phone(2)))
        await say_no(site, 77, 3)
        site.sql("UPDATE call_opt_outs SET standing = NULL, lifted_at = NOW() WHERE phone = %s", e164(phone(3)))
        await keep_withdrawing(site.client)
        await carried_out(site, 2)
        assert "Cancelled" not in statuses(site, task_id).values()
        assert "CancelJobs" not in site.stats()["calls"]
        await site.client.get_workflow_handle(WITHDRAWALS).terminate()
        result = await ended(site, task_id)
    assert (result["withdrawn"], result["too_late"]) == (0, 0)


async def test_one_run_serves_everybody_and_its_history_does_not_grow(sites: Sites) -> None:
    site = await sites(WAITING)
    site.add_leads(4)
    async with withdrawing_from(site):
        await keep_withdrawing(site.client)
        task_id = await start(site, [1, 2, 3, 4])
        for number in (2, 3, 4):
            await say_no(site, number)
            await carried_out(site, number - 1)
        await ended(site, task_id)
        runs = await site.runs(f"WorkflowId = '{WITHDRAWALS}'")
        history = await site.client.get_workflow_handle(WITHDRAWALS).fetch_history()
    assert len(runs) == 1 and len(history.events) <= 6
    said = history.to_json()
    assert not any(phone(number) in said for number in range(1, 5))
    assert datetime.now(UTC) > runs[0].start_time


def _of(options: SimulatorOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}

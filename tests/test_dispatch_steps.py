"""One step of dispatch after another, as activities, without a workflow: whatever is lost or refused in one, and
wherever it is stopped, those that follow hand everybody over who was not, and nobody twice (rule 2)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pymysql
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import claims
from activities.dispatch import Assigned, Dispatching, DispatchRequest
from calltasks.database.connection import Database
from calltasks.names import OUTBOUND_BOT
from calltasks.wiring import Clients
from simulators import Contact, Fault, SimulatorOptions
from tests.pipeline import ORGANIZATION, Site, Sites, phone
from tests.test_dispatch_gate import dropping
from tests.test_dispatch_losses import take_out
from tests.test_send_deadline import under_way

LEADS = 90
MANY = 400


class Steps:
    """A task of a site whose group is made, and the steps of its dispatch."""

    def __init__(self, site: Site, clients: Clients) -> None:
        self.site = site
        self.database = clients.database
        self._dispatching = Dispatching(clients.database, clients.platform)
        self._request = DispatchRequest(
            task_id=0, organization_id=ORGANIZATION, job_group_id="", grace=4, retry_interval=0.1
        )
        self._before = 0

    async def new_task(self) -> None:
        """From now on it is about a new task of all leads of the site."""
        self.site.sim.set_faults()
        self._before = self.site.sim.outbound_bot.contacts_assigned
        request = replace(self._request, task_id=await self.site.create_task(), job_group_id="")
        group = await ActivityEnvironment().run(self._dispatching.open_job_group, request)
        self._request = replace(request, job_group_id=group.job_group_id)

    async def step(self, environment: ActivityEnvironment | None = None) -> Assigned:
        """The next one."""
        environment = environment or ActivityEnvironment()
        done: Assigned = await environment.run(self._dispatching.assign_contacts, self._request)
        self._request = replace(self._request, list_first=done.list_first, known=done.known)
        return done

    async def finish(self) -> None:
        """Steps until dispatch is done, each after the grace of whatever has no answer."""
        self.site.sim.set_faults()
        for _ in range(30):
            self.age()
            if (await self.step()).done:
                return
        raise AssertionError("dispatch does not come to its end")

    def age(self) -> None:
        """Everything that was handed over was so a minute before."""
        self.site.sql("UPDATE call_contacts SET claimed_at = claimed_at - INTERVAL 1 MINUTE")
        self.site.sql(
            "UPDATE call_dispatches SET attempted_at = attempted_at - INTERVAL 1 MINUTE"
            " WHERE accepted_at IS NULL AND attempted_at > '2001-01-01'"
        )

    @property
    def assigned(self) -> int:
        """Contacts of the present task that the platform took."""
        return self.site.sim.outbound_bot.contacts_assigned - self._before

    @property
    def failed(self) -> list[int]:
        """Leads of the present task that are not to be called any more."""
        rows = self.site.rows(self._request.task_id)
        return [row["leads_id"] for row in rows if row["call_status"] == "Failed"]

    def assert_all_once(self, leads: int) -> None:
        assert (self.assigned, self.failed, self.site.stats()["dialled_twice"]) == (leads, [], [])


@asynccontextmanager
async def steps_of(sites: Sites, leads: int) -> AsyncIterator[Steps]:
    site = await sites(SimulatorOptions(answer_rate=0))
    site.add_leads(leads)
    site.enter_environment()
    async with Clients() as clients:
        await clients.database.open_limit(OUTBOUND_BOT)
        steps = Steps(site, clients)
        await steps.new_task()
        yield steps


def lose_answers(patch: pytest.MonkeyPatch, lost: Callable[[str, tuple[Any, ...]], bool]) -> None:
    """What the database was told is done, and the connection breaks before it says so, for what ``lost`` says of the
    function and its arguments."""
    once = Database._once

    def losing(database: Database, function: Any, args: Any, kwargs: Any, *, transaction: bool) -> Any:
        result = once(database, function, args, kwargs, transaction=transaction)
        if lost(function.__name__, args):
            raise pymysql.OperationalError(2013, "Lost connection during query")
        return result

    patch.setattr(Database, "_once", losing)


# --- stops ------------------------------------------------------------------------------------------------------


async def test_a_stop_that_comes_with_the_platforms_answer_dials_nobody_twice(sites: Sites) -> None:
    """A worker that was frozen wakes up: the answer and the news that another one has taken over are there at once."""
    async with steps_of(sites, LEADS) as steps:
        environment = ActivityEnvironment()
        assigning = asyncio.create_task(steps.step(environment))
        (await under_way(assigning)).add_done_callback(lambda _: environment.cancel())
        with pytest.raises(asyncio.CancelledError):
            await assigning
        following = await steps.step()
        assert (following.done, following.assigned) == (True, 0)
        steps.assert_all_once(LEADS)


FAULTS = {
    "none": [],
    "a lost answer": [Fault(target="AssignJobs", kind="lost_answer", count=1)],
    "half an answer": [Fault(target="AssignJobs", kind="partial", count=1)],
    "throttled": [Fault(target="AssignJobs", kind="throttle", count=1, seconds=0.02)],
    "a refusal": [Fault(target="AssignJobs", kind="permanent", count=2)],
    "several": [Fault(target="AssignJobs", kind=kind, count=1) for kind in ("permanent", "lost_answer", "partial")],
}


class Turns:
    """Does something before one callback of the event loop."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        run = asyncio.Handle._run
        self.count = 0
        self._at = 0
        self._act: Callable[[], object] = lambda: None

        def counted(handle: asyncio.Handle) -> None:
            self.count += 1
            if self.count == self._at:
                self._act()
            run(handle)

        patch.setattr(asyncio.Handle, "_run", counted)

    def strike(self, at: int, act: Callable[[], object]) -> None:
        """``act`` before the callback of this number, from now on."""
        self.count, self._at, self._act = 0, at, act


@pytest.mark.long
@pytest.mark.parametrize("faults", FAULTS)
async def test_wherever_a_step_is_stopped_everybody_is_dialled_once(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, faults: str
) -> None:
    """Before each callback of its event loop, one after the other."""
    async with steps_of(sites, 30) as steps:
        turns = Turns(monkeypatch)
        for at in range(1, 1_000):
            await steps.new_task()
            steps.site.sim.set_faults(*FAULTS[faults])
            environment = ActivityEnvironment()
            turns.strike(at, environment.cancel)
            with suppress(asyncio.CancelledError, ApplicationError):
                await steps.step(environment)
            callbacks = turns.count
            await steps.finish()
            steps.assert_all_once(30)
            if callbacks < at:
                return
    raise AssertionError("a step does not come to its end")


# --- what the database does not say -----------------------------------------------------------------------------


async def test_halves_whose_commit_had_no_answer_are_sent(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    async with steps_of(sites, LEADS) as steps:
        struck = Counter[str]()

        def renewing(name: str, _: Any) -> bool:
            struck[name] += 1
            return name == "renew" and struck[name] == 1

        steps.site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", count=1))
        lose_answers(monkeypatch, renewing)
        assert not (await steps.step()).done
        await steps.finish()
        steps.assert_all_once(LEADS)


async def test_a_try_whose_count_had_no_answer_counts_once(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    async with steps_of(sites, LEADS) as steps:
        struck = Counter[str]()

        def counting(name: str, arguments: tuple[Any, ...]) -> bool:
            struck[name] += bool(arguments[0]) if name == "fell_short" else 0
            return name == "fell_short" and bool(arguments[0]) and struck[name] < 3

        steps.site.sim.set_faults(Fault(target="AssignJobs", kind="partial", count=1))
        lose_answers(monkeypatch, counting)
        await steps.step()
        assert struck["fell_short"] == 3
        await steps.finish()
        steps.assert_all_once(LEADS)


@pytest.mark.long
@pytest.mark.parametrize("faults", FAULTS)
async def test_whichever_answer_of_the_database_is_lost_everybody_is_dialled_once(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, faults: str
) -> None:
    """The first, the second, and so on."""
    async with steps_of(sites, 30) as steps:
        calls = at = 0

        def lost(*_: Any) -> bool:
            nonlocal calls
            calls += 1
            return calls == at

        lose_answers(monkeypatch, lost)
        for number in range(1, 200):
            at = 0
            await steps.new_task()
            steps.site.sim.set_faults(*FAULTS[faults])
            calls, at = 0, number
            with suppress(ApplicationError):
                await steps.step()
            asked, at = calls, 0
            await steps.finish()
            steps.assert_all_once(30)
            if asked < number:
                return
    raise AssertionError("a step does not come to its end")


async def test_entries_that_another_attempt_doubts_are_not_sent_by_what_was_read_before(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database failed over to a copy that was behind; one attempt stands still between its look and its claim."""
    for name, number in (("CONTACTS_A_CALL", 30), ("BATCHES_AT_ONCE", 1), ("PORTIONS", 1)):
        monkeypatch.setattr(claims, name, number)
    async with steps_of(sites, LEADS) as steps:
        steps.site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", count=1, code="Forbidden.RAM"))
        with pytest.raises(ApplicationError):
            await steps.step()
        last = steps.site.sql("SELECT MAX(id) AS id FROM call_dispatches")[0]["id"]
        await steps.step()
        assert steps.assigned == 60
        steps.site.sql("DELETE FROM call_dispatches WHERE id > %s", last)
        steps.site.sql("UPDATE call_dispatches SET accepted_at = NULL, attempted_at = '2000-01-01' WHERE last_id > 0")
        transaction = steps.database.transaction

        async def meanwhile(function: Any, *args: Any, **kwargs: Any) -> Any:
            if function is claims.claim:
                monkeypatch.setattr(steps.database, "transaction", transaction)
                await steps.step()
            return await transaction(function, *args, **kwargs)

        monkeypatch.setattr(steps.database, "transaction", meanwhile)
        await steps.step()
        await steps.finish()
        assert steps.site.stats()["dialled_twice"] == [] and steps.assigned == LEADS


# --- who is refused ---------------------------------------------------------------------------------------------


def of(*leads: int) -> Callable[[Contact], bool]:
    """Whether a contact is one of these leads."""
    numbers = {phone(lead) for lead in leads}
    return lambda contact: contact.phone in numbers


@pytest.mark.parametrize("code", ["QuotaExceeded.Jobs", "InvalidParameter"])
async def test_a_platform_that_takes_nobody_any_more_fails_the_run_and_no_row(sites: Sites, code: str) -> None:
    """A quota is used up, a bill is due, somebody ended the group: what it took before proves nothing."""
    async with steps_of(sites, MANY) as steps:
        world, bot = steps.site.sim.world, steps.site.sim.outbound_bot
        assign = world.assign
        dropping(steps.site, lambda _: bot.contacts_assigned >= 99, code)
        with pytest.raises(ApplicationError, match=code) as failure:
            await steps.step()
        assert (failure.value.type, steps.failed) == ("PlatformRefused", [])
        world.assign = assign  # type: ignore[method-assign]
        await steps.finish()
        steps.assert_all_once(MANY)


async def test_a_batch_of_which_nobody_can_be_taken_stops_no_other(sites: Sites) -> None:
    """Ninety-nine numbers from abroad, and some elsewhere."""
    async with steps_of(sites, MANY) as steps:
        wrong = [*range(100, 199), 300, 301]
        dropping(steps.site, of(*wrong), "InvalidPhoneNumber")
        await steps.step()
        await steps.finish()
        assert (steps.failed, steps.assigned) == (wrong, MANY - len(wrong))


async def test_the_last_few_of_whom_nobody_can_be_taken_hold_no_campaign_open(sites: Sites) -> None:
    async with steps_of(sites, 102) as steps:
        dropping(steps.site, of(100, 101, 102), "InvalidParameter")
        await steps.step()
        await steps.finish()
        assert (steps.failed, steps.assigned) == ([100, 101, 102], 99)

    # Also in a step of their own, when the others were taken long before.
    async with steps_of(sites, 1_092) as steps:
        dropping(steps.site, of(1_090, 1_091, 1_092), "InvalidParameter")
        await steps.step()
        assert steps.assigned == 1_089
        await steps.finish()
        assert (steps.failed, steps.assigned) == ([1_090, 1_091, 1_092], 1_089)


# --- rows that the CRM deletes and enters anew --------------------------------------------------------------------


@pytest.mark.parametrize("between", [True, False], ids=["around-the-reading", "after-it"])
async def test_a_row_of_a_batch_that_was_taken_in_part_is_not_sent_when_it_is_entered_anew(
    sites: Sites, between: bool
) -> None:
    async with steps_of(sites, 1_200) as steps:
        steps.site.sim.set_faults(Fault(target="AssignJobs", kind="partial", count=1))
        await steps.step()
        steps.site.sim.set_faults()
        rows = take_out(steps.site, 1) if between else []
        steps.age()
        await steps.step()
        steps.site.insert("leads_task_list", rows or take_out(steps.site, 1))
        await steps.finish()
        steps.assert_all_once(1_200)


NOT_TAKEN = {
    "a refused key": Fault(target="AssignJobs", kind="permanent", count=1, code="Forbidden.RAM"),
    "nobody there": Fault(target="AssignJobs", kind="hang", count=1, seconds=0.1),
}


@pytest.mark.parametrize("fault", NOT_TAKEN)
async def test_a_row_of_a_batch_that_was_not_taken_is_sent_when_it_is_entered_anew(sites: Sites, fault: str) -> None:
    async with steps_of(sites, LEADS) as steps:
        steps.site.sim.set_faults(NOT_TAKEN[fault])
        with suppress(ApplicationError):
            await steps.step()
        assert steps.assigned == 0
        steps.site.insert("leads_task_list", take_out(steps.site, 5))
        await steps.finish()
        steps.assert_all_once(LEADS)


async def test_a_number_that_was_refused_is_sent_when_its_row_is_entered_anew_with_another(sites: Sites) -> None:
    async with steps_of(sites, 1_200) as steps:
        assign = steps.site.sim.world.assign
        dropping(steps.site, of(5), "InvalidParameter")
        await steps.step()
        assert steps.failed == [5]
        steps.site.sim.world.assign = assign  # type: ignore[method-assign]
        rows = take_out(steps.site, 5)
        steps.site.insert("leads_task_list", [rows[0] | {"leads_phone": phone(5_005)}])
        await steps.finish()
        steps.assert_all_once(1_200)

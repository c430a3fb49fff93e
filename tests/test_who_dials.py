"""Nobody is dialled whom no start-call asked for: every state of a task, and every door but that one."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from calltasks.errors import NotRunningError, NotStartedError
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from simulators import Contact, Fault
from tests.comparison import assert_finished
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, eventually, phone

LEADS = 3
TALKED = '[{"Speaker": "Contact", "Script": "不需要。"}]'


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How a task was left.

    Attributes:
        group: ``ours``: we made it, and handed one lead over; ``theirs``: another program did, with every lead.
        jobs: its first row has a job id.
        taken_up: by the monitor.
        judged: a re-analysis is taken.
        dialled: people whom a start-call dials then.
    """

    task_type: int
    group: str = ""
    jobs: bool = False
    taken_up: bool = False
    judged: bool = False
    dialled: int = 0

    @property
    def held(self) -> int:
        """Leads that the platform has."""
        if not self.group:
            return 0
        return LEADS if self.group == "theirs" or self.task_type > 1 else 1


STATES = {
    "created": State(task_type=1, dialled=3),
    "half dispatched": State(task_type=1, group="ours", dialled=2),
    "half dispatched, a job known": State(task_type=1, group="ours", jobs=True, dialled=2),
    "dialled by another program, type 1": State(task_type=1, group="theirs"),
    "never dialled, type 2": State(task_type=2, dialled=3),
    "called by another program, its group gone": State(task_type=2, jobs=True, judged=True),
    "called by another program": State(task_type=2, group="theirs", taken_up=True, judged=True),
    "called by us": State(task_type=2, group="ours", jobs=True, taken_up=True, judged=True),
    "over, type 3": State(task_type=3, group="theirs", jobs=True, taken_up=True, judged=True),
    "over, type 3, its group gone": State(task_type=3, jobs=True, judged=True),
    "over, type 4": State(task_type=4, group="theirs", jobs=True, judged=True),
}
SIGNALS: dict[str, tuple[str, list[Any]]] = {
    "re-analysis": ("force_analyze", [{"all": True}]),
    "re-analysis of failed ones": ("force_analyze", [{"failed": True}]),
    "a re-analysis of nothing": ("force_analyze", [{"call_job_ids": []}]),
    "refresh": ("refresh", []),
    "pause": ("pause_calls", []),
    "resume": ("resume_calls", []),
    "cancel": ("cancel_calls", []),
    "a signal that nobody knows": ("no_such_signal", []),
}
_numbers = iter(range(1, 100_000))


def leave(site: Site, state: State) -> int:
    """A task in this state."""
    site.insert("call_tasks", [{"task_name": "left", "organization_id": ORGANIZATION, "task_type": state.task_type}])
    task_id = int(site.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"])
    leads = [next(_numbers) for _ in range(LEADS)]
    references = {n: f"{task_id}{ORGANIZATION}{n}" for n in leads}
    held = leads[: state.held]
    contacts = [Contact(phone=phone(n), reference=references[n], outcome="Failed") for n in held]
    group = site.sim.world.add_group(f"left {task_id}", contacts)
    jobs = {n: job.id for n, job in zip(held, group.jobs, strict=True)}
    for n in leads:
        called = state.jobs and n == leads[0]
        site.insert(
            "leads_task_list",
            [
                {
                    **{"task_id": task_id, "leads_id": n, "leads_phone": phone(n), "reference_id": references[n]},
                    **{"call_job_id": jobs.get(n, f"gone-{n}") if called else ""},
                    **({"call_status": "Succeeded", "call_conversation": TALKED} if called else {}),
                }
            ],
        )
    if state.group:
        site.sql("UPDATE call_tasks SET job_group_id = %s WHERE id = %s", group.id, task_id)
    if state.group == "ours":
        entry = {
            "task_id": task_id,
            "job_group_id": group.id,
            "attempted_at": "2026-01-01",
            "accepted_at": "2026-01-01",
        }
        rows = [row["id"] for row in site.rows(task_id)]
        site.insert("call_dispatches", [{**entry, "first_id": 0, "last_id": 0}])
        site.insert("call_dispatches", [{**entry, "first_id": rows[0], "last_id": rows[len(held) - 1]}])
    return task_id


async def signal_with_start(site: Site, task_id: int, name: str, arguments: list[Any], **given: Any) -> None:
    """As Temporal's own command line does it."""
    await site.client.start_workflow(
        *(WORKFLOW, {"task_id": task_id, **given}),
        id=workflow_id(task_id),
        task_queue=CALL_TASKS,
        start_signal=name,
        start_signal_args=arguments,
    )


def assert_nobody_was_dialled(site: Site) -> None:
    assert site.sim.outbound_bot.contacts_assigned == 0
    assert not {"CreateJobGroup", "AssignJobs"} & set(site.stats()["calls"])


def dialled(site: Site, task_id: int, state: State) -> int:
    """How many people of the task we dialled."""
    group = site.sim.world.find_group(site.task(task_id)["job_group_id"])
    return len(group.jobs) - state.held if group else 0


async def test_a_signal_that_starts_a_run_dials_nobody_and_a_start_call_then_does(sites: Sites) -> None:
    site = await sites()
    left = {(name, state): leave(site, STATES[state]) for name in SIGNALS for state in STATES}
    never = {key: task_id for key, task_id in left.items() if STATES[key[1]].dialled}
    async with site.working(), site.calls() as calls:
        for (name, _), task_id in left.items():
            await signal_with_start(site, task_id, *SIGNALS[name], options=QUICK.model_dump(exclude_none=True))
        results = dict(zip(left, await asyncio.gather(*map(site.result, left.values())), strict=True))
        assert_nobody_was_dialled(site)
        for key, task_id in never.items():
            state = STATES[key[1]]
            assert results[key]["outcome"] == ("not_dialled" if state.jobs else "nothing_called"), key
            assert results[key]["task_type"] == state.task_type
            assert {row["call_status"] for row in site.rows(task_id)[1:]} == {None}, key
        for task_id in left.values():
            await calls.start_call(task_id, QUICK)
        # A pause stays with the task: a start alone does not undo it.
        for task_id in [task_id for (name, _), task_id in never.items() if name == "pause"]:
            await says(site, task_id, "calls are paused")
            assert (await calls.control(task_id, "resume"))["done"]
        await asyncio.gather(*map(site.result, left.values()))
    assert {key: dialled(site, task_id, STATES[key[1]]) for key, task_id in left.items()} == {
        key: STATES[key[1]].dialled for key in left
    }
    assert site.stats()["dialled_twice"] == []


WRONG = [
    {"not_called_within": "thirty"},
    {"not_called_withn": 30},
    {"strategy": {"workingTime": []}},
    {"at_most": 1},
    "x",
]


@pytest.mark.parametrize("options", WRONG, ids=str)
async def test_a_start_call_with_wrong_options_dials_nobody_and_says_why(sites: Sites, options: Any) -> None:
    """As if there were none, people would be called whom they leave out."""
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working():
        given = QUICK.model_dump(exclude_none=True)
        await signal_with_start(site, task_id, "start_call", [options], options=given)
        result = await site.result(task_id)
    assert (result["called"], site.sim.outbound_bot.contacts_assigned) == (0, 0)
    assert result["last_error"].startswith("start_call was ignored: options must be a JSON object like")


@pytest.mark.parametrize(("signal", "arguments"), [("start_call", [{}, {}]), ("force_analyze", [{"all": True}, 1])])
async def test_a_signal_that_brings_too_much_holds_nothing_up(sites: Sites, signal: str, arguments: list[Any]) -> None:
    """As `temporal workflow signal --input … --input …` sends it."""
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.handle(task_id).signal(signal, args=arguments)
        assert (await site.result(task_id))["outcome"] == "complete"


async def says(site: Site, task_id: int, text: str) -> None:
    """Wait until the run's details say so."""

    async def said() -> bool:
        return text in str(await site.handle(task_id).query("__temporal_workflow_metadata"))

    await eventually(said)


async def test_the_monitor_takes_up_what_was_dialled_and_dials_nobody(sites: Sites) -> None:
    site = await sites()
    left = {state: leave(site, STATES[state]) for state in STATES}
    async with site.working(), site.calls() as calls:
        await calls.monitor("check")
        checked = await site.client.get_workflow_handle("call-task-monitor-check").result()
        wanted = {left[state] for state in STATES if STATES[state].taken_up}
        assert set(checked["taken_up"]) == wanted
    assert_nobody_was_dialled(site)


async def test_a_re_analysis_is_refused_where_nobody_was_dialled(sites: Sites) -> None:
    site = await sites()
    left = {state: leave(site, STATES[state]) for state in STATES}
    refused = set()
    async with site.working(), site.calls() as calls:
        for state, task_id in left.items():
            try:
                await calls.force_analyze(task_id, every=True)
            except NotStartedError:
                refused.add(state)
            else:
                await site.handle(task_id).describe()
            for action in ("pause", "resume", "cancel"):
                if state in refused:
                    with pytest.raises(NotRunningError):
                        await calls.control(task_id, action)
            if state in refused:
                with pytest.raises(NotRunningError):
                    await calls.signal(task_id, "refresh")
                with pytest.raises(RPCError):
                    await site.handle(task_id).describe()
        assert refused == {state for state in STATES if not STATES[state].judged}
    assert_nobody_was_dialled(site)


async def test_a_run_that_failed_half_way_is_not_taken_up_by_a_re_analysis_but_by_a_start_call(sites: Sites) -> None:
    site = await sites()
    site.add_leads(120)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", code="NotExist.Script", count=1))
    async with site.working(), site.calls() as calls:
        with pytest.raises(WorkflowFailureError):
            await site.run(task_id)
        site.sim.set_faults()
        before = site.sim.outbound_bot.contacts_assigned
        with pytest.raises(NotStartedError):
            await calls.force_analyze(task_id, every=True)
        await signal_with_start(site, task_id, "force_analyze", [{"all": True}])
        await site.result(task_id)
        assert 0 < site.sim.outbound_bot.contacts_assigned == before < 120
        result = await site.run(task_id)
    assert site.sim.outbound_bot.contacts_assigned == 120 and site.stats()["dialled_twice"] == []
    assert_finished(site, task_id, result)


@pytest.mark.parametrize("first", ["a worker", "the signals"])
async def test_a_signal_that_comes_right_after_a_start_does_not_take_the_start_back(sites: Sites, first: str) -> None:
    """Both are there before the first worker is: only their order in the history tells which began the run."""
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()

    async def ask() -> None:
        await site.client.start_workflow(
            WORKFLOW,
            {"task_id": task_id, "options": QUICK.model_dump(exclude_none=True)},
            id=workflow_id(task_id),
            task_queue=CALL_TASKS,
        )
        for name, arguments in (SIGNALS["re-analysis"], SIGNALS["refresh"]):
            await site.handle(task_id).signal(name, *arguments)

    if first == "the signals":
        await ask()
    async with site.working():
        if first == "a worker":
            await ask()
        result = await site.result(task_id)
    assert site.sim.outbound_bot.contacts_assigned == 5
    assert_finished(site, task_id, result)


async def test_a_start_call_reaches_a_run_that_came_into_being_by_a_re_analysis(sites: Sites) -> None:
    """No worker is there, so that run is still open: the start-call must not be lost as "running already"."""
    site = await sites()
    site.add_leads(5)
    task_id = await site.create_task()
    await signal_with_start(site, task_id, "force_analyze", [{"all": True}])
    async with site.calls() as calls:
        assert not await calls.start_call(task_id, QUICK)
        async with site.working():
            result = await site.result(task_id)
    assert site.sim.outbound_bot.contacts_assigned == 5
    assert_finished(site, task_id, result)
    kept = site.sql("SELECT options FROM call_task_options WHERE task_id = %s", task_id)
    assert '"match_grace":1.0' in kept[0]["options"]

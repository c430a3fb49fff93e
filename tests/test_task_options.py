"""What a task was started with stays with it; what cannot be read is no other task; what has nothing to do rests."""

import json
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import worker
from activities.job_ids import PagesRead
from activities.steps import STEPS
from activities.tasks import Task
from calltasks.database.tables.needs import Work
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from calltasks.options import Options
from calltasks.rules.row_ranges import pack
from simulators import Contact, SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Site, Sites, eventually, phone
from workflows import reanalysis
from workflows.pipeline import Pipeline


def kept(site: Site, task_id: int) -> dict[str, Any]:
    [row] = site.sql("SELECT options FROM call_task_options WHERE task_id = %s", task_id)
    options: dict[str, Any] = json.loads(row["options"])
    return options


async def graces(site: Site, task_id: int) -> set[tuple[float, float]]:
    """Conversation and recording grace of every review of the task's latest run."""
    found = set()
    for event in (await site.handle(task_id).fetch_history()).events:
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name == "review_task":
            [request] = await site.client.data_converter.decode(scheduled.input.payloads)
            values = request["values"]
            found.add((values["conversation_grace"], values["recording_grace"]))
    return found


async def test_the_options_of_a_start_hold_for_every_later_run_field_by_field(sites: Sites) -> None:
    site = await sites()
    site.add_leads(3)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await site.run(task_id, QUICK.model_copy(update={"conversation_grace": 7, "recording_grace": 8}))
        site.sql("UPDATE call_tasks SET task_type = 2 WHERE id = %s", task_id)
        site.sql("UPDATE leads_task_list SET is_interested = NULL WHERE task_id = %s", task_id)
        await calls.monitor("check")

        async def taken_up() -> bool:
            return len(await site.runs(f"WorkflowId = '{workflow_id(task_id)}'")) == 2

        await eventually(taken_up)
        await site.result(task_id)
        assert await graces(site, task_id) == {(7, 8)}
        await calls.start_call(task_id, Options(recording_grace=9))
        await site.result(task_id)
        assert await graces(site, task_id) == {(7, 9)}
        await calls.force_analyze(task_id, every=True)
        await site.result(task_id)
        assert await graces(site, task_id) == {(7, 9)}
        await calls.start_call(task_id)
        await site.result(task_id)
        assert await graces(site, task_id) == {(7, 9)}
    assert kept(site, task_id) == QUICK.model_dump(exclude_none=True) | {"conversation_grace": 7, "recording_grace": 9}


async def test_another_task_of_the_same_id_inherits_nothing(sites: Sites) -> None:
    """The CRM was emptied beside our tables, and counts from 1 again."""
    site = await sites()
    site.add_leads(3)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await site.run(task_id, QUICK.model_copy(update={"token_ceiling": 1, "poll_first": 0.25}))
        for table in ("call_tasks", "leads_task_list", "dcc_leads_follow"):
            site.sql(f"TRUNCATE {table}")
        assert await site.create_task() == task_id
        site.sql("UPDATE call_tasks SET create_time = create_time + INTERVAL 1 HOUR WHERE id = %s", task_id)
        result = await site.run(task_id, QUICK.model_copy(update={"recording_grace": 1}))
        assert result["token_ceiling"] is None and kept(site, task_id)["poll_first"] == 0
        await calls.start_call(task_id)
        assert (await site.result(task_id))["token_ceiling"] is None


ODD: list[Any] = [{"task_id": "42"}, {"task_id": 0}, {"task_id": 1.5}, {}, "42", None, [1], {"task": 1}]


async def test_an_input_that_cannot_be_read_stands_for_no_task(sites: Sites) -> None:
    site = await sites()
    site.add_leads(2)
    assert await site.create_task() == 1
    async with site.working():
        for number, odd in enumerate(ODD):
            handle = await site.client.start_workflow(WORKFLOW, odd, id=f"odd-{number}", task_queue=CALL_TASKS)
            with pytest.raises(WorkflowFailureError) as failed:
                await handle.result()
            assert "input must be a JSON object like" in str(failed.value.cause)
            progress = await handle.query("progress")
            assert (progress["task_id"], progress["phase"]) == (None, "failed")
            details = str(await handle.query("__temporal_workflow_metadata"))
            assert "somebody to mend it" in details and "start-call" not in details
    assert site.sim.outbound_bot.contacts_assigned == 0


async def test_at_most_ninety_activities_of_a_run_are_in_flight_however_many_pages_a_group_has() -> None:
    import asyncio

    now = peak = read = 0

    class Steps:
        async def attempt(self, call: Any, pages: Any, summary: str) -> PagesRead:
            nonlocal now, peak, read
            now, read = now + 1, read + 1
            peak = max(peak, now)
            await asyncio.sleep(0.001)
            now -= 1
            return PagesRead(row_count=200_000, jobs=1000, matched=[], left_over=0, failed_pages=0, api_calls=1)

    class Tally:
        api_calls = 0

    task = Task(task_id=1, organization_id="o", task_type=2, job_group_id="g", dispatched=True)
    steps: Any = Steps()
    tally: Any = Tally()
    pipeline = Pipeline(task, steps, STEPS, Options(), tally, None)
    await pipeline._read_pages(may_fail=False, whole=True)
    assert (read, pipeline.jobs_seen) == (200, 200_000)
    lanes = pipeline.lanes.values()
    # A re-analysis has eight pieces under way; review, dispatch, watch and control are one each.
    assert peak + sum(lane.limit for lane in lanes) + 8 * pipeline.reanalyses.limit + 4 <= 90


async def test_a_task_of_which_nothing_is_called_comes_to_rest_and_loses_no_late_job(sites: Sites) -> None:
    site = await sites()
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in (1, 2)]
    task_id = site.old_task(rows, [Contact(phone=phone(9), reference="other")])
    site.sql("UPDATE leads_task_list SET call_time = '2026-11-20 10:00:00'")
    runs = 0

    async def check(name: str = "monitor") -> dict[str, Any]:
        """A check as the schedule makes it, or as a person does."""
        nonlocal runs
        every = [True] if name == "person" else []
        handle = await site.client.start_workflow("MonitorWorkflow", *every, id=f"{name}-{runs}", task_queue=CALL_TASKS)
        checked: dict[str, Any] = await handle.result()
        runs += 1
        if checked["taken_up"]:
            await site.result(task_id)
        return checked

    def pages() -> int:
        return sum(site.stats()["calls"].get("QueryJobsWithResult", {}).values())

    async with site.working(), site.calls() as calls:
        assert (await site.run(task_id))["outcome"] == "nothing_called"
        before = pages()
        for _ in range(3):
            assert (await check())["at_rest"] == 1
        for _ in range(3):
            assert (await check("person"))["taken_up"] == [task_id]
        assert pages() == before and site.task(task_id)["task_type"] == 2
        far = "SELECT rests, look_after > UTC_TIMESTAMP() + INTERVAL 30 MINUTE AS far FROM call_task_options"
        assert site.sql(far) == [{"rests": 4, "far": 1}]
        # One of its jobs appears after all.
        group = site.sim.world.find_group(site.task(task_id)["job_group_id"])
        assert group is not None
        site.sim.world.assign(group, [Contact(phone=phone(1), reference="r1", outcome="Failed")])
        site.sql("UPDATE call_task_options SET look_after = UTC_TIMESTAMP() - INTERVAL 1 SECOND")
        assert (await check())["taken_up"] == [task_id]
        assert site.task(task_id)["task_type"] == 4
        assert [row["call_status"] for row in site.rows(task_id)][1] == "Failed"
        await calls.start_call(task_id)


async def test_a_re_analysis_of_very_many_scattered_rows_is_done_in_portions(sites: Sites, monkeypatch: Any) -> None:
    scattered = [Work(rows=pack(range(10**18, 10**18 + 20_000, 2)), count=10_000)]
    assert len(json.dumps([work.rows for work in scattered])) < 1_000_000 and reanalysis.SELECTED_ROWS == 10_000
    passing = worker.SANDBOX.restrictions.with_passthrough_modules("workflows.reanalysis")
    monkeypatch.setattr(worker, "SANDBOX", SandboxedWorkflowRunner(restrictions=passing))
    monkeypatch.setattr(reanalysis, "SELECTED_ROWS", 40)
    monkeypatch.setattr(reanalysis, "NAMED", 40)
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=0))
    site.add_leads(130)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await site.run(task_id)
        await calls.force_analyze(task_id, every=True)
        result = await site.result(task_id)
        assert result["reanalysed"] == 130 and result["last_error"] == ""
        assert_finished(site, task_id, result)
        named = [row["call_job_id"] for row in site.rows(task_id)]
        await calls.force_analyze(task_id, call_job_ids=[*named, "no-such-call", *named])
        result = await site.result(task_id)
        assert result["reanalysed"] == 260 and "1 of the named calls" in result["last_error"]
        selected = [
            event.activity_task_scheduled_event_attributes.activity_type.name
            for history in await site.histories()
            for event in history.events
        ].count("select_for_analysis")
        assert selected == 8


async def test_more_calls_than_a_request_holds_are_refused_in_one_line(sites: Sites) -> None:
    site = await sites()
    site.add_leads(1)
    task_id = await site.create_task()
    async with site.calls() as calls:
        with pytest.raises(ValueError, match="40000 call job ids are more than one request holds"):
            await calls.force_analyze(task_id, call_job_ids=[f"job-{number:028}" for number in range(40_000)])


async def test_very_many_requests_at_once_are_all_done_and_the_run_restarts_as_new(restarting_sites: Sites) -> None:
    """The server suggests a restart at 60 events: what waits is carried on, what has begun comes to its end."""
    site = await restarting_sites(SimulatorOptions(calls_over=True, answer_rate=0))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.calls() as calls:
        async with site.working():
            await site.run(task_id)
        for row in site.rows(task_id):
            await calls.force_analyze(task_id, call_job_ids=[row["call_job_id"]])
        await calls.force_analyze(task_id, every=True)
        async with site.working():
            result = await site.result(task_id)
    assert (result["reanalysed"], result["analysing_again"]) == (120, 0)
    assert len(await site.runs(f"WorkflowId = '{workflow_id(task_id)}'")) > 3

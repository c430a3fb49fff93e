"""Force re-analysis (rule 7): while a task runs, after it has finished, and by the official command line alone."""

import asyncio
import json
from typing import Any

from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from devstack.temporal import EmbeddedTemporal, find_temporal
from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import MODEL_FAILED, assert_finished, assert_nothing_went_back, assert_one_follow_up_a_row
from tests.pipeline import QUICK, Site, Sites, phone

NONSENSE: list[Any] = [None, "all", [], {}, {"all": False}, {"al": True}, {"call_job_ids": 5}, {"call_job_ids": []}]
NONSENSE += [{"all": True, "failed": True}, {"all": True, "interest": 3}, {"all": True, "since": "yesterday"}]


async def again(site: Site, task_id: int, **request: Any) -> dict[str, Any]:
    """Ask for a re-analysis of a closed task, as `starter.py` does but with little patience, and wait for its end."""
    await site.client.start_workflow(
        WORKFLOW,
        {"task_id": task_id, "options": QUICK.model_dump()},
        id=workflow_id(task_id),
        task_queue=CALL_TASKS,
        start_signal="force_analyze",
        start_signal_args=[request],
    )
    return await site.result(task_id)


def age(site: Site, direction: str = "-") -> None:
    """Follow-ups as if they had been written three minutes earlier (or, `+`, later)."""
    columns = ("follow_time", "frist_follow_time", "new_follow_time")
    changes = ", ".join(f"{column} = {column} {direction} INTERVAL 3 MINUTE" for column in columns)
    site.sql(f"UPDATE dcc_leads_follow SET {changes}")


async def test_failed_analyses_of_a_closed_task_become_real_ones_once_the_model_is_back(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=0.5))
    site.sim.model.down = True
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        first = await site.run(task_id)
        assert (first["task_type"], first["analysis_failed"]) == (4, first["by_status"]["Succeeded"])
        site.sim.model.down = False
        age(site)
        before, rows_before = site.follow_ups(), site.rows(task_id)
        calls_before = site.stats()["platform_calls"]
        result = await again(site, task_id, failed=True)
        assert (result["outcome"], result["reanalysed"]) == ("complete", first["analysis_failed"])
        assert (result["analysed"], result["analysis_failed"]) == (first["analysis_failed"], 0)
        after = site.follow_ups()
        assert after.keys() == before.keys()
        for row, row_before in zip(site.rows(task_id), rows_before, strict=True):
            old, new = before[row["leads_follow_id"]], after[row["leads_follow_id"]]
            unchanged = ("id", "leads_id", "follow_time", "frist_follow_time")
            assert {name: new[name] for name in unchanged} == {name: old[name] for name in unchanged}
            if old["leads_remark"] == MODEL_FAILED:
                assert new["leads_remark"] != MODEL_FAILED and new["new_follow_time"] > old["new_follow_time"]
                assert row | {"is_interested": 0} == row_before
            else:
                assert (old, row) == (new, row_before)
        age(site, "+")
        assert_finished(site, task_id, result)
        model_calls = site.stats()["model_calls"]
        nothing_left = await again(site, task_id, failed=True)
        assert site.stats()["model_calls"] == model_calls
        assert nothing_left["reanalysed"] == result["reanalysed"]
    assert site.stats()["platform_calls"] == calls_before


async def test_all_of_a_closed_task_is_judged_anew_and_nothing_is_created(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=0.5))
    site.add_leads(30)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
        before = site.follow_ups()
        site.sim.set_faults(Fault(target="model", kind="fickle"))
        result = await again(site, task_id, all=True)
    after = site.follow_ups()
    assert after.keys() == before.keys()
    spoken = {row["leads_follow_id"]: row["is_interested"] for row in site.rows(task_id) if row["call_conversation"]}
    assert spoken
    assert {after[id_]["leads_remark"][-13:] for id_ in spoken} == {"次判断的结果，与前次不同。"}
    ledger = site.sql("SELECT follow_id, is_interested FROM call_follow_ups")
    interests = {entry["follow_id"]: entry["is_interested"] for entry in ledger}
    assert {id_: interests[id_] for id_ in spoken} == spoken
    assert (result["reanalysed"], result["follow_ups"], result["task_type"]) == (30, 30, 4)
    assert_one_follow_up_a_row(site, task_id)


async def test_named_calls_alone_are_judged_anew_and_unknown_ones_are_said(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(10)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
        before = site.follow_ups()
        site.sim.set_faults(Fault(target="model", kind="fickle"))
        named = [row["call_job_id"] for row in site.rows(task_id)[2:5]]
        async with site.calls() as calls:
            request_id = await calls.force_analyze(task_id, call_job_ids=[*named, "no-such-job", named[0]])
            result = await calls.result(task_id)
            answer = await calls.reanalysis(task_id, request_id)
            assert await calls.reanalysis(task_id, "another") is None
    changed = [id_ for id_, follow_up in site.follow_ups().items() if follow_up != before[id_]]
    assert changed == [row["leads_follow_id"] for row in site.rows(task_id)[2:5]]
    assert result["reanalysed"] == 3
    assert answer and (answer.selected, answer.unknown, answer.judged, answer.done) == (3, 1, 3, True)
    assert answer.spent > 0 and answer.sayings() in result["last_error"]
    assert "1 of the named calls" in result["last_error"]


async def test_a_call_without_a_follow_up_gets_one(sites: Sites) -> None:
    site = await sites()
    talk = json.dumps([{"Speaker": "Robot", "Script": "您好"}, {"Speaker": "Contact", "Script": "不需要，别再打了。"}])
    task_id = site.old_task([], [], task_type=4)
    states: list[dict[str, Any]] = [
        {"call_conversation": talk, "call_status": "Succeeded"},
        {"call_status": "Failed"},
        {"call_status": None},
    ]
    for n, state in enumerate(states, 1):
        site.insert("leads_task_list", [{"task_id": task_id, "leads_id": n, "call_job_id": f"j{n}", **state}])
    async with site.working():
        result = await again(site, task_id, all=True)
    rows = site.rows(task_id)
    assert [row["is_interested"] for row in rows] == [2, 0, None]
    assert [bool(row["leads_follow_id"]) for row in rows] == [True, True, False]
    assert len(site.follow_ups()) == 2
    assert result["outcome"] == "complete"


async def test_a_re_analysis_that_fails_leaves_the_judgement_as_it_was(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(8)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
        before = (site.follow_ups(), site.rows(task_id))
        site.sim.model.down = True
        result = await again(site, task_id, all=True)
    assert (site.follow_ups(), site.rows(task_id)) == before
    assert (result["outcome"], result["reanalysed"], result["analysed"]) == ("complete", 0, 8)


async def test_a_running_task_takes_requests_and_ends_with_one_follow_up_a_row(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=20, concurrency=10, model_latency=(0.1, 0.4)))
    site.add_leads(30)
    task_id = await site.create_task()
    site.watch_writes()
    async with site.working():
        async with site.calls() as calls:
            await calls.start_call(task_id, QUICK)
            await site.until(task_id, analysed=5)
            for _ in range(3):
                await calls.force_analyze(task_id, every=True)
            for payload in NONSENSE:
                await site.handle(task_id).signal("force_analyze", payload)
        result = await site.result(task_id)
    assert result["outcome"] == "complete"
    assert result["reanalysed"] >= 5
    assert_finished(site, task_id, result)
    assert_nothing_went_back(site, task_id)


async def test_a_request_does_not_cut_short_the_wait_for_a_transcript(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1, transcript_lag=4))
    site.add_leads(10)
    task_id = await site.create_task()
    async with site.working():
        async with site.calls() as calls:
            await calls.start_call(task_id, QUICK.model_copy(update={"conversation_grace": 20}))
            await site.until(task_id, finished=10)
            await calls.force_analyze(task_id, every=True)
        result = await site.result(task_id)
    assert_finished(site, task_id, result)


async def test_the_official_command_line_is_enough(sites: Sites, temporal: EmbeddedTemporal) -> None:
    # The run is not over before three commands were typed.
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1, model_latency=(6, 7)))
    contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 6)]
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in range(1, 6)]
    task_id = site.old_task(rows, contacts)

    async def command(*arguments: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            find_temporal(), "workflow", *arguments, "--workflow-id", f"call-task-{task_id}", "-o", "json",
            "--address", temporal.address, "--namespace", site.client.namespace,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return json.loads(out) if out.strip().startswith((b"{", b"[")) else out.decode()

    one = json.dumps({"task_id": task_id})
    async with site.working():
        await command("start", "--type", "CallTaskWorkflow", "--task-queue", "call-tasks", "--input", one)
        progress = (await command("query", "--type", "progress"))["queryResult"][0]
        assert progress["task_id"] == task_id and "by_status" in progress
        await command("signal", "--name", "force_analyze", "--input", '{"all": true}')
        result = (await command("result"))["result"]
    assert (result["outcome"], result["task_type"], result["called"]) == ("complete", 4, 5)
    assert_finished(site, task_id, result)

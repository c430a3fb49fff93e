"""Phone numbers, names, transcripts and keys stay out of logs, of workflow histories and of error messages."""

import asyncio
import json
from collections.abc import Iterable

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError

import simulators
from simulators import Fault, SimulatorOptions
from tests.pipeline import QUICK, Site, Sites
from tests.sayings import LogLines, decoded

FAULTS = [
    *(Fault(target="AssignJobs", kind=kind, count=1) for kind in ("lost_answer", "permanent", "html")),
    Fault(target="CreateJobGroup", kind="status_500", count=1),
    *(
        Fault(target=action, kind=kind, count=1)
        for action in ("QueryJobsWithResult", "ListJobs", "DownloadRecording")
        for kind in ("wrong_shape", "html", "success_false", "reset")
    ),
    *(
        Fault(target="model", kind=kind, count=2)
        for kind in ("wrong_type", "invalid_json", "enormous", "content_filter", "status_500", "html", "reset", "empty")
    ),
]


def personal(site: Site) -> set[str]:
    """Everything that must not be said: numbers, names, sentences of calls, remarks, keys, passwords, links."""
    words = {simulators.ACCESS_KEY_SECRET, simulators.DASHSCOPE_API_KEY, simulators.ACCESS_KEY_ID}
    words.add(site.environment["DATABASE_URL"].split(":")[2].split("@")[0])
    for row in site.sql("SELECT * FROM leads_task_list"):
        words |= {row["leads_phone"], row["leads_name"], row["recording_url"]}
        words |= {turn["Script"] for turn in json.loads(row["call_conversation"] or "[]")}
    for follow_up in site.follow_ups().values():
        words.add(follow_up["leads_remark"])
    for entry in site.sql("SELECT leads_remark, evidence, do_not_call FROM call_analyses"):
        words |= {entry["leads_remark"], entry["evidence"], entry["do_not_call"]}
    defaults = {"呼叫失败；", "外呼已完成，但暂无通话内容；"}
    return {word for word in words if word and len(word) >= 4} - defaults


def said_of(words: Iterable[str], text: str) -> list[str]:
    """Which of the words are in the text, as they are, as JSON escapes them, or as URLs do."""
    escaped = {word: json.dumps(word)[1:-1] for word in words}
    return [word for word, form in escaped.items() if word in text or form in text]


async def everything_said(site: Site, log: LogLines) -> dict[str, str]:
    """All that was logged, and every history of the namespace, decoded; with what runs show while they run."""
    said = {f"line {number}": line for number, line in enumerate(log.lines)}
    for history in await site.histories():
        said[f"history {history.workflow_id}"] = decoded(history)
    for run in await site.runs():
        said[f"visibility {run.id}"] = str(run.raw_info)
        handle = site.client.get_workflow_handle(run.id, run_id=run.run_id)
        said[f"progress {run.id}"] = str(await handle.query("progress"))
        said[f"details {run.id}"] = str(await handle.query("__temporal_workflow_metadata"))
    for table in ("call_retries", "call_dispatches", "call_rate_limits", "call_follow_ups"):
        said[table] = str(site.sql(f"SELECT * FROM {table}"))
    return said


async def assert_nothing_personal_was_said(site: Site, log: LogLines) -> None:
    words = personal(site)
    assert len(words) > 50
    said = await everything_said(site, log)
    assert len(said) > 20
    found = {where: said_of(words, text) for where, text in said.items()}
    assert not {where: words for where, words in found.items() if words}


def test_the_search_finds_what_it_looks_for() -> None:
    payload = Payload(data=json.dumps({"x": "13900000001 测试客户"}).encode())
    assert said_of(["13900000001", "测试客户", "absent"], payload.data.decode()) == ["13900000001", "测试客户"]


async def test_a_run_says_nothing_personal(sites: Sites) -> None:
    site = await sites(SimulatorOptions(time_scale=60, concurrency=30, cancelled_rate=0.1, transcript_lag=20))
    site.add_leads(40)
    task_id = await site.create_task()
    with LogLines() as log:
        async with site.working():
            async with site.calls() as calls:
                await calls.start_call(task_id, QUICK)
                await site.until(task_id, finished=1)
                await calls.signal(task_id, "pause_calls")
                await calls.signal(task_id, "resume_calls")
                await calls.force_analyze(task_id, every=True)
                await site.result(task_id)
                await calls.force_analyze(task_id, every=True)
                await site.result(task_id)
            await assert_nothing_personal_was_said(site, log)


async def test_a_run_full_of_errors_says_nothing_personal(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    site.add_leads(110)
    task_id = await site.create_task()
    site.sim.set_faults(*FAULTS)
    with LogLines() as log:
        async with site.working():
            await site.run(task_id)
            await site.handle(task_id).query("progress")
            await assert_nothing_personal_was_said(site, log)
    assert len(site.sim.faults.counts) > 12


async def test_garbage_is_refused_without_repeating_it(sites: Sites) -> None:
    site = await sites()
    secret = "13900009999"
    with LogLines() as log:
        async with site.working():
            odd = {"task_id": 1, "options": {"poll_min": f"{secret}x"}}
            for number, given in enumerate([{"task_id": secret}, odd, secret]):
                handle = await site.client.start_workflow(
                    "CallTaskWorkflow", given, id=f"odd-{number}", task_queue="call-tasks"
                )
                with pytest.raises(WorkflowFailureError) as failure:
                    await asyncio.wait_for(handle.result(), 150)
                assert secret not in str(failure.value.cause)
        assert not [line for line in log.lines if secret in line]

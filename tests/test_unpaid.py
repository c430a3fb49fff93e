"""An account that refuses everybody: basic follow-ups that say so at once, few requests, and repair once it is paid."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from calltasks.model.errors import BILL, HINTS, MODE_HINT
from calltasks.rules.judgement import PROMPT_VERSION
from simulators import Fault, SimulatorOptions
from tests.comparison import MODEL_FAILED, assert_finished, assert_one_follow_up_a_row
from tests.pipeline import QUICK, Site, Sites, eventually

PATIENT = QUICK.model_copy(update={"retry_interval": 60})
TALKATIVE = SimulatorOptions(calls_over=True, answer_rate=1, model_latency=(0.02, 0.05))
CALLS = 300
UNDER_WAY = 150
"""Requests that are on their way by the time that the fifth refusal is back, at most."""


async def dialled(sites: Sites, **environment: Any) -> tuple[Site, int]:
    site = await sites(TALKATIVE, **environment)
    site.add_leads(CALLS)
    return site, await site.create_task()


@pytest.mark.parametrize(
    ("kind", "code", "hint"),
    [
        ("unpaid", "PostpaidBillOverdue", HINTS[BILL]),
        ("free_quota", "Throttling.AllocationQuota.UsedUp", HINTS[BILL]),
        ("thinking", "InvalidParameter.Mode", MODE_HINT),
    ],
)
async def test_what_a_person_must_mend_is_told_at_once_and_repaired_on_request(
    sites: Sites, kind: str, code: str, hint: str
) -> None:
    site, task_id = await dialled(sites, ANALYSIS_CONCURRENCY="20")
    site.sim.set_faults(Fault(target="model", kind=kind))
    async with site.working():
        result = await site.run(task_id, PATIENT)
    assert (result["outcome"], result["task_type"], result["analysis_failed"]) == ("complete", 4, CALLS)
    assert code in result["last_error"] and hint in result["last_error"]
    assert {follow_up["leads_remark"] for follow_up in site.follow_ups().values()} == {MODEL_FAILED}
    codes = site.sql("SELECT error_code, COUNT(*) AS n FROM call_analyses GROUP BY error_code")
    assert codes == [{"error_code": code, "n": CALLS}]
    assert site.stats()["model_calls"] <= UNDER_WAY < CALLS
    site.sim.set_faults()
    async with site.working(), site.calls() as calls:  # A worker that was started after the bill was paid.
        await calls.force_analyze(task_id, failed=True)
        again = await site.result(task_id)
    assert (again["analysed"], again["analysis_failed"], again["reanalysed"]) == (CALLS, 0, CALLS)
    assert_one_follow_up_a_row(site, task_id)
    assert_finished(site, task_id, again)


async def test_a_model_that_thinks_aloud_is_asked_once_a_call(sites: Sites) -> None:
    site, task_id = await dialled(sites)
    thinking = '<think>\n也许是 {"leads_remark": "不考虑", "is_interested": 2}\n</think>\n\n好的：```json {answer} ```'
    site.sim.set_faults(Fault(target="model", kind="wrapped", code=thinking))
    async with site.working():
        result = await site.run(task_id, PATIENT)
    assert (result["analysed"], result["analysis_failed"], site.stats()["model_calls"]) == (CALLS, 0, CALLS)
    assert_finished(site, task_id, result)


async def test_a_model_that_is_retired_meanwhile_leaves_no_basic_follow_up(sites: Sites) -> None:
    site, task_id = await dialled(
        sites, ANALYSIS_CONCURRENCY="20", ANALYSIS_MODEL="qwen-old", ANALYSIS_FALLBACK_MODEL="qwen-new"
    )

    async def some() -> bool:
        return bool(site.stats()["model_calls"] > 50)

    async with site.working():
        run = asyncio.create_task(site.run(task_id, PATIENT))
        await eventually(some)
        site.sim.model.switch(retired=["qwen-old"])
        result = await run
    assert (result["analysed"], result["analysis_failed"]) == (CALLS, 0)
    models = site.sql("SELECT model, COUNT(*) AS n FROM call_analyses GROUP BY model ORDER BY model")
    assert [row["model"] for row in models] == ["qwen-new", "qwen-old"] and sum(row["n"] for row in models) == CALLS
    assert site.stats()["calls"]["model"]["ModelNotFound"] <= 40
    assert_finished(site, task_id, result)


async def test_a_model_without_schemas_is_found_out_once(sites: Sites) -> None:
    site = await sites(replace(TALKATIVE, json_schema=False), ANALYSIS_CONCURRENCY="20", ANALYSIS_SEED="7")
    site.add_leads(CALLS)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, PATIENT)
    assert (result["analysed"], result["analysis_failed"]) == (CALLS, 0)
    assert 1 <= site.stats()["calls"]["model"]["InvalidParameter"] <= 20
    [version] = site.sql("SELECT DISTINCT prompt_version AS v FROM call_analyses")
    assert version["v"] == f"{PROMPT_VERSION}-s7"

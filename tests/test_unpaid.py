"""An account that refuses everybody: basic follow-ups that say so at once, few requests, and repair once it is paid."""

from typing import Any

import pytest

from calltasks.model.errors import BILL, HINTS, MODE_HINT
from simulators import Fault, SimulatorOptions
from tests.comparison import MODEL_FAILED, assert_finished, assert_one_follow_up_a_row
from tests.pipeline import QUICK, Site, Sites

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

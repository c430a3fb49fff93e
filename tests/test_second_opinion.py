"""A second model that judges each first answer once more, for people to compare (docs/judgements.md)."""

from typing import Any

from simulators import SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Site, Sites

CALLS = 60
TALKATIVE = SimulatorOptions(calls_over=True, answer_rate=1)


async def run(sites: Sites, *retired: str, **environment: Any) -> tuple[Site, int, dict[str, Any]]:
    site = await sites(TALKATIVE, ANALYSIS_MODEL="qwen-first", ANALYSIS_SECOND_MODEL="qwen-second", **environment)
    site.sim.model.switch(retired=list(retired))
    site.add_leads(CALLS)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, QUICK)
    assert_finished(site, task_id, result)
    assert (result["analysed"], result["analysis_failed"]) == (CALLS, 0)
    return site, task_id, result


def answers(site: Site) -> dict[str, int]:
    rows = site.sql("SELECT outcome, model, COUNT(*) AS n FROM call_analyses GROUP BY outcome, model")
    return {f"{row['outcome']} {row['model']}": row["n"] for row in rows}


async def test_each_answer_has_a_second_one_in_the_ledger_and_the_first_decides(sites: Sites) -> None:
    site, _, _ = await run(sites)
    assert answers(site) == {"analysed qwen-first": CALLS, "second qwen-second": CALLS}
    assert site.stats()["model_calls"] == 2 * CALLS


async def test_second_opinions_end_at_their_own_ceiling(sites: Sites) -> None:
    site, _, _ = await run(sites, ANALYSIS_SECOND_TOKENS="5000")
    [spent] = site.sql("SELECT SUM(input_tokens + output_tokens) AS n FROM call_analyses WHERE outcome = 'second'")
    assert 5_000 <= spent["n"] < 10_000
    assert answers(site)["analysed qwen-first"] == CALLS


async def test_a_second_model_that_does_not_answer_costs_a_campaign_nothing(sites: Sites) -> None:
    site, _, _ = await run(sites, "qwen-second")
    assert answers(site) == {"analysed qwen-first": CALLS}

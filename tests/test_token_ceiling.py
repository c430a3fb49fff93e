"""A task's token ceiling: calls beyond it get basic follow-ups that say so, and are judged on request."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from activities.follow_ups import OVER_CEILING
from calltasks.cli import commands
from simulators import Fault, SimulatorOptions
from tests.comparison import MODEL_FAILED, assert_finished, assert_one_follow_up_a_row
from tests.pipeline import QUICK, Site, Sites, eventually
from tests.programs import Program, own_environment

TALKATIVE = SimulatorOptions(calls_over=True, answer_rate=1)
CEILING = 10_000
LIMITED = QUICK.model_copy(update={"token_ceiling": CEILING})


def judged(site: Site, task_id: int) -> Counter[tuple[bool, int]]:
    """How many rows: whether their follow-up says that the tokens are spent, and their interest if it does."""
    follow_ups = site.follow_ups()
    found = [(follow_ups[row["leads_follow_id"]]["leads_remark"] == OVER_CEILING, row) for row in site.rows(task_id)]
    return Counter((over, row["is_interested"] if over else -1) for over, row in found)


def assert_kept(site: Site, spent: int) -> None:
    """The last answer may lie above the ceiling, no more than that."""
    prices = [row["input_tokens"] + row["output_tokens"] for row in site.sql("SELECT * FROM call_analyses")]
    assert sum(prices) == spent
    assert CEILING <= spent < CEILING + max(prices)


async def test_calls_beyond_the_ceiling_say_so_and_are_judged_on_request(sites: Sites) -> None:
    site = await sites(TALKATIVE)
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, LIMITED)
        assert_kept(site, result["input_tokens"] + result["output_tokens"])
        left = result["over_ceiling"]
        assert (result["outcome"], result["task_type"], result["token_ceiling"]) == ("complete", 4, CEILING)
        assert (result["analysed"], result["analysis_failed"], result["follow_ups"]) == (60 - left, 0, 60)
        assert judged(site, task_id) == {(True, 0): left, (False, -1): 60 - left} and OVER_CEILING != MODEL_FAILED
        assert site.stats()["model_calls"] == 60 - left
        assert_one_follow_up_a_row(site, task_id)
        details = str(await site.handle(task_id).query("__temporal_workflow_metadata"))
        assert f"of at most {CEILING}; spent, calls not judged: {left}" in details
        async with site.calls() as calls:
            await calls.force_analyze(task_id, failed=True)
            again = await site.result(task_id)
        assert (again["over_ceiling"], again["analysed"], again["reanalysed"]) == (0, 60, left)
        assert again["token_ceiling"] == CEILING
        assert_finished(site, task_id, again)


async def test_a_ceiling_that_is_never_reached_changes_nothing(sites: Sites) -> None:
    site = await sites(TALKATIVE)
    site.add_leads(20)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, QUICK.model_copy(update={"token_ceiling": 10**9}))
    assert (result["analysed"], result["over_ceiling"], result["token_ceiling"]) == (20, 0, 10**9)
    assert_finished(site, task_id, result)


async def test_a_failed_model_and_a_spent_ceiling_are_told_apart(sites: Sites) -> None:
    site = await sites(TALKATIVE)
    site.sim.set_faults(Fault(target="model", kind="content_filter", count=5))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, LIMITED)
    remarks = Counter(row["leads_remark"] for row in site.follow_ups().values())
    assert remarks[MODEL_FAILED] == result["analysis_failed"] == 5
    assert remarks[OVER_CEILING] == result["over_ceiling"] > 0


@pytest.mark.long
async def test_the_ceiling_stays_with_the_task(sites: Sites) -> None:
    """A run that was ended, and one that is started later without a word of it, as the monitor does."""
    site = await sites(SimulatorOptions(time_scale=20, concurrency=6, answer_rate=1))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, LIMITED)
        await site.until(task_id, analysed=2)
        await site.handle(task_id).terminate()
        result = await site.run(task_id)
        assert (result["token_ceiling"], result["analysed"] + result["over_ceiling"]) == (CEILING, 60)
        assert_kept(site, result["input_tokens"] + result["output_tokens"])


@pytest.mark.long
async def test_the_ceiling_holds_across_restarts_as_new_and_a_killed_worker(
    restarting_sites: Sites, tmp_path: Path
) -> None:
    site = await restarting_sites(SimulatorOptions(time_scale=20, concurrency=6, answer_rate=1))
    site.add_leads(60)
    task_id = await site.create_task()
    worker = Program({**own_environment(), **site.environment}, tmp_path / "worker", "worker.py")
    try:
        worker.start()
        async with site.calls() as calls:
            await calls.start_call(task_id, LIMITED)

        async def some() -> bool:
            return bool(site.sql("SELECT 1 FROM call_analyses LIMIT 1"))

        await eventually(some)
        worker.kill()
        worker.start()
        result = await site.result(task_id)
    finally:
        worker.kill()
    assert len(await site.runs()) > 1
    assert_kept(site, result["input_tokens"] + result["output_tokens"])
    assert result["over_ceiling"] > 0 and result["analysed"] + result["over_ceiling"] == 60
    assert_one_follow_up_a_row(site, task_id)


async def test_the_command_line_sets_it_and_shows_it(sites: Sites) -> None:
    async def command(*arguments: str) -> tuple[int, str, str]:
        run = await asyncio.to_thread(CliRunner().invoke, commands.app, list(arguments), env={"COLUMNS": "200"})
        return run.exit_code, run.stdout, run.stderr

    site = await sites(TALKATIVE)
    site.add_leads(10)
    task_id = str(await site.create_task())
    site.enter_environment()
    quick = QUICK.model_dump_json(exclude_none=True)
    async with site.working():
        code, out, error = await command(
            *("start-call", task_id, "--options", quick, "--token-ceiling", "1000", "--wait", "--json")
        )
        assert code == 0, error
        result = json.loads(out)
        assert result["token_ceiling"] == 1000 and 0 < result["over_ceiling"] < 10
        code, out, error = await command("progress", task_id)
        assert code == 0 and "over_ceiling" in out
        code, out, _ = await command("force-analyze", task_id, "--failed", "--wait", "--json")
        assert code == 0 and json.loads(out)["over_ceiling"] == 0
    for wrong in ("0", "-5", "many", "1e3"):
        assert (await command("start-call", task_id, "--token-ceiling", wrong))[0] == 2

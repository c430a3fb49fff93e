"""A step more is one declaration: an SMS after a follow-up with interest 1, in a worker of its own, on real parts."""

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import worker
from calltasks.database.connection import Database
from calltasks.settings import DatabaseSettings, load
from calltasks.temporal.connection import connect
from devstack.stack import PROJECT
from simulators import SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Sites, eventually
from tests.programs import own_environment
from tests.sms_step import LEDGER, SMS, Gateway, Texting
from tests.sms_workflow import WithSms
from workflows.pipeline import PIECES_AT_ONCE

SERVE = "import asyncio; from tests.test_new_step import serve; asyncio.run(serve())"


async def serve() -> None:
    """A worker that knows the step, in a process of its own."""
    client = await connect()
    gateway = Gateway(Path(os.environ["SMS_SENT"]), int(os.environ["SMS_REFUSALS"]))
    async with worker.workers(client, workflow=WithSms) as built, AsyncExitStack() as stack:
        texting = Texting(Database(load(DatabaseSettings)), gateway)
        for one in (*built, worker.build_worker(client, SMS.queue, [texting.send_sms])):
            await stack.enter_async_context(one)
        await asyncio.Event().wait()


@pytest.mark.parametrize(("refusals", "killed"), [(0, False), (1, False), (4, False), (0, True)])
async def test_each_interested_customer_gets_one_sms(sites: Sites, tmp_path: Path, refusals: int, killed: bool) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(80)
    site.sql(LEDGER)
    task_id = await site.create_task()
    gateway = Gateway(tmp_path / "sent", 0)
    told = {"SMS_SENT": str(tmp_path / "sent"), "SMS_REFUSALS": str(refusals)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SERVE], cwd=PROJECT, env={**own_environment(), **site.environment, **told}
        )

    async def some() -> bool:
        return len(gateway.sent()) >= 5

    program = start()
    try:
        async with site.calls() as calls:
            await calls.start_call(task_id, QUICK)
        if killed:
            await eventually(some)
            program.kill()
            program.wait()
            assert len(gateway.sent()) < site.sql("SELECT COUNT(*) AS n FROM leads_task_list")[0]["n"]
            program = start()
        result = await site.result(task_id)
    finally:
        program.kill()
        program.wait()
    interested = [str(row["leads_id"]) for row in site.rows(task_id) if row["is_interested"] == 1]
    assert len(interested) > 10 and sorted(gateway.sent()) == sorted(interested)
    assert (result["outcome"], result["sms_sent"]) == ("complete", len(interested))
    del result["sms_sent"]
    assert_finished(site, task_id, result)


def test_the_activities_of_a_run_stay_below_what_a_workflow_may_have() -> None:
    steps = sum(step.at_once(QUICK) for step in WithSms.journey)
    # Four re-analyses have eight pieces each; review, dispatch, watch and control are one each.
    assert PIECES_AT_ONCE + steps + 4 * 8 + 4 < 90

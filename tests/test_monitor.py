"""The monitor (rule 9): many open tasks, overlapping checks, and what it leaves alone."""

import asyncio

from temporalio.testing import ActivityEnvironment

from activities.monitoring import Checked, Monitoring
from calltasks.names import WITHDRAWALS, workflow_id
from calltasks.wiring import Clients
from tests.pipeline import Sites

OPEN = 1_000


async def test_a_thousand_open_tasks_are_each_taken_up_once_by_overlapping_checks(sites: Sites) -> None:
    """No worker carries them out meanwhile: what was taken up waits, and the next check starts nothing again."""
    site = await sites()
    kinds = [(2, "group"), (3, "group"), (2, ""), (1, "group"), (4, "group")]
    rows = [
        {"organization_id": "org7", "task_type": task_type, "job_group_id": group and f"{group}-{number}"}
        for number in range(OPEN // 2)
        for task_type, group in kinds
    ]
    for start in range(0, len(rows), 500):
        site.sql(
            "INSERT INTO call_tasks (organization_id, task_type, job_group_id) VALUES "
            + ", ".join(["(%s, %s, %s)"] * len(rows[start : start + 500])),
            *(value for row in rows[start : start + 500] for value in row.values()),
        )
    site.enter_environment()
    async with Clients() as clients:
        monitoring = Monitoring(clients.database, site.client)

        async def check() -> Checked:
            checked: Checked = await ActivityEnvironment().run(monitoring.take_up_tasks, False)
            return checked

        checks = [*await asyncio.gather(check(), check()), await check()]
    wanted = site.sql("SELECT id FROM call_tasks WHERE task_type IN (2, 3) AND job_group_id <> ''")
    taken_up = sorted(task_id for checked in checks for task_id in checked.taken_up)
    assert taken_up == sorted(row["id"] for row in wanted)
    assert [(checked.open_tasks, checked.failed) for checked in checks] == [(OPEN, 0)] * 3
    assert checks[2].taken_up == []
    assert (await site.client.get_workflow_handle(workflow_id(taken_up[0])).describe()).run_id
    # What withdraws calls of people who said no is started too, once, should it have gone.
    assert len(await site.runs(f"WorkflowId = '{WITHDRAWALS}'")) == 1

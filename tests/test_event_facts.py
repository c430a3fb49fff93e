"""What is told of follow-ups and refusals is written with them, or neither is (rules 12.1, 12.2)."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from pymysql.cursors import Cursor

from calltasks.database.tables import corrections, event_subscriptions, tasks
from calltasks.database.tables.corrections import Word
from calltasks.database.tables.event_subscriptions import Told
from devstack.mariadb import EmbeddedMariaDB
from tests.test_follow_up_transaction import Crashed
from tests.test_opt_outs import ORGANIZATION, Crm

NOW = datetime(2026, 11, 30, 8)


@pytest.fixture
async def crm(mariadb: EmbeddedMariaDB, database_url: str) -> AsyncIterator[Crm]:
    crm = Crm(mariadb, database_url)
    yield crm
    crm.close()


def events(crm: Crm) -> list[dict[str, Any]]:
    return crm.sql("SELECT event_id, organization_id, kind, payload FROM call_events ORDER BY id")


def kinds(crm: Crm) -> Counter[str]:
    return Counter(row["kind"] for row in events(crm))


async def test_a_worker_that_dies_at_any_statement_has_told_what_it_has_done(crm: Crm) -> None:
    rows = crm.task("13900000001", "13900000002")
    deaths = 0
    while True:
        try:
            await crm.first(rows, dies_before=deaths + 1)
            break
        except Crashed:
            deaths += 1
            assert (crm.sql("SELECT id FROM dcc_leads_follow"), events(crm)) == ([], [])
    assert deaths > 8
    assert kinds(crm) == {"follow_up.written": 2, "call.opted_out": 2}
    assert {row["organization_id"] for row in events(crm)} == {ORGANIZATION}


async def test_the_same_fact_is_told_once_and_another_one_again(crm: Crm) -> None:
    rows = crm.task("13900000001")
    await crm.first(rows, said="")
    await crm.first(rows, said="")
    assert kinds(crm) == {"follow_up.written": 1}
    await crm.again(rows, said="")
    await crm.again(rows, said="")
    assert kinds(crm) == {"follow_up.written": 1, "follow_up.rewritten": 2}
    await crm.again(rows, said="", outcome="failed")
    assert kinds(crm) == {"follow_up.written": 1, "follow_up.rewritten": 2, "analysis.failed": 1}
    crm.sql("UPDATE leads_task_list SET call_job_id = 'another', leads_follow_id = NULL, is_interested = NULL")
    await crm.first(rows, said="")
    assert kinds(crm)["follow_up.written"] == 2, "ids that came again are another fact"


async def test_each_entry_of_a_call_into_the_opt_outs_is_told_once(crm: Crm) -> None:
    (row,) = crm.task("13900000001")
    await crm.first([row], said="")
    for number, refuses in enumerate((True, True, False, True)):
        word = Word(is_interested=2, leads_remark="不考虑", next_follow_time=None, do_not_call=refuses)
        for _ in range(2):  # As after a lost answer to COMMIT.
            await crm.database.transaction(
                corrections.correct,
                *(row, word),
                organization_id=ORGANIZATION,
                by="tester",
                now=NOW,
                now_utc=NOW.replace(minute=number),
                seen=None,
            )
    entered = [row["id"] for row in crm.sql("SELECT id FROM call_opt_outs ORDER BY id")]
    told = [json.loads(one["payload"])["opt_out_id"] for one in events(crm) if one["kind"] == "call.opted_out"]
    assert told == entered and len(entered) == 2


async def test_what_is_written_holds_nothing_of_a_person(crm: Crm) -> None:
    rows = crm.task("13900000001")
    await crm.first(rows)
    said = json.dumps([json.loads(row["payload"]) for row in events(crm)], ensure_ascii=False)
    assert "139" not in said and "谢绝" not in said and "打电话" not in said


async def test_each_type_of_a_task_is_told_once_and_only_if_it_rose(crm: Crm) -> None:
    (row,) = crm.task("13900000001")
    task_id = crm.task_of(row)
    task = await crm.database.run(tasks.load, task_id)
    assert task
    for task_type in (2, 3, 3, 4, 2, 4):
        await crm.database.transaction(tasks.raise_type, task, task_type)
    assert kinds(crm) == {"task.calls_complete": 1, "task.complete": 1}
    assert [json.loads(row["payload"]) for row in events(crm)] == [
        {"task_id": task_id, "task_type": 3},
        {"task_id": task_id, "task_type": 4},
    ]


async def test_remarks_go_only_with_the_call_that_they_are_of(crm: Crm) -> None:
    """Ids come again where a CRM is restored: what stands under them then may be anybody's."""
    (row,) = crm.task("13900000001")
    await crm.first([row], said="")

    def read(cursor: Cursor, organization: str) -> bool:
        told = [
            Told(
                position=1, event_id=one["event_id"], kind=one["kind"], data=json.loads(one["payload"]), created_at=NOW
            )
            for one in events(crm)
        ]
        event_subscriptions._add_personal_data(cursor, organization, told)
        return "leads_remark" in told[0].data

    async def shown(organization: str = ORGANIZATION) -> bool:
        return await crm.database.run(read, organization)

    assert await shown() and not await shown("org8")
    for change, back in (
        ("UPDATE dcc_leads_follow SET leads_id = 77", "UPDATE dcc_leads_follow SET leads_id = 0"),
        ("UPDATE call_tasks SET organization_id = 'org8'", f"UPDATE call_tasks SET organization_id = '{ORGANIZATION}'"),
        ("UPDATE call_follow_ups SET call_job_id = 'another'", "UPDATE call_follow_ups SET call_job_id = 'job-1-0'"),
    ):
        crm.sql(change)
        assert not await shown(), change
        crm.sql(back)
        assert await shown()
    # Two columns of the CRM, each of a collation of its own.
    for table, collation in (("dcc_leads_follow", "utf8mb4_general_ci"), ("leads_task_list", "utf8mb4_unicode_ci")):
        crm.sql(f"ALTER TABLE {table} MODIFY leads_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE {collation}")
    assert await shown()

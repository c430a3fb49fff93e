"""`init-db` over our tables as they were before it wrote their version down: nothing is lost, everything works."""

import json
from pathlib import Path
from typing import Any

from simulators import Contact, SimulatorOptions
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, assert_finished, phone

AT_FIRST = Path(__file__).with_name("own_at_first.sql")
NOW = "2026-11-20 10:00:00"
SAID = '[{"Speaker": "Contact", "Script": "明天下午三点我来试驾。"}]'
ANALYSED, EDITED, DELETED, SILENT, UNLINKED = range(1, 6)
"""Rows, and leads, of a task that has all its judgements; one lost its link."""


def at_first(site: Site) -> None:
    """The site's database as the program left it whose tables had no versions."""
    ours = "call_schema", "call_suppressions", "call_task_options", "call_dispatches", "call_retries"
    site.sql(f"DROP TABLE {', '.join(ours)}, call_follow_ups, call_analyses, call_rate_limits")
    lines = [line for line in AT_FIRST.read_text("utf-8").splitlines() if not line.startswith("--")]
    for statement in "\n".join(lines).split(";"):
        if statement.strip():
            site.sql(statement)


def finished_task(site: Site) -> int:
    outcomes = {n: "Failed" if n == SILENT else "Succeeded" for n in range(1, 6)}
    contacts = [Contact(phone=phone(n), reference=f"r{n}", outcome=outcome) for n, outcome in outcomes.items()]
    group = site.old_task([], contacts, task_type=3)
    site.sql("UPDATE call_tasks SET create_time = %s", NOW)
    held: Any = site.sim.world.find_group(site.task(group)["job_group_id"])
    for n, job in enumerate(held.jobs, 1):
        remark = "呼叫失败；" if n == SILENT else "客户明天来试驾"
        if n != DELETED:
            now = {"follow_time": NOW, "frist_follow_time": NOW, "new_follow_time": NOW}
            site.insert("dcc_leads_follow", [{"id": 50 + n, "leads_id": n, "leads_remark": remark, **now}])
        row = {"id": n, "task_id": group, "leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"}
        row |= {"call_job_id": job.id, "call_status": "Failed" if n == SILENT else "Succeeded", "call_time": NOW}
        row |= {"call_conversation": "" if n == SILENT else SAID, "updated_time": NOW, "is_interested": n != SILENT}
        site.insert("leads_task_list", [row | {"leads_follow_id": None if n == UNLINKED else 50 + n}])
        outcome = "default" if n == SILENT else "analysed"
        entry = {"list_id": n, "task_id": group, "is_interested": n != SILENT, "outcome": outcome, "created_at": NOW}
        site.insert("call_follow_ups", [entry | {"follow_id": 50 + n}])
        if n != SILENT:
            spent = {"input_tokens": 100, "output_tokens": 10, "evidence": "", "leads_remark": remark}
            site.insert("call_analyses", [entry | spent | {"call_job_id": job.id, "model": "old"}])
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '已成交' WHERE id = %s", 50 + EDITED)
    batch = {"task_id": group, "attempted_at": NOW, "accepted_at": NOW}
    site.insert("call_dispatches", [batch | {"first_id": 0, "last_id": 0}, batch | {"first_id": 1, "last_id": 5}])
    site.sql("INSERT INTO call_retries VALUES (1, 'recording', %s, 2, %s, %s, 'x')", group, NOW, NOW)
    site.sql("INSERT INTO call_token_ceilings VALUES (%s, 900000)", group)
    site.sql("INSERT INTO call_rate_limits VALUES ('analysis', 1)")
    return group


async def test_tables_from_before_versions_are_brought_up_to_date(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    at_first(site)
    task_id = finished_task(site)
    before = site.everything()
    async with site.calls() as calls:
        assert "table call_schema" in await calls.init_db()
        once = site.everything()
        assert await calls.init_db() == []
    after = site.everything()
    assert after == once
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]] if rows else []
        assert sorted(kept, key=str) == sorted(rows, key=str), table
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        result = await site.result(task_id)
        assert (result["outcome"], result["follow_ups"], result["input_tokens"]) == ("complete", 5, 400)
        await calls.force_analyze(task_id, every=True)
        again = await calls.analysed_again(task_id, every=0.1)
        assert (again["reanalysed"], again["kept_edits"]) == (3, 2)
        remarks = {id_: row["leads_remark"] for id_, row in site.follow_ups().items()}
        assert set(remarks) == {51, 52, 54, 55} and remarks[52] == "已成交"
        assert remarks[51] != "客户明天来试驾" and remarks[54] == "呼叫失败；"
        assert site.rows(task_id)[UNLINKED - 1]["leads_follow_id"] == 55
        assert json.loads(site.sql("SELECT options FROM call_task_options")[0]["options"])["token_ceiling"] == 900_000
        site.add_leads(12, first=100)
        new = await calls.create_task(ORGANIZATION, "new")
        await calls.start_call(new, QUICK)
        assert_finished(site, new, await site.result(new))
    assert site.sim.outbound_bot.contacts_assigned == 12

"""Calls that people have corrected, as labelled conversations without names and numbers (docs/judgements.md)."""

import json
from pathlib import Path

import pytest

from calltasks.database.tables.corrections import Word
from calltasks.evaluation.corrections import hide
from calltasks.rules.phones import e164
from simulators import SimulatorOptions
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, phone
from tests.test_analyses import command


@pytest.mark.parametrize(
    ("said", "name", "hidden"),
    [
        ("我是王小明，您找谁", "王小明", "我是…，您找谁"),
        ("叫我小明就行", "王小明", "叫我…就行"),
        ("您好王先生", "王小明", "您好…先生"),
        ("打我这个一三九零零零零零零零一", "", "打我这个…"),
        ("号码是139 0000-0001，记一下", "", "号码是…，记一下"),
        ("邮箱abc@example.com", "", "邮箱…"),
        ("周六下午三点半，二十三万六", "李四", "周六下午三点半，二十三万六"),
    ],
)
def test_names_and_numbers_are_hidden_and_the_rest_is_not(said: str, name: str, hidden: str) -> None:
    assert hide(said, name) == hidden


async def judged(sites: Sites, leads: int) -> tuple[Site, int]:
    """A task that is over; all of its leads have answered."""
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(leads)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id, QUICK)
    return site, task_id


async def test_corrections_are_exported_and_judged_by_the_model(sites: Sites, tmp_path: Path) -> None:
    site, task_id = await judged(sites, 5)
    rows = site.sql("SELECT id, leads_name, leads_phone FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)
    [task] = site.sql("SELECT organization_id FROM call_tasks WHERE id = %s", task_id)
    organization = task["organization_id"]
    word = Word(is_interested=2, leads_remark="不考虑", next_follow_time=None, do_not_call=False)
    async with site.calls() as calls:
        for row in rows[:2]:
            await calls.correct(row["id"], word, organization, by="tester")
        await calls.confirm(rows[2]["id"], organization, by="tester")
    file = tmp_path / "corrections.jsonl"
    given = ("evaluate", "--from-corrections", "--organization", organization)
    exported = await command(*given, "--export", str(file), "--json")
    assert json.loads(exported.stdout)["conversations"] == 3
    text = file.read_text("utf-8")
    assert len(text.splitlines()) == 3
    assert not any(row["leads_phone"] in text or row["leads_name"] in text for row in rows)
    report = json.loads((await command(*given, "--json")).stdout)
    assert (report["conversations"], report["judged"]) == (3, 3)
    nobody = await command("evaluate", "--from-corrections", "--organization", "org-nobody")
    assert nobody.exit_code == 1 and "org-nobody" in nobody.stderr


@pytest.mark.parametrize("present", [phone(999), ""], ids=["another number", "no number"])
async def test_who_wants_no_more_calls_is_entered_by_the_number_that_was_dialled(sites: Sites, present: str) -> None:
    site, task_id = await judged(sites, 1)
    [row] = site.rows(task_id)
    site.sql("UPDATE leads_task_list SET leads_phone = %s", present)
    word = Word(is_interested=2, leads_remark="请勿再打", next_follow_time=None, do_not_call=True)
    async with site.calls() as calls:
        await calls.correct(row["id"], word, ORGANIZATION, by="tester")
    entered = {entry["phone"] for entry in site.sql("SELECT phone FROM call_opt_outs WHERE standing = 1")}
    assert entered == {e164(number) for number in (phone(1), present) if number}

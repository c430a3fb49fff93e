"""The ledger of judgements: the history of a call, edits that a person made, re-analysis tried before it counts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from temporalio.testing import ActivityEnvironment
from typer.testing import CliRunner, Result

from activities.follow_ups import AgainRequest, FollowedUp, FollowUpRequest, FollowUps
from calltasks.call_tasks import CallTasks
from calltasks.cli import commands
from calltasks.evaluation.conversations import Labelled, load
from calltasks.rules.judgement import PROMPT_VERSION
from calltasks.rules.reanalysis import Reanalysis, read
from calltasks.rules.row_ranges import pack
from calltasks.token_ceiling import TokenCeiling
from simulators import Fault
from tests.pipeline import MODEL_FAILED, ORGANIZATION, Site, Sites, phone

BY_ID = {labelled.id: labelled for labelled in load()}
CALLS = [
    BY_ID[name]
    for name in ("test-drive-after-work", "stop-calling-third-time", "price-haggle-then-saturday", "total-silence")
]
FICKLE = Fault(target="model", kind="fickle")  # every answer differs from the one before
OURS = ("leads_task_list", "dcc_leads_follow", "call_follow_ups", "call_analyses")


def task_of(site: Site, calls: Sequence[Labelled], **columns: Any) -> int:
    """A closed task of these conversations; `columns` are of its rows."""
    site.insert("call_tasks", [{"task_name": "past", "organization_id": ORGANIZATION, "task_type": 4}])
    task_id = int(site.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"])
    site.sql("UPDATE call_tasks SET job_group_id = 'past-group' WHERE id = %s", task_id)
    rows = [
        {
            "task_id": task_id,
            "leads_id": number,
            "leads_phone": phone(number),
            "call_job_id": f"job-{task_id}-{number}",
            "call_status": "Succeeded",
            "call_conversation": call.conversation(),
            "updated_time": call.called_at.replace(tzinfo=None),
        }
        | columns
        for number, call in enumerate(calls, 1)
    ]
    site.insert("leads_task_list", rows)
    return task_id


@asynccontextmanager
async def judging() -> AsyncIterator[Callable[..., Awaitable[FollowedUp]]]:
    """A worker's activities: first follow-ups of these rows or, with a `request_id`, a re-analysis."""
    async with CallTasks.connect(temporal=False) as calls:
        await calls.database.prepare()
        follow_ups = FollowUps(calls.database, calls.clients.model)

        async def judge_rows(task_id: int, ids: Sequence[int], request_id: str = "", **request: Any) -> FollowedUp:
            asked: dict[str, Any] = {
                "task_id": task_id,
                "organization_id": ORGANIZATION,
                "rows": pack(ids),
                "retry_interval": 0,
                "conversation_grace": 0,
                **request,
            }
            if not request_id:
                return await ActivityEnvironment().run(follow_ups.follow_up, FollowUpRequest(**asked))
            again = AgainRequest(request_id=request_id, **{"last_try": True, **asked})
            return await ActivityEnvironment().run(follow_ups.analyse_again, again)

        yield judge_rows


async def judge(site: Site, task_id: int, request_id: str = "", **request: Any) -> FollowedUp:
    """All rows of the task, judged by the activity that a worker would run."""
    async with judging() as judge_rows:
        return await judge_rows(task_id, [row["id"] for row in site.rows(task_id)], request_id, **request)


async def command(*arguments: str) -> Result:
    """`starter.py …`, beside the simulators and workers in this process."""
    return await asyncio.to_thread(CliRunner().invoke, commands.app, list(arguments), env={"COLUMNS": "250"})


async def answer(*arguments: str) -> dict[str, Any]:
    result = await command(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def tables(site: Site) -> dict[str, Any]:
    return {name: site.sql(f"SELECT * FROM {name}") for name in OURS}


def follow_up(site: Site, row: dict[str, Any]) -> dict[str, Any]:
    return site.follow_ups()[row["leads_follow_id"]]


def ledger(site: Site, row: dict[str, Any]) -> list[str]:
    found = site.sql("SELECT outcome FROM call_analyses WHERE list_id = %s ORDER BY id", row["id"])
    return [str(entry["outcome"]) for entry in found]


async def judged_task(sites: Sites, calls: Sequence[Labelled] = CALLS) -> tuple[Site, int, list[dict[str, Any]]]:
    """A closed task whose calls have their first follow-ups; from now on every answer differs."""
    site = await sites()
    task_id = task_of(site, calls)
    assert (await judge(site, task_id)).written == len(calls)
    site.sim.set_faults(FICKLE)
    return site, task_id, site.rows(task_id)


# The history of a call


async def test_the_history_of_a_call_holds_every_judgement_and_its_follow_up(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    await judge(site, task_id, "request-1")
    job = rows[0]["call_job_id"]
    found = await answer("analyses", job)
    assert (found["call_job_id"], found["task_id"], found["list_id"]) == (job, task_id, rows[0]["id"])
    first, second = found["analyses"]
    assert (first["request_id"], first["outcome"], first["is_interested"]) == ("", "analysed", rows[0]["is_interested"])
    assert first["next_follow_time"] == "2026-03-11 18:30:00"
    assert (first["model"], first["prompt_version"], len(first["transcript_hash"])) == ("qwen-plus", PROMPT_VERSION, 64)
    assert first["input_tokens"] > 100 and first["output_tokens"] > 10
    assert first["evidence"] and first["evidence"] in rows[0]["call_conversation"]
    assert first["created_at"].endswith("+08:00")
    assert (second["request_id"], second["outcome"]) == ("request-1", "analysed")
    assert second["transcript_hash"] == first["transcript_hash"]
    assert second["leads_remark"] != first["leads_remark"]
    now = follow_up(site, rows[0])
    said = {"leads_remark": second["leads_remark"], "next_follow_time": str(now["next_follow_time"])}
    assert found["follow_up"] == {"id": now["id"], "deleted": False, "edited": False} | said
    shown = await command("analyses", job)
    assert shown.exit_code == 0 and first["evidence"] in shown.stdout and PROMPT_VERSION in shown.stdout


async def test_the_history_and_a_trial_show_who_said_no_and_a_wrong_number(sites: Sites) -> None:
    refusal, wrong = BY_ID["scam-accusation"], BY_ID["wrong-number-repair-shop"]
    site, task_id, rows = await judged_task(sites, [refusal, wrong])
    found = [(await answer("analyses", row["call_job_id"]))["analyses"][0] for row in rows]
    assert [(one["do_not_call"], one["wrong_number"]) for one in found] == [(refusal.do_not_call, False), ("", True)]
    shown = [(await command("analyses", row["call_job_id"])).stdout for row in rows]
    assert "do not call: “" in shown[0] and "wrong number" not in shown[0]
    assert "wrong number" in shown[1] and "do not call" not in shown[1]
    site.sim.set_faults()  # nothing differs, and what was found is shown all the same
    tried = (await command("force-analyze", str(task_id), "--all", "--dry-run")).stdout
    assert "do not call: “" in tried and "wrong number" in tried
    changes = (await answer("force-analyze", str(task_id), "--all", "--dry-run"))["changes"]
    assert [(one["do_not_call"], one["wrong_number"]) for one in changes] == [(refusal.do_not_call, False), ("", True)]


async def test_the_history_says_what_a_person_did(sites: Sites) -> None:
    site, _, rows = await judged_task(sites)
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '[b]已电话确认[/b]' WHERE id = %s", rows[0]["leads_follow_id"])
    site.sql("DELETE FROM dcc_leads_follow WHERE id = %s", rows[1]["leads_follow_id"])
    assert (await answer("analyses", rows[0]["call_job_id"]))["follow_up"]["edited"]
    assert (await answer("analyses", rows[1]["call_job_id"]))["follow_up"]["deleted"]
    shown = (await command("analyses", rows[0]["call_job_id"])).stdout
    assert "edited by a person" in shown and "[b]已电话确认[/b]" in shown
    assert "deleted by a person" in (await command("analyses", rows[1]["call_job_id"])).stdout


async def test_an_unknown_job_id_is_one_line_and_exit_code_1(sites: Sites) -> None:
    await sites()
    result = await command("analyses", "no-such-job")
    assert (result.exit_code, result.stderr) == (1, "starter: no call has the job id no-such-job\n")


# What a person edited


async def test_a_persons_edit_is_kept_and_everything_else_is_judged_anew(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店' WHERE id = %s", rows[0]["leads_follow_id"])
    site.sql(
        "UPDATE dcc_leads_follow SET next_follow_time = '2026-12-01 09:00' WHERE id = %s", rows[1]["leads_follow_id"]
    )
    site.sql("DELETE FROM dcc_leads_follow WHERE id = %s", rows[2]["leads_follow_id"])
    before = tables(site)
    done = await judge(site, task_id, "request-1")
    assert (done.written, done.kept_edits, done.by_outcome) == (1, 3, {"kept": 3, "analysed": 1})
    assert sum(done.by_interest.values()) == 1
    after = tables(site)
    for name in ("leads_task_list", "dcc_leads_follow", "call_follow_ups"):
        changed = [new for old, new in zip(before[name], after[name], strict=True) if old != new]
        assert len(changed) <= 1, name
    assert follow_up(site, rows[3])["leads_remark"] != before["dcc_leads_follow"][-1]["leads_remark"]
    assert [ledger(site, row) for row in rows] == [["analysed", "kept"]] * 3 + [["analysed", "analysed"]]
    kept = (await answer("analyses", rows[0]["call_job_id"]))["analyses"][1]
    assert kept["outcome"] == "kept" and kept["leads_remark"].startswith("第") and kept["input_tokens"] > 0


async def test_an_edit_stays_kept_however_often_it_is_asked(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites, CALLS[:1])
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店'")
    for number in range(3):
        assert (await judge(site, task_id, f"request-{number}")).kept_edits == 1
    assert (await judge(site, task_id, "request-2")).kept_edits == 0, "a request counts once"
    assert follow_up(site, rows[0])["leads_remark"] == "客户已到店"
    assert ledger(site, rows[0]) == ["analysed", "kept", "kept", "kept"]


async def test_override_replaces_edits_and_makes_deleted_follow_ups_again(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店' WHERE id = %s", rows[0]["leads_follow_id"])
    site.sql("DELETE FROM dcc_leads_follow WHERE id = %s", rows[2]["leads_follow_id"])
    done = await judge(site, task_id, "request-1", override=True)
    assert (done.written, done.kept_edits, done.by_outcome) == (4, 0, {"analysed": 4})
    now = site.rows(task_id)
    assert len(site.follow_ups()) == 4 == len({row["leads_follow_id"] for row in now})
    assert all(follow_up(site, row)["leads_remark"].startswith("第") for row in now)
    assert [follow_up(site, row)["leads_id"] for row in now] == [row["leads_id"] for row in now]
    assert now[2]["leads_follow_id"] != rows[2]["leads_follow_id"]
    # What stands there now is ours again, so the next re-analysis needs no override.
    assert (await judge(site, task_id, "request-2")).written == 4
    assert len(site.follow_ups()) == 4


async def test_a_follow_up_without_transcript_is_known_by_its_default_remark(sites: Sites) -> None:
    site = await sites()
    task_id = task_of(site, CALLS, call_conversation=None, call_status="Failed")
    await judge(site, task_id)
    rows = site.rows(task_id)
    assert [ledger(site, row) for row in rows] == [[]] * 4
    site.sql("UPDATE leads_task_list SET call_conversation = %s", CALLS[0].conversation())
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '手工备注' WHERE id = %s", rows[0]["leads_follow_id"])
    done = await judge(site, task_id, "request-1")
    assert (done.written, done.kept_edits) == (3, 1)
    assert [follow_up(site, row)["leads_remark"] == "手工备注" for row in rows] == [True, False, False, False]


async def test_failures_neither_count_as_edits_nor_hide_them(sites: Sites) -> None:
    site = await sites()
    task_id = task_of(site, CALLS)
    site.sim.set_faults(Fault(target="model", kind="content_filter"))
    await judge(site, task_id)
    rows = site.rows(task_id)
    assert {follow_up(site, row)["leads_remark"] for row in rows} == {MODEL_FAILED}
    # A basic follow-up that somebody completed by hand, and others that nobody touched.
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '听了录音，有意向' WHERE id = %s", rows[0]["leads_follow_id"])
    assert (await judge(site, task_id, "request-1")).kept_edits == 0, "a failure changes nothing"
    site.sim.set_faults()
    done = await judge(site, task_id, "request-2")
    assert (done.written, done.kept_edits) == (3, 1)
    assert ledger(site, rows[0]) == ["failed", "failed", "kept"]
    # A re-analysis that failed was not written: what stands there is still the judgement before it.
    site.sim.set_faults(Fault(target="model", kind="content_filter"))
    await judge(site, task_id, "request-3")
    site.sim.set_faults(FICKLE)
    assert (await judge(site, task_id, "request-4")).kept_edits == 1
    assert ledger(site, rows[1]) == ["failed", "failed", "analysed", "failed", "analysed"]


async def test_a_follow_up_from_before_our_time_is_updated(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites, CALLS[:1])
    site.sql("DELETE FROM call_follow_ups")
    site.sql("DELETE FROM call_analyses")
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '旧系统写的备注'")
    assert (await judge(site, task_id, "request-1")).written == 1
    assert follow_up(site, rows[0])["leads_remark"].startswith("第")


async def test_a_lost_link_is_mended_by_a_re_analysis(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites, CALLS[:1])
    site.sql("UPDATE leads_task_list SET leads_follow_id = NULL, is_interested = NULL")
    assert (await judge(site, task_id, "request-1")).written == 1
    (row,) = site.rows(task_id)
    assert row["leads_follow_id"] == rows[0]["leads_follow_id"] and row["is_interested"] is not None
    assert len(site.follow_ups()) == 1
    assert (await judge(site, task_id, "request-2")).kept_edits == 0


# Tried before it counts


async def test_a_dry_run_changes_nothing_and_says_what_the_real_run_then_does(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    site.sim.set_faults()
    right = rows[0]["is_interested"]
    wrong = (right + 1) % 3
    # As it was judged before, not as a person set it.
    for table, key in (("leads_task_list", "id"), ("call_follow_ups", "list_id")):
        site.sql(f"UPDATE {table} SET is_interested = %s WHERE {key} = %s", wrong, rows[0]["id"])
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店' WHERE id = %s", rows[1]["leads_follow_id"])
    site.sql("DELETE FROM dcc_leads_follow WHERE id = %s", rows[2]["leads_follow_id"])
    before = tables(site)
    trial = await answer("force-analyze", str(task_id), "--all", "--dry-run")
    assert tables(site) == before
    assert (trial["dry_run"], trial["selected"], trial["over_ceiling"]) == (True, 4, 0)
    assert trial["by_action"] == {"update": 1, "keep": 2, "same": 1}
    one = trial["changes"][0]
    assert (one["call_job_id"], one["action"], one["differs"]) == (rows[0]["call_job_id"], "update", ["is_interested"])
    assert (one["before"]["is_interested"], one["after"]["is_interested"]) == (wrong, right)
    assert one["after"]["next_follow_time"] == "2026-03-11 18:30:00"
    assert [change["edit"] for change in trial["changes"]] == ["", "edited", "deleted", ""]
    assert trial["changes"][2]["before"] is None
    shown = await command("force-analyze", str(task_id), "--all", "--dry-run")
    assert "nothing was changed" in shown.stdout
    assert "edited by a person" in shown.stdout and f"{wrong} → {right}" in shown.stdout
    done = await judge(site, task_id, "request-1")
    assert (done.written, done.kept_edits) == (2, 2)
    for change, row in zip(trial["changes"], site.rows(task_id), strict=True):
        if change["action"] != "keep":
            assert row["is_interested"] == change["after"]["is_interested"]
            assert follow_up(site, row)["leads_remark"] == change["after"]["leads_remark"]
    override = await answer("force-analyze", str(task_id), "--all", "--dry-run", "--override")
    assert override["by_action"] == {"same": 2, "update": 1, "create": 1}


async def test_filters_take_the_calls_that_they_describe(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    for row, interest in zip(rows, (1, 2, 0, 2), strict=True):
        site.sql("UPDATE leads_task_list SET is_interested = %s WHERE id = %s", interest, row["id"])
    site.sql("UPDATE call_analyses SET prompt_version = 'older' WHERE list_id = %s", rows[2]["id"])
    site.sql("UPDATE call_follow_ups SET outcome = 'failed' WHERE list_id = %s", rows[1]["id"])

    async def taken(*filters: str) -> list[int]:
        trial = await answer("force-analyze", str(task_id), "--dry-run", *filters)
        ids = [row["id"] for row in rows]
        return [ids.index(change["list_id"]) for change in trial["changes"]]

    days = [row["updated_time"].date().isoformat() for row in rows]
    assert days == ["2026-03-10", "2026-03-10", "2026-03-12", "2026-03-17"]
    assert await taken("--all") == [0, 1, 2, 3]
    assert await taken("--interest", "2") == [1, 3]
    assert await taken("--since", "2026-03-12") == [2, 3]
    assert await taken("--until", "2026-03-10") == [0, 1]
    assert await taken("--since", "2026-03-11", "--until", "2026-03-12") == [2]
    assert await taken("--prompt-version", "older") == [2]
    assert await taken("--prompt-version", PROMPT_VERSION, "--interest", "1") == [0]
    assert await taken("--failed") == [1]
    assert await taken("--failed", "--since", "2026-03-11") == []
    assert await taken("--call-job-id", rows[3]["call_job_id"], "--interest", "2") == [3]


async def test_what_does_not_go_together_is_exit_code_2(sites: Sites) -> None:
    site = await sites()
    task_id = str(task_of(site, CALLS[:1]))
    for wrong in ([], ["--all", "--failed"], ["--dry-run"], ["--all", "--dry-run", "--wait"], ["--interest", "3"]):
        assert (await command("force-analyze", task_id, *wrong)).exit_code == 2, wrong
    assert (await command("force-analyze", "999", "--all", "--dry-run")).exit_code == 1


# Ceilings


async def test_a_dry_run_stops_once_its_tokens_are_spent_and_says_so(sites: Sites) -> None:
    site, task_id, _ = await judged_task(sites, CALLS * 5)
    dear = max(row["input_tokens"] + row["output_tokens"] for row in site.sql("SELECT * FROM call_analyses"))
    asked = site.stats()["model_calls"]
    result = await command("force-analyze", str(task_id), "--all", "--dry-run", "--max-tokens", str(dear * 4), "--json")
    trial = json.loads(result.stdout)
    spent = trial["input_tokens"] + trial["output_tokens"]
    assert dear * 4 <= spent < dear * 5
    calls = site.stats()["model_calls"] - asked
    assert trial["over_ceiling"] == 20 - calls == 20 - len(trial["changes"])
    assert f"{spent} tokens were spent; calls not judged: {trial['over_ceiling']}" in result.stderr


async def test_a_ceiling_counts_what_an_attempt_that_died_has_spent(sites: Sites) -> None:
    site, task_id, _ = await judged_task(sites, CALLS * 5)
    first = await judge(site, task_id, "request-1", max_tokens=3000)
    spent = first.input_tokens + first.output_tokens
    assert spent >= 3000 and first.over_ceiling and first.written + first.over_ceiling == 20
    again = await judge(site, task_id, "request-1", max_tokens=3000)
    assert (again.written, again.input_tokens, again.over_ceiling) == (0, 0, first.over_ceiling)
    known = await judge(site, task_id, "request-2", max_tokens=3000, spent_tokens=3000)
    assert (known.written, known.over_ceiling) == (0, 20)


async def test_a_ceiling_is_passed_by_one_answer_at_most() -> None:
    for ceiling in (1, 99, 100, 101, 950, 1000):
        tokens = TokenCeiling(ceiling)
        asked: list[int] = []

        async def ask(tokens: TokenCeiling = tokens, asked: list[int] = asked) -> None:
            while await tokens.admits():
                await asyncio.sleep(0)
                asked.append(100)
                await tokens.settle(100)

        await asyncio.gather(*(ask() for _ in range(20)))
        assert ceiling <= sum(asked) < ceiling + 100


# The whole way: command line, workflow, worker


async def test_force_analyze_keeps_edits_unless_told_and_stops_at_its_ceiling(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites, CALLS * 5)
    site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店' WHERE id = %s", rows[0]["leads_follow_id"])
    remarks = {row["id"]: follow_up(site, row)["leads_remark"] for row in rows}
    async with site.working():
        kept = await command("force-analyze", str(task_id), "--until", "2026-03-10", "--wait", "--json")
        assert kept.exit_code == 0, kept.stderr
        said = json.loads(kept.stdout)
        assert said["reanalysed"] == 9
        assert said["reanalysis"].items() >= {"selected": 10, "judged": 9, "kept_edits": 1, "failed": 0}.items()
        assert "kept because a person edited or deleted them: 1" in kept.stderr
        same = [row["id"] for row in rows if follow_up(site, row)["leads_remark"] == remarks[row["id"]]]
        assert same == [rows[0]["id"], *(row["id"] for row in rows if row["updated_time"].day != 10)]
        job = rows[0]["call_job_id"]
        told = await answer("force-analyze", str(task_id), "--call-job-id", job, "--override", "--wait")
        assert told["reanalysed"] == 10
        assert follow_up(site, rows[0])["leads_remark"] != "客户已到店"
        ceiling = await command("force-analyze", str(task_id), "--all", "--max-tokens", "2000", "--wait", "--json")
        assert "the ceiling of 2000 tokens is reached; calls not judged:" in ceiling.stderr
        assert 10 < json.loads(ceiling.stdout)["reanalysed"] < 20


def test_a_request_of_an_older_program_is_understood() -> None:
    request = read({"all": True})
    assert (request.override, request.max_tokens, request.interest, request.since) == (False, None, None, None)
    assert request == Reanalysis(all=True) and request.payload() == {"all": True}

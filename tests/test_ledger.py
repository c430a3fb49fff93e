"""The ledger of judgements: what was paid for is kept, one row never stops the others, a person's word stands, and an
entry counts for its own call only (rules 6.6, 7)."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Any

import pymysql
import pytest
from pymysql.converters import escape_string
from pymysql.cursors import Cursor

from activities.portions import Answers
from calltasks.call_tasks import CallTasks
from calltasks.database.connection import Database, bulks
from calltasks.database.tables import analyses, follow_ups, jobs
from calltasks.database.tables.analyses import FollowUp, Present, present
from calltasks.errors import PermanentError, ServiceError
from calltasks.rules.judgement import PROMPT_VERSION
from simulators import Fault, SimulatorOptions
from tests.pipeline import MODEL_FAILED, Site, Sites
from tests.test_analyses import CALLS, FICKLE, answer, follow_up, judge, judged_task, judging, ledger, task_of

MANY = CALLS * 3


def asked(site: Site) -> int:
    return int(site.stats()["model_calls"])


def linked(site: Site, task_id: int) -> list[bool]:
    return [bool(row["leads_follow_id"]) for row in site.rows(task_id)]


def answered(row_id: int, job_id: str) -> FollowUp:
    return FollowUp(list_id=row_id, call_job_id=job_id, outcome="analysed", is_interested=1, leads_remark="")


def due_now(site: Site) -> None:
    site.sql("UPDATE call_retries SET retry_at = since")


async def fresh(sites: Sites, *changes: str, **columns: Any) -> tuple[Site, int]:
    """A task whose calls wait for their first follow-ups, in a CRM with these changes."""
    site = await sites()
    for change in changes:
        site.sql(change)
    return site, task_of(site, MANY, **columns)


# One row never stops the others, and what was paid for is kept


async def test_a_row_that_the_crm_refuses_stands_alone_and_is_taken_up_without_a_question(sites: Sites) -> None:
    site, task_id = await fresh(
        sites,
        "ALTER TABLE dcc_leads_follow ADD CONSTRAINT of_lead FOREIGN KEY (leads_id) REFERENCES dcc_leads (leads_id)",
    )
    site.add_leads(len(MANY) - 1)
    done = await judge(site, task_id)
    assert (done.written, done.set_aside) == (len(MANY) - 1, 1)
    assert "1452" in done.error and "follow-ups refused: 1, row" in done.error
    assert linked(site, task_id) == [True] * (len(MANY) - 1) + [False]
    questions = asked(site)
    assert questions == len(MANY)
    retry = site.sql("SELECT * FROM call_retries")[0]
    assert (retry["step"], retry["error_code"], retry["tries"]) == ("analysis", "MySQL.1452", 0)
    for _ in range(4):
        due_now(site)
        assert (await judge(site, task_id)).set_aside == 1
    site.sql("UPDATE call_retries SET since = since - INTERVAL 20 MINUTE")
    due_now(site)
    await judge(site, task_id)
    pause = site.sql("SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), retry_at) AS s FROM call_retries")[0]["s"]
    assert 1190 <= pause <= 1300, "pauses grow with the age"
    site.add_leads(1, first=len(MANY))
    due_now(site)
    assert (await judge(site, task_id)).written == 1
    assert all(linked(site, task_id)) and asked(site) == questions


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("ALTER TABLE dcc_leads_follow ADD UNIQUE (leads_id)", "1062"),
        ("ALTER TABLE leads_task_list ADD CHECK (leads_id <> 2 OR is_interested IS NULL)", ""),
    ],
    ids=["unique", "check"],
)
async def test_a_rule_of_the_crm_that_one_row_breaks_stops_no_other(sites: Sites, change: str, code: str) -> None:
    site, task_id = await fresh(sites, change)
    site.insert("dcc_leads_follow", [{"leads_id": 2, "leads_remark": "别人的", "follow_time": "2020-01-01"}])
    done = await judge(site, task_id)
    assert (done.written, done.set_aside) == (len(MANY) - 1, 1) and code in done.error
    assert [one["leads_remark"] for one in site.follow_ups().values() if one["leads_id"] == 2] == ["别人的"]


async def test_a_crm_that_refuses_every_row_alike_is_asked_once_and_written_from_the_ledger(sites: Sites) -> None:
    site, task_id = await fresh(sites, "ALTER TABLE dcc_leads_follow CHANGE new_follow_time other DATETIME NULL")
    for _ in range(3):
        with pytest.raises(PermanentError, match="1054"):
            await judge(site, task_id)
    questions = asked(site)
    assert questions == len(site.sql("SELECT * FROM call_analyses WHERE outcome = 'analysed' AND settled_at IS NULL"))
    assert questions == len(MANY) and not site.sql("SELECT * FROM call_retries")
    site.sql("ALTER TABLE dcc_leads_follow CHANGE other new_follow_time DATETIME NULL")
    assert (await judge(site, task_id)).written == len(MANY)
    assert asked(site) == questions and not site.sql("SELECT * FROM call_analyses WHERE settled_at IS NULL")


async def test_answers_of_an_older_prompt_stay_readable_and_their_calls_are_judged_by_the_present_one(
    sites: Sites,
) -> None:
    site, task_id = await fresh(sites, "ALTER TABLE dcc_leads_follow CHANGE new_follow_time other DATETIME NULL")
    with pytest.raises(PermanentError, match="1054"):
        await judge(site, task_id)
    site.sql("UPDATE call_analyses SET prompt_version = '2026-11-1', do_not_call = '', wrong_number = 0")
    site.sql("ALTER TABLE dcc_leads_follow CHANGE other new_follow_time DATETIME NULL")
    assert (await judge(site, task_id)).written == len(MANY)
    for row in site.rows(task_id):
        old, new = (await answer("analyses", row["call_job_id"]))["analyses"]
        assert (old["prompt_version"], old["do_not_call"], old["wrong_number"]) == ("2026-11-1", "", False)
        assert new["prompt_version"] == PROMPT_VERSION


async def test_what_failed_for_good_is_not_asked_again_because_the_crm_refuses(sites: Sites) -> None:
    site, task_id = await fresh(
        sites,
        "ALTER TABLE dcc_leads_follow ADD CONSTRAINT of_lead FOREIGN KEY (leads_id) REFERENCES dcc_leads (leads_id)",
    )
    site.add_leads(len(MANY) - 1)
    site.sim.set_faults(Fault(target="model", kind="invalid_json"))
    for _ in range(6):
        due_now(site)
        done = await judge(site, task_id)
    assert (done.set_aside, linked(site, task_id)) == (1, [True] * (len(MANY) - 1) + [False])
    questions = asked(site)
    assert questions == 3 * len(MANY)
    site.add_leads(1, first=len(MANY))
    due_now(site)
    assert (await judge(site, task_id)).written == 1
    assert asked(site) == questions
    assert follow_up(site, site.rows(task_id)[-1])["leads_remark"] == MODEL_FAILED
    failed = site.sql(
        "SELECT error_code, COUNT(*) AS n FROM call_analyses WHERE outcome = 'failed' GROUP BY error_code"
    )
    assert failed == [{"error_code": "InvalidAnswer", "n": len(MANY)}]


async def test_an_answer_that_our_ledger_refuses_costs_no_other_its_place(sites: Sites) -> None:
    site, task_id = await fresh(sites)
    second = site.rows(task_id)[1]["id"]
    site.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON call_analyses FOR EACH ROW BEGIN"
        f" IF NEW.list_id = {second} THEN SIGNAL SQLSTATE '45000'; END IF; END"
    )
    done = await judge(site, task_id)
    assert (done.written, done.set_aside, asked(site)) == (len(MANY), 0, len(MANY))
    assert "1644: answers not in the ledger: 1" in done.error
    assert len(site.sql("SELECT id FROM call_analyses")) == len(MANY) - 1


async def test_answers_of_pieces_that_are_judged_at_once_are_one_statement(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, model_latency=(0.5, 0.6)))
    task_id = task_of(site, MANY)
    ids = [row["id"] for row in site.rows(task_id)]
    async with judging() as judge_rows:
        pieces = await asyncio.gather(*(judge_rows(task_id, ids[place::3]) for place in range(3)))
    assert [piece.written for piece in pieces] == [len(MANY) // 3] * 3
    entries = site.sql("SELECT COUNT(*) AS answers, COUNT(DISTINCT created_at) AS statements FROM call_analyses")
    assert entries == [{"answers": len(MANY), "statements": 1}]


async def test_a_piece_that_is_stopped_takes_no_answer_with_it(sites: Sites) -> None:
    site, task_id = await fresh(sites)
    async with CallTasks.connect(temporal=False) as calls:
        await calls.database.prepare()
        answers = Answers(calls.database, task_id, "")
        answers.expect(3)
        stopped, other = (
            asyncio.create_task(answers.save([answered(row["id"], row["call_job_id"])]))
            for row in site.rows(task_id)[:2]
        )
        await asyncio.sleep(0)
        stopped.cancel()
        assert await other == []
    assert stopped.cancelled() and len(site.sql("SELECT id FROM call_analyses")) == 2


async def test_nothing_is_asked_while_the_ledger_takes_nothing(sites: Sites) -> None:
    site, task_id = await fresh(
        sites,
        "RENAME TABLE call_analyses TO kept_analyses",
        "CREATE VIEW call_analyses AS SELECT DISTINCT * FROM kept_analyses",
    )
    with pytest.raises(PermanentError, match="1471"):
        await judge(site, task_id)
    assert asked(site) == 0
    site.sql("DROP VIEW call_analyses")
    site.sql("RENAME TABLE kept_analyses TO call_analyses")
    assert (await judge(site, task_id)).written == len(MANY)


async def test_a_reanalysis_that_the_crm_refused_goes_on_from_the_ledger(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    before = asked(site)
    site.sql("ALTER TABLE dcc_leads_follow CHANGE new_follow_time other DATETIME NULL")
    with pytest.raises(PermanentError, match="1054"):
        await judge(site, task_id, "request-1")
    questions = asked(site) - before
    site.sql("ALTER TABLE dcc_leads_follow CHANGE other new_follow_time DATETIME NULL")
    assert (await judge(site, task_id, "request-1")).written == len(rows)
    assert asked(site) - before == questions == len(rows)
    assert [ledger(site, row) for row in rows] == [["analysed"] * 2] * len(rows)


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        ("ALTER TABLE dcc_leads_follow MODIFY leads_id VARCHAR(64) NOT NULL", {}),
        ("ALTER TABLE leads_task_list MODIFY leads_id VARCHAR(64) NOT NULL", {}),
        ("SET sql_mode = ''", {"updated_time": "0000-00-00 00:00:00"}),
        (
            "CREATE TRIGGER noted AFTER INSERT ON dcc_leads_follow FOR EACH ROW"
            " INSERT INTO dcc_leads (leads_id, organization_id) VALUES (NEW.id + 1000, 'trigger')",
            {},
        ),
        ("ALTER TABLE dcc_leads_follow ADD day DATE AS (DATE(follow_time)) STORED, ADD UNIQUE (leads_id, day)", {}),
    ],
    ids=["text ids there", "text ids here", "zero dates", "trigger", "generated"],
)
async def test_a_crm_of_another_make_gets_its_follow_ups(sites: Sites, change: str, columns: dict[str, Any]) -> None:
    site, task_id = await fresh(sites, change, **columns)
    assert (await judge(site, task_id)).written == len(MANY)
    found = site.follow_ups()
    for row in site.rows(task_id):
        assert str(found[row["leads_follow_id"]]["leads_id"]) == str(row["leads_id"])


def test_long_remarks_are_written_within_the_smallest_packet() -> None:
    """Quotation marks take twice their room in a statement."""
    rows = [(number, "'\"" * 20_000) for number in range(100)]
    parts = list(bulks(rows))
    assert sum(map(len, parts)) == len(rows)
    for part in parts:
        assert sum(len(escape_string(remark).encode()) for _, remark in part) < 1_000_000


async def test_unreadable_answers_are_in_the_ledger_and_under_the_ceiling(sites: Sites) -> None:
    site, task_id = await fresh(sites)
    site.sim.set_faults(Fault(target="model", kind="invalid_json"))
    done = await judge(site, task_id, max_tokens=1500)
    stats = site.stats()
    spent = stats["input_tokens"] + stats["output_tokens"]
    assert done.input_tokens + done.output_tokens == spent >= 1500 and done.over_ceiling
    entries = site.sql("SELECT * FROM call_analyses WHERE outcome = 'unreadable'")
    assert len(entries) == stats["model_calls"] < len(MANY)
    assert sum(entry["input_tokens"] + entry["output_tokens"] for entry in entries) == spent
    site.sim.set_faults()
    due_now(site)
    again = await judge(site, task_id, max_tokens=1500)
    assert (again.input_tokens, again.over_ceiling) == (0, len(entries)), "what was spent before counts"


# A person's word


async def test_a_persons_interest_is_kept_unless_told(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites, CALLS[:2])
    said = (rows[0]["is_interested"] + 1) % 3
    site.sql("UPDATE leads_task_list SET is_interested = %s WHERE id = %s", said, rows[0]["id"])
    done = await judge(site, task_id, "request-1")
    assert (done.written, done.kept_edits, done.by_outcome) == (1, 1, {"kept": 1, "analysed": 1})
    assert site.rows(task_id)[0]["is_interested"] == said
    assert (await judge(site, task_id, "request-2", override=True)).written == 2
    last = site.sql("SELECT is_interested FROM call_analyses WHERE list_id = %s ORDER BY id DESC", rows[0]["id"])[0]
    assert site.rows(task_id)[0]["is_interested"] == last["is_interested"]


async def test_an_interest_that_was_said_before_the_first_follow_up_is_kept(sites: Sites) -> None:
    site, task_id = await fresh(sites)
    judged = await fresh_interests(site)
    site.sql("UPDATE leads_task_list SET is_interested = 2")
    assert (await judge(site, task_id)).written == len(MANY)
    assert {row["is_interested"] for row in site.rows(task_id)} == {2}
    site.sim.set_faults(FICKLE)
    done = await judge(site, task_id, "request-1")
    assert done.kept_edits == len([one for one in judged if one != 2]) > 0
    kept = [row["is_interested"] for row, one in zip(site.rows(task_id), judged, strict=True) if one != 2]
    assert set(kept) == {2}


@pytest.mark.parametrize("word", ["待定", "1.0", " "], ids=["word", "fraction", "blank"])
async def test_a_word_that_is_no_number_stops_nobody(sites: Sites, word: str) -> None:
    """In text columns, before the first follow-up and after it. A blank is nobody's word."""
    texts = "MODIFY is_interested VARCHAR(20) NULL, MODIFY leads_follow_id VARCHAR(20) NULL"
    site, task_id = await fresh(sites, f"ALTER TABLE leads_task_list {texts}")
    site.sql("UPDATE leads_task_list SET leads_follow_id = '-' WHERE leads_id < 5")
    odd = site.rows(task_id)[0]["id"]
    say = "UPDATE leads_task_list SET is_interested = %s WHERE id = %s"
    site.sql(say, word, odd)
    assert (await judge(site, task_id)).written == len(MANY) and all(linked(site, task_id))
    assert {row["is_interested"] for row in site.rows(task_id)} <= {"0", "1", "2"}
    async with site.working(), site.calls() as calls:
        assert await calls.start_call(task_id)
        result = await site.result(task_id)
    assert (result["outcome"], result["follow_ups"], result["task_type"]) == ("complete", len(MANY), 4)
    site.sql(say, word, odd)
    done = await judge(site, task_id, "request-1")
    assert done.written + done.kept_edits == len(MANY)


async def test_a_follow_up_that_a_person_moved_to_another_lead_is_kept_unless_told(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    site.sql("UPDATE dcc_leads_follow SET leads_id = leads_id + 500 WHERE id = %s", rows[0]["leads_follow_id"])
    site.sql(
        "UPDATE dcc_leads_follow SET leads_id = leads_id + 500, leads_remark = '客户已到店' WHERE id = %s",
        rows[1]["leads_follow_id"],
    )
    before = site.follow_ups()
    done = await judge(site, task_id, "request-1")
    assert (done.written, done.kept_edits) == (len(rows) - 2, 2)
    for row in rows[:2]:
        assert follow_up(site, row) == before[row["leads_follow_id"]]
    # Another lead's follow-up is never written: with ``override`` the call has one of its own again.
    assert (await judge(site, task_id, "request-2", override=True)).written == len(rows)
    for row, there in zip(rows[:2], site.rows(task_id), strict=False):
        assert follow_up(site, row) == before[row["leads_follow_id"]]
        assert there["leads_follow_id"] not in before
        assert str(follow_up(site, there)["leads_id"]) == str(row["leads_id"])


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("lead", [1, 777], ids=["their own", "another lead's"])
async def test_a_follow_up_that_a_person_has_linked_instead_is_kept_unless_told(
    sites: Sites, lead: int, override: bool
) -> None:
    site, task_id, rows = await judged_task(sites)
    site.insert("dcc_leads_follow", [{"leads_id": lead, "leads_remark": "客户周三到店"}])
    own = max(site.follow_ups())
    site.sql("UPDATE leads_task_list SET leads_follow_id = %s WHERE id = %s", own, rows[0]["id"])
    done = await judge(site, task_id, "request-1", override=override)
    assert done.kept_edits == (0 if override else 1)
    replaced = override and lead == 1
    assert (site.follow_ups()[own]["leads_remark"] == "客户周三到店") != replaced
    linked_to = site.rows(task_id)[0]["leads_follow_id"]
    assert (linked_to == own) == (lead == 1 or not override)
    assert str(site.follow_ups()[linked_to]["leads_id"]) == ("1" if override else str(lead))


async def test_a_link_that_a_person_has_set_is_not_taken_back_when_the_interest_is_gone(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    site.insert("dcc_leads_follow", [{"leads_id": 1, "leads_remark": "客户周三到店"}])
    own = max(site.follow_ups())
    change = "UPDATE leads_task_list SET leads_follow_id = %s, is_interested = NULL WHERE id = %s"
    site.sql(change, own, rows[0]["id"])
    await judge(site, task_id)
    row = site.rows(task_id)[0]
    assert row["leads_follow_id"] == own and row["is_interested"] is not None
    assert site.follow_ups()[own]["leads_remark"] == "客户周三到店"


@pytest.mark.parametrize("zero", ["0000-00-00 00:00:00", "2026-00-00 00:00:00"])
async def test_a_follow_up_without_a_real_date_stops_nobody(sites: Sites, zero: str) -> None:
    site, task_id = await fresh(sites)
    site.sql("SET SESSION sql_mode = ''")
    times = dict.fromkeys(("follow_time", "frist_follow_time", "new_follow_time"), zero)
    site.insert("dcc_leads_follow", [{"leads_id": 1, "leads_remark": "导入", **times}])
    assert (await judge(site, task_id)).written == len(MANY)


@pytest.mark.parametrize("odd", ["[" * 100_000, '[{"Script":' * 3_000, "[" * 100_000 + "]" * 100_000])
async def test_a_stored_conversation_that_is_nested_without_end_stops_nobody(sites: Sites, odd: str) -> None:
    site, task_id = await fresh(sites)
    site.sql("UPDATE leads_task_list SET call_conversation = %s WHERE leads_id = 1", odd)
    assert (await judge(site, task_id)).written == len(MANY)


async def test_a_row_that_has_lost_its_task_holds_its_job_for_nobody(sites: Sites) -> None:
    site, task_id = await fresh(sites, "ALTER TABLE leads_task_list MODIFY task_id BIGINT NULL")
    lost, other = [row["call_job_id"] for row in site.rows(task_id)][:2]
    site.sql("UPDATE leads_task_list SET task_id = NULL WHERE call_job_id = %s", lost)
    async with CallTasks.connect(temporal=False) as calls:
        assert await calls.database.run(jobs.used_jobs, [lost, other]) == {other}


@pytest.mark.parametrize("interest", [None, 1])
async def test_a_link_below_zero_is_none(sites: Sites, interest: int | None) -> None:
    site, task_id = await fresh(sites, leads_follow_id=-1, is_interested=interest)
    assert (await judge(site, task_id)).written == len(MANY)
    assert all(row["leads_follow_id"] in site.follow_ups() for row in site.rows(task_id))


async def test_a_request_that_another_attempt_has_answered_meanwhile_is_not_answered_again(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came to the rows first; then a person edits what it wrote."""
    site, task_id, rows = await judged_task(sites)
    now, looks = datetime(2026, 12, 1, 9), 0

    def judged(remark: str) -> FollowUp:
        ids = {"list_id": rows[0]["id"], "call_job_id": rows[0]["call_job_id"]}
        return FollowUp(**ids, outcome="default", is_interested=0, leads_remark=remark)

    async with CallTasks.connect(temporal=False) as calls:

        def run(remark: str) -> tuple[int, set[int]]:
            options: dict[str, Any] = {"request_id": "r", "now": now, "now_utc": now, "override": True}
            given = (task_id, [judged(remark)])
            return calls.database._attempt(follow_ups.update, given, options, transaction=True)

        def slow(cursor: Cursor, ids: Sequence[int], *, lock: bool = False) -> dict[int, Present]:
            nonlocal looks
            looks += 1
            if looks == 1:
                assert run("first")[0] == 1
                site.sql("UPDATE dcc_leads_follow SET leads_remark = '客户已到店'")
            return present(cursor, ids, lock=lock)

        monkeypatch.setattr(follow_ups, "present", slow)
        assert (await asyncio.to_thread(run, "second"))[0] == 0
    assert follow_up(site, rows[0])["leads_remark"] == "客户已到店"


async def fresh_interests(site: Site) -> list[int]:
    """What the model says of MANY, seen on another task of the same calls."""
    other = task_of(site, MANY)
    await judge(site, other)
    found = [row["is_interested"] for row in site.rows(other)]
    site.sql("DELETE FROM leads_task_list WHERE task_id = %s", other)
    return found


async def test_an_answer_from_the_ledger_is_fitted_to_the_column_and_the_call_as_they_are_now(sites: Sites) -> None:
    site, task_id = await fresh(sites, "ALTER TABLE dcc_leads_follow CHANGE new_follow_time other DATETIME NULL")
    with pytest.raises(PermanentError, match="1054"):
        await judge(site, task_id)
    site.sql("ALTER TABLE dcc_leads_follow CHANGE other new_follow_time DATETIME NULL")
    site.sql("ALTER TABLE dcc_leads_follow MODIFY next_follow_time TIMESTAMP NULL")
    ids = [row["id"] for row in site.rows(task_id)]
    for id_, when in zip(ids, ("2040-01-01 10:00:00", "2001-01-01 10:00:00", "2037-01-01 10:00:00"), strict=False):
        site.sql("UPDATE call_analyses SET next_follow_time = %s WHERE list_id = %s", when, id_)
    assert (await judge(site, task_id)).written == len(MANY)
    times = [follow_up(site, row)["next_follow_time"] for row in site.rows(task_id)][:3]
    assert times[:2] == [None, None] and times[2].year == 2037


async def test_what_a_column_starts_with_is_nobodys_word(sites: Sites) -> None:
    site, task_id = await fresh(sites, "ALTER TABLE leads_task_list MODIFY is_interested TINYINT NOT NULL DEFAULT 1")
    assert (await judge(site, task_id)).written == len(MANY)
    assert {row["is_interested"] for row in site.rows(task_id)} == {0}, "as judged"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE dcc_leads_follow MODIFY next_follow_time DATE NULL",
        "ALTER TABLE dcc_leads_follow MODIFY next_follow_time VARCHAR(32) NULL",
        "ALTER TABLE dcc_leads_follow MODIFY leads_remark VARCHAR(10) NULL",
        "CREATE TRIGGER tidy BEFORE INSERT ON dcc_leads_follow FOR EACH ROW"
        " SET NEW.leads_remark = CONCAT(UPPER(NEW.leads_remark), ' 。')",
    ],
    ids=["date", "text", "short", "trigger"],
)
async def test_what_a_column_does_to_values_is_no_edit(sites: Sites, change: str) -> None:
    site, task_id = await fresh(sites, change)
    assert (await judge(site, task_id)).written == len(MANY)
    done = await judge(site, task_id, "request-1")
    assert (done.written, done.kept_edits) == (len(MANY), 0)
    assert (await judge(site, task_id, "request-2")).kept_edits == 0


async def test_a_database_that_is_away_for_a_moment_costs_no_second_question(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, task_id = await fresh(sites)
    once, away_until = Database._once, 0.0

    def away(database: Database, function: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal away_until
        if function is analyses.record and not away_until:
            away_until = monotonic() + 5
        if monotonic() < away_until:
            raise pymysql.OperationalError(2003, "Can't connect")
        return once(database, function, *args, **kwargs)

    monkeypatch.setattr(Database, "_once", away)
    for _ in range(20):
        with suppress(ServiceError):
            if (await judge(site, task_id)).written:
                break
        await asyncio.sleep(0.5)
    assert all(linked(site, task_id)) and asked(site) == len(MANY)


# Whose entries


async def test_entries_of_a_crm_that_was_there_before_count_for_nobody(sites: Sites) -> None:
    site, task_id, _ = await judged_task(sites)
    for table in ("call_tasks", "leads_task_list", "dcc_leads_follow"):
        site.sql(f"TRUNCATE {table}")
    site.insert("dcc_leads_follow", [{"leads_id": 999, "leads_remark": "别人的"}])
    again = task_of(site, CALLS)
    assert again == task_id, "the ids came again"
    site.sql("UPDATE call_tasks SET job_group_id = 'another-group'")
    site.sql("UPDATE leads_task_list SET call_job_id = CONCAT('another-', call_job_id)")
    assert (await judge(site, again, max_tokens=100_000)).written == len(CALLS)
    found = site.follow_ups()
    for row in site.rows(again):
        assert found[row["leads_follow_id"]]["leads_id"] == row["leads_id"]
    assert found[1]["leads_remark"] == "别人的" and len(found) == len(CALLS) + 1
    assert [len(ledger_of_call(site, row)) for row in site.rows(again)] == [1, 1, 1, 1]


def ledger_of_call(site: Site, row: dict[str, Any]) -> list[dict[str, Any]]:
    return site.sql("SELECT * FROM call_analyses WHERE call_job_id = %s", row["call_job_id"])


async def test_a_follow_up_that_is_another_leads_now_is_not_linked(sites: Sites) -> None:
    """Rows were restored from before their follow-ups; the ids of these were given to others since."""
    site, task_id, rows = await judged_task(sites)
    site.sql("UPDATE leads_task_list SET leads_follow_id = NULL, is_interested = NULL")
    site.sql("UPDATE dcc_leads_follow SET leads_id = leads_id + 500")
    questions = asked(site)
    assert (await judge(site, task_id)).written == len(rows)
    assert asked(site) == questions
    for row in site.rows(task_id):
        assert follow_up(site, row)["leads_id"] == row["leads_id"]


async def test_a_lost_link_is_mended_without_a_question_and_a_merged_lead_is_the_same_call(sites: Sites) -> None:
    site, task_id, rows = await judged_task(sites)
    site.sql("UPDATE leads_task_list SET leads_follow_id = NULL, leads_id = leads_id + 500")
    site.sql("UPDATE dcc_leads_follow SET leads_id = leads_id + 500")
    questions = asked(site)
    assert (await judge(site, task_id)).written == 0
    assert [row["leads_follow_id"] for row in site.rows(task_id)] == [row["leads_follow_id"] for row in rows]
    assert asked(site) == questions and len(site.follow_ups()) == len(rows)

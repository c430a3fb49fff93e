"""Who said no (rules 11.3 to 11.5): entered with the follow-up, once, whoever works at the same time; disputed and
lifted by nobody but a person; each organisation's own."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymysql.cursors import DictCursor

from calltasks.database.connection import Database
from calltasks.database.tables import contacts, follow_ups, opt_outs, withdrawals
from calltasks.database.tables.analyses import FollowUp
from calltasks.database.tables.events import OPTED_OUT
from calltasks.database.tables.opt_outs import IMPORT, PERSON, OptOut, Refusal
from calltasks.database.tables.tasks import load
from calltasks.settings import DatabaseSettings
from devstack.mariadb import EmbeddedMariaDB
from tests.pipeline import Sites
from tests.test_analyses import CALLS, judge, task_of
from tests.test_follow_up_transaction import Crashed, DyingCursor

ORGANIZATION, OTHER = "org7", "org8"
NO = "不要再给我打电话了"


class Crm:
    """A database with tasks, and what a worker does to it. `other` is a second worker."""

    def __init__(self, mariadb: EmbeddedMariaDB, url: str) -> None:
        settings = DatabaseSettings(database_url=SecretStr(url))
        self.database, self.other = Database(settings), Database(settings)
        self._connection = mariadb.connect(url.rpartition("/")[2], cursorclass=DictCursor)

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def close(self) -> None:
        self._connection.close()
        self.database.close()
        self.other.close()

    def task(self, *phones: str | None, organization: str = ORGANIZATION) -> list[int]:
        """The ids of a new task's rows, called, each with a phone field."""
        self.sql("INSERT INTO call_tasks (task_name, organization_id, task_type) VALUES ('t', %s, 2)", organization)
        task_id = self.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"]
        for number, phone in enumerate(phones):
            self.sql(
                "INSERT INTO leads_task_list (task_id, leads_id, leads_phone, call_job_id, call_status)"
                " VALUES (%s, %s, %s, %s, 'Succeeded')",
                *(task_id, number, phone, f"job-{task_id}-{number}"),
            )
        return [row["id"] for row in self.sql("SELECT id FROM leads_task_list WHERE task_id = %s ORDER BY id", task_id)]

    def judged(self, rows: Sequence[int], said: str, outcome: str = "analysed") -> list[FollowUp]:
        """What each row's call comes to; `said`: the sentence of a refusal."""
        jobs = {row["id"]: row["call_job_id"] for row in self.sql("SELECT id, call_job_id FROM leads_task_list")}
        return [
            FollowUp(
                list_id=id_,
                call_job_id=jobs[id_],
                outcome=outcome,
                is_interested=2,
                leads_remark="客户谢绝",
                do_not_call=said,
            )
            for id_ in rows
        ]

    def task_of(self, row: int) -> int:
        return int(self.sql("SELECT task_id FROM leads_task_list WHERE id = %s", row)[0]["task_id"])

    async def first(
        self, rows: Sequence[int], said: str = NO, *, database: Database | None = None, dies_before: int | None = None
    ) -> None:
        """First follow-ups."""
        await self._write(follow_ups.create, rows, self.judged(rows, said), database, dies_before)

    async def again(
        self, rows: Sequence[int], said: str = NO, *, outcome: str = "analysed", database: Database | None = None
    ) -> None:
        """A re-analysis."""
        request = f"request-{random.random()}"
        await self._write(follow_ups.update, rows, self.judged(rows, said, outcome), database, None, request_id=request)

    async def _write(
        self,
        write: Any,
        rows: Sequence[int],
        judged: list[FollowUp],
        database: Database | None,
        dies_before: int | None,
        **more: Any,
    ) -> None:
        database, task_id = database or self.database, self.task_of(rows[0])
        now = await database.now()

        def dying(cursor: Any) -> None:
            given = {"now": database.wall_clock(now), "now_utc": now.replace(tzinfo=None)} | more
            write(DyingCursor(cursor, dies_before), task_id, judged, **given)

        await database.transaction(dying)

    async def moment(self) -> datetime:
        return (await self.database.now()).replace(tzinfo=None)

    async def enter(
        self, *phones: str, organization: str = ORGANIZATION, source: str = PERSON, **call: Any
    ) -> list[OptOut]:
        """By a person."""
        refusals = [Refusal(phone=phone, source=source, evidence="来信", created_by="li", **call) for phone in phones]
        return await self.database.transaction(opt_outs.enter, organization, refusals, now_utc=await self.moment())

    async def lift(self, phone: str, organization: str = ORGANIZATION) -> OptOut | None:
        return await self.database.transaction(
            opt_outs.lift, organization, phone, reason="客户来电", by="wang", now_utc=await self.moment()
        )

    async def page(self, kind: opt_outs.Kind = "standing", organization: str = ORGANIZATION) -> list[OptOut]:
        return await self.database.run(opt_outs.page, organization, kind=kind)

    async def standing(self, organization: str = ORGANIZATION) -> list[str]:
        return [one.phone for one in await self.page(organization=organization)]


@pytest.fixture
async def crm(mariadb: EmbeddedMariaDB, database_url: str) -> AsyncIterator[Crm]:
    crm = Crm(mariadb, database_url)
    try:
        yield crm
    finally:
        await asyncio.to_thread(crm.close)


def phone(number: int) -> str:
    return f"139{number:08}"


def number(n: int) -> str:
    return f"+86{phone(n)}"


# Entered with the follow-up


async def test_a_refusal_is_entered_with_the_follow_up_and_says_which_sentence_of_which_call(crm: Crm) -> None:
    rows = crm.task("１３９-0000-0001", "+86 139 0000 0002", phone(3))
    await crm.first(rows[:2])
    await crm.first(rows[2:], "")
    first, second = await crm.page()
    assert (first.phone, first.source, first.evidence, first.created_by) == (number(1), "call", NO, "")
    task_id = crm.task_of(rows[0])
    assert (first.task_id, first.list_id, first.call_job_id) == (task_id, rows[0], f"job-{task_id}-0")
    assert (first.standing, first.disputed_at, first.lifted_at) == (True, None, None)
    assert second.phone == number(2)


async def test_follow_up_and_opt_out_are_there_together_or_not_at_all(crm: Crm) -> None:
    """The worker dies before each statement in turn."""
    rows = crm.task(phone(1))
    for statement in range(100):
        try:
            await crm.first(rows, dies_before=statement)
        except Crashed:
            assert await crm.standing() == [] == crm.sql("SELECT id FROM dcc_leads_follow")
        else:
            break
    assert 10 < statement < 100
    assert await crm.standing() == [number(1)] and len(crm.sql("SELECT id FROM dcc_leads_follow")) == 1


async def test_whatever_is_run_again_enters_nothing_twice(crm: Crm) -> None:
    rows = crm.task(phone(1), "+86" + phone(1), phone(2))
    for _ in range(3):
        await crm.first(rows)
        await crm.again(rows)
    assert await crm.standing() == [number(1), number(2)] and len(await crm.page("all")) == 2
    assert (await crm.page())[0].list_id == rows[0], "of two rows of a number the first"


async def test_a_refusal_is_entered_where_a_persons_edit_keeps_the_follow_up(crm: Crm) -> None:
    rows = crm.task(phone(1))
    await crm.first(rows, "")
    crm.sql("UPDATE dcc_leads_follow SET leads_remark = '已联系'")
    await crm.again(rows)
    assert crm.sql("SELECT leads_remark FROM dcc_leads_follow") == [{"leads_remark": "已联系"}]
    assert await crm.standing() == [number(1)]


async def test_the_number_that_was_dialled_is_entered_whatever_the_row_says_by_now(crm: Crm) -> None:
    rows = crm.task(phone(1), phone(2), phone(3))
    for row, task_id, dialled in ((rows[0], crm.task_of(rows[0]), 1), (rows[1], 999, 8)):
        crm.sql(
            "INSERT INTO call_contacts VALUES (%s, %s, %s, %s, NOW(), NULL)",
            row,
            task_id,
            ORGANIZATION,
            number(dialled),
        )
    crm.sql("UPDATE leads_task_list SET leads_phone = '无' WHERE id = %s", rows[0])
    await crm.first(rows)
    # What another task's row of the same id was called by is nobody's number here.
    assert await crm.standing() == [number(1), number(2), number(3)]


async def test_what_is_no_number_is_counted_in_the_log_and_stops_no_other(
    crm: Crm, caplog: pytest.LogCaptureFixture
) -> None:
    rows = crm.task("139****0001", None, "13900000001/13900000002", phone(3))
    await crm.first(rows)
    assert await crm.standing() == [number(3)] and len(crm.sql("SELECT id FROM dcc_leads_follow")) == 4
    (said,) = [record.getMessage() for record in caplog.records if "refuse further calls" in record.message]
    assert said.startswith(f"task {crm.task_of(rows[0])}: 3 customers") and "139" not in said


async def test_the_activity_enters_what_the_model_has_said_and_disputes_what_it_says_no_more(sites: Sites) -> None:
    """The worker dies between the model's answer and the follow-up; another one takes it from the ledger."""
    site = await sites()
    task_id = task_of(site, CALLS[:2])
    await judge(site, task_id)
    row, other = site.rows(task_id)
    site.sql("UPDATE call_analyses SET settled_at = NULL, do_not_call = %s WHERE list_id = %s", NO, row["id"])
    site.sql("DELETE FROM call_follow_ups")
    site.sql("DELETE FROM dcc_leads_follow")
    site.sql("UPDATE leads_task_list SET leads_follow_id = NULL, is_interested = NULL")
    questions = site.stats()["model_calls"]
    assert (await judge(site, task_id)).written == 2 and site.stats()["model_calls"] == questions
    (entry,) = site.sql("SELECT * FROM call_opt_outs")
    assert (entry["organization_id"], entry["phone"]) == (ORGANIZATION, f"+86{row['leads_phone']}")
    assert (entry["evidence"], entry["list_id"], entry["disputed_at"]) == (NO, row["id"], None)
    assert other["leads_phone"] not in entry["phone"]
    await judge(site, task_id, "request-1")
    (entry,) = site.sql("SELECT * FROM call_opt_outs")
    refused_again = bool(site.sql("SELECT 1 FROM call_analyses WHERE request_id <> '' AND do_not_call <> ''"))
    assert entry["standing"] == 1 and (entry["disputed_at"] is None) == refused_again


@pytest.mark.parametrize("request_id", ["", "request-1"], ids=["first", "again"])
async def test_a_crm_that_refuses_the_follow_up_keeps_nobody_out_of_the_list(sites: Sites, request_id: str) -> None:
    site = await sites()
    task_id = task_of(site, CALLS[:2])
    if request_id:
        await judge(site, task_id)
        site.sql("DELETE FROM call_opt_outs")
        site.sql("DELETE FROM call_events")
    row = site.rows(task_id)[1]
    for when in ("INSERT", "UPDATE"):
        site.sql(
            f"CREATE TRIGGER refuse_{when} BEFORE {when} ON dcc_leads_follow FOR EACH ROW IF NEW.leads_id = %s THEN"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF",
            row["leads_id"],
        )
    told = f"SELECT list_id, evidence FROM call_opt_outs WHERE phone = '+86{row['leads_phone']}'"
    assert (await judge(site, task_id, request_id)).set_aside == 1
    # What the model said is in the ledger, and is not asked for again.
    refused = "UPDATE call_analyses SET do_not_call = %s WHERE list_id = %s AND request_id = %s"
    site.sql(refused, NO, row["id"], request_id)
    for _ in range(2):
        site.sql("UPDATE call_retries SET retry_at = '2026-01-01'")
        assert (await judge(site, task_id, request_id)).set_aside == 1
        assert site.sql(told) == [{"list_id": row["id"], "evidence": NO}]
        assert len(site.sql("SELECT 1 FROM call_events WHERE kind = %s", OPTED_OUT)) == 1
    assert site.rows(task_id)[1]["leads_follow_id"] == row["leads_follow_id"]
    for when in ("INSERT", "UPDATE"):
        site.sql(f"DROP TRIGGER refuse_{when}")
    site.sql("UPDATE call_retries SET retry_at = '2026-01-01'")
    await judge(site, task_id, request_id)
    assert len(site.sql(told)) == len(site.sql("SELECT 1 FROM call_events WHERE kind = %s", OPTED_OUT)) == 1
    assert site.rows(task_id)[1]["leads_follow_id"]


# Disputed


async def test_a_judgement_that_finds_no_refusal_any_more_disputes_and_does_not_lift(crm: Crm) -> None:
    rows = crm.task(phone(1), phone(2))
    await crm.first(rows)
    await crm.again(rows[:1], "")
    (disputed,) = await crm.page("disputed")
    assert disputed.phone == number(1) and await crm.standing() == [number(1), number(2)]
    since = disputed.disputed_at
    await crm.again(rows[:1], "")
    assert (await crm.page("disputed"))[0].disputed_at == since
    await crm.again(rows[:1])
    assert await crm.page("disputed") == [] and len(await crm.page("all")) == 2


@pytest.mark.parametrize("outcome", ["failed", "over_ceiling", "default"])
async def test_what_is_no_judgement_disputes_nothing(crm: Crm, outcome: str) -> None:
    rows = crm.task(phone(1))
    await crm.first(rows)
    await crm.again(rows, "", outcome=outcome)
    assert await crm.page("disputed") == [] and await crm.standing() == [number(1)]


async def test_what_a_person_entered_no_judgement_disputes(crm: Crm) -> None:
    rows = crm.task(phone(1))
    await crm.first(rows, "")
    await crm.enter(number(1))
    await crm.again(rows, "")
    assert await crm.page("disputed") == []


async def test_what_a_person_entered_of_a_call_stands_whatever_is_judged_of_it_again(crm: Crm) -> None:
    rows = crm.task(phone(1))
    await crm.first(rows, "")
    task_id = crm.task_of(rows[0])
    await crm.enter(number(1), task_id=task_id, list_id=rows[0], call_job_id=f"job-{task_id}-0")
    for said in ("", NO, ""):
        await crm.again(rows, said)
        assert await crm.page("disputed") == []
        assert [(one.source, one.standing) for one in await crm.page("all")] == [(PERSON, True)]


async def test_a_disputed_entry_gives_its_place_to_whoever_else_refuses(crm: Crm) -> None:
    """Else it would be lifted for its own sentence, and with it a refusal that nobody disputes."""
    mild, clear = crm.task(phone(1), phone(2)), crm.task(phone(1))
    await crm.first(mild)
    await crm.again(mild, "")
    await crm.first(clear)
    await crm.enter(number(2))
    assert await crm.page("disputed") == []
    assert {one.phone: (one.source, one.list_id) for one in await crm.page()} == {
        number(1): ("call", clear[0]),
        number(2): ("person", None),
    }
    assert [(one.phone, one.lifted_by) for one in await crm.page("lifted")] == [(number(1), ""), (number(2), "")]
    await crm.again(mild)
    assert len(await crm.page("all")) == 4


# Lifted


async def test_what_a_person_lifted_no_other_judgement_of_the_call_enters_and_a_new_call_does(crm: Crm) -> None:
    rows = crm.task(phone(1))
    await crm.first(rows)
    lifted = await crm.lift(number(1))
    assert lifted is not None and not lifted.standing
    assert (lifted.lifted_by, lifted.lift_reason, lifted.evidence) == ("wang", "客户来电", NO)
    for said in (NO, "", NO):
        await crm.again(rows, said)
    assert await crm.standing() == [] and len(await crm.page("all")) == 1
    assert await crm.lift(number(1)) is None
    await crm.first(crm.task(phone(1)))
    assert await crm.standing() == [number(1)] and [one.phone for one in await crm.page("lifted")] == [number(1)]


async def test_a_row_whose_id_came_again_is_another_call(crm: Crm) -> None:
    """A CRM that was emptied beside our tables counts from 1 again."""
    rows = crm.task(phone(1))
    await crm.first(rows)
    await crm.lift(number(1))
    crm.sql("UPDATE leads_task_list SET call_job_id = 'a-new-call', leads_phone = %s", phone(2))
    await crm.again(rows)
    assert await crm.standing() == [number(2)]


# Organisations


async def test_organisations_never_meet(crm: Crm) -> None:
    names = (ORGANIZATION, OTHER, ORGANIZATION.upper(), "7", "07")
    for name in names:
        await crm.first(crm.task(phone(1), organization=name))
    assert len(crm.sql("SELECT id FROM call_opt_outs")) == len(names)
    assert await crm.lift(number(1), OTHER) is not None
    for name in names:
        assert await crm.standing(name) == ([] if name == OTHER else [number(1)])
    assert await crm.standing("nobody") == []


async def test_an_organisation_that_is_a_number_in_the_crm_is_its_text(crm: Crm) -> None:
    crm.sql("ALTER TABLE call_tasks MODIFY organization_id INT NULL")
    await crm.first(crm.task(phone(1), organization="7"))
    assert await crm.standing("7") == [number(1)]


# Erasure


@pytest.mark.parametrize(("block", "stands"), [(0, True), (1, False)], ids=["the refusal stays", "everything goes"])
async def test_the_statements_of_the_page_erase_what_they_say(crm: Crm, block: int, stands: bool) -> None:
    page = (Path(__file__).parent.parent / "docs/security.md").read_text("utf-8")
    page = page.partition("## Erasing a person from the list")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for name in ("org-7", OTHER):
        await crm.first(crm.task(phone(1), phone(2), organization=name))
    for statement in blocks[block].replace("crm.", "").split(";")[:-1]:
        crm.sql(statement)
    found = {one.phone: one for one in await crm.page(organization="org-7")}
    assert found[number(2)].evidence == NO and (number(1) in found) == stands
    assert len(await crm.page(organization=OTHER)) == 2
    if stands:
        gone = found[number(1)]
        assert (gone.evidence, gone.task_id, gone.list_id, gone.call_job_id) == ("", None, None, None)
        assert crm.sql("SELECT COUNT(*) AS n FROM call_analyses WHERE do_not_call = ''") == [{"n": 1}]


# At the same time


async def test_workers_that_enter_the_same_numbers_at_once_do_not_fail_and_enter_each_once(crm: Crm) -> None:
    """Eight tasks with the same forty numbers, each in its own order, from two processes' worth of connections, while
    people enter and lift some of them."""
    tasks = [crm.task(*random.Random(seed).sample([phone(n) for n in range(40)], 40)) for seed in range(8)]
    databases = [crm.database, crm.other] * 4

    async def people() -> None:
        for n in range(40):
            await crm.enter(*(number(m) for m in range(n % 7, 40, 7)), source=IMPORT)
            await crm.lift(number(n))

    follow = [crm.first(rows, database=database) for rows, database in zip(tasks, databases, strict=True)]
    await asyncio.gather(people(), *follow)
    again = [crm.again(rows, database=database) for rows, database in zip(tasks, databases, strict=True)]
    await asyncio.gather(*again)
    assert len(crm.sql("SELECT id FROM dcc_leads_follow")) == 8 * 40
    assert sorted(await crm.standing()) == [number(n) for n in range(40)]


async def test_of_two_that_enter_a_number_at_once_one_is_told_that_it_has(crm: Crm) -> None:
    for n in range(20):
        told = await asyncio.gather(*(crm.enter(number(n), number(n + 1000)) for _ in range(4)))
        assert sorted(map(len, told)) == [0, 0, 0, 2]


async def test_entering_again_after_a_lost_answer_to_commit_tells_the_same(crm: Crm) -> None:
    now = await crm.moment()
    refusals = [Refusal(phone=number(1), source=PERSON, evidence="", created_by="li")]
    told = [await crm.database.transaction(opt_outs.enter, ORGANIZATION, refusals, now_utc=now) for _ in range(2)]
    assert told[0] == told[1] and len(told[0]) == 1
    lift: dict[str, Any] = {"reason": "r", "by": "li", "now_utc": now}
    lifted = [await crm.database.transaction(opt_outs.lift, ORGANIZATION, number(1), **lift) for _ in range(2)]
    assert lifted[0] == lifted[1] is not None


async def test_pages_follow_one_another(crm: Crm) -> None:
    await crm.enter(*(number(n) for n in range(5)))
    await crm.enter(*(number(n) for n in range(5)), organization=OTHER)
    seen: list[str] = []
    after = 0
    while part := await crm.database.run(opt_outs.page, ORGANIZATION, after=after, limit=2):
        seen += [one.phone for one in part]
        after = part[-1].id
    assert seen == [number(n) for n in range(5)]


# Carried out, and taken up again


async def opened(crm: Crm) -> int:
    """How many entries wait to be carried out."""
    return int(crm.sql("SELECT COUNT(*) AS n FROM call_opt_outs WHERE withdrawn_at IS NULL")[0]["n"])


async def test_what_is_known_of_a_call_is_not_taken_back_by_a_look_that_comes_late(crm: Crm) -> None:
    (row,) = crm.task(phone(1))
    call = withdrawals.Waiting(
        opt_out_id=1,
        organization_id=ORGANIZATION,
        phone=number(1),
        said_no_at=datetime(2026, 1, 1),
        list_id=row,
        task_id=crm.task_of(row),
        task_over=False,
        job_group_id="g",
        job_id="j",
        waited=True,
    )
    for outcome in ("", withdrawals.TOO_LATE, ""):
        await crm.database.run(withdrawals.write_down, [(call, outcome)])
    [entry] = crm.sql("SELECT outcome, settled_at FROM call_withdrawals")
    assert entry["outcome"] == withdrawals.TOO_LATE and entry["settled_at"] is not None


async def test_what_is_taken_up_again_while_a_look_is_under_way_stays_open(crm: Crm) -> None:
    """The look has asked the platform for long, and does not know of the call that has turned up meanwhile."""
    (row,) = crm.task(phone(1))
    crm.sql(
        "INSERT INTO call_contacts VALUES (%s, %s, %s, %s, NOW(), NULL)", row, crm.task_of(row), ORGANIZATION, number(1)
    )
    await crm.enter(number(1), number(2))
    await crm.database.run(withdrawals.notice)
    begun, ages = await crm.database.run(withdrawals.notice)
    await crm.database.transaction(withdrawals.take_up_again, [row])
    await crm.other.run(withdrawals.notice)
    await crm.database.run(withdrawals.carried_out, list(ages), begun)
    assert [one["phone"] for one in crm.sql("SELECT phone FROM call_opt_outs WHERE withdrawn_at IS NULL")] == [
        number(1)
    ]
    begun, ages = await crm.database.run(withdrawals.notice)
    await crm.database.run(withdrawals.carried_out, list(ages), begun)
    assert await opened(crm) == 0
    await crm.database.transaction(withdrawals.take_up_again, [row])
    assert await opened(crm) == 1


async def test_a_crash_loses_nobody_whose_calls_are_entered(crm: Crm) -> None:
    """The worker dies before each statement in turn: rows that are entered are not found again, so that they must be
    taken up again with it."""
    rows = crm.task(phone(1), phone(2))
    task = await crm.database.run(load, crm.task_of(rows[0]))
    await crm.enter(number(2))
    crm.sql("UPDATE call_opt_outs SET noticed_at = NOW(), withdrawn_at = NOW()")

    def dying(cursor: Any, dies_before: int) -> None:
        contacts.enter(DyingCursor(cursor, dies_before), task, dispatched=True)  # type: ignore[arg-type]

    for statement in range(20):
        try:
            await crm.database.run(dying, statement)
        except Crashed:
            entered = len(crm.sql("SELECT list_id FROM call_contacts"))
            assert (entered, await opened(crm)) in ((0, 0), (2, 1))
        else:
            break
    assert 4 < statement < 20 and await opened(crm) == 1

"""Who is not handed over (rules 11.1, 11.7 to 11.9): opted out, called lately, called often, no number. One
organisation never decides for another; what a dry run says is what the run does."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pymysql.cursors import Cursor
from temporalio.client import WorkflowFailureError

from activities.claims import BATCHES_AT_ONCE, Claimed, claim, renew
from activities.holdings import GroupReading
from calltasks.database.tables import contacts, jobs, suppressions, withdrawals
from calltasks.database.tables.dispatches import undialled
from calltasks.database.tables.gate import Gate
from calltasks.database.tables.tasks import load
from calltasks.dry_run import rehearse
from calltasks.options import Options
from calltasks.platform.session import CONTACTS_A_CALL
from calltasks.rules.gate import Known, Limits, reason
from calltasks.rules.pairing import IdentifiedJob
from devstack.mariadb import EmbeddedMariaDB
from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import assert_finished
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, phone

OTHER = "org8"


def opt_out(site: Site, *numbers: int, organization: str = ORGANIZATION, lifted: bool = False) -> None:
    site.insert(
        "call_opt_outs",
        [
            {
                "organization_id": organization,
                "phone": f"+86{phone(number)}",
                "standing": None if lifted else 1,
                "source": "person",
                "evidence": "called the dealer",
                "created_at": "2026-01-01",
                "lifted_at": "2026-01-02" if lifted else None,
            }
            for number in numbers
        ],
    )


def dials(site: Site) -> Counter[str]:
    """How often each number was dialled, by the platform's own record."""
    return Counter(job.contact.phone for group in site.sim.world.groups.values() for job in group.jobs)


def left_out(site: Site, task_id: int) -> dict[int, str]:
    """Leads of the task that nobody called, and why."""
    found = site.sql("SELECT leads_id, reason FROM call_suppressions WHERE task_id = %s", task_id)
    cancelled = {row["leads_id"] for row in site.rows(task_id) if row["call_status"] == "Cancelled"}
    assert cancelled == {int(row["leads_id"]) for row in found}
    return {int(row["leads_id"]): row["reason"] for row in found}


# --- opted out --------------------------------------------------------------------------------------------------------


async def test_who_has_opted_out_is_called_by_nobody_of_that_organisation(sites: Sites) -> None:
    site = await sites()
    site.add_leads(20)
    site.add_leads(20, first=101, organization=OTHER)
    site.sql("UPDATE dcc_leads SET leads_user_phone = CONCAT('139', LPAD(leads_id - 100, 8, '0')) WHERE leads_id > 100")
    spelled = (
        "+86 139-0000-0001",
        "0086 13900000002",
        "１３９０００００００３",
        "139 0000 0004",
        "李先生13900000005（妻）",
    )
    for number, text in enumerate(spelled, 1):
        site.sql("UPDATE dcc_leads SET leads_user_phone = %s WHERE leads_id = %s", text, number)
    opt_out(site, *range(1, 7))
    opt_out(site, 7, lifted=True)
    opt_out(site, 8, organization=ORGANIZATION.upper())
    own, others = await site.create_task(), await site.create_task(organization=OTHER)
    async with site.working():
        result, other = await asyncio.gather(site.run(own), site.run(others))
    assert (result["suppressed"], result["suppressed_by_reason"]) == (6, {"opted_out": 6})
    assert (result["called"], result["unmatched"], result["task_type"]) == (14, 6, 4)
    assert left_out(site, own) == dict.fromkeys(range(1, 7), "opted_out")
    assert (other["called"], other["suppressed"]) == (20, 0)
    assert dials(site) == Counter({phone(n): 1 for n in range(1, 21)} | {phone(n): 2 for n in range(7, 21)})
    assert_finished(site, own, result)
    entered = site.sql("SELECT * FROM call_contacts ORDER BY list_id")
    assert [(row["task_id"], row["organization_id"], row["phone"]) for row in entered] == [
        *((own, ORGANIZATION, f"+86{phone(n)}") for n in range(7, 21)),
        *((others, OTHER, f"+86{phone(n)}") for n in range(1, 21)),
    ]


async def test_a_task_of_people_who_said_no_ends_and_stays_as_it_is_when_they_change_their_minds(sites: Sites) -> None:
    site = await sites()
    site.add_leads(3)
    opt_out(site, 1, 2, 3)
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id)
        assert (result["outcome"], result["called"], result["suppressed"]) == ("nothing_called", 0, 3)
        site.sql("UPDATE call_opt_outs SET standing = NULL, lifted_at = UTC_TIMESTAMP(6)")
        assert (await site.run(task_id))["suppressed"] == 3
        assert dials(site) == Counter()
        # They are called by the next campaign.
        assert (await site.run(await site.create_task()))["called"] == 3


async def test_who_says_no_before_a_batch_is_sent_again_is_left_out_of_it(sites: Sites) -> None:
    site = await sites()
    site.add_leads(30)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="AssignJobs", kind="permanent", code="NotExist.Script"))
    async with site.working():
        with pytest.raises(WorkflowFailureError):
            await site.run(task_id)
        assert len(site.sql("SELECT * FROM call_contacts")) == 30
        opt_out(site, 3, 4)
        site.sim.set_faults()
        result = await site.run(task_id)
    assert (result["called"], result["suppressed_by_reason"]) == (28, {"opted_out": 2})
    assert dials(site) == Counter({phone(n): 1 for n in range(1, 31) if n not in (3, 4)})


# --- called before ----------------------------------------------------------------------------------------------------


async def test_who_was_called_within_these_days_by_another_campaign_is_left_out(sites: Sites) -> None:
    site = await sites()
    site.add_leads(20)
    site.add_leads(5, first=101, organization=OTHER)
    first, foreign = await site.create_task(list(range(1, 13))), await site.create_task(organization=OTHER)
    async with site.working():
        await site.run(first)
        await site.run(foreign)
        # Four of them eight days ago, by the row's own time; two more were never called.
        site.sql("UPDATE leads_task_list SET updated_time = updated_time - INTERVAL 8 DAY WHERE leads_id <= 4")
        site.sql("UPDATE leads_task_list SET call_job_id = '', call_status = 'Failed' WHERE leads_id IN (5, 6)")
        second = await site.create_task()
        result = await site.run(second, QUICK.model_copy(update={"not_called_within": 7}))
        assert result["suppressed_by_reason"] == {"called_lately": 6}
        assert left_out(site, second) == dict.fromkeys(range(7, 13), "called_lately")
        # Its own calls do not count against it, and the option stays with it.
        again = await site.run(second)
        assert (again["called"], again["suppressed"]) == (14, 6)
        # Without the option everybody is called; the days that were asked for are none of another campaign's.
        assert (await site.run(await site.create_task()))["called"] == 20
    kept = json.loads(site.sql("SELECT options FROM call_task_options WHERE task_id = %s", second)[0]["options"])
    assert kept["not_called_within"] == 7


async def test_nobody_is_called_more_often_than_the_options_want(sites: Sites) -> None:
    site = await sites()
    site.add_leads(10)
    twice = Options.model_validate(QUICK.model_dump(exclude_none=True) | {"at_most": 2, "in_days": 30})
    async with site.working():
        for leads, called in (([1, 2, 3], 3), ([1, 2], 2), (None, 8)):
            task_id = await site.create_task(leads)
            assert (await site.run(task_id, twice))["called"] == called
    assert left_out(site, task_id) == {1: "called_often", 2: "called_often"}
    assert dials(site) == Counter({phone(n): 2 if n <= 3 else 1 for n in range(1, 11)})


async def test_two_campaigns_that_begin_at_one_moment_do_not_call_the_same_people(sites: Sites) -> None:
    site = await sites()
    site.add_leads(150)
    lately = QUICK.model_copy(update={"not_called_within": 1})
    tasks = [await site.create_task() for _ in range(4)]
    async with site.working():
        results = await asyncio.gather(*(site.run(task_id, lately) for task_id in tasks))
    assert dials(site) == Counter({phone(n): 1 for n in range(1, 151)})
    assert sum(result["called"] for result in results) == 150
    assert sum(result["suppressed"] for result in results) == 450


async def test_calls_of_another_program_count_once_its_task_is_taken_up(sites: Sites) -> None:
    site = await sites()
    site.add_leads(12)
    people = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 7)]
    rows = [{"leads_id": n, "leads_phone": f"+86 {phone(n)}", "reference_id": f"r{n}"} for n in range(1, 9)]
    old = site.old_task(rows, people)
    async with site.working():
        assert (await site.run(old))["called"] == 6
        task_id = await site.create_task()
        result = await site.run(task_id, QUICK.model_copy(update={"not_called_within": 7}))
    # 7 and 8 had no job there.
    assert left_out(site, task_id) == dict.fromkeys(range(1, 7), "called_lately")
    assert result["called"] == 6


# --- what counts as a call --------------------------------------------------------------------------------------------


@pytest.fixture
def cursor(mariadb: EmbeddedMariaDB, database_url: str) -> Iterator[Cursor]:
    with mariadb.connect(database_url.rsplit("/", 1)[1]) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+08:00', autocommit = 1")
        for task_id, group in ((1, "g1"), (2, "g2")):
            cursor.execute(
                "INSERT INTO call_tasks (id, organization_id, task_type, job_group_id, create_time)"
                " VALUES (%s, 'o', 1, %s, '2026-01-01')",
                (task_id, group),
            )
        yield cursor


def add_rows(cursor: Cursor, task_id: int, count: int, *, first: int = 1, numbers: int = 1) -> None:
    """Rows `first` and on, whose phone numbers count from `numbers`."""
    values = [
        (first + index, task_id, numbers + index, phone(numbers + index), f"{task_id}-{first + index}")
        for index in range(count)
    ]
    cursor.executemany(
        "INSERT INTO leads_task_list (id, task_id, leads_id, leads_phone, reference_id, call_job_id, call_time)"
        " VALUES (%s, %s, %s, %s, %s, '', NOW())",
        values,
    )


WEEK = Limits(not_called_within=7)
NOT_SENT = (
    "INSERT INTO call_dispatches (task_id, job_group_id, first_id, last_id, attempted_at)"
    " VALUES (1, 'g1', 1, 1, '2000-01-01')"
)
CALLS: dict[str, tuple[list[str], bool]] = {
    "waits for its call": ([], True),
    "was handed over long ago, and its call never came": (["claimed_at = claimed_at - INTERVAL 8 DAY"], False),
    "was called": (["call_job_id = 'j', call_status = 'Succeeded', updated_time = NOW()"], True),
    "was called long ago": (
        ["call_job_id = 'j', call_status = 'SUCCEEDED', updated_time = NOW() - INTERVAL 8 DAY"],
        False,
    ),
    "was handed over long ago, and called lately": (
        [
            "claimed_at = claimed_at - INTERVAL 8 DAY",
            "call_job_id = 'j', call_status = 'Failed', updated_time = NOW() - INTERVAL 6 DAY",
        ],
        True,
    ),
    "did not answer": (["call_job_id = 'j', call_status = 'Failed', call_task_id = 't', updated_time = NOW()"], True),
    "was cancelled before its first attempt": (
        ["call_job_id = 'j', call_status = 'Cancelled', updated_time = NOW()"],
        False,
    ),
    "was cancelled after an attempt": (
        ["call_job_id = 'j', call_status = 'Cancelled', call_task_id = 't', updated_time = NOW()"],
        True,
    ),
    "was refused by the platform": (["call_status = 'Failed'"], False),
    "was cancelled before it was sent": (["call_status = 'Cancelled'"], False),
    "waits to be sent": ([NOT_SENT], False),
    "has no row any more": (["DELETE FROM leads_task_list WHERE id = 1"], True),
    "has a row that is another task's now": (["task_id = 3, call_status = 'Failed'"], True),
}


def hand_over(cursor: Cursor, task_id: int) -> None:
    """All rows of the task."""
    task = load(cursor, task_id)
    assert task is not None
    contacts.hand_over(cursor, task, undialled(cursor, task_id, first=1, last=None, limit=1000))


@pytest.mark.parametrize("what", CALLS)
def test_what_counts_as_a_call(cursor: Cursor, what: str) -> None:
    add_rows(cursor, 1, 1)
    add_rows(cursor, 2, 1, first=11)
    hand_over(cursor, 1)
    for change in CALLS[what][0]:
        table = "call_contacts" if change.startswith("claimed_at") else "leads_task_list"
        where = "list_id" if table == "call_contacts" else "id"
        whole = change.startswith(("INSERT", "DELETE"))
        cursor.execute(change if whole else f"UPDATE {table} SET {change} WHERE {where} = 1")
    task = load(cursor, 2)
    assert task is not None
    rows = undialled(cursor, 2, first=1, last=None, limit=10)
    counts = CALLS[what][1]
    assert Gate(task=task, limits=WEEK).left_out(cursor, rows) == ({11: "called_lately"} if counts else {})
    assert Gate(task=task, limits=Limits()).left_out(cursor, rows) == {}
    other = Gate(task=load(cursor, 1) or task, limits=WEEK)
    assert other.left_out(cursor, rows) == {}, "a task's own calls count against it"


def test_the_first_reason_that_holds_is_told() -> None:
    limits = Limits(not_called_within=7, at_most=2, in_days=30)
    known = Known(opted_out=True, lately=1, often=2)
    assert reason("", known, limits) == "no_number"
    assert reason("+86", known, limits) == "opted_out"
    assert reason("+86", Known(lately=1, often=2), limits) == "called_lately"
    assert reason("+86", Known(often=2), limits) == "called_often"
    assert reason("+86", Known(often=1), limits) == ""
    assert reason("+86", Known(lately=9, often=9), Limits()) == ""


# --- statements -------------------------------------------------------------------------------------------------------


class Noting:
    """A cursor that notes what it is asked."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.said: list[str] = []

    def execute(self, statement: str, values: Any = None) -> Any:
        self.said.append(statement)
        return self._cursor.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def about(self, table: str) -> int:
        return sum(table in statement for statement in self.said)


def claimed(cursor: Cursor, task_id: int) -> tuple[Claimed, Noting]:
    noting: Any = Noting(cursor)
    cursor.execute("START TRANSACTION")
    found = claim(noting, task_id, f"g{task_id}", grace=0, ripe=[], reading=None, list_first=False)
    cursor.execute("COMMIT")
    return found, noting


def say_no(cursor: Cursor, numbers: range) -> None:
    cursor.executemany(
        "INSERT INTO call_opt_outs (organization_id, phone, source, evidence, created_at)"
        " VALUES ('o', %s, 'person', '', UTC_TIMESTAMP(6))",
        [(f"+86{phone(number)}",) for number in numbers],
    )


def test_the_gate_is_two_statements_for_all_batches_of_a_step(cursor: Cursor) -> None:
    rows = BATCHES_AT_ONCE * CONTACTS_A_CALL
    add_rows(cursor, 1, rows + 400)
    found, plain = claimed(cursor, 1)
    assert len(found.claims) == BATCHES_AT_ONCE and found.more
    assert (plain.about("call_opt_outs"), plain.about("call_contacts")) == (2, 3)
    add_rows(cursor, 2, rows, first=5001)
    say_no(cursor, range(1, 301))
    cursor.execute(
        "INSERT INTO call_task_options (task_id, create_time, options)"
        ' VALUES (2, \'2026-01-01\', \'{"not_called_within": 7, "at_most": 3, "in_days": 30}\')'
    )
    found, asked = claimed(cursor, 2)
    assert found.suppressed == {"opted_out": 300, "called_lately": rows - 300} and not found.claims
    assert asked.about("call_opt_outs") == 2
    for statement in (one for one in (*plain.said, *asked.said) if "call_opt_outs" in one):
        # From 1,000 on MariaDB takes a list for a subquery.
        assert max(map(len, re.findall(r"IN \(([^()]*)\)", statement))) < 1000 * len("%s, ")


def test_what_the_gate_reads_does_not_grow_with_the_batches_of_other_campaigns(cursor: Cursor) -> None:
    people = 100
    add_rows(cursor, 1, people)
    add_rows(cursor, 2, people, first=5001)
    hand_over(cursor, 1)
    cursor.executemany(
        "INSERT INTO call_dispatches (task_id, job_group_id, first_id, last_id, attempted_at, accepted_at)"
        " VALUES (1, 'g1', %s, %s, NOW(), NOW())",
        [(last, last) for last in range(1, 501)],
    )
    task = load(cursor, 2)
    assert task is not None
    rows = undialled(cursor, 2, first=1, last=None, limit=people)
    read = -rows_read(cursor)
    assert len(Gate(task=task, limits=WEEK).left_out(cursor, rows)) == people
    assert read + rows_read(cursor) < 10 * people


def rows_read(cursor: Cursor) -> int:
    cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
    return sum(int(row[1]) for row in cursor.fetchall())


def test_many_in_a_row_who_said_no_are_left_out_in_a_few_steps(cursor: Cursor) -> None:
    rows = BATCHES_AT_ONCE * CONTACTS_A_CALL
    add_rows(cursor, 1, 6 * rows + 10)
    say_no(cursor, range(1, 6 * rows + 1))
    first, _ = claimed(cursor, 1)
    assert first.more and not first.claims and first.suppressed == {"opted_out": 5 * rows}
    second, _ = claimed(cursor, 1)
    assert not second.more and [len(one.rows) for one in second.claims] == [10]
    assert second.suppressed == {"opted_out": rows}


def test_halves_of_a_batch_that_was_refused_pass_the_gate_too(cursor: Cursor) -> None:
    add_rows(cursor, 1, 10)
    found, _ = claimed(cursor, 1)
    (batch,) = found.claims
    say_no(cursor, range(4, 8))
    cursor.execute("START TRANSACTION")
    halves, suppressed = renew(cursor, 1, "g1", batch, [batch.rows[:5], batch.rows[5:]])
    cursor.execute("COMMIT")
    assert [[row.id for row in half.rows] for half in halves] == [[1, 2, 3], [8, 9, 10]]
    assert suppressed == {"opted_out": 4}
    say_no(cursor, range(1, 4))
    cursor.execute("START TRANSACTION")
    gone, _ = renew(cursor, 1, "g1", halves[0], [halves[0].rows])
    cursor.execute("COMMIT")
    assert gone == []


def test_who_is_with_the_platform_already_is_not_left_out(cursor: Cursor) -> None:
    add_rows(cursor, 1, 4)
    found, _ = claimed(cursor, 1)
    cursor.execute("UPDATE call_dispatches SET attempted_at = attempted_at - INTERVAL 1 HOUR")
    say_no(cursor, range(2, 4))
    held = GroupReading(jobs=[IdentifiedJob(job_id="j2", reference_id="1-2", phone=phone(2))], error="")
    ripe = [one.id for one in found.claims]
    cursor.execute("START TRANSACTION")
    again = claim(cursor, 1, "g1", grace=0, ripe=ripe, reading=held, list_first=False)
    cursor.execute("COMMIT")
    assert sorted(row.id for one in again.claims for row in one.rows) == [1, 4]
    assert again.suppressed == {"opted_out": 1}
    cursor.execute("SELECT id FROM leads_task_list WHERE call_status = 'Cancelled'")
    assert [int(row[0]) for row in cursor.fetchall()] == [3]


def test_who_was_left_out_and_has_a_job_all_the_same_is_withdrawn(cursor: Cursor) -> None:
    """The answer was lost, and the platform listed the jobs only after the rows were to be sent again."""
    add_rows(cursor, 1, 4)
    found, _ = claimed(cursor, 1)
    cursor.execute("UPDATE call_dispatches SET attempted_at = attempted_at - INTERVAL 1 HOUR")
    say_no(cursor, range(2, 4))
    cursor.execute("START TRANSACTION")
    ripe = [one.id for one in found.claims]
    claim(cursor, 1, "g1", grace=0, ripe=ripe, reading=GroupReading(jobs=[], error=""), list_first=False)
    cursor.execute("COMMIT")
    cursor.execute("UPDATE leads_task_list SET call_status = 'Cancelled' WHERE id = 4")
    assert suppressions.count(cursor, 1) == {"opted_out": 2} and withdrawals.waiting(cursor) == []
    cursor.execute("UPDATE call_opt_outs SET noticed_at = NOW(), withdrawn_at = NOW()")
    assert jobs.save_jobs(cursor, [1], [(2, "j2"), (4, "j4")]) == [(2, "j2"), (4, "j4")]
    cursor.execute("SELECT id, call_status FROM leads_task_list WHERE id > 1")
    assert list(cursor.fetchall()) == [(2, None), (3, "Cancelled"), (4, "Cancelled")]
    assert suppressions.count(cursor, 1) == {"opted_out": 1}
    assert [(one.list_id, one.job_id) for one in withdrawals.waiting(cursor)] == [(2, "j2")]


def test_a_database_that_keeps_no_status_calls_nobody_of_them_either(cursor: Cursor) -> None:
    add_rows(cursor, 1, 5)
    say_no(cursor, range(2, 4))
    cursor.execute(
        "CREATE TRIGGER stay BEFORE UPDATE ON leads_task_list FOR EACH ROW IF OLD.id = 2 THEN"
        " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
    )
    found, _ = claimed(cursor, 1)
    assert [row.id for one in found.claims for row in one.rows] == [1, 4, 5]
    assert found.suppressed == {"opted_out": 1}


# --- a dry run --------------------------------------------------------------------------------------------------------


async def test_a_dry_run_says_what_the_run_then_does(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    site.add_leads(60)
    site.sql("UPDATE dcc_leads SET leads_user_phone = '无' WHERE leads_id IN (4, 5)")
    site.sql("UPDATE dcc_leads SET leads_user_phone = %s WHERE leads_id = 6", phone(5))
    lately = QUICK.model_copy(update={"not_called_within": 7})
    async with site.working():
        await site.run(await site.create_task(list(range(1, 21))))
        opt_out(site, *range(18, 26))
        task_id = await site.create_task()
        columns = "task_id, leads_id, leads_name, leads_phone, call_time, call_job_id, reference_id"
        site.sql(
            f"INSERT INTO leads_task_list ({columns}) SELECT {columns} FROM leads_task_list"
            " WHERE leads_id IN (5, 30) AND task_id = %s",
            task_id,
        )
        before, runs, requests = site.everything(), await site.runs(), site.stats()["calls"]
        async with site.calls() as calls:
            said = await calls.dry_run(task_id, lately)
            assert (await calls.dry_run(task_id)).by_reason == {"opted_out": 8, "no_number": 3}
        assert site.everything() == before and await site.runs() == runs and site.stats()["calls"] == requests
        assert str(said) == ("62 leads, 26 not called: 8 opted out, 15 called within 7 days, 3 no number; 1 repeated")
        assert (said.to_call, said.repeated, said.begun, said.phase) == (35, 1, 0, "")
        assert said.left_out["opted_out"] == [str(n) for n in range(18, 26)] and said.left_out["no_number"][0] == "4"
        result = await site.run(task_id, lately)
        assert result["suppressed_by_reason"] == said.by_reason
        assert result["called"] == said.to_call
        async with site.calls() as calls:
            after = await calls.dry_run(task_id, lately)
    assert (after.to_call, after.by_reason, after.begun) == (0, said.by_reason, 36)
    assert str(after).endswith("; 36 handed over already, or over")


async def test_a_dry_run_of_a_task_that_is_running_says_how_it_stands(sites: Sites) -> None:
    site = await sites(SimulatorOptions(seconds_per_call=3600))
    site.add_leads(5)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, called=5)
        said = await calls.dry_run(task_id)
        assert (said.to_call, said.begun, said.phase) == (0, 5, "calling")
        assert str(said) == "5 leads, 0 not called; 5 handed over already, or over; it is running: calling"
        await site.handle(task_id).terminate()


def test_a_dry_run_of_many_leads_goes_in_pieces_and_only_reads(cursor: Cursor) -> None:
    cursor.execute("UPDATE call_tasks SET job_group_id = NULL")
    add_rows(cursor, 1, 4_500)
    say_no(cursor, range(1, 2_001))
    task = load(cursor, 1)
    assert task is not None
    noting: Any = Noting(cursor)
    said = rehearse(noting, task, Options())
    assert (said.to_call, said.by_reason) == (2_500, {"opted_out": 2_000})
    assert len(said.left_out["opted_out"]) == 1_000
    assert len(noting.said) < 20 and not [one for one in noting.said if not one.startswith("SELECT")]

"""A job goes to one row in the whole table, however phones and references are stored and whoever else is at it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymysql.cursors import Cursor

from activities.job_ids import match_all, match_by_reference
from calltasks.database.connection import Database
from calltasks.database.tables import jobs as table
from calltasks.database.tables import tasks as task_table
from calltasks.rules.pairing import IdentifiedJob
from calltasks.settings import DatabaseSettings, load
from simulators import Contact
from tests.comparison import assert_finished
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, eventually, phone

PATIENT = QUICK.model_copy(update={"match_grace": 3600})
INDIFFERENT = "ALTER TABLE leads_task_list CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
"""To these columns letter case and blanks at the end are nothing; to MySQL's own default the blanks are something."""


def stored(number: str) -> list[str]:
    """A number in the ways that people store it."""
    around = ["+86 {}", "+86{}", "86{}", "0086-{}", "0{}", "{}.0", "{}\n", "\t{} ", "\u202a{}\u202c", "'{}", "（{}）"]
    around += ["{}\u00a0", "张三 {}", "{}（妻）", "17951{}", "{}/010-12345678"]
    return [
        *(one.format(number) for one in around),
        f"{number[:3]}-{number[3:7]}-{number[7:]}",
        f"{number[:3]} {number[3:7]} {number[7:]}",
        f"{number[:3]}\u200b{number[3:]}",
        "".join(chr(ord(digit) + 0xFEE0) for digit in number),
    ]


WAYS = len(stored(phone(1)))


def share_group(site: Site, task_id: int) -> int:
    """Another task of the same job group."""
    group = site.task(task_id)["job_group_id"]
    site.insert(
        "call_tasks",
        [{"task_name": "old", "organization_id": ORGANIZATION, "task_type": 2, "job_group_id": group}],
    )
    return int(site.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"])


def add_row(
    site: Site, task_id: int, lead: Any, number: str | None, reference: str | None = None, job: str = ""
) -> None:
    site.insert(
        "leads_task_list",
        [{"task_id": task_id, "leads_id": lead, "leads_phone": number, "reference_id": reference, "call_job_id": job}],
    )


def held(site: Site, task_id: int) -> list[str]:
    return [row["call_job_id"] or "" for row in site.rows(task_id)]


def job(job_id: str, reference: str = "", number: str = "") -> IdentifiedJob:
    return IdentifiedJob(job_id=job_id, reference_id=reference, phone=number)


@pytest.fixture
async def databases(sites: Sites) -> AsyncIterator[tuple[Site, Database, Database]]:
    """A site without a worker, and its database as two workers have it."""
    site = await sites()
    site.enter_environment()
    both = Database(load(DatabaseSettings)), Database(load(DatabaseSettings))
    try:
        yield site, *both
    finally:
        for database in both:
            database.close()


async def test_phones_as_people_store_them_are_matched_without_a_reference(sites: Sites) -> None:
    site = await sites()
    rows: list[dict[str, Any]] = [
        {"leads_id": n, "leads_phone": stored(phone(n))[n - 1], "reference_id": None if n % 2 else ""}
        for n in range(1, WAYS + 1)
    ]
    # The platform's own spelling differs too; two rows have one number; an extension is no number, but the same text.
    contacts = [Contact(phone=stored(phone(n))[-n]) for n in range(1, WAYS + 1)]
    rows += [{"leads_id": n, "leads_phone": number} for n, number in ((50, "+86 13900000050"), (51, "13900000050.0"))]
    rows.append({"leads_id": 60, "leads_phone": " 8001"})
    contacts += [Contact(phone=phone(50)), Contact(phone="１３９０００００050"), Contact(phone="8001")]
    task_id = site.old_task(rows, contacts)
    async with site.working():
        result = await site.run(task_id)
    assert (result["outcome"], result["called"], result["unmatched"]) == ("complete", WAYS + 3, 0)
    jobs = [one["job_id"] for one in site.truth(task_id)]
    assert held(site, task_id)[:WAYS] == jobs[:WAYS]
    assert sorted(held(site, task_id)[WAYS : WAYS + 2]) == sorted(jobs[WAYS : WAYS + 2])
    assert held(site, task_id)[-1] == jobs[-1]
    assert_finished(site, task_id, result)


async def test_a_row_with_no_number_and_no_reference_holds_nothing_up(sites: Sites) -> None:
    site = await sites()
    rows: list[dict[str, Any]] = [
        {"leads_id": n, "leads_phone": number, "reference_id": ""}
        for n, number in enumerate(["无", "\n", "-", None], 1)
    ]
    rows += [{"leads_id": 10, "leads_phone": "无", "reference_id": "r10"}, {"leads_id": 11, "leads_phone": phone(11)}]
    task_id = site.old_task(rows, [Contact(phone="", reference="r10"), Contact(phone="+86 13900000011")])
    async with site.working():
        # Nobody waits for the hour of grace, nor are they said to have failed: they were never called.
        result = await site.run(task_id, PATIENT)
    assert (result["outcome"], result["called"], result["unmatched"]) == ("complete", 2, 4)
    assert [row["call_status"] for row in site.rows(task_id)][:4] == [None] * 4
    assert_finished(site, task_id, result)


@pytest.mark.parametrize(
    "type_",
    [
        *("BIGINT", "TEXT", "VARCHAR(32) CHARACTER SET latin1", "VARCHAR(32) CHARACTER SET gbk"),
        "VARCHAR(32) COLLATE utf8mb4_bin",
    ],
)
async def test_what_can_be_matched_is_known_whatever_the_column_is(
    databases: tuple[Site, Database, Database], type_: str
) -> None:
    site, database, _ = databases
    task_id = site.old_task([])
    site.sql("DROP INDEX idx_task_phone ON leads_task_list")
    site.sql(f"ALTER TABLE leads_task_list MODIFY leads_phone {type_} NULL")
    for n, number in enumerate([phone(1), None, "", "-"] if type_ != "BIGINT" else [phone(1), None], 1):
        add_row(site, task_id, n, number)
    standing = await database.run(task_table.standing, task_id)
    assert sum(group.count for group in standing if group.matchable) == 1
    assert await database.run(table.any_to_fail, task_id)
    assert await database.run(table.fail_unmatched, task_id) == (1, 0)
    assert [row["call_status"] for row in site.rows(task_id)][:2] == ["Failed", None]
    saved = (await database.run(match_all, task_id, [job("a", number="+86 139-0000-0001")]))[1]
    assert [job_id for _, job_id in saved] == ["a"] and site.rows(task_id)[0]["call_status"] is None


async def test_between_equal_references_of_two_tasks_in_one_group_the_phone_decides(sites: Sites) -> None:
    """Task 1, organisation 11, lead 1 and task 11, organisation 1, lead 1: both are `1111`."""
    site = await sites()
    contacts = [Contact(phone=f"+86 {phone(n)}", reference="1111") for n in (2, 1)]
    contacts += [Contact(phone=phone(n), reference="2222") for n in (4,)]
    first = site.old_task([], contacts)
    second = share_group(site, first)
    for task_id, number in ((first, 1), (second, 2)):
        add_row(site, task_id, 1, f"{phone(number)}\n", "1111")
    for task_id, number in ((first, 3), (second, 4)):
        # Of these the platform has the second's job alone.
        add_row(site, task_id, 2, phone(number), "2222")
    jobs = {one["phone"]: one["job_id"] for one in site.truth(first)}
    async with site.working():
        results = await asyncio.gather(site.run(first), site.run(second))
    assert held(site, first) == [jobs[f"+86 {phone(1)}"], ""]
    assert held(site, second) == [jobs[f"+86 {phone(2)}"], jobs[phone(4)]]
    assert [result["called"] for result in results] == [1, 2]
    assert site.rows(first)[1]["call_status"] == "Failed"


async def test_a_job_that_a_row_has_is_free_again_when_the_row_or_its_task_is_gone(
    databases: tuple[Site, Database, Database],
) -> None:
    site, database, _ = databases
    site.sql(INDIFFERENT)
    task_id = site.old_task([])
    other = site.old_task([])
    add_row(site, task_id, 1, phone(1))
    add_row(site, other, 1, phone(9), "elsewhere", "JOB-1 ")
    listed = [job("job-1", "", phone(1))]
    for gone in (None, "UPDATE leads_task_list SET call_job_id = 'x' WHERE task_id = %s", "DELETE FROM leads_task_list"
                 " WHERE task_id = %s", "DELETE FROM call_tasks WHERE id = %s"):  # fmt: skip
        if gone:
            site.sql(gone, other)
        await database.run(match_all, task_id, listed)
        assert held(site, task_id) == ["job-1" if gone else ""], gone
        site.sql("UPDATE leads_task_list SET call_job_id = '' WHERE task_id = %s", task_id)
        site.sql("DELETE FROM leads_task_list WHERE task_id = %s", other)
        add_row(site, other, 1, phone(9), "elsewhere", "job-1")


async def test_a_job_is_given_away_once_whoever_else_gives_jobs_away_at_the_same_time(
    databases: tuple[Site, Database, Database],
) -> None:
    """Another worker has given the job to a row of another task and not committed yet: this one waits for it."""
    site, database, _ = databases
    first = site.old_task([])
    second = share_group(site, first)
    add_row(site, first, 1, phone(1))
    add_row(site, second, 1, phone(1))
    rows = [site.rows(task_id)[0]["id"] for task_id in (first, second)]
    with site.connection.cursor(Cursor) as cursor:
        cursor.execute("START TRANSACTION")
        assert table.claim_jobs(cursor, [first, second], [(rows[0], "job-1")]) == [(rows[0], "job-1")]
        late = asyncio.create_task(database.run(match_all, second, [job("job-1", "", phone(1))]))

        async def waits() -> bool:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
            row = cursor.fetchone()
            assert row is not None
            assert not late.done()
            return int(row[1]) > 0

        await eventually(waits, 8)
        cursor.execute("COMMIT")
    found, saved = await late
    assert len(found.pairs) == 1 and saved == []
    assert (held(site, first), held(site, second)) == (["job-1"], [""])


async def test_tasks_of_one_group_that_match_at_once_share_its_jobs(
    databases: tuple[Site, Database, Database],
) -> None:
    site, *both = databases
    first = site.old_task([])
    tasks = [first, *(share_group(site, first) for _ in range(3))]
    for task_id in tasks:
        for n in range(1, 301):
            add_row(site, task_id, n, phone(1), "same" if n % 3 == 0 else "")
    listed = [job(f"j{n:04}", "same" if n % 5 == 0 else "", f"+86 {phone(1)}") for n in range(1200)]

    async def match(task_id: int, database: Database) -> None:
        while True:
            found, saved = await database.run(match_all, task_id, listed)
            if len(saved) == len(found.pairs):
                return

    await asyncio.gather(*(match(task_id, both[n % 2]) for n, task_id in enumerate(tasks)))
    jobs = Counter(job_id for task_id in tasks for job_id in held(site, task_id) if job_id)
    assert max(jobs.values()) == 1
    assert len(jobs) == 1200


async def test_some_pages_do_not_give_a_row_a_job_that_its_own_on_a_later_page_would_prove_wrong(sites: Sites) -> None:
    """Pages are read in pieces of ten; the row's own job is on the eleventh."""
    site = await sites()
    contacts = [Contact(phone=phone(9), reference="twice")]
    contacts += [Contact(phone=phone(n), reference=f"stranger-{n}") for n in range(1000, 2000)]
    contacts += [Contact(phone=f"86{phone(1)}", reference="twice")]
    task_id = site.old_task([{"leads_id": 1, "leads_phone": phone(1), "reference_id": "twice"}], contacts)
    async with site.working():
        result = await site.run(task_id, PATIENT)
    assert held(site, task_id) == [site.truth(task_id)[-1]["job_id"]]
    assert (result["outcome"], result["called"]) == ("complete", 1)


async def test_one_more_job_of_a_lead_is_not_given_to_somebody_else(sites: Sites) -> None:
    site = await sites()
    contacts = [Contact(phone=phone(1), reference="r1"), Contact(phone=phone(1), reference="r1")]
    rows = [{"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"}, {"leads_id": 2, "leads_phone": phone(1)}]
    task_id = site.old_task(rows, contacts)
    async with site.working():
        result = await site.run(task_id)
    assert held(site, task_id)[0] in {one["job_id"] for one in site.truth(task_id)} and held(site, task_id)[1] == ""
    assert (result["called"], result["unmatched"], site.rows(task_id)[1]["call_status"]) == (1, 1, "Failed")


async def test_a_job_with_several_contacts_is_the_rows_that_any_of_them_is(sites: Sites) -> None:
    site = await sites()
    contacts = [
        Contact(phone=phone(81), reference="x1", others=(Contact(phone=phone(1), reference="r1"),)),
        Contact(phone=phone(82), others=(Contact(phone="010-12345678"), Contact(phone=f"+86 {phone(2)}"))),
        Contact(phone=phone(83), reference="stranger", others=(Contact(phone=phone(84)),)),
    ]
    rows = [
        {"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"},
        {"leads_id": 2, "leads_phone": phone(2)},
        {"leads_id": 3, "leads_phone": phone(3)},
    ]
    task_id = site.old_task(rows, contacts)
    async with site.working():
        result = await site.run(task_id)
    jobs = [one["job_id"] for one in site.truth(task_id)]
    assert held(site, task_id) == [jobs[0], jobs[1], ""]
    assert (result["called"], result["unmatched"]) == (2, 1)


async def test_references_are_told_apart_where_the_database_does_not(
    databases: tuple[Site, Database, Database],
) -> None:
    """To a `_ci` collation `r1` is `R1`, to most `r1` is `r1 `, and a number is whatever text begins with it."""
    site, database, _ = databases
    task_id = site.old_task([])
    site.sql("ALTER TABLE leads_task_list MODIFY leads_id VARCHAR(40) NOT NULL")
    site.sql(INDIFFERENT)
    old = f"task_{task_id}_lead_"
    add_row(site, task_id, "1", phone(1), "r1")
    add_row(site, task_id, "2", phone(2), "R1 ")
    for lead in ("7", "7x", "ab", "AB", "007", "张三"):
        add_row(site, task_id, lead, "")
    references = ["R1", "r1", "é1", *(f"{old}{lead}" for lead in ("AB", "7x", "007", "ab", "7", "张三", "8"))]
    listed = [job(f"j{n}", reference) for n, reference in enumerate(references)]
    saved, left_over = await database.run(match_by_reference, task_id, listed)
    assert held(site, task_id) == ["j1", "j0", "j7", "j4", "j6", "j3", "j5", "j8"]
    assert (len(saved), left_over) == (8, 2)


async def test_a_reference_is_found_whatever_blanks_the_column_keeps(
    databases: tuple[Site, Database, Database],
) -> None:
    site, database, _ = databases
    task_id = site.old_task([])
    for n, reference in enumerate(("r1 ", " r2", "\tr3\n"), 1):
        add_row(site, task_id, n, phone(n), reference)
    listed = [job(f"j{n}", f"r{n}", phone(50)) for n in (1, 2, 3)]
    await database.run(match_all, task_id, listed)
    assert held(site, task_id) == ["j1", "j2", "j3"]


async def test_leads_without_references_are_a_few_statements(
    databases: tuple[Site, Database, Database],
) -> None:
    site, database, _ = databases
    task_id = site.old_task([])
    site.insert(
        "leads_task_list",
        [{"task_id": task_id, "leads_id": n, "leads_phone": f"+86 {phone(n)}"} for n in range(1, 20_001)],
    )
    listed = [job(f"job-{n}", "", phone(n)) for n in range(1, 20_001, 20)]
    await database.prepare()
    before = site.questions()
    _, saved = await database.run(match_all, task_id, listed)
    assert len(saved) == 1000
    assert site.questions() - before < 25

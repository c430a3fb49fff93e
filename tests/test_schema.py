"""Whatever the CRM's columns are: a worker works rightly with them, or refuses in one line (docs/operations.md)."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr

from calltasks.database import schema
from calltasks.database.columns import CODECS, Column
from calltasks.database.connection import Database
from calltasks.database.crm import NEEDS
from calltasks.database.tables import tasks
from calltasks.errors import SchemaError, UnknownLeadsError
from calltasks.rules.judgement import render
from calltasks.settings import DatabaseSettings
from calltasks.transcripts import OMITTED, length, transcript, turns_of
from devstack.mariadb import EmbeddedMariaDB
from simulators import Contact, SimulatorOptions
from tests.pipeline import ORGANIZATION, Site, Sites, assert_finished, lead, phone

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 20, 10, 0)
PAGE = (Path(__file__).resolve().parent.parent / "docs/operations.md").read_text("utf-8")

LIST, FOLLOW = "ALTER TABLE leads_task_list ", "ALTER TABLE dcc_leads_follow "

# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = {
    LIST + "MODIFY call_conversation VARCHAR(255)": (
        "leads_task_list.call_conversation is VARCHAR(255), too short for what is written; it must hold 2000 characters"
    ),
    LIST + "MODIFY call_conversation BLOB": (
        "leads_task_list.call_conversation is BLOB; it must be MEDIUMTEXT, TEXT or JSON"
    ),
    LIST + "MODIFY call_conversation TEXT CHARACTER SET ascii": (
        "leads_task_list.call_conversation is in ascii, which has no Chinese; convert it to utf8mb4"
    ),
    FOLLOW + "MODIFY leads_remark VARCHAR(60)": (
        "dcc_leads_follow.leads_remark is VARCHAR(60), too short for what is written; it must hold 80 characters"
    ),
    FOLLOW + "MODIFY leads_remark TEXT CHARACTER SET latin1": (
        "dcc_leads_follow.leads_remark is in latin1, which has no Chinese; convert it to utf8mb4"
    ),
    FOLLOW + "MODIFY leads_remark TEXT CHARACTER SET koi8r": (
        "dcc_leads_follow.leads_remark is in koi8r, which has no Chinese; convert it to utf8mb4"
    ),
    LIST + "MODIFY call_status VARCHAR(5)": (
        "leads_task_list.call_status is VARCHAR(5), too short for what is written; it must hold 9 characters"
    ),
    LIST + "MODIFY call_status ENUM('Succeeded', 'Failed')": (
        "leads_task_list.call_status is ENUM; it must know Cancelled"
    ),
    LIST + "MODIFY call_status VARCHAR(32) NOT NULL": (
        "leads_task_list.call_status is NOT NULL, but may be empty; let it be NULL"
    ),
    LIST + "MODIFY call_status INT": "leads_task_list.call_status is INT; it must be VARCHAR or ENUM",
    LIST + "MODIFY is_interested ENUM('yes', 'no')": "leads_task_list.is_interested is ENUM; it must know 0, 1, 2",
    LIST
    + "MODIFY is_interested BIT(2)": "leads_task_list.is_interested is BIT; it must be an integer, VARCHAR or ENUM",
    LIST + "DROP COLUMN is_interested, ADD COLUMN is_interested INT GENERATED ALWAYS AS (task_id) VIRTUAL": (
        "leads_task_list.is_interested is generated, but is written; make it a plain column"
    ),
    "ALTER TABLE call_tasks MODIFY task_type ENUM('new', 'done')": (
        "call_tasks.task_type is ENUM; it must know 1, 2, 3, 4"
    ),
    "ALTER TABLE call_tasks MODIFY job_group_id VARCHAR(32)": (
        "call_tasks.job_group_id is VARCHAR(32), too short for what is written; it must hold 36 characters"
    ),
    LIST + "MODIFY call_job_id VARCHAR(32)": (
        "leads_task_list.call_job_id is VARCHAR(32), too short for what is written; it must hold 36 characters"
    ),
    LIST + "MODIFY recording_url VARCHAR(20)": (
        "leads_task_list.recording_url is VARCHAR(20), too short for what is written; it must hold 64 characters"
    ),
    LIST + "MODIFY leads_follow_id VARCHAR(4)": (
        "leads_task_list.leads_follow_id is VARCHAR(4), too short for what is written; it must hold 10 characters"
    ),
    LIST + "MODIFY updated_time DATE": "leads_task_list.updated_time is DATE; it must be DATETIME or TIMESTAMP",
    LIST + "MODIFY call_time VARCHAR(20)": "leads_task_list.call_time is VARCHAR(20); it must be DATETIME or TIMESTAMP",
    FOLLOW + "MODIFY next_follow_time DATETIME NOT NULL": (
        "dcc_leads_follow.next_follow_time is NOT NULL, but may be empty; let it be NULL"
    ),
    LIST + "MODIFY id VARCHAR(36) NOT NULL": "leads_task_list.id is VARCHAR(36); it must be INT or BIGINT",
    LIST
    + "MODIFY leads_follow_id DOUBLE": "leads_task_list.leads_follow_id is DOUBLE; it must be INT, BIGINT or VARCHAR",
    LIST + "MODIFY leads_id VARCHAR(32) NOT NULL": (
        "dcc_leads_follow.leads_id is BIGINT, leads_task_list.leads_id VARCHAR(32); make both the same"
    ),
    FOLLOW + "MODIFY id BIGINT NOT NULL": "dcc_leads_follow.id is not AUTO_INCREMENT; make it so",
    FOLLOW + "ADD COLUMN dealer INT NOT NULL": (
        "dcc_leads_follow.dealer is NOT NULL without a default, and nobody gives it a value; give it one"
    ),
    FOLLOW + "ADD UNIQUE KEY one_each (leads_id)": (
        "dcc_leads_follow has a unique key one_each on leads_id, whose values repeat; make it a plain one"
    ),
    LIST + "ADD UNIQUE KEY odd (task_id, call_status)": (
        "leads_task_list has a unique key odd on task_id, call_status, whose values repeat; make it a plain one"
    ),
    LIST + "ENGINE = MyISAM": "leads_task_list must be InnoDB tables: follow-ups are written in transactions",
    "RENAME TABLE dcc_leads_follow TO follows; CREATE VIEW dcc_leads_follow AS SELECT * FROM follows": (
        "dcc_leads_follow must be tables, not views: rows are locked in them"
    ),
    "DROP TABLE call_retries": (
        "no table call_retries, or no right to see it; create what is missing with: starter.py init-db"
    ),
    LIST + "DROP COLUMN planed_time": (
        "no column leads_task_list.planed_time; these tables are not those of the CRM (docs/rules.md, 15), or there is"
        " no right to see it"
    ),
    "DELETE FROM call_schema": (
        "our own tables are older than this program; bring them up to date with: starter.py init-db"
    ),
    "INSERT INTO call_schema VALUES (7, '2026-11-01')": (
        "our tables are of version 7, and this program knows 1; run the newer program"
    ),
}
"""One change of the CRM's tables, and the line with which a worker does not start."""
NOT_CREATED = {
    LIST + "ADD COLUMN dealer INT NOT NULL": (
        "leads_task_list.dealer is NOT NULL without a default, and nobody gives it a value; give it one"
    ),
    LIST + "MODIFY id BIGINT NOT NULL": "leads_task_list.id is not AUTO_INCREMENT; make it so",
    LIST + "ADD UNIQUE KEY once (leads_id)": (
        "leads_task_list has a unique key once on leads_id, whose values repeat; make it a plain one"
    ),
    LIST + "MODIFY call_job_id VARCHAR(64) NOT NULL DEFAULT '', ADD UNIQUE KEY job (call_job_id)": (
        "leads_task_list.call_job_id is NOT NULL and in the unique key job, but rows wait without one; let it be NULL"
    ),
    LIST + "MODIFY leads_name VARCHAR(50) CHARACTER SET latin1": (
        "leads_task_list.leads_name is in latin1, which has no Chinese; convert it to utf8mb4"
    ),
    LIST + "MODIFY planed_time DATETIME NOT NULL": (
        "leads_task_list.planed_time is NOT NULL without a default, and nobody gives it a value; give it one"
    ),
    LIST + "MODIFY leads_phone VARCHAR(8)": (
        "leads_task_list.leads_phone is VARCHAR(8), too short for what is written; it must hold 11 characters"
    ),
    LIST + "MODIFY reference_id VARCHAR(12)": (
        "leads_task_list.reference_id is VARCHAR(12), too short for what is written; it must hold 20 characters"
    ),
    "ALTER TABLE call_tasks ADD COLUMN owner VARCHAR(20) NOT NULL": (
        "call_tasks.owner is NOT NULL without a default, and nobody gives it a value; give it one"
    ),
}
"""The same, with which no task is created; campaigns that other programs create are worked on."""
NO_SUMMER_TIME = (
    "leads_task_list.call_time is TIMESTAMP, and the server does not know TIME_ZONE Europe/Berlin with its summer time;"
    " load its time zone tables (mysql_tzinfo_to_sql), or make it DATETIME"
)
REFERENCE = "leads_task_list.reference_id does not hold the reference of a row; it must hold 42 characters"


@pytest.fixture
def opened(database_url: str) -> Iterator[Callable[..., Database]]:
    """``opened()``: the product's own connection to the test's database."""
    made: list[Database] = []

    def connect(**more: Any) -> Database:
        made.append(Database(DatabaseSettings(database_url=SecretStr(database_url), **more)))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def alter(database: Database, changes: str) -> None:
    for statement in changes.split("; "):
        database.run_sync(lambda cursor, text: cursor.execute(text), statement)


def refusal(database: Database) -> str:
    with pytest.raises(SchemaError) as refused:
        database.run_sync(schema.check, database.zone)
    return str(refused.value)


@pytest.mark.parametrize("change", REFUSED)
def test_what_a_worker_cannot_live_with_is_said_in_one_line(opened: Callable[..., Database], change: str) -> None:
    database = opened()
    alter(database, change)
    assert refusal(database) == f"database: {REFUSED[change]}"


@pytest.mark.parametrize("change", NOT_CREATED)
def test_what_no_task_can_be_created_with_stops_nothing_else(opened: Callable[..., Database], change: str) -> None:
    database = opened()
    alter(database, change)
    database.run_sync(schema.check, database.zone)
    with pytest.raises(SchemaError) as refused:
        database.run_sync(schema.creating)
    assert str(refused.value) == f"database: {NOT_CREATED[change]}"


def test_a_server_without_summer_time_is_told_from_one_that_needs_none(opened: Callable[..., Database]) -> None:
    database = opened(time_zone=BERLIN.key)
    database.run_sync(schema.check, BERLIN)
    alter(database, LIST + "MODIFY call_time TIMESTAMP NULL")
    assert refusal(database) == f"database: {NO_SUMMER_TIME}"
    opened().run_sync(schema.check, SHANGHAI)


def test_the_page_has_every_line_of_refusal_and_no_other() -> None:
    said = {*REFUSED.values(), *NOT_CREATED.values(), NO_SUMMER_TIME, REFERENCE}
    table = PAGE.partition("### What the CRM's columns must hold")[2].partition("\n## ")[0]
    written = set(re.findall(r"`database: ([^`]+)`", table))
    assert written - said == set() and said - written == set()


def test_the_page_names_every_column_that_we_know() -> None:
    table = PAGE.partition("### What the CRM's columns must hold")[2].partition("\n## ")[0]
    missing = [f"{name}.{column}" for name, needs in NEEDS.items() for column in needs if f"`{column}`" not in table]
    assert missing == []


# --- what is adapted to -------------------------------------------------------------------------------------------

STAMPED = "TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"
FITTING = {
    "moments": [
        LIST + "MODIFY call_time TIMESTAMP NULL, MODIFY planed_time TIMESTAMP(3) NULL, MODIFY updated_time DATETIME(6)",
        FOLLOW + "MODIFY follow_time TIMESTAMP NULL, MODIFY next_follow_time TIMESTAMP NULL",
        "ALTER TABLE call_tasks MODIFY create_time TIMESTAMP NULL",
    ],
    "on update": [
        LIST + f"MODIFY call_time {STAMPED}, MODIFY planed_time {STAMPED}, MODIFY updated_time {STAMPED}",
        LIST + f"ADD COLUMN modified {STAMPED}",
        FOLLOW + f"MODIFY follow_time {STAMPED}, MODIFY frist_follow_time {STAMPED}, MODIFY next_follow_time {STAMPED}",
        f"ALTER TABLE call_tasks MODIFY create_time {STAMPED}",
    ],
    "text ids": [
        "ALTER TABLE dcc_leads MODIFY leads_id VARCHAR(32) NOT NULL",
        "ALTER TABLE dcc_leads MODIFY organization_id VARCHAR(64) COLLATE utf8mb4_bin",
        LIST + "MODIFY leads_id VARCHAR(32) CHARACTER SET latin1 NOT NULL, MODIFY task_id VARCHAR(20) NOT NULL",
        LIST + "MODIFY leads_follow_id VARCHAR(20) NOT NULL DEFAULT ''",
        FOLLOW + "MODIFY leads_id VARCHAR(32) CHARACTER SET utf8mb3 NOT NULL",
    ],
    "numbers": [
        "ALTER TABLE call_tasks MODIFY id INT UNSIGNED AUTO_INCREMENT, MODIFY task_type TINYINT UNSIGNED",
        "ALTER TABLE dcc_leads MODIFY leads_id INT UNSIGNED, MODIFY leads_user_phone BIGINT",
        LIST + "MODIFY id INT UNSIGNED AUTO_INCREMENT, MODIFY task_id INT UNSIGNED, MODIFY leads_id INT UNSIGNED",
        LIST + "MODIFY leads_follow_id INT UNSIGNED NOT NULL DEFAULT 0, MODIFY is_interested TINYINT",
        FOLLOW + "MODIFY id INT UNSIGNED AUTO_INCREMENT, MODIFY leads_id VARCHAR(32) NOT NULL",
    ],
    "no empty times": [LIST + "MODIFY planed_time DATETIME NOT NULL DEFAULT '2026-01-01 00:00:00'"],
    "labels": [
        "ALTER TABLE call_tasks MODIFY task_type ENUM('4', '3', '2', '1') NOT NULL DEFAULT '1'",
        LIST + "MODIFY call_status ENUM('', 'Executing', 'Cancelled', 'Failed', 'Succeeded') NOT NULL DEFAULT ''",
        LIST + "MODIFY is_interested ENUM('2', '1', '0') NULL",
    ],
    "texts": [
        "ALTER TABLE call_tasks MODIFY task_type VARCHAR(4)",
        LIST + "MODIFY call_status VARCHAR(9) NOT NULL DEFAULT '', MODIFY is_interested VARCHAR(4) NOT NULL DEFAULT ''",
        LIST + "MODIFY call_task_id CHAR(64) NOT NULL DEFAULT '', MODIFY recording_url TEXT NULL",
    ],
    "json": [LIST + "MODIFY call_conversation JSON NULL"],
    "utf8mb3": ["ALTER TABLE {} CONVERT TO CHARACTER SET utf8mb3"],
    "gbk": ["ALTER TABLE {} CONVERT TO CHARACTER SET gbk"],
    "utf16": ["ALTER TABLE {} CONVERT TO CHARACTER SET utf16"],
    "ucs2": ["ALTER TABLE {} CONVERT TO CHARACTER SET ucs2"],
    "before triggers": [
        "CREATE TRIGGER tr BEFORE UPDATE ON leads_task_list FOR EACH ROW SET NEW.leads_name = TRIM(NEW.leads_name)",
        "CREATE TRIGGER said BEFORE INSERT ON dcc_leads_follow FOR EACH ROW SET NEW.leads_id = NEW.leads_id",
    ],
    "Chinese ids in gbk": [
        "ALTER TABLE dcc_leads MODIFY leads_id VARCHAR(32) CHARACTER SET gbk NOT NULL",
        LIST + "MODIFY leads_id VARCHAR(32) CHARACTER SET gbk NOT NULL",
        FOLLOW + "MODIFY leads_id VARCHAR(32) CHARACTER SET gbk NOT NULL",
    ],
    "latin1 codes": [
        LIST
        + "MODIFY call_job_id VARCHAR(64) CHARACTER SET latin1, MODIFY call_status VARCHAR(32) CHARACTER SET ascii",
        LIST + "MODIFY call_task_id VARCHAR(64) CHARACTER SET latin1, MODIFY recording_url TEXT CHARACTER SET ascii",
        LIST
        + "MODIFY reference_id VARCHAR(64) CHARACTER SET latin1, MODIFY leads_phone VARCHAR(32) CHARACTER SET ascii",
    ],
    "collations": [
        "ALTER TABLE call_tasks CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "ALTER TABLE dcc_leads CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_swedish_ci",
        "ALTER TABLE dcc_leads MODIFY leads_id VARCHAR(32)",
        LIST + "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        LIST + "MODIFY leads_id VARCHAR(32) COLLATE utf8mb4_bin",
        FOLLOW + "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci, MODIFY leads_id VARCHAR(32) NOT NULL",
    ],
    "keys": [
        LIST + "ADD UNIQUE KEY job (call_job_id), ADD UNIQUE KEY once (task_id, leads_id)",
        LIST + "ADD FULLTEXT KEY said (leads_name)",
        LIST
        + "ADD COLUMN called_in VARCHAR(7) GENERATED ALWAYS AS (LEFT(call_status, 7)) VIRTUAL, ADD KEY (called_in)",
        LIST + "ADD FOREIGN KEY (leads_id) REFERENCES dcc_leads (leads_id)",
        LIST + "ADD FOREIGN KEY (task_id) REFERENCES call_tasks (id)",
        FOLLOW + "ADD COLUMN dealer INT NOT NULL DEFAULT 7, ADD FOREIGN KEY (leads_id) REFERENCES dcc_leads (leads_id)",
        "ALTER TABLE call_tasks ADD UNIQUE KEY job_group (job_group_id)",
    ],
    "triggers": [
        "CREATE TABLE noted (n BIGINT AUTO_INCREMENT PRIMARY KEY, id BIGINT) AUTO_INCREMENT = 5000",
        "CREATE TRIGGER note AFTER INSERT ON dcc_leads_follow FOR EACH ROW INSERT INTO noted (id) VALUES (NEW.id)",
        "CREATE TRIGGER more AFTER UPDATE ON leads_task_list FOR EACH ROW INSERT INTO noted (id) VALUES (NEW.id)",
    ],
    "partitions": [
        LIST + "DROP PRIMARY KEY, ADD PRIMARY KEY (id, task_id)",
        LIST + "PARTITION BY HASH (task_id) PARTITIONS 4",
        FOLLOW + "PARTITION BY KEY (id) PARTITIONS 3",
    ],
}
"""Changes of the CRM's tables with which a campaign ends as it does with ours."""
TEXT_LEADS = {"text ids": "L-", "collations": "L-", "Chinese ids in gbk": "客-"}
NARROW = ("utf8mb3", "gbk", "ucs2")
NUMBERS = ("id", "task_id", "leads_follow_id", "is_interested", "task_type")


def as_ours(row: dict[str, Any]) -> dict[str, Any]:
    """A row as our own tables would hold it."""
    plain = {name: int(value) if name in NUMBERS and str(value).isdecimal() else value for name, value in row.items()}
    empty = {name: None for name in ("leads_follow_id", "is_interested") if plain.get(name, 1) in ("", 0, None)}
    moments = {name: value.replace(microsecond=0) for name, value in row.items() if hasattr(value, "microsecond")}
    kept = {} if plain.get("is_interested") != 0 else {"is_interested": 0}
    return plain | empty | moments | kept | {"leads_id": str(row.get("leads_id"))}


def see_as_ours(site: Site) -> None:
    """Have the site's tables read by a CRM of the same zone, in our own types."""
    rows, follow_ups, task = site.rows, site.follow_ups, site.task
    site.sql("SET SESSION time_zone = '+08:00'")
    site.rows = lambda task_id: [as_ours(row) for row in rows(task_id)]  # type: ignore[method-assign]
    site.follow_ups = lambda: {id_: as_ours(row) for id_, row in follow_ups().items()}  # type: ignore[method-assign]
    site.task = lambda task_id: as_ours(task(task_id))  # type: ignore[method-assign]


def change(site: Site, statements: list[str]) -> None:
    for statement in statements:
        tables = ("call_tasks", "leads_task_list", "dcc_leads_follow") if "{}" in statement else ("",)
        for table in tables:
            site.sql(statement.format(table))


@pytest.mark.parametrize("name", FITTING)
async def test_a_campaign_in_another_schema_ends_as_in_ours(sites: Sites, name: str) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=0.7))
    change(site, FITTING[name])
    see_as_ours(site)
    for number in range(1, 13):
        who = lead(number)
        who["leads_id"] = f"{TEXT_LEADS[name]}{number:04}" if name in TEXT_LEADS else number
        who["leads_user_name"] = f"客户😀{number}" if name in NARROW else who["leads_user_name"]
        site.insert("dcc_leads", [who])
    async with site.calls() as calls:
        leads = [TEXT_LEADS[name] + number for number in ("0002", "0001")] if name in TEXT_LEADS else None
        task_id = await calls.create_task(ORGANIZATION, "秋季", leads)
    before = {row["id"]: row["call_time"] for row in site.rows(task_id)}
    created = site.task(task_id)["create_time"]
    async with site.working(), site.calls() as calls:
        result = await site.run(task_id)
        assert_finished(site, task_id, result)
        await calls.force_analyze(task_id, every=True)
        again = await calls.analysed_again(task_id, every=0.2)
        page = await calls.query_task_execution(task_id, skip_recording=False)
    assert again["reanalysed"] == result["called"] == len(before) and again["kept_edits"] == 0
    assert page.updated_count == 0
    assert_finished(site, task_id, result)
    assert {row["id"]: row["call_time"] for row in site.rows(task_id)} == before
    assert site.task(task_id)["create_time"] == created
    names = {row["leads_name"] for row in site.rows(task_id)}
    assert name not in NARROW or "客户□1" in names


ASTRAL = (("Robot", "您好"), ("Contact", "好的😀，明天下午三点我来试驾。"))


@pytest.mark.parametrize("charset", ["utf8mb3", "gbk", "utf8mb4"])
async def test_what_a_character_set_lacks_fails_nothing(sites: Sites, charset: str) -> None:
    """In a transcript it is escaped, so that nothing is lost; in what the model says of it it becomes a box."""
    site = await sites(SimulatorOptions(calls_over=True))
    for table in ("leads_task_list", "dcc_leads_follow"):
        site.sql(f"ALTER TABLE {table} CONVERT TO CHARACTER SET {charset}")
    contacts = [Contact(phone=phone(n), reference=f"r{n}", outcome="Succeeded", turns=ASTRAL) for n in (1, 2)]
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in (1, 2)]
    task_id = site.old_task(rows, contacts)
    async with site.working():
        result = await site.run(task_id)
    assert (result["outcome"], result["follow_ups"], result["analysed"]) == ("complete", 2, 2)
    for row in site.rows(task_id):
        assert [turn["Script"] for turn in json.loads(row["call_conversation"])] == [text for _, text in ASTRAL]
    assert all(follow_up["leads_remark"] for follow_up in site.follow_ups().values())


async def test_short_columns_hold_what_matters_and_what_they_cannot_hold_is_said(sites: Sites) -> None:
    """A cut remark is ours still, no edit of a person's; a transcript keeps both its ends; a URL is whole or not."""
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.sql(LIST + "MODIFY call_conversation VARCHAR(2000), MODIFY recording_url VARCHAR(64)")
    site.sql(FOLLOW + "MODIFY leads_remark VARCHAR(80)")
    long = tuple(("Robot" if n % 2 else "Contact", f"第{n}句" + "话" * 60) for n in range(80))
    turns = (*long, ("Contact", "明天下午三点我来试驾。"))
    contacts = [Contact(phone=phone(1), reference="r1", outcome="Succeeded", turns=turns)]
    task_id = site.old_task([{"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"}], contacts)
    async with site.working(), site.calls() as calls:
        result = await site.run(task_id)
        page = await calls.query_task_execution(task_id)
        await calls.force_analyze(task_id, every=True)
        again = await calls.analysed_again(task_id, every=0.2)
    assert (result["outcome"], result["recordings"], result["recordings_missing"]) == ("complete", 0, 1)
    assert re.match(r"leads_task_list.recording_url is too short for a URL of [0-9]+ characters", result["last_error"])
    assert page.updated_count == 0, "what is as good as it can be is not written again"
    kept = json.loads(site.rows(task_id)[0]["call_conversation"])
    assert kept[0]["Script"].startswith("第0句") and kept[-1]["Script"] == turns[-1][1]
    assert sum(turn.get(OMITTED, 1) for turn in kept) == len(turns) > len(kept)
    [follow_up] = site.follow_ups().values()
    assert follow_up["next_follow_time"] is not None, "the appointment stands at the end"
    assert len(follow_up["leads_remark"]) <= 80 and (again["reanalysed"], again["kept_edits"]) == (1, 0)


async def test_a_zero_date_is_none(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    site.sql("SET SESSION sql_mode = ''")
    site.sql(LIST + "MODIFY updated_time DATETIME NULL ON UPDATE CURRENT_TIMESTAMP")
    said = json.dumps([{"Speaker": "Contact", "Script": "明天下午三点我来试驾。"}])
    contacts = [Contact(phone=phone(n), reference=f"r{n}", outcome="Succeeded") for n in (1, 2)]
    group = site.old_task([], contacts)
    held: Any = site.sim.world.find_group(site.task(group)["job_group_id"])
    jobs = [job.id for job in held.jobs]
    for number, (job, when) in enumerate(zip(jobs, ("0000-00-00 00:00:00", "2026-00-00 00:00:00"), strict=True), 1):
        row = {"task_id": group, "leads_id": number, "leads_phone": phone(number), "reference_id": f"r{number}"}
        done = {"call_job_id": job, "call_status": "Succeeded", "call_conversation": said, "updated_time": when}
        site.insert("leads_task_list", [row | done | {"call_time": "2026-11-20 10:00:00"}])
    async with site.working():
        result = await site.run(group)
    assert (result["outcome"], result["analysed"]) == ("complete", 2)
    times = sorted(str(row["next_follow_time"]) for row in site.follow_ups().values())
    assert times[0] == "2026-11-21 15:00:00", "no zero date, but the next best time is that of the call"


@pytest.mark.parametrize(
    ("kind", "empty"), [("JSON", "null"), ("JSON", "[]"), ("LONGTEXT", " null\n"), ("TEXT", "[ ]"), ("TEXT", "{}")]
)
async def test_what_holds_no_turn_is_no_transcript(sites: Sites, kind: str, empty: str) -> None:
    """A column of type JSON has no empty text: such a row waits for its transcript like any other."""
    site = await sites(SimulatorOptions(calls_over=True))
    site.sql(LIST + f"MODIFY call_conversation {kind} NULL")
    task_id = site.old_task([], [Contact(phone=phone(1), reference="r1", outcome="Succeeded", turns=ASTRAL)])
    held: Any = site.sim.world.find_group(site.task(task_id)["job_group_id"])
    row = {"task_id": task_id, "leads_id": 1, "leads_phone": phone(1), "reference_id": "r1", "call_time": NOW}
    done = {"call_job_id": held.jobs[0].id, "call_status": "Succeeded", "call_conversation": empty}
    site.insert("leads_task_list", [row | done])
    async with site.working():
        result = await site.run(task_id)
    assert (result["outcome"], result["analysed"]) == ("complete", 1)
    assert json.loads(site.rows(task_id)[0]["call_conversation"])[1]["Script"] == ASTRAL[1][1]


# --- fitting ------------------------------------------------------------------------------------------------------


def column(kind: str, size: int, charset: str = "utf8mb4", name: str = "leads_remark") -> Column:
    characters, octets = (size, None) if kind == "varchar" else (None, size)
    return Column(table="t", name=name, kind=kind, declared=kind, charset=charset, characters=characters, octets=octets)


def test_a_varchar_counts_characters_and_a_text_bytes() -> None:
    remark = "客" * 400
    assert column("varchar", 500).fit(remark) == remark
    assert column("varchar", 300).fit(remark) == "客" * 299 + "…"
    assert column("text", 1200).fit(remark) == remark
    assert column("text", 300).fit(remark) == "客" * 99 + "…"
    assert column("text", 800, "gbk").fit(remark) == remark
    assert column("varchar", 20).whole("1" * 21) == "" and column("varchar", 20).whole("1" * 20) == "1" * 20


@pytest.mark.parametrize("charset", sorted(CODECS))
def test_what_we_think_a_character_set_has_the_server_has(mariadb: EmbeddedMariaDB, charset: str) -> None:
    """All characters but surrogates and NUL: what is called held is stored and read back as it was."""
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM information_schema.character_sets WHERE character_set_name = %s", (charset,))
        if not cursor.fetchone():
            assert charset in ("utf8", "gb18030"), "an old name, and one that MariaDB does not have"
            return
        one, wrong = column("longtext", 2**32 - 1, charset), []
        for first in (*range(1, 0xD800, 0x400), *range(0xE000, 0x10000, 0x400), 0x1F600, 0x20000):
            text = "".join(c for c in map(chr, range(first, first + 0x400)) if one.clean(c) == c and c != "\r")
            cursor.execute(f"SELECT CONVERT(CONVERT(%s USING {charset}) USING utf8mb4)", (text,))
            found = cursor.fetchone()[0]
            wrong += [(a, b) for a, b in zip(text, found, strict=True) if a != b]
    assert wrong == []


@pytest.mark.parametrize("kind", [("text", 65_535), ("varchar", 2000), ("text", 4000), ("varchar", 300)])
@pytest.mark.parametrize("turns", [190, 3, 1])
def test_a_long_transcript_keeps_both_its_ends_and_stays_json(kind: tuple[str, int], turns: int) -> None:
    class Holding:
        def column(self, _table: str, _name: str) -> Column:
            return column(*kind)

    holding: Any = Holding()
    said = [
        {"Speaker": "Contact" if n % 2 else "Robot", "Script": f"{n}" + "话" * 200, "Timestamp": n}
        for n in range(turns)
    ]
    text = transcript(said, "", holding)
    kept = json.loads(text)
    assert column(*kind).holds(text) and length(kept) == turns
    assert kept[0]["Script"].startswith("0话") and kept[-1]["Timestamp"] == turns - 1
    assert transcript(said, text, holding) == "", "there is nothing new in it"
    assert transcript(said[:-1], text, holding) == "", "nor in one that says less"
    assert ("……" in render(text)) == (len(kept) < turns or any("……" in turn["Script"] for turn in kept))
    assert turns_of(text) == kept


def test_lead_ids_are_compared_as_they_are_written(opened: Callable[..., Database]) -> None:
    """A number column takes "7x" for 7, a text column "l-1" for "L-1"."""
    database = opened()
    alter(database, "ALTER TABLE dcc_leads MODIFY leads_id VARCHAR(32); " + LIST + "MODIFY leads_id VARCHAR(32)")
    alter(
        database, "INSERT INTO dcc_leads (leads_id, organization_id) VALUES ('L-1', 'org'), ('7', 'org'), ('7x', 'ORG')"
    )
    tables = database.run_sync(schema.creating)
    for wrong in (["l-1"], ["7x"], ["7", "8"], ["L-1 "]):
        with pytest.raises(UnknownLeadsError):
            asyncio.run(
                database.transaction(tasks.create, tables=tables, name="n", organization_id="org", leads=wrong, now=NOW)
            )


def test_a_reference_that_does_not_fit_creates_nothing(opened: Callable[..., Database]) -> None:
    database = opened()
    alter(database, LIST + "MODIFY reference_id VARCHAR(40)")
    alter(database, f"INSERT INTO dcc_leads (leads_id, organization_id) VALUES (1, '{'o' * 40}')")
    tables = database.run_sync(schema.creating)
    with pytest.raises(SchemaError) as refused:
        asyncio.run(
            database.transaction(tasks.create, tables=tables, name="n", organization_id="o" * 40, leads=None, now=NOW)
        )
    assert str(refused.value) == f"database: {REFERENCE}"
    assert database.run_sync(lambda cursor: cursor.execute("SELECT 1 FROM call_tasks")) == 0


# --- sessions and versions ----------------------------------------------------------------------------------------

OURS: dict[str, set[Any]] = {
    "sql_mode": {"STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"},
    "time_zone": {"+08:00"},
    "character_set_client": {"utf8mb4"},
    "character_set_connection": {"utf8mb4"},
    "character_set_results": {"utf8mb4"},
    "autocommit": {1},
    "sql_safe_updates": {0},
    "foreign_key_checks": {1},
}


def test_a_session_is_ours_whatever_the_server_makes_of_one(
    mariadb: EmbeddedMariaDB, opened: Callable[..., Database]
) -> None:
    """Text with quotes and backslashes too goes in and comes out as it is."""
    odd = {
        "sql_mode": "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'",
        "time_zone": "'-05:00'",
        "character_set_server": "latin1",
        "init_connect": "'SET NAMES latin1, sql_safe_updates = 1, foreign_key_checks = 0'",
    }
    with mariadb.connect(root=True) as root, root.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"@@global.{name}" for name in odd))
        before = cursor.fetchone()
        for name, value in odd.items():
            cursor.execute(f"SET GLOBAL {name} = {value}")
        try:
            database = opened()
            database.run_sync(lambda c: c.execute("SELECT " + ", ".join(f"@@session.{name}" for name in OURS)))

            def read(c: Any) -> Any:
                c.execute("SELECT " + ", ".join(f"@@session.{name}" for name in OURS))
                return c.fetchone()

            def through(c: Any, text: str) -> str:
                c.execute("INSERT INTO dcc_leads_follow (leads_id, leads_remark) VALUES (1, %s)", (text,))
                c.execute("SELECT leads_remark FROM dcc_leads_follow")
                return str(c.fetchone()[0])

            found = dict(zip(OURS, database.run_sync(read), strict=True))
            assert {name: value for name, value in found.items() if value not in OURS[name]} == {}
            remark = "客户说：\"好\\n\" 'ok' 😀"
            assert database.run_sync(through, remark) == remark
        finally:
            for name, value in zip(odd, before, strict=True):
                cursor.execute(f"SET GLOBAL {name} = %s", (value,))


def shape(database: Database) -> list[Any]:
    """Our own tables as the server has them."""

    def read(cursor: Any) -> list[Any]:
        cursor.execute(
            "SELECT table_name, column_name, column_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name LIKE 'call\\_%%' ORDER BY 1, 2"
        )
        columns = cursor.fetchall()
        cursor.execute(
            "SELECT table_name, index_name, column_name, seq_in_index FROM information_schema.statistics"
            " WHERE table_schema = DATABASE() AND table_name LIKE 'call\\_%%' ORDER BY 1, 2, 4"
        )
        return [*columns, *cursor.fetchall()]

    return database.run_sync(read)


def test_init_db_mends_what_our_tables_lack_and_runs_twice_and_at_once(opened: Callable[..., Database]) -> None:
    database = opened()
    whole = shape(database)
    alter(database, "ALTER TABLE call_follow_ups DROP COLUMN created_at; ALTER TABLE call_analyses DROP KEY idx_job")
    alter(database, "DROP TABLE call_rate_limits; DROP TABLE call_schema; DROP INDEX idx_job ON leads_task_list")
    with ThreadPoolExecutor(4) as threads:
        made = [*threads.map(lambda _: database.run_sync(schema.apply), range(4))]
    assert sorted(name for names in made for name in names) == [
        "column call_follow_ups.created_at",
        "index idx_job on call_analyses",
        "index idx_job on leads_task_list",
        "table call_rate_limits",
        "table call_schema",
    ]
    assert shape(database) == whole
    database.run_sync(schema.check, SHANGHAI)


def test_init_db_says_which_index_it_leaves_out(
    opened: Callable[..., Database], caplog: pytest.LogCaptureFixture
) -> None:
    database = opened()
    alter(database, "DROP INDEX idx_task_reference ON leads_task_list; DROP INDEX idx_task_phone ON leads_task_list")
    alter(database, LIST + "MODIFY reference_id VARCHAR(1000), MODIFY leads_phone TEXT")
    assert database.run_sync(schema.apply) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"no index on leads_task_list (task_id, {column}): a column is too long for one; everything works, slower"
        for column in ("reference_id", "leads_phone")
    ]


def test_a_later_version_is_made_from_the_one_before_and_a_newer_one_is_left_alone(
    opened: Callable[..., Database], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("crm.sql", "own.sql"):
        (tmp_path / name).write_text((schema.SCHEMA / name).read_text("utf-8"), "utf-8")
    (tmp_path / "own-2.sql").write_text(
        "ALTER TABLE call_retries ADD COLUMN note VARCHAR(9) NOT NULL DEFAULT 'none';\n"
        "CREATE TABLE IF NOT EXISTS call_notes (\n    id INT NOT NULL PRIMARY KEY\n) ENGINE = InnoDB;\n"
        "UPDATE call_retries SET note = 'old';\n"
    )
    database = opened()
    alter(database, "INSERT INTO call_retries VALUES (1, 'recording', 1, 1, '2026-11-01', '2026-11-01', '')")
    monkeypatch.setattr(schema, "SCHEMA", tmp_path)
    monkeypatch.setattr(schema, "VERSIONS", ("own.sql", "own-2.sql"))
    assert refusal(database).startswith("database: no table call_notes")
    # One that was stopped after its first statement is run again.
    alter(database, "ALTER TABLE call_retries ADD COLUMN note VARCHAR(9) NOT NULL DEFAULT 'none'")
    assert database.run_sync(schema.apply) == ["table call_notes"]
    assert database.run_sync(schema.apply) == []
    database.run_sync(schema.check, SHANGHAI)
    assert database.run_sync(lambda cursor: cursor.execute("SELECT 1 FROM call_retries WHERE note = 'old'")) == 1
    monkeypatch.setattr(schema, "VERSIONS", ("own.sql",))
    assert "our tables are of version 2, and this program knows 1" in refusal(database)
    with pytest.raises(SchemaError, match="our tables are of version 2"):
        database.run_sync(schema.apply)

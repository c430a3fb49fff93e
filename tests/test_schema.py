"""Whatever the CRM's columns are: a worker works rightly with them, or refuses in one line (docs/operations.md)."""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pymysql
import pytest
from pydantic import SecretStr

from activities.judgement import render
from activities.transcripts import OMITTED, length, transcript, turns_of
from clients.columns import BASIC_PLANE, CODECS, Column
from clients.database import Database
from clients.tables import schema
from clients.tables.needs import NEEDS
from clients.tables.schema import SchemaError
from clients.tables.tasks import UnknownLeadsError
from devstack.mariadb import EmbeddedMariaDB
from settings import DatabaseSettings
from simulators import Contact, SimulatorOptions
from tests.pipeline import ORGANIZATION, QUICK, Site, Sites, assert_finished, eventually, lead, phone

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
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
    LIST + "MODIFY is_interested BIT(2)": "leads_task_list.is_interested is BIT; it must be an integer, VARCHAR or ENUM",
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
    LIST + "MODIFY updated_time DATE": "leads_task_list.updated_time is DATE; it must be DATETIME or TIMESTAMP",
    LIST + "MODIFY call_time VARCHAR(20)": "leads_task_list.call_time is VARCHAR(20); it must be DATETIME or TIMESTAMP",
    LIST + "MODIFY planed_time DATETIME NOT NULL": (
        "leads_task_list.planed_time is NOT NULL, but may be empty; let it be NULL"
    ),
    FOLLOW + "MODIFY next_follow_time DATETIME NOT NULL": (
        "dcc_leads_follow.next_follow_time is NOT NULL, but may be empty; let it be NULL"
    ),
    LIST + "MODIFY id VARCHAR(36) NOT NULL": "leads_task_list.id is VARCHAR(36); it must be INT or BIGINT",
    LIST + "MODIFY leads_follow_id DOUBLE": "leads_task_list.leads_follow_id is DOUBLE; it must be INT, BIGINT or VARCHAR",
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
        "no column leads_task_list.planed_time; these tables are not those of the CRM (SPEC, Tables)"
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

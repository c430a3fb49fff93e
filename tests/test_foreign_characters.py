"""Texts from outside with characters that a column's character set lacks: they are no row's, and fail nothing."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr

from calltasks.database.columns import read
from calltasks.database.connection import Database
from calltasks.database.tables import analyses, dispatches, follow_ups, recordings, tasks
from calltasks.database.tables import jobs as job_table
from calltasks.errors import UnknownLeadsError
from calltasks.rules.reanalysis import Reanalysis
from calltasks.settings import DatabaseSettings
from simulators import Contact, SimulatorOptions
from tests.pipeline import Sites, phone

NOW = datetime(2026, 11, 20, 10, 0)
CHARSETS = ["utf8mb3", "gbk", "latin1", "ascii", "utf8mb4"]
ODD = ["😀", "é", "客", "ж"]
TEXTS = {
    "call_tasks": ("task_name", "organization_id", "job_group_id"),
    "dcc_leads": ("leads_id", "organization_id", "leads_user_name", "leads_user_phone"),
    "leads_task_list": ("leads_id", "reference_id", "leads_phone", "call_job_id", "call_status", "recording_url"),
}


@pytest.fixture(params=CHARSETS)
def database(request: pytest.FixtureRequest, database_url: str) -> Iterator[Database]:
    """A CRM in this character set, with a task of one row that was called."""
    one = Database(DatabaseSettings(database_url=SecretStr(database_url)))
    for table, columns in TEXTS.items():
        kind = f"VARCHAR(64) CHARACTER SET {request.param} NOT NULL DEFAULT ''"
        run(one, f"ALTER TABLE {table} " + ", ".join(f"MODIFY {column} {kind}" for column in columns))
    run(one, "INSERT INTO call_tasks (id, task_name, organization_id, create_time) VALUES (1, 't', 'org', %s)", NOW)
    run(one, "INSERT INTO dcc_leads (leads_id, organization_id) VALUES ('L', 'org')")
    run(
        one,
        "INSERT INTO leads_task_list (id, task_id, leads_id, reference_id, call_job_id, call_status, call_time)"
        " VALUES (1, 1, 'L', 'ref', 'job', 'Succeeded', %s)",
        NOW,
    )
    yield one
    one.close()


def run(database: Database, statement: str, *values: Any) -> None:
    database.run_sync(lambda cursor: cursor.execute(statement, values))


def test_what_a_column_cannot_hold_is_no_rows(database: Database) -> None:
    jobs, references = ["job", *(f"job{odd}" for odd in ODD)], ["ref", *(f"ref{odd}" for odd in ODD)]
    for alone in (jobs[1:], jobs[1:2], jobs):
        assert database.run_sync(job_table.used_jobs, alone) == set(alone) & {"job"}
        assert database.run_sync(dispatches.taken_elsewhere, 2, alone) == set(alone) & {"job"}
        named = database.run_sync(follow_ups.requested, 1, Reanalysis(call_job_ids=alone))
        assert named == [1] * ("job" in alone)
    assert [row.id for row in database.run_sync(job_table.named_by, [1, 2], "reference_id", references)] == [1]
    assert database.run_sync(job_table.named_by, [1], "leads_id", ["L😀"]) == []
    assert [database.run_sync(analyses.history, job) is not None for job in jobs] == [True] + [False] * len(ODD)


def test_no_such_lead_or_organisation(database: Database) -> None:
    tables = database.run_sync(read)
    for organization, leads in (("org😀", None), ("客", ["L"]), ("org", ["L", "L😀"]), ("org", ["客"])):
        with pytest.raises(UnknownLeadsError):
            asyncio.run(
                database.transaction(
                    tasks.create, tables=tables, name="n", organization_id=organization, leads=leads, now=NOW
                )
            )
    # The name that a person gives is written as far as its column takes it, and found again after a lost answer.
    named: Any = {"tables": tables, "name": "秋季 autumn 😀" * 20, "organization_id": "org", "now": NOW}
    assert database.run_sync(tasks.find_created, **named) is None
    made, _ = asyncio.run(database.transaction(tasks.create, leads=None, **named))
    assert database.run_sync(tasks.find_created, **named) == made


def test_an_archive_under_any_name(database: Database) -> None:
    assert database.run_sync(recordings.connected, "file:///录音😀", 1) is not None


@pytest.mark.parametrize("charset", ["utf8mb3", "gbk", "latin1"])
async def test_jobs_of_strange_references_stop_no_other(sites: Sites, charset: str) -> None:
    site = await sites(SimulatorOptions(calls_over=True))
    for column in ("reference_id", "leads_phone", "call_job_id"):
        site.sql(f"ALTER TABLE leads_task_list MODIFY {column} VARCHAR(64) CHARACTER SET {charset}")
    contacts = [Contact(phone=phone(n), reference=f"r{odd}", outcome="Failed") for n, odd in enumerate(["1", *ODD], 1)]
    task_id = site.old_task([{"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"}], contacts)
    async with site.working():
        result = await site.run(task_id)
    assert (result["outcome"], result["called"]) == ("complete", 1)

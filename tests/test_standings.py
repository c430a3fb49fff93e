"""The numbers of campaigns that people look at: counted by runs and, once, for who looks (rule 13.1)."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymysql.cursors import Cursor

from calltasks.call_tasks import CallTasks
from calltasks.database.tables import campaigns, task_options, tasks
from calltasks.database.tables.campaigns import Counts
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import wait_until
from devstack.temporal import EmbeddedTemporal
from tests.api_site import ORGANIZATION, TOKEN, ApiSite, opening
from tests.test_console import numbers

NOON = datetime(2026, 11, 27, 12, 30)


@pytest.fixture(scope="module")
def site(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    with opening(mariadb, temporal, "http://127.0.0.1:9", working=False) as site:
        yield site


@pytest.fixture
def person(site: ApiSite) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{site.url}/console", trust_env=False, timeout=60) as client:
        assert client.post("/sign-in", data={"token": TOKEN}).status_code == 303
        yield client


def of_others(site: ApiSite, calls: int = 7) -> int:
    """A campaign that another program has called to its end."""
    site.sql(
        "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
        " VALUES ('theirs', %s, '4', 'their-group', NOW())",
        ORGANIZATION,
    )
    task_id = int(site.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"])
    for number in range(calls):
        site.sql(
            "INSERT INTO leads_task_list (task_id, leads_id, leads_name, call_job_id, call_status, is_interested)"
            " VALUES (%s, %s, '测试客户', %s, 'Succeeded', 1)",
            *(task_id, number + 1, f"job-{task_id}-{number}"),
        )
    return task_id


def row_of(page: str, task_id: int) -> str:
    [row] = [part for part in page.split("<tr>") if f'/campaigns/{task_id}"' in part]
    return row


def test_a_count_that_began_earlier_undoes_none_that_began_later(site: ApiSite) -> None:
    task_id = site.create()
    with site.connect() as connection, connection.cursor() as cursor:
        task = tasks.load(cursor, task_id)
        assert task

        def over() -> int:
            found = campaigns.one(cursor, task_id)
            assert found
            return found.counts.calls_over

        campaigns.keep(cursor, task, Counts(leads=12), NOON - timedelta(hours=2))
        campaigns.keep(cursor, task, Counts(leads=12, calls_over=9), NOON)
        campaigns.keep(cursor, task, Counts(leads=12, calls_over=4), NOON - timedelta(minutes=1))
        assert over() == 9
        campaigns.keep(cursor, task, Counts(leads=12, calls_over=10), NOON)
        assert over() == 10
        # Another task that has the id now: what was counted of this one says nothing of it.
        cursor.execute("UPDATE call_tasks SET create_time = create_time + INTERVAL 1 DAY WHERE id = %s", (task_id,))
        other = tasks.load(cursor, task_id)
        assert other
        campaigns.keep(cursor, other, Counts(leads=12), NOON - timedelta(hours=1))
        campaigns.keep(cursor, other, Counts(leads=12, calls_over=2), NOON - timedelta(minutes=20))
        assert over() == 2


def test_a_campaign_of_others_is_counted_once_by_who_looks_at_the_list(site: ApiSite, person: httpx.Client) -> None:
    task_id = of_others(site)
    first = person.get("/campaigns").text
    assert "0 / 7" in row_of(first, task_id) and "is being counted" in row_of(first, task_id)
    assert "data-live" in first
    wait_until(lambda: "7 / 7" in row_of(person.get("/campaigns").text, task_id), 20, "it is counted")
    site.sql("UPDATE leads_task_list SET is_interested = 2 WHERE task_id = %s", task_id)
    site.sql("UPDATE call_standings SET counted_at = counted_at - INTERVAL 1 MINUTE WHERE task_id = %s", task_id)
    for _ in range(3):
        assert "interested 7," in row_of(person.get("/campaigns").text, task_id), "the list has counted again"
    person.get(f"/campaigns/{task_id}")
    wait_until(
        lambda: "not interested 7" in row_of(person.get("/campaigns").text, task_id), 20, "who looks has it counted"
    )
    page = person.get(f"/campaigns/{task_id}").text
    assert numbers(page)["Calls over"] == 7 and "<figure>" not in page, "calls of no known hour are drawn"


def test_calls_that_were_over_before_the_first_count_are_of_no_hour(site: ApiSite) -> None:
    task_id = of_others(site)
    with site.connect() as connection, connection.cursor() as cursor:
        task = tasks.load(cursor, task_id)
        assert task
        for minutes, over in ((0, 3), (10, 5), (70, 7)):
            campaigns.keep(cursor, task, Counts(calls_over=over), NOON + timedelta(minutes=minutes))
        found = campaigns.one(cursor, task_id)
    assert found and [(hour.at.hour, hour.calls) for hour in found.hours] == [(12, 2), (13, 2)]


def test_a_task_that_was_not_started_shows_its_leads_of_now(site: ApiSite, person: httpx.Client) -> None:
    task_id = site.create()
    person.get(f"/campaigns/{task_id}")
    wait_until(lambda: "counted at" in person.get(f"/campaigns/{task_id}").text, 20, "it is counted")
    site.sql("DELETE FROM leads_task_list WHERE task_id = %s ORDER BY id LIMIT 5", task_id)
    row = row_of(person.get("/campaigns").text, task_id)
    assert "0 / 7" in row and "not started" in row
    assert numbers(person.get(f"/campaigns/{task_id}").text)["Leads"] == 7


async def test_of_all_who_look_at_once_one_counts(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id, count, under_way, counted = of_others(site), campaigns._count, [0], list[int]()

    def counting(*given: Any) -> Counts:
        under_way[0] += 1
        counted.append(under_way[0])
        try:
            return count(*given)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(campaigns, "_count", counting)
    async with CallTasks.connect(temporal=False) as calls:
        await asyncio.gather(*(calls.recount(task_id, older_than=timedelta(seconds=10)) for _ in range(8)))
        assert counted == [1]
        # What was changed while somebody counted is counted after it, once for all.
        await asyncio.gather(*(calls.recount(task_id) for _ in range(8)))
        assert counted == [1, 1, 1] or counted == [1, 1]
        assert not calls._counting


# --- what a campaign waits for --------------------------------------------------------------------------------------


def options(cursor: Cursor, task: tasks.TaskRow, given: dict[str, Any], *, paused: bool = False) -> None:
    task_options.keep_options(cursor, task, json.dumps(given))
    task_options.keep_paused(cursor, task, paused)


def waits(site: ApiSite, person: httpx.Client, task_id: int) -> str:
    return " ".join(re.sub("<[^>]+>", " ", row_of(person.get("/campaigns").text, task_id)).split())


def test_the_list_says_what_a_campaign_waits_for(site: ApiSite, person: httpx.Client) -> None:
    task_id = site.create()
    assert "not started" in waits(site, person, task_id)
    site.sql("UPDATE call_tasks SET task_type = '2', job_group_id = 'g' WHERE id = %s", task_id)
    now = datetime.now(UTC).replace(tzinfo=None)
    with site.connect() as connection, connection.cursor() as cursor:
        task = tasks.load(cursor, task_id)
        assert task
        campaigns.keep(cursor, task, Counts(leads=12, called=12), now)
        assert "waits for calls (12)" in waits(site, person, task_id)
        counted = Counts(leads=12, called=12, calls_over=5, follow_ups=3)
        campaigns.keep(cursor, task, counted, now + timedelta(minutes=1))
        assert "waits for calls (7), transcripts or follow-ups (2)" in waits(site, person, task_id)
        tomorrow = {"startTime": 4_000_000_000_000, "endTime": 4_000_100_000_000, "repeatBy": "Day"}
        hours = {"strategy": tomorrow | {"workingTime": [{"beginTime": "09:00:00", "endTime": "18:00:00"}]}}
        options(cursor, task, hours)
        assert "dialling begins at 2096-10-" in waits(site, person, task_id)
        options(cursor, task, hours, paused=True)
        said = waits(site, person, task_id)
        assert "paused: waits for somebody to resume it" in said and "dialling begins" not in said
        counted = Counts(leads=12, called=12, calls_over=12, follow_ups=11)
        site.sql("UPDATE call_tasks SET task_type = '3' WHERE id = %s", task_id)
        options(cursor, task, {})
        campaigns.keep(cursor, task, counted, now + timedelta(minutes=2))
        assert "waits for transcripts or follow-ups (1)" in waits(site, person, task_id)

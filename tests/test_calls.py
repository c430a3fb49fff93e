"""Calls as people page through them (rules 13.1, 13.2): none twice, none left out, and in few statements."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from pymysql.cursors import Cursor, DictCursor

from calltasks.database.connection import Database
from calltasks.database.tables import calls, ledger
from calltasks.database.tables.calls import Call, CallFilter
from calltasks.settings import DatabaseSettings
from devstack.mariadb import EmbeddedMariaDB

ORGANIZATION = "org7"


class Campaign:
    """A task of which every call is over; its rows as SQL makes them."""

    def __init__(self, mariadb: EmbeddedMariaDB, url: str) -> None:
        self.database = Database(DatabaseSettings(database_url=SecretStr(url)))
        self._connection = mariadb.connect(url.rpartition("/")[2], cursorclass=DictCursor)
        self.sql("INSERT INTO call_tasks (task_name, organization_id, task_type) VALUES ('t', %s, 4)", ORGANIZATION)
        self.task_id = int(self.sql("SELECT MAX(id) AS id FROM call_tasks")[0]["id"])
        self.statements = 0

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def fill(self, count: int, **columns: Callable[[int], Any]) -> list[int]:
        """Called rows, numbered from 1 on; returns their ids."""
        usual: dict[str, Callable[[int], Any]] = {
            "leads_id": str,
            "call_job_id": lambda number: f"job-{number}",
            "leads_phone": lambda number: f"139{number:08}",
            "call_status": lambda number: "Succeeded",
        }
        given = usual | columns
        rows = [[self.task_id, *(value(number) for value in given.values())] for number in range(1, count + 1)]
        marks = ", ".join(["%s"] * (1 + len(given)))
        with self._connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO leads_task_list (task_id, {', '.join(given)}) VALUES ({marks})", rows)
        return [int(row["id"]) for row in self.sql("SELECT id FROM leads_task_list ORDER BY id")]

    def follow_up(self, ids: list[int]) -> None:
        """As if written by us: two of three with a next time."""
        next_time = datetime(2026, 12, 6, 9)
        rows = [
            (id_, str(number), "想了解价格", next_time if number % 3 else None)
            for number, id_ in enumerate(ids, start=1)
        ]
        ledger_rows = [
            (id_, self.task_id, f"job-{number}", id_, 1, ledger.digest(remark, time), next_time)
            for number, (id_, _, remark, time) in enumerate(rows, start=1)
        ]
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO dcc_leads_follow (id, leads_id, leads_remark, next_follow_time) VALUES (%s, %s, %s, %s)",
                rows,
            )
            cursor.executemany(
                "INSERT INTO call_follow_ups (list_id, task_id, call_job_id, follow_id, is_interested, outcome,"
                " stored_hash, created_at) VALUES (%s, %s, %s, %s, %s, 'analysed', %s, %s)",
                ledger_rows,
            )
            cursor.execute("UPDATE leads_task_list SET leads_follow_id = id, is_interested = 1")

    def close(self) -> None:
        self._connection.close()
        self.database.close()

    async def run(self, function: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """Counts the statements."""

        class Counting:
            def __init__(self, cursor: Cursor) -> None:
                self._cursor = cursor

            def __getattr__(self, name: str) -> Any:
                return getattr(self._cursor, name)

            def execute(self, *statement: Any) -> Any:
                found.statements += 1
                return self._cursor.execute(*statement)

        found, self.statements = self, 0
        return await self.database.run(lambda cursor: function(Counting(cursor), *given, **more))

    async def listed(self, chosen: CallFilter, sort: str, limit: int, *, backwards: bool = False) -> list[Call]:
        """All of them, page by page."""
        found: list[Call] = []
        after = ""
        for _ in range(1000):
            part = await self.run(calls.page, self.task_id, chosen, sort, after, limit, backwards=backwards)
            found += part.calls
            after = part.after
            if not after:
                return found
        raise AssertionError("there is no end")

    async def around(self, call: Call, chosen: CallFilter, sort: str) -> tuple[int | None, int | None]:
        before, behind = [
            await self.run(calls.neighbour, call, chosen, sort, before=before) for before in (True, False)
        ]
        return before, behind


@pytest.fixture
async def campaign(mariadb: EmbeddedMariaDB, database_url: str) -> AsyncIterator[Campaign]:
    found = Campaign(mariadb, database_url)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("kind", ["DATETIME", "DATETIME(3)", "DATETIME(6)", "TIMESTAMP(3) NULL"])
async def test_by_time_every_call_comes_once_whatever_the_columns_hold(campaign: Campaign, kind: str) -> None:
    for column in ("updated_time", "planed_time", "call_time"):
        campaign.sql(f"ALTER TABLE leads_task_list MODIFY {column} {kind}")
    begin = datetime(2026, 12, 5, 10)
    # Three within each second, each time twice; the last ones have none, or another column's.
    ids = campaign.fill(
        24,
        updated_time=lambda n: None if n > 18 else begin + timedelta(milliseconds=333 * (n // 2)),
        call_time=lambda n: begin if n > 21 else None,
        planed_time=lambda n: None,
    )
    found = await campaign.listed(CallFilter(), "latest", 2)
    assert sorted(call.id for call in found) == ids
    times = [call.called_at or datetime.min for call in found]
    assert times == sorted(times, reverse=True) and len(set(times)) > 3
    other = await campaign.listed(CallFilter(), "earliest", 2)
    assert [call.id for call in other] == [call.id for call in found][::-1]
    for sort, order in (("latest", found), ("earliest", other)):
        for place, call in enumerate(order):
            around = (order[place - 1].id if place else None, order[place + 1].id if place + 1 < len(order) else None)
            assert await campaign.around(call, CallFilter(), sort) == around


async def test_worth_reading_is_what_our_ledger_says(campaign: Campaign) -> None:
    ids = campaign.fill(5, is_interested=lambda n: 0, leads_follow_id=lambda n: n)
    campaign.sql(
        "INSERT INTO call_analyses (list_id, task_id, call_job_id, outcome, is_interested, leads_remark, evidence,"
        " do_not_call, characters, created_at) SELECT id, task_id, call_job_id, 'analysed', 0, 'x',"
        " IF(id = %s, '', 'x'), '', IF(id = %s, 20, 2000), UTC_TIMESTAMP(6) FROM leads_task_list WHERE id < %s",
        *(ids[0], ids[2], ids[4]),
    )
    read = await campaign.listed(CallFilter(to_read=True), "worth", 1)
    reasons = {ids[0]: ["undecided", "unproven"], ids[3]: ["undecided"], ids[1]: ["undecided"]}
    assert [(call.id, call.reasons) for call in read] == list(reasons.items())
    with pytest.raises(ValueError, match="worth"):
        await campaign.listed(CallFilter(), "worth", 1)


CHANGES = {
    "a remark": "UPDATE dcc_leads_follow SET leads_remark = '已约周日' WHERE id = %s",
    "a next time": "UPDATE dcc_leads_follow SET next_follow_time = '2026-12-07 10:00:00' WHERE id = %s",
    "no next time": "UPDATE dcc_leads_follow SET next_follow_time = NULL, leads_remark = '不' WHERE id = %s",
    "its lead": "UPDATE dcc_leads_follow SET leads_id = 'x' WHERE id = %s",
    "deleted": "DELETE FROM dcc_leads_follow WHERE id = %s",
    "an interest": "UPDATE leads_task_list SET is_interested = 2 WHERE id = %s",
    "found right": "UPDATE call_follow_ups SET stored_hash = '' WHERE list_id = %s",
}
UNCHANGED = {
    "a lost interest": "UPDATE leads_task_list SET is_interested = NULL WHERE id = %s",
    "blanks": "UPDATE dcc_leads_follow SET leads_remark = CONCAT(' ', leads_remark, '\n') WHERE id = %s",
    "unknown to our ledger": "DELETE FROM call_follow_ups WHERE list_id = %s",
}


@pytest.mark.parametrize("kind", ["DATETIME", "DATETIME(3)"])
async def test_what_people_have_changed_is_found_among_many_in_few_statements(campaign: Campaign, kind: str) -> None:
    campaign.sql(f"ALTER TABLE dcc_leads_follow MODIFY next_follow_time {kind} NULL, MODIFY leads_id VARCHAR(64)")
    ids = campaign.fill(2_500)
    campaign.follow_up(ids)
    step = len(ids) // (len(CHANGES) + len(UNCHANGED))
    changed, unchanged = ids[::step][: len(CHANGES)], ids[step - 1 :: step][: len(UNCHANGED)]
    assert len(changed) == len(CHANGES) and not set(changed) & set(unchanged)
    for statements, rows in ((CHANGES, changed), (UNCHANGED, unchanged)):
        for statement, row in zip(statements.values(), rows, strict=True):
            campaign.sql(statement, row)
    chosen = CallFilter(edited=True)
    part = await campaign.run(calls.page, campaign.task_id, chosen, "oldest", "", 50)
    assert [call.id for call in part.calls] == changed and campaign.statements <= 20
    assert [call.id for call in await campaign.listed(chosen, "newest", 2)] == changed[::-1]
    assert await campaign.around(part.calls[3], chosen, "oldest") == (changed[2], changed[4])
    assert campaign.statements <= 20


async def test_call_no_more_is_what_stands_now_for_the_number_whoever_said_so(campaign: Campaign) -> None:
    spelled = [
        "139-0000-0002",
        "+8613900000003",
        "+86 139 0000 0004",
        "王 13900000005",
        "１３９０００００００６",
        "无",
        None,
        "",
    ]
    ids = campaign.fill(1_500, leads_phone=lambda n: spelled[n - 2] if 2 <= n < 10 else f"139{n:08}")
    for number in (1, 2, 3, 4, 5, 6, 1_500):
        campaign.sql(
            "INSERT INTO call_opt_outs (organization_id, phone, source, evidence, created_at)"
            " VALUES (%s, %s, 'import', '', UTC_TIMESTAMP())",
            *(ORGANIZATION, f"+86139{number:08}"),
        )
    # Lifted, though its call had said so; and another organisation's.
    for number, organization, standing in ((11, ORGANIZATION, None), (12, "org8", 1), (13, ORGANIZATION.upper(), 1)):
        campaign.sql(
            "INSERT INTO call_opt_outs (organization_id, phone, source, list_id, evidence, created_at, standing)"
            " VALUES (%s, %s, 'call', %s, '', UTC_TIMESTAMP(), %s)",
            *(organization, f"+86139{number:08}", ids[number - 1], standing),
        )
    refused = [*ids[:6], ids[-1]]
    found = await campaign.listed(CallFilter(opted_out=True), "oldest", 3)
    assert [call.id for call in found] == refused and campaign.statements <= 20
    every = await campaign.listed(CallFilter(), "oldest", 1_000)
    assert [call.id for call in every if call.opted_out] == refused


@pytest.mark.parametrize("charset", ["utf8mb4", "utf8mb4 COLLATE utf8mb4_bin", "gbk", "utf16"])
async def test_words_are_found_however_they_are_written(campaign: Campaign, charset: str) -> None:
    for table, column in (("leads_task_list", "call_conversation"), ("dcc_leads_follow", "leads_remark")):
        campaign.sql(f"ALTER TABLE {table} MODIFY {column} TEXT CHARACTER SET {charset}")
    said = [
        json.dumps([{"Script": "想看火星车"}], ensure_ascii=False),
        json.dumps([{"Script": "想看火星车"}]),
        json.dumps([{"Script": "The Mars one, 100%"}]),
        json.dumps([{"Script": "1000 元"}], ensure_ascii=False),
        None,
    ]
    ids = campaign.fill(5, call_conversation=lambda n: said[n - 1])
    campaign.follow_up(ids)
    campaign.sql("UPDATE dcc_leads_follow SET leads_remark = '看火星' WHERE id = %s", ids[4])
    for words, expected in {
        "火星": [ids[0], ids[1], ids[4]],
        "火星车": ids[:2],
        "mars": [ids[2]],
        "100%": [ids[2]],
        "100_": [],
        "水星": [],
        "🚗": [],
    }.items():
        found = await campaign.listed(CallFilter(words=words), "oldest", 2)
        assert [call.id for call in found] == expected, words


async def test_a_page_looks_through_so_many_calls_for_words_and_the_next_one_goes_on(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SEARCHED", 20)
    begin = datetime(2026, 12, 5, 10)
    said = {3: "火星", 4: "火星", 45: "火星", 60: "火星"}
    ids = campaign.fill(
        60,
        call_conversation=lambda n: said.get(n, "水星"),
        # Two at each time.
        updated_time=lambda n: begin + timedelta(minutes=n // 2),
    )
    chosen = CallFilter(words="火星")
    expected = [ids[number - 1] for number in said]
    for sort, order in (("oldest", 1), ("newest", -1), ("earliest", 1), ("latest", -1)):
        pages, shown = [], []
        after, whole = "", False
        while after or not whole:
            part = await campaign.run(calls.page, campaign.task_id, chosen, sort, after, 2)
            pages.append(len(part.calls))
            shown += [call.id for call in part.calls]
            after, whole = part.after, part.whole
        assert shown == expected[::order], sort
        assert len(pages) == 4 and 0 in pages, "nobody looks at more than twenty calls at once"
    near = (await campaign.listed(chosen, "oldest", 2))[1]
    assert await campaign.around(near, chosen, "oldest") == (ids[2], None)

"""How long the console's pages of big campaigns take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from time import monotonic
from urllib.parse import urlsplit

import httpx
from pymysql.cursors import Cursor

from benchmarks.figures import Figure, Sizes, at_most
from benchmarks.site import Bench
from calltasks.api.console.pages import CSV_ROWS
from calltasks.database.tables import campaigns, tasks

CALLS = 50_000
MEMORY = 1 << 30
"""Bytes, of the database server for its pages."""
CAMPAIGNS = 5
"""So large, and in one list; the first of them another program has called, and nobody counted it."""
SECONDS_A_CALL = 17
"""Between two calls: 50,000 are made in ten days."""
HOURS = 240
ROUNDS = 15
ORGANIZATION = "console"
TALK = (
    "机器人：您好，请问您最近有购车打算吗？客户：想了解一下，价格怎么样？机器人：现在有活动。客户：好的，我考虑一下。"
)
ANSWERED = "seq %% 5 < 2"


async def console(sizes: Sizes) -> list[Figure]:
    """Pages of campaigns of 50,000 calls, as a browser asks for them: the slowest one's median."""
    calls = min(CALLS, sizes.large)
    async with Bench.open(dialogues=False) as site:
        began = monotonic()
        task_ids = await asyncio.to_thread(_fill, site, calls)
        filled = round(monotonic() - began)
        address = urlsplit(await asyncio.to_thread(site.stack.start_console, ORGANIZATION))
        base = f"http://{address.netloc}/console"
        took = await asyncio.to_thread(_look, site, base, address.fragment, task_ids, calls)
    slowest = max(took, key=lambda page: took[page])
    return [
        at_most(
            f"a page of the console, {CAMPAIGNS} campaigns of {calls:,} calls, the slowest one's median",
            round(1000 * took[slowest]),
            300,
            "ms",
            slowest=slowest,
            pages={page: round(1000 * seconds) for page, seconds in took.items()},
            filled_in_seconds=filled,
        )
    ]


def _pages(task_id: int, middle: int, between: str) -> dict[str, str]:
    """By name. ``middle``: the row in the middle of the campaign, which was called at ``between``."""
    day, here = between[:10], f"/campaigns/{task_id}"
    filters = {
        "interested": "interest=1",
        "succeeded": "status=Succeeded",
        "of a day": f"day={day}",
        "words": "words=活动",
        "words that nobody said": "words=火星",
        "edited": "edited=1",
        "analysis failed": "failed=1",
        "opted out": "opted_out=1",
        "to be read": "to_read=1&sort=worth",
    }
    return {
        "campaigns": "/campaigns",
        "campaign": here,
        "a page in the middle": f"{here}?after={middle}~{middle}",
        "by time": f"{here}?sort=latest",
        "by time, in the middle": f"{here}?sort=latest&after={between}~{middle}",
        "to be read, in the middle": f"{here}?to_read=1&sort=worth&after=1~{middle}",
        **{name: f"{here}?{query}" for name, query in filters.items()},
        "a call": f"/calls/{middle}",
        **{f"a call, {name}": f"/calls/{middle}?{query}" for name, query in filters.items()},
        "a call, by time": f"/calls/{middle}?sort=latest",
    }


def _look(site: Bench, base: str, token: str, task_ids: list[int], calls: int) -> dict[str, float]:
    task_id, middle = task_ids[-1], (CAMPAIGNS - 1) * calls + calls // 2
    with site.stack.mariadb.connect(site.stack.mariadb.database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT updated_time FROM leads_task_list WHERE id = %s", (middle,))
        between = str(cursor.fetchone()[0])
        pages = _pages(task_id, middle, between)
        with httpx.Client(base_url=base, trust_env=False, timeout=60) as http:
            assert http.post("/sign-in", data={"token": token}).status_code == 303

            def shown(path: str) -> None:
                assert http.get(path).status_code == 200, path

            def uncounted() -> None:
                cursor.execute("DELETE FROM call_standings WHERE task_id = %s", (task_ids[0],))

            def csv() -> None:
                rows = 0
                with http.stream("GET", f"/campaigns/{task_id}/calls.csv") as answer:
                    for text in answer.iter_text():
                        rows += text.count("\r\n")
                        if rows > min(CSV_ROWS, calls):
                            return
                raise AssertionError(f"{rows} rows of {calls}")

            took = {name: _median(lambda path=path: shown(path)) for name, path in pages.items()}  # type: ignore[misc]
            took["campaigns, one not counted yet"] = _median(lambda: shown("/campaigns"), before=uncounted)
            took[f"the first {CSV_ROWS} rows as CSV"] = _median(csv)
    return took


def _median(act: Callable[[], None], before: Callable[[], None] = lambda: None) -> float:
    """Seconds that it takes."""
    times = []
    for _ in range(ROUNDS):
        before()
        began = monotonic()
        act()
        times.append(monotonic() - began)
    return median(times)


def _fill(site: Bench, calls: int) -> list[int]:
    """Finished campaigns, straight into the tables; two of five calls were answered and judged."""
    mariadb = site.stack.mariadb
    with mariadb.connect(mariadb.database, root=True) as connection, connection.cursor() as cursor:
        # What the campaigns hold stays in memory, as in a server of a CRM; by default tests have next to none.
        cursor.execute("SET GLOBAL innodb_buffer_pool_size = %s", (MEMORY,))
        task_ids = []
        for number in range(CAMPAIGNS):
            cursor.execute(
                "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
                " VALUES (%s, %s, 4, 'group', NOW())",
                (f"big {number}", ORGANIZATION),
            )
            task_ids.append(int(cursor.lastrowid))
            _called(cursor, task_ids[-1], number * calls + 1, (number + 1) * calls)
        for task_id in task_ids[1:]:
            _judged(cursor, task_id)
            _counted(cursor, task_id, calls)
        cursor.execute("ANALYZE TABLE leads_task_list, dcc_leads_follow, call_follow_ups, call_analyses")
    return task_ids


def _called(cursor: Cursor, task_id: int, first: int, last: int) -> None:
    """Calls with these ids; every tenth of them was long. One of 200 follow-ups a person has edited since."""
    turns = 'CONCAT(\'[{"Speaker": "Contact", "Script": "\', REPEAT(%s, IF(seq %% 10 = 0, 30, 12)), \'"}]\')'
    cursor.execute(
        "INSERT INTO leads_task_list (id, task_id, leads_id, leads_name, leads_phone, call_time, call_job_id,"
        " reference_id, call_status, call_conversation, updated_time, leads_follow_id, is_interested, call_task_id)"
        " SELECT seq, %s, seq, CONCAT('测试客户', seq), CONCAT('139', LPAD(seq, 8, '0')), NOW(), CONCAT('job-', seq),"
        f" CONCAT('r', seq), IF({ANSWERED}, 'Succeeded', 'Failed'), IF({ANSWERED}, {turns}, NULL),"
        f" NOW() - INTERVAL (%s - seq) * {SECONDS_A_CALL} SECOND, seq, IF({ANSWERED}, seq %% 3, 0), CONCAT('t', seq)"
        f" FROM seq_{first}_to_{last}",
        (task_id, TALK, last),
    )
    cursor.execute(
        "INSERT INTO dcc_leads_follow (id, leads_id, follow_time, leads_remark, frist_follow_time, new_follow_time)"
        " SELECT id, leads_id, NOW(), IF(MOD(id, 200), '客户想了解活动价格。', '周六到店'), NOW(), NOW()"
        " FROM leads_task_list WHERE task_id = %s",
        (task_id,),
    )


def _judged(cursor: Cursor, task_id: int) -> None:
    """Their ledgers: of the answered ones, one of 97 analyses failed, one of 50 customers wants no more calls, and a
    second model judged all, one of eleven otherwise."""
    cursor.execute(
        "INSERT INTO call_follow_ups (list_id, task_id, job_group_id, call_job_id, follow_id, is_interested,"
        " outcome, stored_hash, created_at) SELECT id, task_id, 'group', call_job_id, id, is_interested,"
        " IF(call_status <> 'Succeeded', 'default', IF(MOD(id, 97), 'analysed', 'failed')),"
        " SHA2('客户想了解活动价格。\\n', 256), UTC_TIMESTAMP() FROM leads_task_list WHERE task_id = %s",
        (task_id,),
    )
    interests = {"analysed": "is_interested", "second": "IF(MOD(id, 11), is_interested, MOD(is_interested + 1, 3))"}
    for outcome, interest in interests.items():
        cursor.execute(
            "INSERT INTO call_analyses (list_id, task_id, job_group_id, call_job_id, outcome, is_interested,"
            " leads_remark, evidence, do_not_call, model, characters, created_at, settled_at) SELECT id, task_id,"
            f" 'group', call_job_id, %s, {interest}, '客户想了解活动价格。', IF(MOD(id, 7), '价格怎么样', ''), '',"
            " 'qwen-plus', IF(MOD(id, 10), 150, 400), UTC_TIMESTAMP(), UTC_TIMESTAMP() FROM leads_task_list"
            " WHERE task_id = %s AND call_status = 'Succeeded'",
            (outcome, task_id),
        )
    cursor.execute(
        "INSERT INTO call_opt_outs (organization_id, phone, source, task_id, list_id, call_job_id, evidence,"
        " created_at) SELECT %s, CONCAT('+86', leads_phone), 'call', task_id, id, call_job_id, '别再打了',"
        " UTC_TIMESTAMP(6) FROM leads_task_list WHERE task_id = %s AND MOD(id, 50) = 0 AND call_status = 'Succeeded'",
        (ORGANIZATION, task_id),
    )


def _counted(cursor: Cursor, task_id: int, calls: int) -> None:
    """As its run leaves it: counted hour by hour."""
    task, now = tasks.load(cursor, task_id), datetime.now(UTC).replace(tzinfo=None)
    assert task
    for hour in range(HOURS, 0, -1):
        over = calls * (HOURS - hour) // HOURS
        standing = campaigns.Counts(leads=calls, called=calls, calls_over=over, follow_ups=over)
        campaigns.keep(cursor, task, standing, now - timedelta(hours=hour))
    campaigns.recount(cursor, task_id, now, now)

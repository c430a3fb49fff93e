"""How long the console's pages of a big campaign take."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from statistics import median
from time import monotonic
from urllib.parse import urlsplit

import httpx

from benchmarks.figures import Figure, Sizes, at_most
from benchmarks.site import Bench
from calltasks.database.tables import campaigns, tasks

CALLS = 50_000
HOURS = 14
ROUNDS = 15
ORGANIZATION = "console"
TALK = (
    "机器人：您好，请问您最近有购车打算吗？客户：想了解一下，价格怎么样？机器人：现在有活动。客户：好的，我考虑一下。"
)


async def console(sizes: Sizes) -> list[Figure]:
    """Pages of a campaign of 50,000 calls, as a browser asks for them: the slowest one's median."""
    calls = min(CALLS, sizes.large)
    async with Bench.open(dialogues=False) as site:
        task_id = await asyncio.to_thread(_fill, site, calls)
        address = urlsplit(await asyncio.to_thread(site.stack.start_console, ORGANIZATION))
        took = await asyncio.to_thread(_look, f"http://{address.netloc}/console", address.fragment, task_id, calls)
    slowest = max(took, key=lambda page: took[page])
    return [
        at_most(
            f"a page of the console, {calls:,} calls, the slowest one's median",
            round(1000 * took[slowest]),
            300,
            "ms",
            pages={page: round(1000 * seconds) for page, seconds in took.items()},
        )
    ]


def _look(base: str, token: str, task_id: int, calls: int) -> dict[str, float]:
    pages = {
        "campaigns": "/campaigns",
        "campaign": f"/campaigns/{task_id}",
        "a page in the middle": f"/campaigns/{task_id}?after={calls // 2}~{calls // 2}",
        "by time": f"/campaigns/{task_id}?sort=latest",
        "interested": f"/campaigns/{task_id}?interest=1",
        "to be read": f"/campaigns/{task_id}?to_read=1&sort=worth",
        "words": f"/campaigns/{task_id}?words=活动",
        "a call": f"/calls/{calls // 2}",
    }
    took = {}
    with httpx.Client(base_url=base, trust_env=False, timeout=60) as http:
        assert http.post("/sign-in", data={"token": token}).status_code == 303
        for name, path in pages.items():
            times = []
            for _ in range(ROUNDS):
                began = monotonic()
                assert http.get(path).status_code == 200, path
                times.append(monotonic() - began)
            took[name] = median(times)
    return took


def _fill(site: Bench, calls: int) -> int:
    """A finished campaign, straight into the tables; two of five were answered and judged."""
    with site.stack.mariadb.connect(site.stack.mariadb.database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO call_tasks (task_name, organization_id, task_type, job_group_id, create_time)"
            " VALUES ('big', %s, 4, 'group', NOW())",
            (ORGANIZATION,),
        )
        task_id = int(cursor.lastrowid)
        turns = 'CONCAT(\'[{"Speaker": "Contact", "Script": "\', REPEAT(%s, 12), \'"}]\')'
        cursor.execute(
            "INSERT INTO leads_task_list (task_id, leads_id, leads_name, leads_phone, call_time, call_job_id,"
            " reference_id, call_status, call_conversation, updated_time, leads_follow_id, is_interested, call_task_id)"
            " SELECT %s, seq, CONCAT('测试客户', seq), CONCAT('139', LPAD(seq, 8, '0')), NOW(), CONCAT('job-', seq),"
            f" CONCAT('r', seq), IF(seq %% 5 < 2, 'Succeeded', 'Failed'), IF(seq %% 5 < 2, {turns}, NULL),"
            " NOW() - INTERVAL seq SECOND, seq, IF(seq %% 5 < 2, seq %% 3, 0), CONCAT('t', seq) FROM"
            f" seq_1_to_{int(calls)}",
            (task_id, TALK),
        )
        cursor.execute(
            "INSERT INTO dcc_leads_follow (id, leads_id, follow_time, leads_remark, frist_follow_time, new_follow_time)"
            " SELECT id, leads_id, NOW(), '客户想了解活动价格。', NOW(), NOW() FROM leads_task_list"
        )
        cursor.execute(
            "INSERT INTO call_follow_ups (list_id, task_id, job_group_id, call_job_id, follow_id, is_interested,"
            " outcome, stored_hash, created_at) SELECT id, task_id, 'group', call_job_id, id, is_interested,"
            " IF(call_status = 'Succeeded', 'analysed', 'default'), SHA2('客户想了解活动价格。\\n', 256),"
            " UTC_TIMESTAMP() FROM leads_task_list"
        )
        cursor.execute(
            "INSERT INTO call_analyses (list_id, task_id, job_group_id, call_job_id, outcome, is_interested,"
            " leads_remark, evidence, do_not_call, model, created_at, settled_at) SELECT id, task_id, 'group',"
            " call_job_id, 'analysed', is_interested, '客户想了解活动价格。', IF(MOD(id, 7), '价格怎么样', ''), '',"
            " 'qwen-plus', UTC_TIMESTAMP(), UTC_TIMESTAMP() FROM leads_task_list WHERE call_status = 'Succeeded'"
        )
        # As its run leaves it: counted hour by hour.
        task, now = tasks.load(cursor, task_id), datetime.now(UTC).replace(tzinfo=None)
        assert task
        for hour in range(HOURS, 0, -1):
            over = calls * (HOURS - hour) // HOURS
            standing = campaigns.Counts(leads=calls, called=calls, calls_over=over, follow_ups=over)
            campaigns.keep(cursor, task, standing, now - timedelta(hours=hour))
        campaigns.recount(cursor, task_id, now, timedelta())
        connection.commit()
    return task_id

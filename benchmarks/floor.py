"""The floor: the leanest plain program that does the same work, once, with code of its own.

It reads the pages of a finished job group, asks for its calls, for a recording's address and a judgement of every call
that was answered, and writes rows and follow-ups. Nothing of the product runs in it but the prompt. What it leaves out
is all that holds when something fails: no queue, no history, no retry, no limit of rates, no ledger, no odd answer;
one writer, one connection, and statements as big as they may be. Killed half-way it would have to start over.

OutboundBot is reached through the SDK's ``call_api`` in threads. The model is reached as the product does it, through
DashScope's ``AsyncClient`` over aiohttp (``sdk``), or by aiohttp alone (``bare``): ``python -m benchmarks.floor sdk``
says ``floor ready`` on standard error, runs each task whose id comes in on standard input, and answers with one JSON
line: ``{"seconds": …, "cpu_seconds": …, "late_seconds": …}``, the last of its event loop, 99 of 100 times.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import httpx
import pymysql
from alibabacloud_outboundbot20191226.client import Client
from alibabacloud_tea_openapi import utils_models
from darabonba.runtime import RuntimeOptions
from dashscope import AsyncClient
from httpx_aiohttp import HttpxAiohttpClient
from sqlalchemy import make_url

from calltasks.rules.judgement import SYSTEM, question

THREADS = 24
QUESTIONS_AT_ONCE = 500
PAGE, BATCH = 100, 99
ROWS = 2_000
"""Rows a statement."""
GENERATION = "/services/aigc/text-generation/generation"
ZONE = ZoneInfo("Asia/Shanghai")


class Platform:
    """OutboundBot through its SDK, in threads."""

    def __init__(self) -> None:
        scheme, _, host = os.environ["OUTBOUND_BOT_ENDPOINT"].partition("://")
        self._instance = os.environ["OUTBOUND_BOT_INSTANCE_ID"]
        self._client = Client(
            utils_models.Config(
                access_key_id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
                access_key_secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
                endpoint=host.rstrip("/"),
                protocol=scheme,
                max_idle_conns=THREADS,
            )
        )
        self._runtime = RuntimeOptions(autoretry=False, max_idle_conns=THREADS)
        self._threads = ThreadPoolExecutor(THREADS)

    async def ask(self, action: str, **query: Any) -> Any:
        """The body of an answer."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(self.send, action, **query))

    def send(self, action: str, **query: Any) -> Any:
        """The same, for a thread of its own."""
        params = utils_models.Params(
            action=action,
            version="2019-12-26",
            protocol="HTTPS",
            pathname="/",
            method="POST",
            auth_type="AK",
            style="RPC",
            req_body_type="formData",
            body_type="json",
        )
        request = utils_models.OpenApiRequest(
            query={"InstanceId": self._instance} | {name: str(value) for name, value in query.items()}
        )
        return self._client.call_api(params, request, self._runtime)["body"]


class Model:
    """DashScope, through its SDK or without."""

    def __init__(self, how: str) -> None:
        base, key = os.environ["DASHSCOPE_HTTP_BASE_URL"], os.environ["DASHSCOPE_API_KEY"]
        headers = {"Authorization": f"Bearer {key}"}
        if how == "bare":
            connector = aiohttp.TCPConnector(limit=QUESTIONS_AT_ONCE)
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)
            self._url, self._ask = base + GENERATION, self._bare
        else:
            limits = httpx.Limits(max_connections=QUESTIONS_AT_ONCE, max_keepalive_connections=QUESTIONS_AT_ONCE)
            http = HttpxAiohttpClient(base_url=base, headers=headers, timeout=60, limits=limits)
            self._client = AsyncClient(api_key=key, base_url=base, max_retries=0, http_client=http)
            self._ask = self._sdk

    async def judge(self, transcript: str, called_at: datetime) -> dict[str, Any]:
        """The judgement of one call."""
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question(transcript, called_at)},
        ]
        parameters = {"result_format": "message", "response_format": {"type": "json_object"}}
        body = await self._ask({"model": "qwen-plus", "input": {"messages": messages}, "parameters": parameters})
        answer: dict[str, Any] = json.loads(body["output"]["choices"][0]["message"]["content"])
        return answer

    async def _bare(self, body: dict[str, Any]) -> Any:
        async with self._session.post(self._url, json=body) as response:
            return json.loads(await response.read())

    async def _sdk(self, body: dict[str, Any]) -> Any:
        return (await self._client.transport.request("POST", GENERATION, json=body, sdk_module="aigc")).json()


class Writer(threading.Thread):
    """One connection, in one thread, which writes what has come together since it last did."""

    def __init__(self, write: Callable[[pymysql.cursors.Cursor, Sequence[tuple[Any, ...]]], None], cursor: Any) -> None:
        super().__init__(daemon=True)
        self._write, self._cursor = write, cursor
        self._rows: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self.put = self._rows.put
        self.start()

    def run(self) -> None:
        """Write until None comes."""
        rows: list[tuple[Any, ...]] = []
        while (row := self._rows.get()) is not None:
            rows.append(row)
            if len(rows) == ROWS:
                self._write(self._cursor, rows)
                rows = []
        if rows:
            self._write(self._cursor, rows)

    async def end(self) -> None:
        """Wait until all is written."""
        self._rows.put(None)
        await asyncio.to_thread(self.join)


class Floor:
    """Runs finished calls of an adopted task, one task at a time."""

    def __init__(self, how: str) -> None:
        url = make_url(os.environ["DATABASE_URL"])
        connection = pymysql.connect(
            host=url.host or "",
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.database,
            charset="utf8mb4",
            autocommit=True,
        )
        self._cursor = connection.cursor()
        self._platform, self._model = Platform(), Model(how)

    async def run(self, task_id: int) -> None:
        """Take one task to type 4."""
        self._cursor.execute("SELECT job_group_id FROM call_tasks WHERE id = %s", (task_id,))
        group = str((self._cursor.fetchone() or ("",))[0])
        self._cursor.execute("SELECT reference_id, id, leads_id FROM leads_task_list WHERE task_id = %s", (task_id,))
        self._rows = {row[0]: row[1:] for row in self._cursor.fetchall()}
        self._writer = Writer(_save, self._cursor)
        self._places = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        async with asyncio.TaskGroup() as self._answered:
            first = await self._page(group, 1)
            pages = (self._page(group, number) for number in range(2, -(-first // PAGE) + 1))
            await _all(pages, 8)
        await self._writer.end()
        assert not self._rows, "calls that the pages did not list"
        self._cursor.execute("UPDATE call_tasks SET task_type = 4 WHERE id = %s", (task_id,))

    async def _page(self, group: str, number: int) -> int:
        page = await self._platform.ask("QueryJobsWithResult", JobGroupId=group, PageNumber=number, PageSize=PAGE)
        ids = [job["Id"] for job in page["Jobs"]["List"]]
        for start in range(0, len(ids), BATCH):
            batch = {f"JobId.{place}": id_ for place, id_ in enumerate(ids[start : start + BATCH], 1)}
            jobs = (await self._platform.ask("ListJobs", **batch))["Jobs"]
            for job in jobs:
                await self._call(job)
        return int(page["Jobs"]["RowCount"])

    async def _call(self, job: dict[str, Any]) -> None:
        reference = job["ReferenceId"] if "ReferenceId" in job else job["Contacts"][0]["ReferenceId"]
        row_id, leads_id = self._rows.pop(reference)
        attempt = job["Tasks"][-1]
        turns = attempt.get("Conversation") or []
        called_at = datetime.fromtimestamp(attempt["ActualTime"] / 1000, ZONE)
        at = called_at.replace(tzinfo=None, microsecond=0)
        text = json.dumps(turns, ensure_ascii=False) if turns else None
        row = (row_id, leads_id, job["JobId"], job["Status"], text, at, attempt["TaskId"])
        if not turns:
            self._writer.put((*row, "", 2, "未接通", None))
            return
        await self._places.acquire()
        self._answered.create_task(self._judge(row, spoken(turns), called_at))

    async def _judge(self, row: tuple[Any, ...], said: str, called_at: datetime) -> None:
        answer, recording = await asyncio.gather(
            self._model.judge(said, called_at), self._platform.ask("DownloadRecording", TaskId=row[-1])
        )
        self._places.release()
        url = recording["DownloadParams"]["SignatureUrl"]
        self._writer.put((*row, url, answer["is_interested"], answer["leads_remark"], answer["next_follow_time"]))


def spoken(turns: Sequence[dict[str, Any]]) -> str:
    """A conversation as lines of speech."""
    return "\n".join(f"{'机器人' if turn['Speaker'] == 'Robot' else '客户'}：{turn['Script']}" for turn in turns)


def _save(cursor: pymysql.cursors.Cursor, rows: Sequence[tuple[Any, ...]]) -> None:
    first = follow_up(cursor, [(row[1], row[9], row[10]) for row in rows])
    columns = (
        *("call_job_id", "call_status", "call_conversation", "planed_time", "updated_time", "call_task_id"),
        *("recording_url", "is_interested", "leads_follow_id"),
    )
    values = [
        (row[0], row[2], row[3], row[4], row[5], row[5], row[6], row[7], row[8], first + place)
        for place, row in enumerate(rows)
    ]
    update(cursor, columns, values)


def follow_up(cursor: pymysql.cursors.Cursor, said: Sequence[tuple[int, str, str | None]]) -> int:
    """Insert follow-ups (lead, remark, next time) in one statement; the id of the first, the others come after it."""
    now = datetime.now(ZONE).replace(tzinfo=None, microsecond=0)
    cursor.execute(
        "INSERT INTO dcc_leads_follow"
        " (leads_id, follow_time, leads_remark, frist_follow_time, new_follow_time, next_follow_time) VALUES "
        + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(said)),
        [value for lead, remark, when in said for value in (lead, now, remark, now, now, when)],
    )
    return int(cursor.lastrowid)


def update(cursor: pymysql.cursors.Cursor, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Write these columns of rows that begin with their id, in one statement."""
    named = "SELECT %s AS id, " + ", ".join(f"%s AS {column}" for column in columns)
    others = f" UNION ALL SELECT %s{', %s' * len(columns)}" * (len(rows) - 1)
    cursor.execute(
        f"UPDATE ({named}{others}) v STRAIGHT_JOIN leads_task_list t ON t.id = v.id SET "
        + ", ".join(f"t.{column} = v.{column}" for column in columns),
        [value for row in rows for value in row],
    )


async def _all(works: Iterator[Awaitable[Any]] | Any, at_once: int) -> None:
    waiting = iter(works)

    async def work() -> None:
        for one in waiting:
            await one

    await asyncio.gather(*(work() for _ in range(at_once)))


async def _watch(late: list[float]) -> None:
    """How much later than due the event loop comes to each tenth of a second."""
    due = time.monotonic()
    while True:
        due += 0.1
        await asyncio.sleep(due - time.monotonic())
        late.append(time.monotonic() - due)


async def main(how: str) -> None:
    """Serve the ids on standard input."""
    floor = Floor(how)
    loop = asyncio.get_running_loop()
    print("floor ready", file=sys.stderr, flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        began, cpu = time.monotonic(), time.process_time()
        late: list[float] = []
        watch = asyncio.create_task(_watch(late))
        await floor.run(int(line))
        watch.cancel()
        spent = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": time.process_time() - cpu,
            "late_seconds": sorted(late)[int(0.99 * len(late))] if late else 0.0,
        }
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

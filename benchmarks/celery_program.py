"""The same work by Celery and Redis, as a team that knows both would write it; `python -m benchmarks celery` runs it.

A task a page, a batch of 99 and a call, each acknowledged after it is done and tried again up to three times; no
results, no events; messages hold ids. Chosen in its favour:

- gevent with 200 places (the vendors' SDKs and PyMySQL wait in its loop): at no latency it was as fast as processes
  that share the processors, and it is the pool that still works when the model takes seconds.
- four messages fetched ahead for each place: tasks are short, and none may be taken from another worker for long.
- one pool of connections to the database, without a rollback at return; a page and a batch are written by bulk
  statements like the floor's (``benchmarks/floor.py``), a call by one small transaction.
- the platform by the SDK's ``call_api``, the model by ``Generation.call``, both over pooled connections, which costs
  less CPU than the SDKs' newer clients.
- Redis writes its log each second, so that a restart loses little.
- both vendors' limits hold for all workers together (rule 14.2) by one script in Redis a call, which says how long to
  wait; Celery's own ``rate_limit`` is one worker's.

What it leaves out: a ledger of paid answers, fairness, odd answers, throttling, pausing, progress.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from time import sleep
from typing import Any

import pymysql
import requests
from celery import Celery
from celery.signals import worker_ready
from dashscope import Generation
from redis import Redis
from requests.adapters import HTTPAdapter
from sqlalchemy import QueuePool, make_url

from benchmarks.floor import BATCH, PAGE, ZONE, Platform, follow_up, spoken, update
from calltasks.rules.judgement import SYSTEM, question

PLACES = 200
CONNECTIONS = 40
RETRIED = {"autoretry_for": (Exception,), "max_retries": 3, "retry_backoff": True}
CLOSE_SECONDS = 0.5
"""Between two looks whether a task is finished."""

app = Celery("benchmark", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    worker_concurrency=PLACES,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=20,
    # Each place acknowledges by a connection of its own.
    broker_transport_options={"visibility_timeout": 3600, "max_connections": 2 * PLACES},
)

platform = Platform()
http = requests.Session()
http.mount("http://", HTTPAdapter(pool_maxsize=PLACES))


def _connect() -> Any:
    url = make_url(os.environ["DATABASE_URL"])
    return pymysql.connect(
        host=url.host or "",
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=url.database,
        charset="utf8mb4",
        autocommit=True,
    )


redis = Redis.from_url(os.environ["CELERY_BROKER_URL"])
_next_slot = redis.register_script("""
local told = redis.call('TIME')
local now = told[1] + told[2] / 1e6
local slot = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
redis.call('SET', KEYS[1], string.format('%.6f', slot + ARGV[1]))
return tostring(slot - now)
""")
SECONDS_A_CALL = {
    "platform": 1 / float(os.environ.get("OUTBOUND_BOT_QPS", 50)),
    "model": 60 / float(os.environ.get("ANALYSIS_QPM", 1200)),
}


def wait_for_slot(vendor: str) -> None:
    """Wait until all workers together may make their next call."""
    if (seconds := float(_next_slot(keys=[f"slot:{vendor}"], args=[SECONDS_A_CALL[vendor]]))) > 0:
        sleep(seconds)


def ask(action: str, **query: Any) -> Any:
    wait_for_slot("platform")
    return platform.send(action, **query)


pool = QueuePool(_connect, pool_size=CONNECTIONS, max_overflow=0, timeout=300, reset_on_return=None)


@contextmanager
def _cursor() -> Iterator[pymysql.cursors.Cursor]:
    connection: Any = pool.connect()
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextmanager
def _transaction() -> Iterator[pymysql.cursors.Cursor]:
    with _cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            yield cursor
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")


@app.task(name="open_task", **RETRIED)
def open_task(task_id: int) -> None:
    """Ask how many pages there are, and have each taken."""
    with _cursor() as cursor:
        cursor.execute("SELECT job_group_id FROM call_tasks WHERE id = %s", (task_id,))
        group = str((cursor.fetchone() or ("",))[0])
    first = ask("QueryJobsWithResult", JobGroupId=group, PageNumber=1, PageSize=1)
    for number in range(1, -(-int(first["Jobs"]["RowCount"]) // PAGE) + 1):
        match_page.delay(task_id, group, number)
    close_task.apply_async((task_id,), countdown=1)


@app.task(name="match_page", **RETRIED)
def match_page(task_id: int, group: str, number: int) -> None:
    """Give the rows of one page their job ids."""
    page = ask("QueryJobsWithResult", JobGroupId=group, PageNumber=number, PageSize=PAGE)
    jobs = {job["LatestTask"]["Contact"]["ReferenceId"]: job["Id"] for job in page["Jobs"]["List"]}
    with _cursor() as cursor:
        cursor.execute(
            "SELECT id, reference_id FROM leads_task_list WHERE task_id = %s AND reference_id IN %s"
            " AND call_job_id = ''",
            (task_id, list(jobs)),
        )
        if rows := [(row_id, jobs[reference]) for row_id, reference in cursor.fetchall()]:
            update(cursor, ["call_job_id"], rows)
    ids = list(jobs.values())
    for start in range(0, len(ids), BATCH):
        fetch_batch.delay(task_id, ids[start : start + BATCH])


@app.task(name="fetch_batch", **RETRIED)
def fetch_batch(task_id: int, ids: list[str]) -> None:
    """Write what became of 99 calls, and the follow-ups of those that nobody answered."""
    jobs = ask("ListJobs", **{f"JobId.{place}": id_ for place, id_ in enumerate(ids, 1)})["Jobs"]
    outcomes, unanswered, calls = [], [], []
    with _cursor() as cursor:
        cursor.execute(
            "SELECT call_job_id, id, leads_id, leads_follow_id FROM leads_task_list"
            " WHERE task_id = %s AND call_job_id IN %s",
            (task_id, ids),
        )
        rows = {row[0]: row[1:] for row in cursor.fetchall()}
    for job in jobs:
        row_id, lead, done = rows[job["JobId"]]
        attempt = job["Tasks"][-1]
        turns = attempt.get("Conversation") or []
        at = datetime.fromtimestamp(attempt["ActualTime"] / 1000, ZONE).replace(tzinfo=None, microsecond=0)
        text = json.dumps(turns, ensure_ascii=False) if turns else None
        outcomes.append((row_id, job["Status"], text, at, at, attempt["TaskId"]))
        if turns:
            calls.append((row_id, attempt["TaskId"]))
        elif not done:
            unanswered.append((row_id, lead))
    with _transaction() as cursor:
        columns = ("call_status", "call_conversation", "planed_time", "updated_time", "call_task_id")
        update(cursor, columns, outcomes)
        if unanswered:
            first = follow_up(cursor, [(lead, "未接通", None) for _, lead in unanswered])
            written = [(row_id, first + place, 2) for place, (row_id, _) in enumerate(unanswered)]
            update(cursor, ["leads_follow_id", "is_interested"], written)
    for row_id, call_task_id in calls:
        judge_call.delay(row_id)
        save_recording.delay(row_id, call_task_id)


@app.task(name="judge_call", **RETRIED)
def judge_call(row_id: int) -> None:
    """Have the model judge one call, and write its follow-up once."""
    with _cursor() as cursor:
        cursor.execute(
            "SELECT leads_id, call_conversation, planed_time, leads_follow_id FROM leads_task_list WHERE id = %s",
            (row_id,),
        )
        lead, text, at, done = cursor.fetchone() or (0, None, None, 1)
    if done:
        return
    answer = _judge(spoken(json.loads(text)), at)
    with _transaction() as cursor:
        written = follow_up(cursor, [(lead, answer["leads_remark"], answer["next_follow_time"])])
        cursor.execute(
            "UPDATE leads_task_list SET leads_follow_id = %s, is_interested = %s"
            " WHERE id = %s AND leads_follow_id IS NULL",
            (written, answer["is_interested"], row_id),
        )
        if cursor.rowcount != 1:
            raise RuntimeError("somebody else has written it")


def _judge(said: str, called_at: datetime) -> dict[str, Any]:
    messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question(said, called_at)}]
    wait_for_slot("model")
    answered: Any = Generation.call(
        model="qwen-plus",
        api_key=os.environ["DASHSCOPE_API_KEY"],
        messages=messages,
        result_format="message",
        response_format={"type": "json_object"},
        session=http,
    )
    if answered.status_code != 200:
        raise RuntimeError(answered.code)
    judgement: dict[str, Any] = json.loads(answered.output.choices[0].message.content)
    return judgement


@app.task(name="save_recording", **RETRIED)
def save_recording(row_id: int, call_task_id: str) -> None:
    """Write the address of one recording."""
    url = ask("DownloadRecording", TaskId=call_task_id)["DownloadParams"]["SignatureUrl"]
    with _cursor() as cursor:
        cursor.execute("UPDATE leads_task_list SET recording_url = %s WHERE id = %s", (url, row_id))


@app.task(name="close_task", max_retries=None, bind=True)
def close_task(self: Any, task_id: int) -> None:
    """Take the task to type 4 once every row has its follow-up and every answered one its recording."""
    with _cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM leads_task_list WHERE task_id = %s AND (leads_follow_id IS NULL"
            " OR call_conversation IS NOT NULL AND recording_url IS NULL) LIMIT 1",
            (task_id,),
        )
        if cursor.fetchone() is None:
            cursor.execute("UPDATE call_tasks SET task_type = 4 WHERE id = %s", (task_id,))
            print(f"closed task {task_id}.", flush=True)
            return
    raise self.retry(countdown=CLOSE_SECONDS)


@worker_ready.connect
def _say(**_: Any) -> None:
    print("celery ready", flush=True)

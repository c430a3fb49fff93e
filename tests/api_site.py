"""The HTTP interface as its users meet it: the real server on a real port, with a worker, MariaDB, Temporal and the
simulators behind it. Each site has a database and a Temporal namespace of its own."""

import asyncio
import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import httpx
import pytest
from pymysql.cursors import DictCursor

from calltasks.api.server import Server, run
from calltasks.call_tasks import CallTasks
from calltasks.temporal.connection import connect
from devstack.mariadb import EmbeddedMariaDB
from devstack.processes import wait_until
from devstack.temporal import EmbeddedTemporal
from tests.pipeline import environment, lead, new_namespace
from worker import workers

T = TypeVar("T")

ORGANIZATION, OTHER = "org7", "org8"
TOKEN, OTHER_TOKEN = "token-of-org7", "token-of-org8-密钥"
UPPER_TOKEN = "token-of-ORG7"
READ_TOKEN = "token-to-read-org7"
TOKENS = {TOKEN: ORGANIZATION, OTHER_TOKEN: OTHER, UPPER_TOKEN: ORGANIZATION.upper()}
TASK_PATHS = ("/start-call-task", "/query-task-execution", "/force-analyze")
PATHS = ("/create-autoCall-tasks", *TASK_PATHS, "/auto-task", "/opt-outs", "/opt-outs/lift")


class ApiSite:
    """The interface at `url`, and what lies behind it."""

    def __init__(self, url: str, sim_url: str, mariadb: EmbeddedMariaDB, database: str) -> None:
        self.url = url
        self.sim_url = sim_url
        self._mariadb = mariadb
        self._database = database
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=300)

    def ask(self, method: str, path: str, body: Any = None, *, token: str = TOKEN, **options: Any) -> httpx.Response:
        headers = {"access-token": token.encode()} | options.pop("headers", {})
        return self.http.request(method, path, json=body, headers=headers, **options)

    def done(self, path: str, body: Any = None, *, token: str = TOKEN) -> Any:
        """The data of a request that must succeed: a POST if it has a body."""
        answer = self.ask("GET" if body is None else "POST", path, body, token=token)
        assert answer.status_code == 200, answer.text
        envelope = answer.json()
        assert envelope.keys() == {"status", "code", "message", "data"}
        assert (envelope["status"], envelope["code"]) == ("success", 200) and envelope["message"]
        return envelope["data"]

    def create(self, token: str = TOKEN, **body: Any) -> int:
        created = self.done(
            "/create-autoCall-tasks", {"task_name": "spring sale", "all_leads": True} | body, token=token
        )
        return int(created["task_id"])

    def finished(self, task_id: int, *, within: float = 150) -> dict[str, Any]:
        """The task's progress once it is complete."""
        found: dict[str, Any] = {}

        def complete() -> bool:
            found.update(self.done(f"/call-tasks/{task_id}/progress"))
            return bool(found["phase"] == "complete")

        wait_until(complete, within, f"task {task_id} is complete", interval=0.2)
        return found

    def completed(self, **body: Any) -> int:
        """A task that was called and followed up."""
        task_id = self.create(**body)
        self.done("/start-call-task", {"task_id": task_id})
        self.finished(task_id)
        return task_id

    def connect(self, **options: Any) -> Any:
        return self._mariadb.connect(self._database, **options)

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self.connect(cursorclass=DictCursor) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    def fail(self, *faults: dict[str, Any]) -> None:
        """Have the platform fail in these ways; with none, no more."""
        assert httpx.post(f"{self.sim_url}/_sim/faults", json=list(faults), trust_env=False).status_code == 200


def failed(answer: httpx.Response, status: int, code: int | None = None) -> str:
    """The message of an error, whose envelope must be right."""
    envelope = answer.json()
    assert answer.status_code == status, answer.text
    assert envelope.keys() == {"status", "code", "message"}
    assert (envelope["status"], envelope["code"]) == ("error", code or status)
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    message = envelope["message"]
    assert isinstance(message, str) and message and "\n" not in message
    return message


@contextmanager
def opening(
    mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal, sim_url: str, *, working: bool = True, leads: int = 12
) -> Iterator[ApiSite]:
    """A site with leads 1 and on of `ORGANIZATION`, and as many from 1001 on of `OTHER`."""
    namespace = f"test-{secrets.token_hex(6)}"
    asyncio.run(new_namespace(temporal, namespace))
    with new_database(mariadb) as name, pytest.MonkeyPatch.context() as patch:
        settings = environment(sim_url, temporal, namespace, mariadb.url_of(name))
        for variable, value in (settings | api_settings()).items():
            patch.setenv(variable, value)
        asyncio.run(_prepare())
        with mariadb.connect(name) as connection, connection.cursor() as cursor:
            rows = [
                lead(first + number, who)
                for who, first in ((ORGANIZATION, 1), (OTHER, 1001))
                for number in range(leads)
            ]
            cursor.executemany(
                "INSERT INTO dcc_leads VALUES (%(leads_id)s, %(organization_id)s, %(leads_user_name)s,"
                " %(leads_user_phone)s)",
                rows,
            )
        with _working(working), serving() as url:
            site = ApiSite(url, sim_url, mariadb, name)
            with site.http:
                yield site


def api_settings(tokens: Mapping[str, str] | None = None) -> dict[str, str]:
    reader = {READ_TOKEN: {"organization_id": ORGANIZATION, "role": "read"}}
    return {"API_TOKENS": json.dumps({**(tokens or TOKENS), **reader}, ensure_ascii=False), "API_PORT": "0"}


@contextmanager
def serving() -> Iterator[str]:
    """The interface on a thread of its own, by the settings of the environment: its URL."""

    async def serve(made: "Future[Server]") -> None:
        await run(made.set_result)

    with _on_a_thread("api", serve) as (server, ended):
        try:
            wait_until(lambda: server.started or ended(), 150, "the interface listens")
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.should_exit = True


@contextmanager
def _working(working: bool) -> Iterator[None]:
    """A worker on a thread of its own."""

    async def work(made: "Future[Callable[[], object]]") -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with workers(await connect()) as built, AsyncExitStack() as stack:
            for one in built:
                await stack.enter_async_context(one)
            made.set_result(partial(loop.call_soon_threadsafe, stop.set))
            await stop.wait()

    if not working:
        yield
        return
    with _on_a_thread("worker", work) as (stop, _ended):
        try:
            yield
        finally:
            stop()


@contextmanager
def _on_a_thread(name: str, main: Callable[["Future[T]"], Awaitable[None]]) -> Iterator[tuple[T, Callable[[], bool]]]:
    """What `main` makes, and whether it has ended; the block has to make it end."""
    made: Future[T] = Future()

    def target() -> None:
        try:
            asyncio.run(_awaited(main(made)))
        except BaseException as error:
            if made.done():
                raise
            made.set_exception(error)

    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    try:
        yield made.result(60), lambda: not thread.is_alive()
    finally:
        thread.join(60)
        assert not thread.is_alive(), f"{name} does not end"


async def _awaited(coroutine: Awaitable[None]) -> None:
    await coroutine


async def _prepare() -> None:
    async with CallTasks.connect(temporal=False) as calls:
        await calls.init_db()


@contextmanager
def new_database(mariadb: EmbeddedMariaDB) -> Iterator[str]:
    """The name of an empty database, dropped at the end."""
    name = f"{mariadb.database}_{secrets.token_hex(6)}"
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}`")
    try:
        yield name
    finally:
        with mariadb.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE `{name}`")

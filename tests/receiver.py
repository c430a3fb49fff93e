"""A receiver of events as a customer would have one, over HTTP; it checks each signature, and misbehaves on request."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook


class Receiver:
    """What came in; `answers` is what it says, one a request, then 204. An answer is a status, a pair of status and
    headers, `cut` (the connection breaks before the answer), or seconds to wait."""

    def __init__(self) -> None:
        self.secret = ""
        self.answers: list[Any] = []
        self.always: Any = 204
        self.refuses = b"\0"
        """A body that holds this gets a 400."""
        self.fails_every = 0
        """Of the requests; 0: none."""
        self.failures: Iterator[Any] = iter(())
        self.failed = 0
        self.requests: list[dict[str, Any]] = []
        self.seen: dict[str, dict[str, Any]] = {}
        """Events that were taken, by id, in the order in which they first came."""
        self.times: Counter[str] = Counter()
        self.problems: list[str] = []
        self.url = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self.seen.values())

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] in kinds]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append({"headers": dict(request.headers), "body": body, "path": request.path})
        answer = self.answers.pop(0) if self.answers else self.always
        if self.fails_every and len(self.requests) % self.fails_every == 0:
            answer = next(self.failures)
            self.failed += 1
        if self.refuses in body:
            answer = 400
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = 204
        if answer == "cut-before":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        if answer == "cut" or 200 <= status < 300:
            self.take(body, dict(request.headers))
        if answer == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=status, headers=headers)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        if self.secret:
            Webhook(self.secret).verify(body, headers)
        message = json.loads(body)
        for event in message["events"] if message["type"] == "batch" else [message]:
            self.times[event["id"]] += 1
            known = self.seen.setdefault(event["id"], event)
            if known["data"] != event["data"]:
                self.problems.append(f"{event['id']} says something else the second time")


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/events"
    yield receiver
    await runner.cleanup()


def in_order(events: list[dict[str, Any]]) -> bool:
    """Whether each task's events came in the order of their sequence."""
    last: dict[int, int] = {}
    for event in events:
        task_id = event["data"]["task_id"]
        if event["sequence"] <= last.get(task_id, 0):
            return False
        last[task_id] = event["sequence"]
    return True

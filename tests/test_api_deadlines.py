"""How long a request may take: an answer that comes in parts may be long, one that does not come is given up."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from calltasks.api import requests

SECONDS = 0.6


async def answered(monkeypatch: pytest.MonkeyPatch, *pauses: float) -> list[Message]:
    """What is sent of an answer whose beginning and whose parts each come after a pause."""
    monkeypatch.setattr(requests, "SECONDS", SECONDS)
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first, *others = pauses
        await asyncio.sleep(first)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for pause in others:
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await requests.Requests(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    return sent


async def test_an_answer_that_goes_on_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = await answered(monkeypatch, *[SECONDS / 2] * 5)
    assert [message.get("body") for message in sent[1:]] == [b"part"] * 4 + [b""]


async def test_an_answer_that_stops_is_not_ended_as_if_it_were_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = await answered(monkeypatch, 0, 0, 3 * SECONDS)
    assert [message.get("body") for message in sent[1:]] == [b"part"]


async def test_an_answer_that_does_not_begin_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = await answered(monkeypatch, 3 * SECONDS)
    assert sent[0]["status"] == 503

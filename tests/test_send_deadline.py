"""A request that makes the platform dial does not leave after its time, not even one that is half-way out (rule 2)."""

import asyncio
import ctypes
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from alibabacloud_outboundbot20191226 import models
from alibabacloud_outboundbot20191226.client import Client
from alibabacloud_tea_openapi import utils_models
from darabonba.runtime import RuntimeOptions
from pydantic import SecretStr
from urllib3.connection import HTTPConnection

import calltasks.database.connection
from calltasks.clock import elapsed
from calltasks.database.connection import Database
from calltasks.errors import PassingError
from calltasks.limiter import RateLimiter
from calltasks.platform.outbound_bot import OutboundBot
from calltasks.platform.send_deadline import TooLateError
from calltasks.platform.session import PlatformSession, contact_json
from calltasks.settings import DatabaseSettings, PlatformSettings, load
from simulators import ACCESS_KEY_ID, ACCESS_KEY_SECRET, INSTANCE_ID, SCRIPT_ID, Fault, Simulators, running
from tests.pipeline import phone
from tests.tls import Certificates, pump, tls_before


async def at_once(_: float) -> float:
    return 0.0


async def never(_: float) -> None:
    raise AssertionError("nobody asked us to slow down")


@pytest.fixture
async def simulators() -> AsyncIterator[Simulators]:
    async with running() as simulators:
        yield simulators


@pytest.fixture(params=["plain", "TLS", "proxy", "forwarded"])
async def session(
    request: pytest.FixtureRequest,
    simulators: Simulators,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[PlatformSession]:
    """By plain HTTP, by TLS, and each through a proxy."""
    async with AsyncExitStack() as stack:
        endpoint = simulators.url
        if request.param in ("TLS", "proxy"):
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
            address = simulators.url.removeprefix("http://")
            endpoint = await stack.enter_async_context(tls_before(address, certificates, protocol="http/1.1"))
        if request.param in ("proxy", "forwarded"):
            proxy, asked_for = await stack.enter_async_context(proxying())
            monkeypatch.setenv("HTTPS_PROXY" if request.param == "proxy" else "HTTP_PROXY", proxy)
        yield await stack.enter_async_context(opened(endpoint))
        if request.param in ("proxy", "forwarded"):
            assert asked_for == [endpoint.removeprefix("http://")] * len(asked_for) != []


@asynccontextmanager
async def opened(endpoint: str) -> AsyncIterator[PlatformSession]:
    """The platform at this address."""
    settings = PlatformSettings(
        alibaba_cloud_access_key_id=ACCESS_KEY_ID,
        alibaba_cloud_access_key_secret=SecretStr(ACCESS_KEY_SECRET),
        outbound_bot_instance_id=INSTANCE_ID,
        outbound_bot_script_id=SCRIPT_ID,
        outbound_bot_endpoint=endpoint,
    )
    platform = OutboundBot(settings, RateLimiter(1000, 4, reserve=at_once, push_back=never))
    yield platform.session("org7", 1)
    await platform.close()


@asynccontextmanager
async def proxying() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that carries out CONNECT, or hands a request on: its URL, and the servers that it was asked for."""
    asked_for: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode().split(maxsplit=2)
        asked_for.append(target if method == "CONNECT" else urlsplit(target).netloc)
        host, _, port = asked_for[-1].partition(":")
        there = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
            return
        # One request a connection, without a body.
        head = head.replace(f"http://{asked_for[-1]}".encode(), b"", 1)
        there[1].write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await pump(there[0], writer)
        there[1].close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked_for


def contacts() -> list[str]:
    return [contact_json(phone=phone(1), name="测试客户", reference_id="1org71")]


async def test_in_time_it_leaves(simulators: Simulators, session: PlatformSession) -> None:
    group = await session.create_group("call-task-1")
    assert await session.assign(group, contacts(), send_before=elapsed() + 5) == 1
    assert simulators.outbound_bot.contacts_assigned == 1


async def test_a_worker_that_wakes_up_on_the_connection_sends_nothing(
    simulators: Simulators, session: PlatformSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still after everything that leads up to the bytes; its next request is an ordinary one."""
    group = await session.create_group("call-task-1")
    late = elapsed() + 0.2
    put = HTTPConnection.putrequest

    def asleep(connection: HTTPConnection, *arguments: Any, **options: Any) -> None:
        put(connection, *arguments, **options)
        while elapsed() <= late:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnection, "putrequest", asleep)
        with pytest.raises(TooLateError):
            await session.assign(group, contacts(), send_before=late)
    assert simulators.outbound_bot.contacts_assigned == 0
    assert await session.assign(group, contacts(), send_before=elapsed() + 5) == 1
    assert simulators.outbound_bot.contacts_assigned == 1


async def under_way(assigning: asyncio.Task[Any]) -> asyncio.Task[Any]:
    """The task within it that makes the request."""
    while not assigning.done():
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == "OutboundBot.call":
                return task
        await asyncio.sleep(0)
    raise AssertionError("no request was made")


async def test_a_stop_that_comes_with_the_answer_takes_it_all_the_same(
    simulators: Simulators, session: PlatformSession
) -> None:
    """In the very turn of the loop: counted as never sent, the batch would be sent again at once."""
    group = await session.create_group("call-task-1")
    assigning = asyncio.create_task(session.assign(group, contacts(), send_before=elapsed() + 5))
    (await under_way(assigning)).add_done_callback(lambda _: assigning.cancel())
    assert await assigning == 1
    assert simulators.outbound_bot.contacts_assigned == 1


async def test_a_request_that_is_given_up_may_have_left(session: PlatformSession) -> None:
    """The loop itself ends: whatever is under way is cancelled, and nobody hears the answer."""
    group = await session.create_group("call-task-1")
    assigning = asyncio.create_task(session.assign(group, contacts(), send_before=elapsed() + 5))
    (await under_way(assigning)).cancel()
    with pytest.raises(PassingError) as lost:
        await assigning
    assert lost.value.sent


@pytest.mark.parametrize("kind", ["lost_answer", "reset"])
async def test_a_request_whose_answer_is_lost_may_have_been_carried_out(
    simulators: Simulators, session: PlatformSession, kind: str
) -> None:
    """Behind a proxy this looks as if the proxy could not be reached."""
    group = await session.create_group("call-task-1")
    simulators.set_faults(Fault(target="AssignJobs", kind=kind, count=1))
    with pytest.raises(PassingError) as lost:
        await session.assign(group, contacts(), send_before=elapsed() + 5)
    assert lost.value.sent


@asynccontextmanager
async def gateway(simulators: Simulators, answers: Callable[[bytes, bytes], bytes]) -> AsyncIterator[str]:
    """Something between us and the platform, its URL: what it answers is made of the platform's two answers, for it
    sends what makes calls a second time."""
    host, _, port = simulators.url.removeprefix("http://").partition(":")

    async def ask(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        answer = await reader.read()
        writer.close()
        return answer

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        answer = await ask(request)
        writer.write(answers(answer, await ask(request)) if b"AssignJobs" in request else answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def second(first: bytes, second: bytes) -> bytes:
    assert b"SignatureNonceUsed" in second
    return second


def unavailable(first: bytes, second: bytes) -> bytes:
    body = b'{"Code": "ServiceUnavailable", "Message": "come again", "RequestId": "1"}'
    head = b"HTTP/1.1 503 Service Unavailable\r\nx-acs-retry-after: 100\r\nConnection: close\r\nContent-Length: "
    return head + str(len(body)).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("answers", [second, unavailable])
async def test_what_a_gateway_makes_of_an_answer_does_not_say_that_nothing_was_done(
    simulators: Simulators, answers: Callable[[bytes, bytes], bytes]
) -> None:
    async with gateway(simulators, answers) as endpoint, opened(endpoint) as session:
        group = await session.create_group("call-task-1")
        with pytest.raises(PassingError) as failure:
            await session.assign(group, contacts(), send_before=elapsed() + 5)
    assert failure.value.sent and simulators.outbound_bot.contacts_assigned == 1


DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
"""A packet filter that lets nothing through."""
ATTACH_FILTER, DETACH_FILTER = 26, 27


@pytest.mark.long
async def test_what_nobody_waits_for_any_more_is_not_delivered_later(simulators: Simulators) -> None:
    """The network loses every packet for 10 s; the kernel would send a closed connection's for minutes."""
    host, _, port = simulators.url.removeprefix("http://").partition(":")
    accepted: list[asyncio.StreamWriter] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, opened(endpoint) as session:
        group = await session.create_group("call-task-1")
        (writer,) = accepted
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(DROP_ALL)))
        with pytest.raises(PassingError) as lost:
            await session.assign(group, contacts(), send_before=elapsed() + 5)
        connection.setsockopt(socket.SOL_SOCKET, DETACH_FILTER, 0)
        await asyncio.sleep(4)
        assert lost.value.sent and simulators.outbound_bot.contacts_assigned == 0
        writer.close()
        await over.wait()


async def test_what_changes_nothing_is_read_by_the_same_way(session: PlatformSession) -> None:
    group = await session.create_group("call-task-1")
    assert await session.find_groups("call-task-1") == [group]
    assert (await session.page(group, 1)).row_count == 0


async def test_whoever_else_uses_the_sdk_keeps_its_own_connections(simulators: Simulators) -> None:
    config = utils_models.Config(
        access_key_id=ACCESS_KEY_ID,
        access_key_secret=ACCESS_KEY_SECRET,
        endpoint=simulators.url.removeprefix("http://"),
        protocol="http",
    )
    request = models.ListJobGroupsRequest(instance_id=INSTANCE_ID, page_number=1, page_size=10)
    client = Client(config)
    assert (await asyncio.to_thread(client.list_job_groups, request)).body.success
    assert (await client.list_job_groups_with_options_async(request, RuntimeOptions())).body.success


def suspend(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on the clocks are as after the machine's lid was shut for so long: ``time.monotonic()`` stood still."""
    true = time.clock_gettime
    patch.setattr(time, "clock_gettime", lambda clock: true(clock) + (seconds if clock == time.CLOCK_BOOTTIME else 0.0))


async def test_a_machine_that_was_suspended_sends_nothing_late(
    simulators: Simulators, session: PlatformSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await session.create_group("call-task-1")
    in_time = elapsed() + 5
    suspend(monkeypatch, 3600)
    with pytest.raises(TooLateError):
        await session.assign(group, contacts(), send_before=in_time)
    assert simulators.outbound_bot.contacts_assigned == 0


async def test_after_a_suspension_the_database_is_asked_for_the_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    database = Database(load(DatabaseSettings))
    try:
        before = await database.now()
        monkeypatch.setattr(calltasks.database.connection, "_utc_now", lambda cursor: before + timedelta(hours=1))
        assert await database.now() < before + timedelta(minutes=1)
        suspend(monkeypatch, 3600)
        assert await database.now() >= before + timedelta(hours=1)
    finally:
        database.close()

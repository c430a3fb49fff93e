"""One port for both vendors, the recordings, and the control of the simulation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from simulators.control import Control
from simulators.dashscope import Model
from simulators.faults import Fault, Faults
from simulators.gateway import Gateway, broken_answer
from simulators.options import SimulatorOptions
from simulators.outbound_bot import OutboundBot
from simulators.signature import ApiError
from simulators.stats import Stats
from simulators.world import World

_MAX_LINE = 4 << 20  # a batch of 99 contacts is a URL of 45 KB, and of far more with hostile names
_MAX_BODY = 64 << 20


class Simulators:
    """Both vendors over one world. `url` is set once it listens."""

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self.url = ""
        self.world = World(self.options)
        self.stats = Stats()
        self.faults = Faults(self.options.seed)
        self.outbound_bot = OutboundBot(self.world)
        self.model = Model(self.options, self.faults, self.stats)
        self._gateway = Gateway(self.options, self.outbound_bot, self.faults, self.stats)
        self._control = Control(self.world, self.stats, self.faults, self.outbound_bot, self.model)
        self._runner: web.ServerRunner | None = None
        self._handling: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        """Listens on the options' host and port (0: any free one)."""
        server = web.Server(
            self._handle, request_factory=_request, access_log=None, max_line_size=_MAX_LINE, max_field_size=1 << 16
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port, backlog=1024)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stops at once: answers still held back by a latency or a hang are dropped."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None
        held = list(self._handling)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    def set_faults(self, *faults: Fault) -> None:
        """These faults instead of the former ones; none at all: everything works."""
        self.faults.replace(faults)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        try:
            return await self._route(request)
        finally:
            self._handling.discard(task)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/api/v1/") and request.method == "POST":
            return await self.model.handle(request)
        if path.startswith("/recordings/"):
            return await self._recording(request)
        if path.startswith("/_sim/"):
            return await self._control.handle(request)
        if path == "/" and "x-acs-action" in request.headers:
            return await self._gateway.handle(request)
        return web.Response(status=404, text="not found\n")

    async def _recording(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self.faults.strike("recording")
        if fault:
            self.stats.ended("recording", fault.kind)
            if fault.kind.startswith("status_"):
                return web.Response(status=int(fault.kind.removeprefix("status_")), text="<Error/>")
            if broken := await broken_answer(request, fault):
                return broken
        try:
            audio = self.outbound_bot.recordings.serve(request.path.removeprefix("/recordings/"), request.query)
        except ApiError as error:
            self.stats.ended("recording", error.code)
            return web.Response(
                status=error.status, text=f"<Error><Code>{error.code}</Code></Error>", content_type="application/xml"
            )
        if fault and fault.kind == "truncated":
            return await _truncated(request, audio)
        self.stats.ended("recording", "ok")
        return web.Response(body=audio, content_type="audio/wav")


async def _truncated(request: web.BaseRequest, audio: bytes) -> web.StreamResponse:
    """Promises all of the audio, sends half of it and cuts the connection."""
    answer = web.StreamResponse(headers={"Content-Type": "audio/wav", "Content-Length": str(len(audio))})
    await answer.prepare(request)
    await answer.write(audio[: len(audio) // 2])
    if request.transport:
        request.transport.close()
    return answer


def _request(
    message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY)


@asynccontextmanager
async def running(options: SimulatorOptions | None = None) -> AsyncIterator[Simulators]:
    """The simulators on the current event loop, for as long as the block lasts."""
    simulators = Simulators(options)
    await simulators.start()
    try:
        yield simulators
    finally:
        await simulators.stop()


@contextmanager
def running_in_thread(options: SimulatorOptions | None = None) -> Iterator[Simulators]:
    """The simulators on an event loop of their own thread, for callers without one.

    Use their HTTP control from outside; `world` may only be read while no call is under way."""
    simulators = Simulators(options)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulators", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(simulators.start(), loop).result(10)
        yield simulators
    finally:
        asyncio.run_coroutine_threadsafe(simulators.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

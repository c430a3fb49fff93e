"""A TCP proxy that can be cut: altogether, for a while, or exactly before or after a COMMIT of MySQL's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

COMMIT = b"\x03COMMIT"
"""COM_QUERY with this statement, behind the four bytes of a packet's head."""


class Proxy:
    """Forwards every connection to one port of 127.0.0.1.

    Attributes:
        port: where it listens.
        open: False: nothing passes any more, new connections are closed at once.
        held: True: what comes in stays in, connections stay open (a network that swallows packets).
        before, after: how many of the next COMMITs lose their connection before they reach the server, and after the
            server has carried them out but before its answer arrives.
        cut: how many connections were cut at a COMMIT.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self.port = 0
        self.open = True
        self.before = self.after = self.cut = 0

    async def shut(self) -> None:
        """Cut every connection, and let no new one through until `reopen`."""
        self.open = False
        for writer in list(self._writers):
            writer.transport.abort()

    def reopen(self) -> None:
        self.open = True

    def hold(self) -> None:
        """Let nothing pass, but keep the connections."""
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = writer, there[1]
        self._writers.update(both)
        lost = asyncio.Event()
        pumps = [
            asyncio.create_task(self._pump(reader, there[1], lost, outgoing=True)),
            asyncio.create_task(self._pump(there[0], writer, lost, outgoing=False)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in both:
            end.transport.abort()
        self._writers.difference_update(both)
        self._tasks.difference_update(pumps)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event, *, outgoing: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._resumed.wait()
                if outgoing and data[4:].startswith(COMMIT):
                    if self.before:
                        self.before -= 1
                        self.cut += 1
                        return
                    if self.after:
                        self.after -= 1
                        lost.set()
                if not outgoing and lost.is_set():
                    self.cut += 1
                    return
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        await self.shut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxying(target: int) -> AsyncIterator[Proxy]:
    """A proxy before a port of 127.0.0.1, for as long as the block lasts."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()

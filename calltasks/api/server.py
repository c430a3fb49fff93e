"""The process: settings → call tasks → application → server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from calltasks.api.application import build
from calltasks.api.requests import log_to_stderr
from calltasks.call_tasks import CallTasks
from calltasks.errors import ending
from calltasks.settings import ApiSettings, LogSettings, PlatformSettings, load

log = logging.getLogger("api")

SHUTDOWN = 20
"""Seconds that requests under way have to finish when the process is stopped."""


class Server(uvicorn.Server):
    """Says when it listens, and ends in good order at SIGTERM and SIGINT."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("api ready on http://%s:%d", self.config.host, self.port)

    @property
    def port(self) -> int:
        """The port it listens on, once it does."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The base class raises the signal again at the end, which would end the process before it has cleaned up.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def build_server(calls: CallTasks, settings: ApiSettings) -> Server:
    """The server, not started yet, as production and tests run it."""
    return Server(
        uvicorn.Config(
            build(calls, settings.api_tokens),
            host=settings.api_host,
            port=settings.api_port,
            # Its own log of requests quotes paths as they were sent.
            access_log=False,
            log_config=None,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN,
        )
    )


async def run(made: Callable[[Server], object] = lambda _server: None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        made: is handed the server before it starts, for callers on a thread, where no signal comes.

    Raises:
        SettingsError: a setting is missing or wrong.
        SchemaError: the database is not as it must be.
        ServiceError: the database or Temporal is out of reach.
    """
    settings = load(ApiSettings)
    # From here on only the digests of the tokens are known.
    os.environ.pop("API_TOKENS", None)
    load(PlatformSettings)
    async with CallTasks.connect() as calls:
        # A table or a right that is missing is found now and not by the first caller.
        await calls.database.prepare(await calls.check())
        # Importing the vendor's SDK takes seconds, in which no other request would be answered.
        _ = calls.clients.platform
        server = build_server(calls, settings)
        made(server)
        await server.serve()


def main() -> None:
    """The command ``python -m calltasks.api``: exit code 0 stopped, 1 failed, 2 wrong use or settings."""
    parser = argparse.ArgumentParser(
        prog="python -m calltasks.api", description="HTTP for backends, until SIGTERM or SIGINT."
    )
    parser.epilog = (
        "Settings come from the environment: API_TOKENS, API_HOST, API_PORT, LOG_FORMAT, and those of starter.py."
    )
    parser.parse_args()
    with ending("api"):
        log_to_stderr(load(LogSettings).log_format)
        asyncio.run(run())

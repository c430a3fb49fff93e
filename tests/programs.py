"""`worker.py` and `starter.py` in processes of their own."""

import asyncio
import importlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path

import typer

import worker

_fork = multiprocessing.get_context("forkserver")
# A child is forked from a process that has imported everything: importing takes seconds each time.
_fork.set_forkserver_preload(
    ["tests.programs", "calltasks.cli.commands", "calltasks.platform.outbound_bot", "calltasks.model.analysis"]
)


class Program:
    """A program with its arguments; what it says is in the files `log` + `.out` and `log` + `.err`."""

    def __init__(self, environment: Mapping[str, str], log: Path, *command: str) -> None:
        self._arguments = (dict(environment), str(log), command)
        self._log = log
        self._process = _fork.Process(target=_be, args=self._arguments, daemon=True)

    def start(self) -> None:
        self._process = _fork.Process(target=_be, args=self._arguments, daemon=True)
        self._process.start()

    def kill(self) -> None:
        """`kill -9`."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()

    def stop(self) -> int | None:
        """SIGTERM; returns the exit code."""
        self._process.terminate()
        self._process.join(30)
        return self._process.exitcode

    async def ended(self) -> tuple[int | None, str, str]:
        """Start it, wait for its end: exit code, stdout, stderr."""
        self.start()
        # Joined in this thread only: two that ask for one exit code at once leave the second without.
        await asyncio.to_thread(wait, [self._process.sentinel], 60)
        self._process.join(0)
        return self._process.exitcode, self.said("out"), self.said("err")

    def said(self, where: str) -> str:
        path = Path(f"{self._log}.{where}")
        return path.read_text("utf-8") if path.exists() else ""


def _be(environment: dict[str, str], log: str, command: tuple[str, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(command)
    if command[0] == "worker.py":
        typer.run(worker.main)
    else:
        importlib.import_module("calltasks.cli.commands").main()


def own_environment(*without: str, **changes: str) -> dict[str, str]:
    """This process's environment, less some variables, with some changed."""
    return {name: value for name, value in os.environ.items() if name not in without} | changes

"""Bounded parallel work of one step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Lane:
    """Pieces of one step's work, at most ``limit`` of them at once.

    Args:
        limit: pieces at once; those of all lanes together stay below the 90 activities that a workflow may have.
        on_done: called with the lane whenever a piece is done.

    Attributes:
        started: how many pieces were ever started.
    """

    def __init__(self, limit: int, on_done: Callable[[Lane], None]) -> None:
        self._limit = limit
        self._on_done = on_done
        self._room = asyncio.Semaphore(limit)
        self._pieces: set[asyncio.Task[None]] = set()
        self.started = 0

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._pieces

    @property
    def full(self) -> bool:
        """Whether another piece would have to wait."""
        return len(self._pieces) >= self._limit

    @property
    def room(self) -> int:
        """How many more pieces can run at once."""
        return max(0, self._limit - len(self._pieces))

    def start(self, piece: Coroutine[None, None, None]) -> None:
        """Run a piece as soon as there is room."""
        self.started += 1
        task = asyncio.create_task(self._run(piece))
        self._pieces.add(task)
        task.add_done_callback(self._done)

    async def _run(self, piece: Coroutine[None, None, None]) -> None:
        async with self._room:
            await piece

    def _done(self, task: asyncio.Task[None]) -> None:
        self._pieces.discard(task)
        self._on_done(self)

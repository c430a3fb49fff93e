"""Bounded parallel work of one step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from calltasks.database.tables.needs import Work
from calltasks.options import Options
from calltasks.rules.row_ranges import Ranges, count, take
from calltasks.steps import Step


class Lane:
    """Pieces of one kind of work.

    Args:
        limit: pieces at once; those of all lanes together stay below the 90 activities that a workflow may have.
        on_done: called with the lane whenever a piece is done.

    Attributes:
        started: how many pieces were ever started.
    """

    def __init__(self, limit: int, on_done: Callable[[Lane], None]) -> None:
        self.limit = limit
        self._on_done = on_done
        self._pieces: set[asyncio.Task[None]] = set()
        self.started = 0

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._pieces

    @property
    def room(self) -> int:
        """How many more pieces can run at once."""
        return max(0, self.limit - len(self._pieces))

    def start(self, piece: Coroutine[None, None, None]) -> None:
        """Run a piece; there must be room."""
        self.started += 1
        task = asyncio.create_task(piece)
        self._pieces.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._pieces.discard(task)
        self._on_done(self)


class RowLane(Lane):
    """The lane of a step. What a review has found waits in the pieces in which it was found (they may have gaps); rows
    that the step before has yielded go in as few pieces as they fit in."""

    def __init__(self, step: Step[Any, Any], options: Options, on_done: Callable[[Lane], None]) -> None:
        super().__init__(step.at_once(options), on_done)
        self.step = step
        self._found: list[Ranges] = []
        self._yielded: Ranges = []

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return super().idle and not self._found and not self._yielded

    def find(self, works: Sequence[Work]) -> None:
        """What a review has found; it is in pieces as few as may be, and the lane as full as it can be."""
        together = max(1, min(self.step.rows // self.step.few, len(works) // self.limit))
        for start in range(0, len(works), together):
            self._found.append([part for work in works[start : start + together] for part in work.rows])

    def take_over(self, rows: Ranges) -> None:
        """What the step before has yielded."""
        self._yielded = self._yielded + rows

    def next_piece(self) -> Ranges | None:
        """What is to be started next, if there is room for it."""
        if not self.room:
            return None
        if self._found:
            return self._found.pop(0)
        if not self._yielded:
            return None
        size = min(self.step.rows, -(-count(self._yielded) // self.room))
        piece, self._yielded = take(self._yielded, max(self.step.few, size))
        return piece

    def drop(self) -> None:
        """What waits will be found again."""
        self._found, self._yielded = [], []

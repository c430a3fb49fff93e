"""Many pieces of work, some at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Do ``work`` on each item, on so many at once, in their order. The work may itself take items from an iterator.

    Raises:
        Exception: the first that a piece of work raised; the others were stopped, and no more was begun.
    """
    rest = iter(items)

    async def take() -> None:
        for item in rest:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(take())
                # One a turn of the event loop: hundreds that begin at once would keep it from all else.
                await asyncio.sleep(0)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None

"""Many pieces of work, some at once: all are done, never more than allowed, and the first error stops the rest."""

import asyncio

import pytest

from calltasks.concurrency import for_each


async def test_everything_is_done_so_many_at_once() -> None:
    done: list[int] = []
    under_way = most = 0

    async def work(item: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        done.append(item)

    await for_each(range(20), work, at_once=3)
    assert (sorted(done), most) == (list(range(20)), 3)


async def test_the_first_error_is_raised_and_the_others_are_stopped() -> None:
    begun: list[int] = []
    stopped: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise KeyError(item)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(item)
            # What comes of stopping is not what went wrong first.
            raise ValueError(item) from None

    with pytest.raises(KeyError):
        await for_each(range(20), work, at_once=3)
    assert begun == [0, 1, 2] and sorted(stopped) == [0, 1]


async def test_whoever_is_stopped_stops_its_work() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def work(item: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    everything = asyncio.create_task(for_each([1], work, at_once=3))
    await begun.wait()
    everything.cancel()
    with pytest.raises(asyncio.CancelledError):
        await everything
    assert stopped.is_set()

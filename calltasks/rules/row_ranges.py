"""Row ids as runs, the form in which steps hand rows on: ``[[first, last], …]``, in order, both ends included.

Consecutive ids cost two numbers however many they are, so a workflow's history stays small; scattered ids still
arrive exactly, so no two pieces of work overlap.
"""

from __future__ import annotations

from collections.abc import Iterable

from calltasks.database.tables.rows import Runs

__all__ = ["Runs", "count", "pack", "take", "unpack"]


def pack(ids: Iterable[int]) -> Runs:
    """Ids as runs."""
    runs: Runs = []
    for id_ in sorted(set(ids)):
        if runs and runs[-1][1] == id_ - 1:
            runs[-1][1] = id_
        else:
            runs.append([id_, id_])
    return runs


def unpack(runs: Runs) -> list[int]:
    """The ids of runs, in order."""
    return [id_ for first, last in runs for id_ in range(first, last + 1)]


def count(runs: Runs) -> int:
    """How many ids the runs hold."""
    return sum(last - first + 1 for first, last in runs)


def take(runs: Runs, size: int) -> tuple[Runs, Runs]:
    """The first ``size`` ids, and the rest."""
    taken: Runs = []
    for index, (first, last) in enumerate(runs):
        if last - first + 1 > size:
            head = [[first, first + size - 1]] if size else []
            return taken + head, [[first + size, last], *runs[index + 1 :]]
        taken.append([first, last])
        size -= last - first + 1
    return taken, []

"""Row ids as ranges, the form in which steps hand rows on: ``[[first, last], …]``, in order, both ends included.

Consecutive ids cost two numbers however many they are, so a workflow's history stays small; scattered ids still
arrive exactly, so no two pieces of work overlap.
"""

from __future__ import annotations

from collections.abc import Iterable

Ranges = list[list[int]]


def pack(ids: Iterable[int]) -> Ranges:
    """Ids as ranges."""
    ranges: Ranges = []
    for id_ in sorted(set(ids)):
        if ranges and ranges[-1][1] == id_ - 1:
            ranges[-1][1] = id_
        else:
            ranges.append([id_, id_])
    return ranges


def unpack(ranges: Ranges) -> list[int]:
    """The ids of ranges, in order."""
    return [id_ for first, last in ranges for id_ in range(first, last + 1)]


def count(ranges: Ranges) -> int:
    """How many ids the ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def take(ranges: Ranges, size: int) -> tuple[Ranges, Ranges]:
    """The first ``size`` ids, and the rest."""
    taken: Ranges = []
    for index, (first, last) in enumerate(ranges):
        if last - first + 1 > size:
            head = [[first, first + size - 1]] if size else []
            return taken + head, [[first + size, last], *ranges[index + 1 :]]
        taken.append([first, last])
        size -= last - first + 1
    return taken, []

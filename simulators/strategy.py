"""When a job group dials: its strategy, as the platform reads it. Days and hours are those of Shanghai."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from simulators.clock import Clock

if TYPE_CHECKING:
    from simulators.calls import Attempt

NEVER = float("inf")
ZONE = timezone(timedelta(hours=8))
DAYS_AHEAD = 200
IGNORED = {
    "emptyNumberIgnore": ("NotExist", "EmptyNumber"),
    "inArrearsIgnore": ("InArrears",),
    "outOfServiceIgnore": ("OutOfService",),
}
"""Attempts that ended so are the last of their job, where a recall strategy says so."""


class Hours:
    """When calls of a group may begin; without a strategy at any time.

    Raises ValueError for what is no strategy: an unknown field, a wrong form.
    """

    def __init__(self, clock: Clock, strategy: str = "", recall: str = "") -> None:
        self.strategy, self.recall = _fields(strategy), _fields(recall)
        self._clock = clock
        given = dict(self.strategy)
        take = given.pop
        self._windows = sorted(_window(window) for window in take("workingTime", []))
        self._a_day = int(take("maxAttemptsPerDay", 0))
        self._gap = 60.0 * int(take("minAttemptInterval", 0))
        self._by = str(take("repeatBy", ""))
        self._days = {int(day) for day in take("repeatDays", [])}
        self._first = int(take("startTime", 0)) / 1000
        self._last = int(take("endTime", 0)) / 1000
        for passed in ("name", "routingStrategy", "repeatable"):
            take(passed, None)
        if given or set(self.recall) - set(IGNORED) or self._by not in ("", "Once", "Day", "Week", "Month"):
            raise ValueError("unknown fields or values")
        if bool(self._last) and not self._by:
            raise ValueError("repeatBy is needed")
        self._ends = {status for name, on in self.recall.items() if on is True for status in IGNORED[name]}
        self._always = not (self._windows or self._a_day or self._gap or self._by or self._last)

    def place(self, begun: Sequence[Attempt], wanted: float) -> float:
        """The simulated second, `wanted` or later, at which a job's next attempt begins; NEVER if it may not."""
        if begun and begun[-1].status in self._ends:
            return NEVER
        if self._always:
            return wanted
        earliest = max(wanted, begun[-1].end + self._gap if begun else wanted)
        at = self._open(self._clock.calendar(earliest))
        while self._a_day and at != NEVER and self._that_day(begun, at) >= self._a_day:
            at = self._open((_day(at) + timedelta(days=1)).timestamp())
        if at == self._clock.calendar(earliest):
            return earliest
        return NEVER if at == NEVER else self._clock.on_calendar(at)

    def _that_day(self, begun: Sequence[Attempt], at: float) -> int:
        return sum(_day(self._clock.calendar(attempt.start)) == _day(at) for attempt in begun)

    def _open(self, at: float) -> float:
        """The first moment from `at` on, Unix time, at which calls may begin."""
        at = max(at, self._first)
        midnight = _day(at)
        for day in (midnight + timedelta(days=ahead) for ahead in range(DAYS_AHEAD)):
            if self._days and self._number(day) not in self._days:
                continue
            for begin, end in self._windows or [(0, 86_400)]:
                opens, closes = day.timestamp() + begin, day.timestamp() + end
                if at < closes:
                    found = max(at, opens)
                    return NEVER if self._last and found >= self._last else found
        return NEVER

    def _number(self, day: datetime) -> int:
        return day.isoweekday() % 7 if self._by == "Week" else day.day

    def shown(self) -> dict[str, dict[str, Any]]:
        """As DescribeJobGroup tells it."""
        strategy = {_pascal(name): value for name, value in self.strategy.items()}
        if "WorkingTime" in strategy:
            strategy["WorkingTime"] = [
                {"BeginTime": window["beginTime"], "EndTime": window["endTime"]} for window in strategy["WorkingTime"]
            ]
        recall = {_pascal(name): self.recall.get(name, False) for name in IGNORED}
        return {"Strategy": strategy, "RecallStrategy": recall}


def _fields(text: str) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _window(window: Any) -> tuple[int, int]:
    begin, end = (_seconds(window[name]) for name in ("beginTime", "endTime"))
    if set(window) != {"beginTime", "endTime"} or begin >= end:
        raise ValueError("no window")
    return begin, 86_400 if end == 86_399 else end


def _seconds(text: Any) -> int:
    found = re.fullmatch("([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])", text)
    if not found:
        raise ValueError("no time of day")
    return int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])


def _day(at: float) -> datetime:
    return datetime.fromtimestamp(at, ZONE).replace(hour=0, minute=0, second=0, microsecond=0)


def _pascal(name: str) -> str:
    return name[:1].upper() + name[1:]

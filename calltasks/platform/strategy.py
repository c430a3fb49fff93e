"""When the platform dials, and how often: the strategy of a job group, in the platform's own words, as people give it
(docs/calling-hours.md, docs/vendors.md V17).

Workflows load this: nothing here asks for the time, and no SDK is loaded.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, time, timedelta, timezone
from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

ZONE = "Asia/Shanghai"
"""The zone of every window that the platform is sent. It tells none (docs/vendors.md V17)."""
SHANGHAI = timezone(timedelta(hours=8), ZONE)
DAY = 86_400
LAST = DAY - 1
"""23:59:59: a window that ends then ends with the day."""
FIRST_MS, LAST_MS = 946_684_800_000, 4_102_444_800_000
"""The years 2000 and 2100: what lies outside was given in other units."""
LONGEST_GAP = 100
"""Days without a call are never more in a row within a strategy that is not over: no month but February lacks a 30th,
and no two in a row lack a 31st."""
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]")
_ODD = re.compile(r"[^A-Za-z0-9_.]")


def _wrong(reason: str) -> PydanticCustomError:
    return PydanticCustomError("strategy", "{reason}", {"reason": reason})


def _time(value: str) -> str:
    if not _TIME.fullmatch(value):
        raise _wrong("must be HH:MM:SS, as 09:00:00")
    return value


def _whole(value: Any) -> int:
    """The platform's own examples have numbers as texts, too."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong("must be a whole number")
    return value


def _zone(value: str) -> str:
    try:
        _offset(value)
    except (ValueError, OSError, LookupError):
        raise _wrong(f"must be a time zone, as {ZONE}") from None
    if _offset(value) is None:
        raise _wrong(f"has summer time, which the platform's hours do not follow; give the hours of {ZONE} instead")
    return value


def _offset(zone: str) -> int | None:
    """Seconds east of Greenwich; None if they are not the same all year."""
    found = {datetime(2026, month, 1, tzinfo=ZoneInfo(zone)).utcoffset() for month in range(1, 13)}
    offset = found.pop()
    return None if found or offset is None else int(offset.total_seconds())


Time = Annotated[StrictStr, AfterValidator(_time)]
Whole = Annotated[int, BeforeValidator(_whole)]
Milliseconds = Annotated[Whole, Field(ge=FIRST_MS, le=LAST_MS)]
Zone = Annotated[StrictStr, AfterValidator(_zone)]


class _Words(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, serialize_by_alias=True, hide_input_in_errors=True
    )


class Window(_Words):
    """Hours of a day in which calls may begin."""

    begin_time: Time
    end_time: Time

    @property
    def seconds(self) -> tuple[int, int]:
        """Its ends, in seconds since midnight."""
        return _seconds(self.begin_time), _seconds(self.end_time)


class RecallStrategy(_Words):
    """Which numbers are not dialled a second time."""

    empty_number_ignore: StrictBool | None = None
    in_arrears_ignore: StrictBool | None = None
    out_of_service_ignore: StrictBool | None = None


class Strategy(_Words):
    """A job group's strategy, as the platform spells it; two fields are ours.

    Attributes:
        working_time: when calls may begin, each day.
        max_attempts_per_day: of one number.
        min_attempt_interval: minutes between two of one number.
        start_time, end_time: milliseconds since 1970; ``repeat_by`` and ``repeat_days`` say on which days between them.
        recall_strategy: ours: what the platform takes beside the strategy.
        time_zone: ours: of ``working_time`` and ``repeat_days``, where it is not Asia/Shanghai.
    """

    name: Annotated[StrictStr, Field(min_length=1, max_length=100)] | None = None
    working_time: Annotated[list[Window], Field(min_length=1, max_length=24)] | None = None
    max_attempts_per_day: Annotated[Whole, Field(ge=1, le=1000)] | None = None
    min_attempt_interval: Annotated[Whole, Field(ge=0, le=100_000)] | None = None
    routing_strategy: Literal["None", "LocalFirst", "LocalProvinceFirst"] | None = None
    repeat_by: Literal["Once", "Day", "Week", "Month"] | None = None
    repeat_days: Annotated[list[Whole], Field(min_length=1, max_length=31)] | None = None
    repeatable: StrictBool | None = None
    start_time: Milliseconds | None = None
    end_time: Milliseconds | None = None
    recall_strategy: RecallStrategy | None = None
    time_zone: Zone | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        windows = sorted(window.seconds for window in self.working_time or ())
        if any(begin >= end for begin, end in windows):
            raise _wrong("workingTime: each beginTime must be before its endTime; give hours over midnight as two")
        if any(later[0] < earlier[1] for earlier, later in pairwise(windows)):
            raise _wrong("workingTime: two of the hours overlap")
        if (self.start_time is None) != (self.end_time is None):
            raise _wrong("startTime and endTime: give both or none")
        if self.start_time is not None and self.end_time is not None:
            if self.start_time >= self.end_time:
                raise _wrong("startTime: must be before endTime")
            if self.repeat_by is None:
                raise _wrong("repeatBy: is needed with startTime and endTime")
        elif self.repeat_by not in (None, "Once"):
            raise _wrong("repeatBy: needs startTime and endTime, without which the platform begins at once")
        self._check_days()
        return self

    def _check_days(self) -> None:
        of = {"Week": (0, 6, "0 (Sunday) to 6"), "Month": (1, 31, "1 to 31")}.get(self.repeat_by or "")
        if of is None and self.repeat_days is not None:
            raise _wrong("repeatDays: goes with repeatBy Week or Month")
        if of is None:
            return
        if self.repeat_days is None:
            raise _wrong("repeatDays: is needed with repeatBy Week and Month")
        first, last, told = of
        if len(set(self.repeat_days)) < len(self.repeat_days) or not all(
            first <= day <= last for day in self.repeat_days
        ):
            raise _wrong(f"repeatDays: must be different days, {told}")
        shift = self._shift()
        if not all(window.seconds[0] + shift >= 0 and window.seconds[1] + shift <= DAY for window in self._given()):
            raise _wrong(
                f"timeZone: in {ZONE} these hours are of other days than repeatDays says; give those of {ZONE}"
            )

    # --- what is sent ---------------------------------------------------------------------------------------------

    def sent(self) -> tuple[str, str]:
        """The strategy and the recall strategy as the platform takes them, JSON; ``""``: none."""
        body = self.model_dump(exclude_none=True, exclude={"recall_strategy", "time_zone"})
        if self.working_time:
            body["workingTime"] = [{"beginTime": _clock(begin), "endTime": _clock(end)} for begin, end in self._hours()]
        if self.repeat_days:
            body["repeatDays"] = [str(day) for day in self.repeat_days]
        recall = self.recall_strategy.model_dump(exclude_none=True) if self.recall_strategy else {}
        return _json(body), _json(recall)

    def given(self) -> dict[str, Any]:
        """As it was given."""
        return self.model_dump(exclude_none=True)

    # --- when it dials --------------------------------------------------------------------------------------------

    def begins(self, now: datetime) -> datetime | None:
        """When the platform dials next, ``now`` if it does already; None: never again.

        As far as this strategy says: hours of the instance may be narrower.
        """
        earliest = max(now, _moment(self.start_time)) if self.start_time else now
        latest = _moment(self.end_time) if self.end_time else None
        earliest = earliest.astimezone(SHANGHAI)
        midnight = earliest.replace(hour=0, minute=0, second=0, microsecond=0)
        for day in (midnight + timedelta(days=days) for days in range(LONGEST_GAP)):
            if not self._is_day(day):
                continue
            for begin, end in self._hours() or [(0, LAST)]:
                at = max(earliest, day + timedelta(seconds=begin))
                if at < day + timedelta(seconds=DAY if end == LAST else end):
                    return None if latest and at >= latest else at
        return None

    def _is_day(self, day: datetime) -> bool:
        if self.repeat_days is None:
            return True
        return (day.isoweekday() % 7 if self.repeat_by == "Week" else day.day) in self.repeat_days

    def _given(self) -> list[Window]:
        return self.working_time or []

    def _shift(self) -> int:
        """Seconds by which the clock of Shanghai is ahead of the given one."""
        return (_offset(ZONE) or 0) - (_offset(self.time_zone or ZONE) or 0)

    def _hours(self) -> list[tuple[int, int]]:
        """The given hours in Shanghai, in seconds since midnight; what lies over midnight there is two."""
        shift, hours = self._shift(), []
        for begin, end in (window.seconds for window in self._given()):
            first, last = (begin + shift) % DAY, (end + shift) % DAY
            hours += [(first, last)] if first < last else [(first, LAST), *([(0, last)] if last else [])]
        return sorted(hours)


def read(text: str) -> Strategy:
    """A strategy from its JSON.

    Raises:
        ValueError: one line that names the field, and quotes no value.
    """
    try:
        return Strategy.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(complaint(error)) from None


def complaint(error: ValidationError) -> str:
    """What is wrong, in one line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return 'must be a JSON object, as {"workingTime": [{"beginTime": "09:00:00", "endTime": "18:00:00"}]}'
    where = _ODD.sub("_", ".".join(str(part) for part in first["loc"]))[:80]
    what = "is no field of a strategy" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{where}: {what}" if where else what


def told(at: datetime) -> str:
    """A moment as people read it."""
    return f"{at.astimezone(SHANGHAI):%Y-%m-%d %H:%M} ({ZONE})"


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _seconds(text: str) -> int:
    at = time.fromisoformat(text)
    return at.hour * 3600 + at.minute * 60 + at.second


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":")) if body else ""

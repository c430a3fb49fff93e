"""Times as people say them on the phone (明天下午三点, 周五, 下周一上午), resolved from the moment of the call."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import datetime, timedelta

_DIGITS = {
    "零": 0,
    "一": 1,
    "二": 2,
    "两": 2,
    "三": 3,
    "四": 4,
    "五": 5,
    "六": 6,
    "七": 7,
    "八": 8,
    "九": 9,
    "日": 7,
    "天": 7,
}
_NUMBER = r"(?:\d{1,2}|[零一二两三四五六七八九十]{1,3})"
_DAY = (
    r"(?P<day>今天|今晚|今儿|明天|明晚|明早|明儿|大后天|后天|(?P<week>下下|下|这|本)?(?:个)?(?:周|星期|礼拜)(?P<weekday>[一二三四五六日天])|"
    r"(?P<weekend>(?:下|这|本)?(?:个)?周末)|(?:(?P<next_month>下个?月)|(?:这个?月|本月)|(?P<month>"
    + _NUMBER
    + r")月(?:份)?)?(?P<date>"
    + _NUMBER
    + r")[号日]|"
    r"(?P<whole_month>下个?月)|(?P<month_end>月底)|(?P<days>" + _NUMBER + r")天(?:之后|以后|后))"
)
_PART = r"(?P<part>凌晨|早上|早晨|上午|中午|下午|傍晚|晚上|今晚|夜里)?"
_CLOCK = (
    r"(?:(?P<hour>" + _NUMBER + r")(?:点钟?|[:：时](?=\d{2}))(?P<minute>半|一刻|三刻|\d{2}分?|" + _NUMBER + r"分)?)?"
)
_SPOKEN = re.compile(_DAY + r"[的，, ]?" + _PART + r"[的，, ]?" + _CLOCK)
_LATER = re.compile(
    r"(?P<half>半)个?(?:小时|钟头)(?:之后|以后|后)|(?P<amount>"
    + _NUMBER
    + r")(?P<unit>分钟|个?小时|个?钟头)(?:之后|以后|后)"
)
_PAST = re.compile(r"(上|前)(个)?(周|星期|礼拜|月)|昨|前天|去年")
_REFUSED = re.compile(r"^.{0,2}(不行|没空|没时间|不在|不方便|不可以)")
_HOURS = {
    "凌晨": 6,
    "早上": 9,
    "早晨": 9,
    "上午": 10,
    "中午": 12,
    "下午": 15,
    "傍晚": 18,
    "晚上": 19,
    "今晚": 19,
    "夜里": 20,
}


def find_time(sentence: str, called: datetime) -> datetime | None:
    """The last future time that the sentence names, relative to `called`; None where it names none.

    A day without a time of day is taken as ten o'clock.
    """
    return find_words(sentence, called)[0]


def names_time(sentence: str) -> bool:
    """Whether `find_time` may find something, whatever the moment of the call."""
    return bool(_SPOKEN.search(sentence) or _LATER.search(sentence))


def find_words(sentence: str, called: datetime) -> tuple[datetime | None, str]:
    """As `find_time`, with the words that name it."""
    moment, words = None, ""
    for found in _LATER.finditer(sentence):
        moment, words = called + _span(found), found[0]
    for found in _SPOKEN.finditer(sentence):
        if _PAST.search(sentence[max(0, found.start() - 2) : found.start() + 1]) or _REFUSED.match(
            sentence[found.end() :]
        ):
            continue
        resolved = _resolve(found, called)
        if resolved and resolved > called:
            moment, words = resolved, found[0]
    return (moment.replace(second=0, microsecond=0), words) if moment else (None, "")


def number(text: str) -> int:
    """A number up to 99 in Arabic or Chinese digits."""
    if text.isdigit():
        return int(text)
    tens, ten, units = text.partition("十")
    if not ten:
        return _DIGITS[text[-1]]
    return (_DIGITS[tens] if tens else 1) * 10 + (_DIGITS[units] if units else 0)


def _span(found: re.Match[str]) -> timedelta:
    if found["half"]:
        return timedelta(minutes=30)
    amount = number(found["amount"])
    return timedelta(minutes=amount) if found["unit"] == "分钟" else timedelta(hours=amount)


def _resolve(found: re.Match[str], called: datetime) -> datetime | None:
    try:
        day = _day(found, called)
        hour, minute = _clock(found)
        moment = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
    except (ValueError, KeyError):
        return None
    if found["weekday"] and not found["week"] and moment <= called:
        moment += timedelta(days=7)
    return moment


def _day(found: re.Match[str], called: datetime) -> datetime:
    word = found["day"]
    if found["weekday"]:
        target = _DIGITS[found["weekday"]] - 1
        weeks = {"下下": 2, "下": 1}.get(found["week"] or "", 0)
        monday = called - timedelta(days=called.weekday())
        day = monday + timedelta(days=target, weeks=weeks)
        return day + timedelta(weeks=1) if not found["week"] and day.date() < called.date() else day
    if found["weekend"]:
        ahead = timedelta(days=(5 - called.weekday()) % 7)
        return called + ahead + (timedelta(weeks=1) if word.startswith("下") and called.weekday() < 5 else timedelta())
    if found["date"]:
        return _date(found, called)
    if found["whole_month"]:
        return _next_month(called)
    if found["month_end"]:
        return called.replace(day=monthrange(called.year, called.month)[1])
    if found["days"]:
        return called + timedelta(days=number(found["days"]))
    return called + timedelta(days={"今": 0, "明": 1, "后": 2, "大": 3}[word[0]])


def _date(found: re.Match[str], called: datetime) -> datetime:
    date = number(found["date"])
    if found["month"]:
        day = called.replace(month=number(found["month"]), day=date)
        return day if day.date() >= called.date() else day.replace(year=called.year + 1)
    if found["next_month"]:
        return _next_month(called).replace(day=date)
    return called.replace(day=date) if date >= called.day else _next_month(called).replace(day=date)


def _next_month(called: datetime) -> datetime:
    return (called.replace(day=1) + timedelta(days=32)).replace(day=1)


def _clock(found: re.Match[str]) -> tuple[int, int]:
    day, part = found["day"], found["part"] or ""
    if not part:
        part = "晚上" if day in ("今晚", "明晚") else "早上" if day == "明早" else ""
    if not found["hour"]:
        return _HOURS.get(part, 10), 0
    hour, words = number(found["hour"]), found["minute"] or ""
    if hour < 12 and (
        part in ("下午", "傍晚", "晚上", "今晚", "夜里") or (part == "中午" and hour < 4) or (not part and hour < 7)
    ):
        hour += 12
    minute = {"": 0, "半": 30, "一刻": 15, "三刻": 45}.get(words)
    return hour % 24 if hour != 24 else 0, minute if minute is not None else number(words.rstrip("分"))

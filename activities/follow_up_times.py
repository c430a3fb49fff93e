"""The time of the next follow-up, as a model or a customer worded it, on the clock of the configured zone (SPEC 6).

English and variants are first put into plain Chinese words; what remains is a stamp ("2026年11月22日15:00:00"), a span
("半小时后"), or a day and a time of day ("下周一上午"). A text has to fit as a whole: no part of it is left to a guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone

LONGEST = 200  # characters
YEARS_AHEAD = 2
DEFAULT_TIME = timedelta(hours=9)

_DIGITS = ["", *"一二三四五六七八九"]
_TENS = ["零", "十", *(f"{digit}十" for digit in _DIGITS[2:])]
_NUMBERS = {ten + digit: 10 * t + d for t, ten in enumerate(_TENS) for d, digit in enumerate(_DIGITS)}
_NUMBERS |= {"两": 2, **{digit: d for d, digit in enumerate(_DIGITS) if d}}
_NUMBER = "(?:[0-9]{1,3}|" + "|".join(sorted(_NUMBERS, key=len, reverse=True)) + ")"

_NAMED_DAYS = {"今天": 0, "这": 0, "明天": 1, "后天": 2, "大后天": 3, "": 0}
_WEEKDAYS = {"一": 0, "二": 1, "三": 2, "四": 3, "五": 4, "六": 5, "日": 6, "天": 6, "末": 5}
_WHICH = {"这": 0, "本": 0, "下": 1, "下下": 2}  # week or month
_SPAN_MINUTES = {"小时": 60, "刻钟": 15, "分钟": 1}
_UNIT_DAYS, _UNIT_MONTHS = {"天": 1, "日": 1, "周": 7}, {"个月": 1, "年": 12}
_SPAN, _UNIT = "|".join(_SPAN_MINUTES), "|".join([*_UNIT_DAYS, *_UNIT_MONTHS])

# Parts of the day: the hour that each means alone, and the first and last hour that it can be said of.
_ALONE = {"早上": 9, "上午": 10, "中午": 12, "下午": 15, "傍晚": 18, "晚上": 19}
_HOURS = {"凌晨": (0, 6), "am": (0, 11), "早上": (0, 12), "上午": (0, 12), "中午": (10, 15), "下午": (12, 23)}
_HOURS |= {"傍晚": (16, 20), "晚上": (13, 24)}
_PART = "|".join(_HOURS)

# Applied in this order; what is on the left is a pattern.
_SYNONYMS = (
    "以后=后 之后=后 今日=今天 明日=明天 后日=后天 今早=今天早 今晚=今天晚 明早=明天早 明晚=明天晚 早晨=早上 "
    "早(?!上)=早上 (?<!傍)晚(?!上)=晚上 点半=点30 点一刻=点15 点三刻=点45 钟头=小时 星期=周 礼拜=周 半个(?!月)=半 "
    "半个月后=15天后 半年后=6个月后 左右= 前后= 大概= 大约= 的= 吧= o'clock= the= on= about= around= "
    "day\\safter\\stomorrow=后天 tomorrow=明天 today=今天 tonight=今天晚上 this=这 next=下 later=后 "
    "morning=早上 noon=中午 afternoon=下午 evening=晚上 night=晚上 a[.]m=am p[.]?m=下午 "
    "monday=周一 tuesday=周二 wednesday=周三 thursday=周四 friday=周五 saturday=周六 sunday=周日 "
    "one=1 two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12 "
    "half\\san?=半 hours?=小时 minutes?=分钟 days?=天 weeks?=周 months?=个月 years?=年"
)
_REWRITES = [
    (r"[,。!]|\.$", " "),
    (r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})(?![0-9])", r"\1年\2月\3日"),
    *((f"(?<![a-z]){old}(?![a-z])", new) for old, new in (pair.split("=") for pair in _SYNONYMS.split())),
    (r"^(at .+|[0-9].*) ([今明后]天)$", r"\2 \1"),
    (rf"\ban? (?={_SPAN}|{_UNIT})", "1"),
    (rf"(?:过|\bin )([^后]{{1,6}}?(?:{_SPAN}|{_UNIT}))后?", r"\1后"),
    (r"(点[0-9]{0,2})后$", r"\1"),
    (r"\bat ([0-9]{1,2})(?![0-9:])", r"\1点"),
    (r"\b(?:at|in)\b|\s", ""),
]
_STAMP = re.compile(
    r"([0-9]{4})年([0-9]{1,2})月([0-9]{1,2})日t?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]+)?)?"
    r"(?P<zone>z|utc|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-5][0-9]))?)?"
)
_SPAN_LATER = re.compile(rf"(?P<count>{_NUMBER})?个?(?P<half>半)?(?P<unit>{_SPAN})后")
_HOUR = rf"(?P<part>{_PART})?(?P<hour>{_NUMBER})"
_CLOCKS = [
    re.compile(rf"(?P<part>{_PART})"),
    re.compile(rf"{_HOUR}[点时](?:[钟整]|(?P<minute>{_NUMBER})分?)?(?P<part_after>{_PART})?"),
    re.compile(rf"{_HOUR}:(?P<minute>[0-9]{{2}})(?::(?P<second>[0-9]{{2}}))?(?P<part_after>{_PART})?"),
    re.compile(rf"(?P<hour>[0-9]{{1,2}})(?P<part_after>{_PART})"),
]


def resolve(text: str | None, *, call_time: datetime) -> datetime | None:
    """The moment that `text` means when said at `call_time`, from which relative times count (SPEC 6).

    `call_time` is aware; the result is in its zone, in whole seconds, after it by at most `YEARS_AHEAD` years. None for
    everything else: no text, nonsense, past times, impossible dates, more than `LONGEST` characters. Never raises for
    any text. A wall time that daylight saving skips is moved on; of one that it repeats, the first to come is meant.
    """
    if text is None or len(text) > LONGEST:
        return None
    try:
        return next((moment for moment in _moments(_plain(text), call_time) if _is_ahead(moment, call_time)), None)
    except (ValueError, OverflowError):  # the calendar has no such day, hour or year
        return None


def _plain(text: str) -> str:
    words = unicodedata.normalize("NFKC", text).casefold().strip()
    for pattern, replacement in _REWRITES:
        words = re.sub(pattern, replacement, words)
    return words


def _moments(words: str, call_time: datetime) -> Iterator[datetime]:
    """The moments that the words can mean, first choice first, in the zone of the call."""
    for said in _readings(words, call_time.replace(tzinfo=None, microsecond=0)):
        for fold in (0, 1):
            moment = said if said.tzinfo else said.replace(tzinfo=call_time.tzinfo, fold=fold)
            yield moment.astimezone(UTC).astimezone(call_time.tzinfo)  # by way of UTC: a skipped wall time moves on


def _is_ahead(moment: datetime, call_time: datetime) -> bool:
    """After the call, and not too far (SPEC 6). Compared in UTC: within one zone Python compares wall clocks."""
    reach = (moment.year - YEARS_AHEAD, *moment.timetuple()[1:6])
    return moment.astimezone(UTC) > call_time.astimezone(UTC) and reach <= call_time.timetuple()[:6]


def _readings(words: str, now: datetime) -> Iterator[datetime]:
    """What the words say, counted from the wall clock `now`: wall times, or an aware one for a stamp with an offset."""
    if stamp := _STAMP.fullmatch(words):
        yield _stamp(stamp)
    elif span := _SPAN_LATER.fullmatch(words):
        count = _number(span["count"] or "0") + (0.5 if span["half"] else 0)
        yield now + timedelta(minutes=count * _SPAN_MINUTES[span["unit"]])
    else:
        for form, days in _DAYS:
            match = form.match(words)
            rest = words[match.end() :] if match else ""
            time_of_day = _time_of_day(rest) if rest else DEFAULT_TIME
            if match and time_of_day is not None:
                for day in days(match, now.date(), bool(rest)):
                    yield datetime.combine(day, time()) + time_of_day


def _stamp(match: re.Match[str]) -> datetime:
    """A stamp means what it says: its hours are of 24. ValueError for an impossible one."""
    year, month, day, hour, minute, second = (int(field or 0) for field in match.groups()[:6])
    offset = timedelta(hours=int(match["hours"] or 0), minutes=int(match["minutes"] or 0))
    zone = timezone(-offset if match["sign"] == "-" else offset) if match["zone"] else None
    return datetime(year, month, day, hour, minute, second, tzinfo=zone)


def _time_of_day(words: str) -> timedelta | None:
    """The time since midnight. A bare hour from 1 to 6 is one of the afternoon, unless written "03" (SPEC 6)."""
    said = next((match.groupdict() for form in _CLOCKS if (match := form.fullmatch(words))), {})
    part = said.get("part") or said.get("part_after")
    if not said.get("hour"):
        return timedelta(hours=_ALONE[part]) if part in _ALONE else None
    first, last = _HOURS[part] if part else (0, 23)
    hour, minute, second = (_number(said.get(field) or "0") for field in ("hour", "minute", "second"))
    if part and hour <= 12:
        hour = next((shifted for shifted in (hour, hour + 12, hour - 12) if first <= shifted <= last), -1)
    elif 1 <= hour <= 6 and said["hour"][0] not in "0零":
        hour += 12
    fits = first <= hour <= last and minute < 60 and second < 60
    return timedelta(hours=hour, minutes=minute, seconds=second) if fits else None


def _number(text: str) -> int:
    return _NUMBERS[text] if text in _NUMBERS else int(text)


def _named_day(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """今天 alone is no time to call at; a time of day alone is one of today."""
    return [today + timedelta(days=_NAMED_DAYS[match[0]])] if _NAMED_DAYS[match[0]] or timed else []


def _weekday(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """周五: the next one after today, or today where a time was said. 下周五: of next calendar week, Monday first."""
    day = _WEEKDAYS[match["name"]] - today.weekday()
    if match["which"]:
        return [today + timedelta(days=7 * _WHICH[match["which"]] + day)]
    return [today + timedelta(ahead) for ahead in (day % 7, day % 7 + 7) if ahead or timed]


def _units_later(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """3天后, 两个月后 (in a shorter month, its last day)."""
    count, unit = _number(match["count"]), match["unit"]
    if unit in _UNIT_DAYS:
        return [today + timedelta(days=count * _UNIT_DAYS[unit])]
    last = _last_day(today, count * _UNIT_MONTHS[unit])
    return [last.replace(day=min(today.day, last.day))]


def _calendar_day(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """2026年11月5日, 11月5号, 下个月5号, 5号; without its year or month, the next, today included."""
    ends = [_last_day(today, ahead) for ahead in ([_WHICH[match["which"]]] if match["which"] else [0, 1])]
    if match["month"]:
        years = {"今": [today.year], "明": [today.year + 1], None: [today.year, today.year + 1]}
        chosen = years.get(match["year"]) or [int(match["year"])]
        ends = [_last_day(date(year, _number(match["month"]), 1), 0) for year in chosen]
    found = [end.replace(day=_number(match["day"])) for end in ends if _number(match["day"]) <= end.day]
    return [today] if today in found else found


def _last_day(today: date, months_ahead: int) -> date:
    years, month = divmod(today.month + months_ahead, 12)
    return date(today.year + years, month + 1, 1) - timedelta(days=1)


_MONTH = rf"(?:(?P<year>[0-9]{{4}}|今|明)年)?(?P<month>{_NUMBER})月|(?P<which>[下这本])个?月"
_DAYS: list[tuple[re.Pattern[str], Callable[[re.Match[str], date, bool], list[date]]]] = [
    (re.compile("|".join(_NAMED_DAYS)), _named_day),
    (re.compile(r"(?P<which>下下|[下这本])?个?周(?P<name>[一二三四五六日天末])"), _weekday),
    (re.compile(rf"(?P<count>{_NUMBER})个?(?P<unit>{_UNIT})后"), _units_later),
    (re.compile(r"([下这本])?个?月{1,2}[底末]"), lambda match, today, _: [_last_day(today, _WHICH[match[1] or "这"])]),
    (re.compile(rf"(?:{_MONTH})?(?P<day>{_NUMBER})[日号]"), _calendar_day),
]

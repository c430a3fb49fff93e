"""The time of the next follow-up, as a model or a customer worded it, on the clock of the configured zone (rule 6.3).

English and variants are first put into plain Chinese words; what remains is a stamp ("2026年11月22日15:00:00"), a span
("半小时后"), or a day and a time of day ("下周一上午"). A range means its beginning. A text has to fit as a whole, and
no part of it is left to a guess: a written moment that nobody said is worse than none. The conventions are in
docs/judgements.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

LONGEST = 200  # characters
YEARS_AHEAD = 2
DEFAULT_TIME = timedelta(hours=9)
A_FEW = 3  # days

_DIGITS = ["", *"一二三四五六七八九"]
_TENS = ["零", "十", *(f"{digit}十" for digit in _DIGITS[2:])]
_NUMBERS = {ten + digit: 10 * t + d for t, ten in enumerate(_TENS) for d, digit in enumerate(_DIGITS)}
_NUMBERS |= {"两": 2, **{digit: d for d, digit in enumerate(_DIGITS) if d}}
_NUMBER = "(?:[0-9]{1,3}|" + "|".join(sorted(_NUMBERS, key=len, reverse=True)) + ")"

_NAMED_DAYS = {"今天": 0, "这": 0, "明天": 1, "后天": 2, "大后天": 3, "": 0}
_WEEKDAYS = {"一": 0, "二": 1, "三": 2, "四": 3, "五": 4, "六": 5, "日": 6, "天": 6}
_WHICH = {"这": 0, "本": 0, "下": 1, "下下": 2}  # week or month
_YEARS = {"今": 0, "明": 1, "后": 2}
_SPAN_MINUTES = {"小时": 60, "刻钟": 15, "分钟": 1}
_UNIT_DAYS, _UNIT_MONTHS = {"天": 1, "日": 1, "周": 7}, {"个月": 1, "年": 12}
_SPAN, _UNIT = "|".join(_SPAN_MINUTES), "|".join([*_UNIT_DAYS, *_UNIT_MONTHS])

# Parts of the day: the hour that each means alone, and the first and last hour that it can be said of; from 24 on, of
# the night that follows.
_ALONE = {"早上": 9, "上午": 10, "中午": 12, "下午": 15, "下班后": 18, "傍晚": 18, "晚上": 19}
_HOURS = {"凌晨": (0, 6), "am": (0, 11), "早上": (4, 11), "上午": (6, 12), "中午": (10, 15), "下午": (12, 23)}
_HOURS |= {"下班后": (16, 23), "傍晚": (16, 20), "晚上": (17, 27), "夜里": (20, 28)}
_PART = "|".join(_HOURS)

# Applied in this order; what is on the left is a pattern.
_SYNONYMS = (
    "以后=后 之后=后 以内=内 之内=内 之间= 今日=今天 明日=明天 后日=后天 ([今明后])儿个?=\\1天 明后两?天=明天 "
    "今早=今天早 明早=明天早 今夜=今天夜里 ([今明])晚上?=\\1天晚上 (?<![天周月年时钟])后晚上?=后天晚上 "
    "(?<!傍)晚[一1]点=稍后 "
    "(?<![周期拜])一大?早(?!上)=早上 大?清早(?!上)=早上 清晨=早上 早晨=早上 早(?!上)=早上 (?<!傍)晚(?!上)=晚上 "
    "(?<![上中下])午后=下午 (?:深夜|半夜|夜间|夜晚)=夜里 "
    "(?<=点)(?:多钟?|来钟)= 点半=点30 点一刻=点15 点三刻=点45 "
    "钟头=小时 个半钟=个半小时 半个钟=半小时 个钟=小时 星期=周 礼拜=周 周周=周 半个(?!月)=半 "
    "半个月后=15天后 半年后=6个月后 过几天后?=A_FEW天后 (?<!十)几天后=A_FEW天后 "
    "那天= 左右= 前后= 大概= 大约= 差不多= 的= 吧= o'clock= the= on= about= around= "
    "day\\safter\\stomorrow=后天 tomorrow=明天 today=今天 tonight=今天晚上 this=这 next=下 later=后 to=到 "
    "morning=早上 noon=中午 afternoon=下午 evening=晚上 night=晚上 a[.]m=am p[.]?m=下午 "
    "monday=周一 tuesday=周二 wednesday=周三 thursday=周四 friday=周五 saturday=周六 sunday=周日 "
    "one=1 two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12 "
    "half\\san?=半 hours?=小时 minutes?=分钟 days?=天 weeks?=周 months?=个月 years?=年"
).replace("A_FEW", str(A_FEW))
_OF_TWO = f"(?=点|号|个?(?:{_SPAN}|天|周|月|年))"
_REWRITES = [
    (re.compile(old), new)
    for old, new in (
        (r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})(?![0-9])", r"\1年\2月\3日"),
        (r"(?<![-/.0-9])([0-9]{1,2})[,、](?=[0-9]{1,2}[点时号日])", r"\1-"),
        (r"[,。!]|\.$", " "),
        (r"(?:^|(?<=[\s(]))([0-9]{1,2})[-/.]([0-9]{1,2})(?=\)|\s+(?:[0-9]{1,2}[:点时]|[上中下早晚傍凌]))", r"\1月\2日"),
        (r"^([0-9]{1,2})/([0-9]{1,2})$", r"\1月\2日"),
        *((f"(?<![a-z]){old}(?![a-z])", new) for old, new in (pair.rsplit("=", 1) for pair in _SYNONYMS.split())),
        # "七八点", "十一二点", "三五天": of two numbers the first.
        *((f"{_DIGITS[d]}{_DIGITS[d + 1]}{_OF_TWO}", _DIGITS[d]) for d in range(1, 9)),
        (f"两三{_OF_TWO}", "两"),
        (f"三五{_OF_TWO}", "三"),
        (r"^(at .+|[0-9].*) ([今明后]天)$", r"\2 \1"),
        (rf"\ban? (?={_SPAN}|{_UNIT})", "1"),
        (rf"(?:再?过|\bin )([^后]{{1,6}}?(?:{_SPAN}|{_UNIT}))后?", r"\1后"),
        (rf"(点[0-9]{{0,2}}|号|月{_NUMBER}日|周[一二三四五六日天末])后$", r"\1"),
        (r"\bat ([0-9]{1,2})(?![0-9:])", r"\1点"),
        (r"\b(?:at|in)\b|(?<![0-9])\s+|\s+(?![0-9\s])", ""),  # Two numbers are not one.
    )
]
_ASKED_FOR = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2}) ([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)")
"""As the model is asked to write it: of the rewrites above it needs two."""
_ZONE = re.compile(r"\(?(?:北京时间|(?:gmt|utc)(?P<sign>[+-])(?P<hours>[0-9]{1,2})(?::?(?P<minutes>[0-5][0-9]))?)\)?")
_BEIJING = timezone(timedelta(hours=8))
_BRACKETS = re.compile(r"\(([^()]*)\)")
_RANGE = re.compile(r"(?P<begin>[^到至~—–-]+)(?:到|至|[~—–-])+(?P<end>[^到至~—–-]+)")
_COUNTED = re.compile(rf"{_NUMBER}(?P<unit>[点时号日月]|个?(?:{_SPAN}|{_UNIT})后|{_PART})")
_STAMP = re.compile(
    r"([0-9]{4})年([0-9]{1,2})月([0-9]{1,2})日(?P<t>t?)([0-9]{1,2}):([0-9]{2})(?::(?P<second>[0-9]{2})(?:\.[0-9]+)?)?"
    r"(?P<zone>z|utc|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-5][0-9]))?)?"
)
_SPAN_LATER = re.compile(rf"(?P<count>[0-9]{{1,3}}\.[0-9]|{_NUMBER})?个?(?P<half>半)?(?P<unit>{_SPAN})后")
_HOUR = rf"(?P<part>{_PART})?(?P<hour>{_NUMBER})"
_CLOCKS = [
    re.compile(rf"(?P<part>{_PART})"),
    re.compile(rf"{_HOUR}[点时](?:[钟整]|(?!.$)(?P<minute>{_NUMBER})分?)?(?P<part_after>{_PART})?"),
    re.compile(rf"{_HOUR}:(?P<minute>[0-9]{{2}})(?::(?P<second>[0-9]{{2}}))?(?P<part_after>{_PART})?"),
    re.compile(r"(?P<hour>[0-9]{1,2})(?P<part_after>" + _PART + ")"),
]


def resolve(text: str | None, *, call_time: datetime) -> datetime | None:
    """The moment that `text` means when said at `call_time`, from which relative times count (rule 6.3).

    `call_time` is aware; the result is in its zone, in whole seconds, after it by at most `YEARS_AHEAD` years. None for
    everything else: no text, nonsense, past times, impossible dates, more than `LONGEST` characters. Never raises for
    any text. A wall time that daylight saving skips is moved on; of one that it repeats, the first to come is meant.
    """
    if text is None or len(text) > LONGEST:
        return None
    try:
        words, zone = _plain(text, call_time.tzinfo)
        return next((moment for moment in _moments(words, call_time, zone) if _is_ahead(moment, call_time)), None)
    except (ValueError, OverflowError):  # the calendar has no such day, hour or year
        return None


def _plain(text: str, zone: tzinfo | None) -> tuple[str, tzinfo | None]:
    """The text in plain words, and the zone that it names, or else ``zone``."""
    words = unicodedata.normalize("NFKC", text).casefold().strip()
    if stamp := _ASKED_FOR.fullmatch(words):
        return "{}年{}月{}日{}".format(*stamp.groups()), zone
    for pattern, replacement in _REWRITES:
        words = pattern.sub(replacement, words)
    if named := _ZONE.search(words):
        words = words[: named.start()] + words[named.end() :]
        zone = _offset(named) if named["sign"] else _BEIJING
    return words, zone


def _offset(match: re.Match[str]) -> timezone:
    """``+08:00`` and the like; ValueError for what no place on earth has."""
    offset = timedelta(hours=int(match["hours"] or 0), minutes=int(match["minutes"] or 0))
    if offset > timedelta(hours=14):
        raise ValueError("no zone is that far")
    return timezone(-offset if match["sign"] == "-" else offset)


def _moments(words: str, call_time: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    """The moments that the words can mean, first choice first, in the zone of the call."""
    for said in _readings(words, call_time.astimezone(zone).replace(tzinfo=None, microsecond=0)):
        for fold in (0, 1):
            moment = said if said.tzinfo else said.replace(tzinfo=zone, fold=fold)
            yield moment.astimezone(UTC).astimezone(call_time.tzinfo)  # by way of UTC: a skipped wall time moves on


def _is_ahead(moment: datetime, call_time: datetime) -> bool:
    """After the call, and not too far (rule 6.3). Compared in UTC: within one zone Python compares wall clocks."""
    reach = (moment.year - YEARS_AHEAD, *moment.timetuple()[1:6])
    return moment.astimezone(UTC) > call_time.astimezone(UTC) and reach <= call_time.timetuple()[:6]


def _readings(words: str, now: datetime) -> Iterator[datetime]:
    """What the words say, counted from the wall clock `now`: wall times, or an aware one for a stamp with an offset.

    A second day, in brackets or a day of the week beside a date, must agree with the first.
    """
    notes = [note for note in _BRACKETS.findall(words) if _names_a_day(note)]
    outside = _BRACKETS.sub(lambda match: "" if match[1] in notes else match[1], words)
    if notes and not _names_a_day(outside):
        notes, outside = [], _BRACKETS.sub(r"\1", words)
    words = outside
    week = _WEEKDAY.search(words)
    if week and _names_a_day(rest := words[: week.start()] + words[week.end() :]):
        notes, words = [*notes, week[0]], rest
    for said in _ranges(words, now):
        if all(_agrees(note, said.date(), now.date()) for note in notes):
            yield said


def _names_a_day(words: str) -> bool:
    return any(match[0] for form, _ in _DAYS if (match := form.match(words)))


def _agrees(note: str, day: date, today: date) -> bool:
    """Whether a note says the same day; what it says has to be understood."""
    if match := _WEEKDAY.fullmatch(note):
        return day.weekday() == _WEEKDAYS[match["name"]]
    return any(day in days(match, today, True) for form, days in _DAYS if (match := form.fullmatch(note)))


def _ranges(words: str, now: datetime) -> Iterator[datetime]:
    """A range means its beginning; its end has to be a day or a time of day, too."""
    stamp = _STAMP.fullmatch(words)
    two = _RANGE.fullmatch(words)
    if stamp and not _may_be_range(stamp):
        yield _stamp(stamp)
    elif stamp and (stamp["t"] or stamp["second"] or not _ends_later(stamp)):
        return  # an offset or a range: who knows
    elif two:
        begin, end = two["begin"], two["end"]
        counted = _COUNTED.match(end)
        if counted and re.search(rf"{_NUMBER}$", begin) and not next(_simple(begin, now), None):
            begin += counted["unit"]
        if _time_of_day(end) is not None or next(_simple(end, now), None):
            yield from _simple(begin, now)
    else:
        yield from _simple(words, now)


def _may_be_range(stamp: re.Match[str]) -> bool:
    """Whether ``-16:00`` at the end may be where a range ends, rather than an offset of UTC."""
    if stamp["sign"] != "-" or not stamp["minutes"] or (stamp["t"] and stamp["second"]):
        return False
    return _ends_later(stamp) if stamp["t"] or stamp["second"] else True


def _ends_later(stamp: re.Match[str]) -> bool:
    return (int(stamp["hours"]), int(stamp["minutes"])) > (int(stamp[5]), int(stamp[6]))


def _simple(words: str, now: datetime) -> Iterator[datetime]:
    """A stamp, a span, or a day and a time of day."""
    if stamp := _STAMP.fullmatch(words):
        yield _stamp(stamp)
    elif span := _SPAN_LATER.fullmatch(words):
        count = _amount(span["count"] or "0") + (0.5 if span["half"] else 0)
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
    year, month, day, hour, minute = (int(match[group]) for group in (1, 2, 3, 5, 6))
    zone = _offset(match) if match["zone"] else None
    return datetime(year, month, day, hour, minute, int(match["second"] or 0), tzinfo=zone)


def _time_of_day(words: str) -> timedelta | None:
    """The time since midnight. A bare hour from 1 to 6 is one of the afternoon, unless written "03" (rule 6.3)."""
    said = next((match.groupdict() for form in _CLOCKS if (match := form.fullmatch(words))), {})
    part = said.get("part") or said.get("part_after")
    if not said.get("hour"):
        return timedelta(hours=_ALONE[part]) if part in _ALONE else None
    first, last = _HOURS[part] if part else (0, 23)
    hour, minute, second = (_number(said.get(field) or "0") for field in ("hour", "minute", "second"))
    if part and hour <= 12:
        hour = next((h for h in (hour, hour + 12, hour + 24, hour - 12) if first <= h <= last), -1)
    elif 1 <= hour <= 6 and said["hour"][0] not in "0零":
        hour += 12
    fits = first <= hour <= last and minute < 60 and second < 60
    return timedelta(hours=hour, minutes=minute, seconds=second) if fits else None


def _number(text: str) -> int:
    return _NUMBERS[text] if text in _NUMBERS else int(text)


def _amount(text: str) -> float:
    return float(text) if "." in text else _number(text)


def _named_day(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """今天 alone is no time to call at; a time of day alone is one of today."""
    return [today + timedelta(days=_NAMED_DAYS[match[0]])] if _NAMED_DAYS[match[0]] or timed else []


def _weekday(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """周五: the next one, today included. 下周五: of next calendar week, Monday first."""
    day = _WEEKDAYS[match["name"]] - today.weekday()
    if match["which"]:
        return [today + timedelta(days=7 * _WHICH[match["which"]] + day)]
    return [today + timedelta(ahead) for ahead in (day % 7, day % 7 + 7) if ahead or timed]


def _weekend(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """Its Saturday, or its Sunday where Saturday's time is over."""
    saturday = today + timedelta(days=7 * _WHICH[match["which"] or "这"] + 5 - today.weekday())
    days = [saturday, saturday + timedelta(days=1), *([] if match["which"] else [saturday + timedelta(days=7)])]
    return [day for day in days if day > today or timed]


def _week(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """下周: its Monday; at which time of day of which day is not said."""
    return [] if timed else [today + timedelta(days=7 * _WHICH[match["which"]] - today.weekday())]


def _within(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """三天内: from tomorrow on."""
    return [] if timed or not _number(match["count"]) else [today + timedelta(days=1)]


def _units_later(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """3天后, 两个月后 (in a shorter month, its last day)."""
    count, unit = _number(match["count"]), match["unit"]
    if unit in _UNIT_DAYS:
        return [today + timedelta(days=count * _UNIT_DAYS[unit])]
    last = _last_day(today, count * _UNIT_MONTHS[unit])
    return [last.replace(day=min(today.day, last.day))]


def _months(match: re.Match[str], today: date) -> list[date]:
    """The last days of the months that are named; without a name, of this one and the next."""
    if match["month"]:
        year = match["year"]
        years = [today.year, today.year + 1] if year is None else [_year(year, today)]
        if year is None and _number(match["month"]) == today.month:
            years = years[:1]  # Of this month what is over is over, not eleven months off.
        return [_last_day(date(chosen, _number(match["month"]), 1), 0) for chosen in years]
    return [_last_day(today, ahead) for ahead in ([_WHICH[match["which"]]] if match["which"] else [0, 1])]


def _year(name: str, today: date) -> int:
    return today.year + _YEARS[name] if name in _YEARS else int(name)


def _calendar_day(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """2026年11月5日, 11月5号, 下个月5号, 5号; without its year or month, the next, today included."""
    ends = _months(match, today)
    found = [end.replace(day=_number(match["day"])) for end in ends if _number(match["day"]) <= end.day]
    return [today] if today in found else found


def _part_of_month(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """月初, 12月中旬, 下个月: the day with which it begins; of 月底 the last one."""
    ends = _months(match, today)
    if match["stretch"] in ("底", "末"):
        return ends[: 1 if not match["month"] else None]
    first = 1 if not match["stretch"] else _STRETCHES[match["stretch"]]
    return [end.replace(day=first) for end in ends]


def _part_of_year(match: re.Match[str], today: date, timed: bool) -> list[date]:
    """明年, 年初: the first of January; 年底: the last of December."""
    if match["stretch"] in ("底", "末"):
        return [date(_year(match["year"] or "今", today), 12, 31)]
    return [date(_year(match["year"] or "明", today), 1, 1)]


def _last_day(today: date, months_ahead: int) -> date:
    years, month = divmod(today.month + months_ahead, 12)
    return date(today.year + years, month + 1, 1) - timedelta(days=1)


_STRETCHES = {"初": 1, "上旬": 1, "中": 15, "中旬": 11, "下旬": 21}
_STRETCH = rf"(?P<stretch>{'|'.join(sorted([*_STRETCHES, '底', '末'], key=len, reverse=True))})"
_MONTH = rf"(?:(?P<year>[0-9]{{4}}|今|明)年)?(?P<month>{_NUMBER})月份?|(?P<which>下下|[下这本])个?月"
_WEEKDAY = re.compile(r"(?P<which>下下|[下这本])?个?周(?P<name>[一二三四五六日天])")
_DAYS: list[tuple[re.Pattern[str], Callable[[re.Match[str], date, bool], list[date]]]] = [
    (re.compile("|".join(_NAMED_DAYS)), _named_day),
    (_WEEKDAY, _weekday),
    (re.compile(r"(?P<which>下下|[下这本])?个?周末"), _weekend),
    (re.compile(r"(?P<which>下下|下)个?周初?(?![一二三四五六日天末])"), _week),
    (re.compile(rf"(?P<count>{_NUMBER})个?(?P<unit>{_UNIT})后"), _units_later),
    (re.compile(rf"(?P<count>{_NUMBER})个?(?:天|日|周|月|年)内"), _within),
    (re.compile(rf"(?:{_MONTH})月?{_STRETCH}?(?![0-9一二三四五六七八九十])"), _part_of_month),
    (re.compile(rf"(?P<year>)(?P<month>)(?P<which>)月{_STRETCH}"), _part_of_month),
    (re.compile(r"(?P<year>今|明|后)年年?(?P<stretch>[初底末])"), _part_of_year),
    (re.compile(r"(?P<year>)年(?P<stretch>[初底末])"), _part_of_year),
    (re.compile(r"(?P<year>明|后)(?P<stretch>)年(?![0-9一二三四五六七八九十])"), _part_of_year),
    (re.compile(rf"(?:{_MONTH})?(?P<day>{_NUMBER})[日号]"), _calendar_day),
]

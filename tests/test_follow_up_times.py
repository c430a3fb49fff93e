import re
from datetime import UTC, datetime, timedelta, timezone
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from calltasks.rules.follow_up_times import LONGEST, resolve

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
CALL = datetime(2026, 11, 18, 10, 20, 30, 400_000, tzinfo=SHANGHAI)  # a Wednesday
FORMAT = "%Y-%m-%d %H:%M:%S"
WEEKDAYS = "一二三四五六日"

WORDED = [
    # stamps
    ("2026-11-22 15:30:45", "2026-11-22 15:30:45"),
    ("2026-11-22 15:30", "2026-11-22 15:30:00"),
    ("2026-11-22 03:00:00", "2026-11-22 03:00:00"),
    (" 2026-11-22  15:30:45 ", "2026-11-22 15:30:45"),
    ("2026/11/22 15:30", "2026-11-22 15:30:00"),
    ("2027/1/2 3点", "2027-01-02 15:00:00"),
    ("2026-11-22T15:30:45", "2026-11-22 15:30:45"),
    ("2026-11-22T15:30:45.999", "2026-11-22 15:30:45"),
    ("2026-11-22T15:30:45+08:00", "2026-11-22 15:30:45"),
    ("2026-11-22T15:30+0900", "2026-11-22 14:30:00"),
    ("2026-11-22 15:30:00 -05", "2026-11-23 04:30:00"),
    ("2026-11-22T15:30:45Z", "2026-11-22 23:30:45"),
    ("2026-11-22t15:30:45.5z", "2026-11-22 23:30:45"),
    ("2026-11-22", "2026-11-22 09:00:00"),
    ("2026/11/22", "2026-11-22 09:00:00"),
    ("2026-11-22 下午3点", "2026-11-22 15:00:00"),
    ("2026年11月22日15点", "2026-11-22 15:00:00"),
    ("2026年11月22日 15:00:00", "2026-11-22 15:00:00"),
    ("2026年11月22日下午三点半", "2026-11-22 15:30:00"),
    ("２０２６－１１－２２　１５：３０：００", "2026-11-22 15:30:00"),
    # days
    ("今天", None),
    ("today", None),
    ("今天下午", "2026-11-18 15:00:00"),
    ("今天上午", None),
    ("今晚八点", "2026-11-18 20:00:00"),
    ("今晚", "2026-11-18 19:00:00"),
    ("今晚12点", "2026-11-19 00:00:00"),
    ("下午四点", "2026-11-18 16:00:00"),
    ("15:00", "2026-11-18 15:00:00"),
    ("明天", "2026-11-19 09:00:00"),
    ("明天下午三点", "2026-11-19 15:00:00"),
    ("明天，下午三点左右吧。", "2026-11-19 15:00:00"),
    ("明天下午三点以后", "2026-11-19 15:00:00"),
    ("明天三点", "2026-11-19 15:00:00"),
    ("明天03:00", "2026-11-19 03:00:00"),
    ("明天3:15", "2026-11-19 15:15:00"),
    ("明天七点", "2026-11-19 07:00:00"),
    ("明早9点", "2026-11-19 09:00:00"),
    ("明天早上", "2026-11-19 09:00:00"),
    ("明天早晨八点一刻", "2026-11-19 08:15:00"),
    ("明天上午", "2026-11-19 10:00:00"),
    ("明天中午", "2026-11-19 12:00:00"),
    ("明天中午12点半", "2026-11-19 12:30:00"),
    ("明天中午一点", "2026-11-19 13:00:00"),
    ("明天下午", "2026-11-19 15:00:00"),
    ("明天下午15点", "2026-11-19 15:00:00"),
    ("明天傍晚六点", "2026-11-19 18:00:00"),
    ("明天晚上", "2026-11-19 19:00:00"),
    ("明晚七点三刻", "2026-11-19 19:45:00"),
    ("明天凌晨", None),
    ("明天上午15点", None),
    ("后天上午10点半", "2026-11-20 10:30:00"),
    ("后天 14:05", "2026-11-20 14:05:00"),
    ("大后天", "2026-11-21 09:00:00"),
    ("大后天下午两点零五分", "2026-11-21 14:05:00"),
    # weekdays
    ("周五", "2026-11-20 09:00:00"),
    ("周三", "2026-11-25 09:00:00"),
    ("周三下午两点", "2026-11-18 14:00:00"),
    ("周三上午九点", "2026-11-25 09:00:00"),
    ("周二", "2026-11-24 09:00:00"),
    ("星期天晚上7点", "2026-11-22 19:00:00"),
    ("礼拜六下午", "2026-11-21 15:00:00"),
    ("周五十点", "2026-11-20 10:00:00"),
    ("周末", "2026-11-21 09:00:00"),
    ("这周五", "2026-11-20 09:00:00"),
    ("本周一", None),
    ("上周五", None),
    ("下周一上午", "2026-11-23 10:00:00"),
    ("下周日", "2026-11-29 09:00:00"),
    ("下个星期三", "2026-11-25 09:00:00"),
    ("下下周二", "2026-12-01 09:00:00"),
    # spans
    ("半小时后", "2026-11-18 10:50:30"),
    ("半个小时以后", "2026-11-18 10:50:30"),
    ("两个小时后", "2026-11-18 12:20:30"),
    ("一个半小时后", "2026-11-18 11:50:30"),
    ("过两个小时", "2026-11-18 12:20:30"),
    ("20分钟之后", "2026-11-18 10:40:30"),
    ("一刻钟后", "2026-11-18 10:35:30"),
    ("小时后", None),
    ("0分钟后", None),
    ("3天后", "2026-11-21 09:00:00"),
    ("三天后下午四点", "2026-11-21 16:00:00"),
    ("过两天下午", "2026-11-20 15:00:00"),
    ("一周后", "2026-11-25 09:00:00"),
    ("两个星期后", "2026-12-02 09:00:00"),
    ("十五天后", "2026-12-03 09:00:00"),
    ("一个月后", "2026-12-18 09:00:00"),
    ("半个月后", "2026-12-03 09:00:00"),
    ("半年后", "2027-05-18 09:00:00"),
    ("两年后", "2028-11-18 09:00:00"),
    ("三年后", None),
    ("3天", None),
    # days of months
    ("下个月5号", "2026-12-05 09:00:00"),
    ("下月五号下午", "2026-12-05 15:00:00"),
    ("这个月25号", "2026-11-25 09:00:00"),
    ("本月5号", None),
    ("25号", "2026-11-25 09:00:00"),
    ("二十五号上午十点", "2026-11-25 10:00:00"),
    ("5号", "2026-12-05 09:00:00"),
    ("31号", "2026-12-31 09:00:00"),
    ("0号", None),
    ("12月1日", "2026-12-01 09:00:00"),
    ("十二月二十五号晚上八点", "2026-12-25 20:00:00"),
    ("3月5号", "2027-03-05 09:00:00"),
    ("11月18日上午九点", None),
    ("11月18日下午三点", "2026-11-18 15:00:00"),
    ("明年3月5号", "2027-03-05 09:00:00"),
    ("今年3月5号", None),
    ("月底", "2026-11-30 09:00:00"),
    ("月末下午", "2026-11-30 15:00:00"),
    ("本月底", "2026-11-30 09:00:00"),
    ("下个月底", "2026-12-31 09:00:00"),
    # English
    ("tomorrow", "2026-11-19 09:00:00"),
    ("Tomorrow at three.", "2026-11-19 15:00:00"),
    ("tomorrow, at three o'clock", "2026-11-19 15:00:00"),
    ("tomorrow at 15:00", "2026-11-19 15:00:00"),
    ("tomorrow at 3 pm", "2026-11-19 15:00:00"),
    ("tomorrow at 9:30am", "2026-11-19 09:30:00"),
    ("tomorrow 3 p.m.", "2026-11-19 15:00:00"),
    ("3pm tomorrow", "2026-11-19 15:00:00"),
    ("at three tomorrow", "2026-11-19 15:00:00"),
    ("tomorrow at 12 am", "2026-11-19 00:00:00"),
    ("tomorrow morning at ten", "2026-11-19 10:00:00"),
    ("tomorrow at four in the afternoon", "2026-11-19 16:00:00"),
    ("tomorrow in the evening", "2026-11-19 19:00:00"),
    ("the day after tomorrow", "2026-11-20 09:00:00"),
    ("this afternoon", "2026-11-18 15:00:00"),
    ("tonight at eight", "2026-11-18 20:00:00"),
    ("next Monday", "2026-11-23 09:00:00"),
    ("on Friday at noon", "2026-11-20 12:00:00"),
    ("in half an hour", "2026-11-18 10:50:30"),
    ("in two hours", "2026-11-18 12:20:30"),
    ("an hour later", "2026-11-18 11:20:30"),
    ("in 3 days at 4pm", "2026-11-21 16:00:00"),
    ("in a week", "2026-11-25 09:00:00"),
    ("next week", "2026-11-23 09:00:00"),
    ("tomorrow 3-5pm", "2026-11-19 15:00:00"),
    ("3pm to 5pm tomorrow", "2026-11-19 15:00:00"),
    # ranges mean their beginning
    ("明天下午三点到五点", "2026-11-19 15:00:00"),
    ("周四下午3-5点", "2026-11-19 15:00:00"),
    ("明天上午9点至11点半", "2026-11-19 09:00:00"),
    ("周五14:00-16:00", "2026-11-20 14:00:00"),
    ("2026-12-05 14:00-16:00", "2026-12-05 14:00:00"),
    ("2026-12-05 09:00-11:00", "2026-12-05 09:00:00"),
    ("2026-12-05 14:00:00-16:00:00", "2026-12-05 14:00:00"),
    ("2026-12-05 14:00 ~ 16:00", "2026-12-05 14:00:00"),
    ("2026-11-22 下午3点到5点", "2026-11-22 15:00:00"),
    ("周一到周五", "2026-11-23 09:00:00"),
    ("下周一到周三", "2026-11-23 09:00:00"),
    ("12月1日至5日", "2026-12-01 09:00:00"),
    ("20-25号", "2026-11-20 09:00:00"),
    ("明天上午到后天下午", "2026-11-19 10:00:00"),
    ("三到五天后", "2026-11-21 09:00:00"),
    ("三天后晚上八点到九点", "2026-11-21 20:00:00"),
    ("明后天", "2026-11-19 09:00:00"),
    ("明天九点到", None),
    ("明天三点到无", None),
    # an offset of UTC, or the end of a range: who knows
    ("2026-12-05T14:00-16:00", None),
    ("2026-12-05 09:00:00-11:00", None),
    ("2026-12-05 15:30-05:00", None),
    ("2026-12-05T15:00:00-05:00", "2026-12-06 04:00:00"),
    # stamps with more
    ("2026-11-22 15:00:00（周日）", "2026-11-22 15:00:00"),
    ("2026-11-22 15:00:00（周一）", None),
    ("2026年11月22日 (星期日) 15:00", "2026-11-22 15:00:00"),
    ("周日（11月22日）下午3点", "2026-11-22 15:00:00"),
    ("周一（11月22日）下午3点", None),
    ("周日11月22日15:00", "2026-11-22 15:00:00"),
    ("明天（周四）下午3点", "2026-11-19 15:00:00"),
    ("明天（周五）下午3点", None),
    ("下周五（11月27日）下午两点", "2026-11-27 14:00:00"),
    ("(周五) 14:00", "2026-11-20 14:00:00"),
    ("周五（下午）3点", "2026-11-20 15:00:00"),
    ("11-22 15:00", "2026-11-22 15:00:00"),
    ("11/22 下午3点", "2026-11-22 15:00:00"),
    ("11/22", "2026-11-22 09:00:00"),
    ("11-22", None),
    ("2026-11-22 15:00 GMT+8", "2026-11-22 15:00:00"),
    ("2026-11-22 15:00 (UTC+08:00)", "2026-11-22 15:00:00"),
    ("明天15:00 UTC+9", "2026-11-19 14:00:00"),
    ("北京时间2026-11-22 15:00", "2026-11-22 15:00:00"),
    ("2026-11-22 15:00 待定", None),
    # weeks, months and years as such
    ("下周", "2026-11-23 09:00:00"),
    ("下个礼拜", "2026-11-23 09:00:00"),
    ("下下周", "2026-11-30 09:00:00"),
    ("下周初", "2026-11-23 09:00:00"),
    ("下周周三", "2026-11-25 09:00:00"),
    ("下周下午", None),
    ("这周", None),
    ("下个月", "2026-12-01 09:00:00"),
    ("下个月初", "2026-12-01 09:00:00"),
    ("下个月中旬", "2026-12-11 09:00:00"),
    ("下下个月5号", "2027-01-05 09:00:00"),
    ("12月", "2026-12-01 09:00:00"),
    ("12月下旬", "2026-12-21 09:00:00"),
    ("12月底", "2026-12-31 09:00:00"),
    ("三月", "2027-03-01 09:00:00"),
    ("月初", "2026-12-01 09:00:00"),
    ("月中", "2026-12-15 09:00:00"),
    ("年底", "2026-12-31 09:00:00"),
    ("今年年底", "2026-12-31 09:00:00"),
    ("明年", "2027-01-01 09:00:00"),
    ("明年年初", "2027-01-01 09:00:00"),
    ("国庆", None),
    ("春节后", None),
    # parts of the day
    ("下班后", "2026-11-18 18:00:00"),
    ("明天下班以后六点半", "2026-11-19 18:30:00"),
    ("午后", "2026-11-18 15:00:00"),
    ("明天一早", "2026-11-19 09:00:00"),
    ("周一一早", "2026-11-23 09:00:00"),
    ("五点多", "2026-11-18 17:00:00"),
    ("下午七八点", "2026-11-18 19:00:00"),
    ("三四点", "2026-11-18 15:00:00"),
    ("明天十一二点", "2026-11-19 11:00:00"),
    ("今晚1点", "2026-11-19 01:00:00"),
    ("明晚十二点半", "2026-11-20 00:30:00"),
    ("晚上四点", None),
    ("晚上五点", "2026-11-18 17:00:00"),
    ("半夜两点", "2026-11-19 02:00:00"),
    ("明天上午1点", None),
    # from a day on, within days
    ("20号以后", "2026-11-20 09:00:00"),
    ("周五以后", "2026-11-20 09:00:00"),
    ("三日后", "2026-11-21 09:00:00"),
    ("3天内", "2026-11-19 09:00:00"),
    ("一周之内", "2026-11-19 09:00:00"),
    ("周五之前", None),
    ("明天五点前", None),
    ("过几天", "2026-11-21 09:00:00"),
    ("过两三天", "2026-11-20 09:00:00"),
    ("1.5小时后", "2026-11-18 11:50:30"),
    ("半个钟后", "2026-11-18 10:50:30"),
    ("一个半钟后", "2026-11-18 11:50:30"),
    ("过阵子", None),
    ("晚点", None),
    ("明天晚一点", None),
    ("周五晚1点半", None),
    ("今晚上8点", "2026-11-18 20:00:00"),
    # two numbers are not one
    ("明天下午1,2点", "2026-11-19 13:00:00"),
    ("明天下午1、2点", "2026-11-19 13:00:00"),
    ("12月1，2号", "2026-12-01 09:00:00"),
    ("明天 2 3点", None),
    ("2026-11-22，14点", "2026-11-22 14:00:00"),
    ("周一，3点", "2026-11-23 15:00:00"),
    ("三点五", None),
    ("三点五十", "2026-11-18 15:50:00"),
    ("明天下午3点半到4点", "2026-11-19 15:30:00"),
    ("明天上午9点到11点之间", "2026-11-19 09:00:00"),
    # what is over in this month is over
    ("11月5日", None),
    ("11月", None),
    ("11月底", "2026-11-30 09:00:00"),
    # dialect
    ("后儿下午三点", "2026-11-20 15:00:00"),
    ("明儿个", "2026-11-19 09:00:00"),
]

NOTHING = [
    None, "", " ", "null", "None", "无", "没有", "待定", "不要明天打", "明天或后天", "明天明天", "改天",
    "昨天下午三点", "后", "2026-11-18 10:20:30", "2026-11-17 15:00:00", "1999-01-01 09:00:00", "2026-11-31",
    "2027-02-29 10:00:00", "2026-13-01", "2026-11-22 25:00:00", "2026-11-22 24:00", "2026-11-22 15:60",
    "2026-11-22T15:00:00+99:00", "2026-11-22T15:00:00+08:99", "0000-01-01 00:00:00", "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-12:00", "99999-01-01", "12026-11-22", "2026-11-2215:00", "2026/1122", "明天25点",
    "明天三点九十分", "明天3", "13月5号", "2月30号", "下个月32号", "周八", "999年后", "999周后", "12345", "1795330800",
    "\x00", "\ud800", "明天\x00", "🙂", "明天" * LONGEST, "2" * 100_000, "ﷺ" * LONGEST,
]  # fmt: skip


def at(text: str, zone: ZoneInfo = SHANGHAI) -> datetime:
    return datetime.strptime(text, FORMAT).replace(tzinfo=zone)


def wording(moment: datetime | None) -> str | None:
    return moment.strftime(FORMAT) if moment else None


@pytest.mark.parametrize(("text", "expected"), WORDED)
def test_a_time_is_understood_as_it_was_said(text: str, expected: str | None) -> None:
    assert wording(resolve(text, call_time=CALL)) == expected


@pytest.mark.parametrize("text", NOTHING, ids=lambda text: ascii(text)[:30])
def test_nonsense_and_times_that_cannot_be_are_none(text: str | None) -> None:
    assert resolve(text, call_time=CALL) is None


def test_on_a_saturday_the_weekend_has_begun() -> None:
    call = datetime(2026, 11, 21, 10, 20, tzinfo=SHANGHAI)
    for text, expected in [
        ("这周末", "2026-11-22 09:00:00"),
        ("周末", "2026-11-22 09:00:00"),
        ("周末下午", "2026-11-21 15:00:00"),
        ("下周末", "2026-11-28 09:00:00"),
    ]:
        assert wording(resolve(text, call_time=call)) == expected, text
    sunday = datetime(2026, 11, 22, 10, 20, tzinfo=SHANGHAI)
    assert wording(resolve("周末", call_time=sunday)) == "2026-11-28 09:00:00"
    assert resolve("这周末", call_time=sunday) is None


@settings(deadline=None)
@given(first=st.integers(7, 21), last=st.integers(8, 22), dash=st.sampled_from(["到", "至", "-", "~", " - ", "—"]))
def test_a_range_is_never_taken_for_an_offset(first: int, last: int, dash: str) -> None:
    assume(first < last)
    moment = resolve(f"2026-12-05 {first:02}:00{dash}{last:02}:00", call_time=CALL)
    assert wording(moment) == f"2026-12-05 {first:02}:00:00"


def test_two_years_ahead_is_the_limit() -> None:
    call = datetime(2024, 2, 29, 10, 0, tzinfo=SHANGHAI)
    assert resolve("2026-02-28 23:59:59", call_time=call) == at("2026-02-28 23:59:59")
    assert resolve("2026-03-01 00:00:00", call_time=call) is None
    assert resolve("2028-11-18 10:20:30", call_time=CALL) == at("2028-11-18 10:20:30")
    assert resolve("2028-11-18 10:20:31", call_time=CALL) is None


def test_months_and_years_turn() -> None:
    call = datetime(2026, 12, 31, 15, 0, tzinfo=SHANGHAI)
    for text, expected in [
        ("明天", "2027-01-01 09:00:00"),
        ("5号", "2027-01-05 09:00:00"),
        ("下个月5号", "2027-01-05 09:00:00"),
        ("下个月底", "2027-01-31 09:00:00"),
        ("两个月后", "2027-02-28 09:00:00"),
        ("今晚12点半", "2027-01-01 00:30:00"),
        ("1月2日", "2027-01-02 09:00:00"),
        ("月底", None),
    ]:
        assert wording(resolve(text, call_time=call)) == expected, text


def test_a_wall_time_that_daylight_saving_skips_moves_on() -> None:
    call = datetime(2027, 3, 27, 12, 0, tzinfo=BERLIN)
    assert wording(resolve("明天02:30", call_time=call)) == "2027-03-28 03:30:00"
    assert wording(resolve("明天下午三点", call_time=call)) == "2027-03-28 15:00:00"


def test_of_a_wall_time_that_daylight_saving_repeats_the_first_to_come_is_meant() -> None:
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold).astimezone(UTC) for fold in (0, 1))
    for call, expected in [(first - timedelta(minutes=1), first), (first, second), (second, None)]:
        moment = resolve("2026-10-25 02:30:00", call_time=call.astimezone(BERLIN))
        assert (moment and moment.astimezone(UTC)) == expected


def test_the_result_is_in_the_zone_of_the_call() -> None:
    zone = timezone(timedelta(hours=-3))
    moment = resolve("2026-11-22T15:00:00Z", call_time=CALL.astimezone(zone))
    assert moment is not None
    assert moment.tzinfo is zone
    assert wording(moment) == "2026-11-22 12:00:00"


ZONE_NAMES = ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]
ZONES = st.sampled_from(ZONE_NAMES).map(ZoneInfo)
CALLS = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=ZONES, allow_imaginary=False)
ANY_CALL = st.datetimes(timezones=st.timezones())
PIECES = st.sampled_from(
    ["".join(text.split()) for text, _ in WORDED]
    + [*"今明后大下这周月日号天年点时分半个过零一二十两底末:-/.+tz 0123456789"]
    + ["上午", "晚上", "小时", "in ", "at ", " pm", "next "]
)


def check(moment: datetime | None, call: datetime) -> None:
    if moment is None:
        return
    assert moment.tzinfo is call.tzinfo
    assert moment.microsecond == 0
    assert moment.astimezone(UTC) > call.astimezone(UTC)
    assert moment.year - call.year <= 2
    assert moment.astimezone(UTC).astimezone(call.tzinfo).replace(fold=0) == moment.replace(fold=0)


@settings(deadline=None)
@given(text=st.text() | st.text(st.characters(), max_size=LONGEST + 1), call=ANY_CALL)
@example(text="\udfff", call=datetime.max.replace(tzinfo=UTC))
@example(text="明天", call=datetime.max.replace(tzinfo=UTC))
@example(text="周一", call=datetime.min.replace(tzinfo=UTC))
def test_no_text_raises(text: str, call: datetime) -> None:
    check(resolve(text, call_time=call), call)


@settings(deadline=None)
@given(text=st.lists(PIECES, max_size=6).map("".join), call=CALLS | ANY_CALL)
def test_no_medley_of_time_words_raises_or_leaves_the_range(text: str, call: datetime) -> None:
    check(resolve(text, call_time=call), call)


@settings(deadline=None)
@given(call=CALLS, ahead=st.timedeltas(timedelta(seconds=1), timedelta(days=729)), zone=ZONES)
def test_a_stamp_with_an_offset_means_that_moment(call: datetime, ahead: timedelta, zone: ZoneInfo) -> None:
    expected = (call.astimezone(UTC) + ahead).replace(microsecond=0)
    assume(expected > call.astimezone(UTC))
    moment = resolve(expected.astimezone(zone).isoformat(), call_time=call)
    check(moment, call)
    assert moment is not None
    assert moment.astimezone(UTC) == expected


@settings(deadline=None)
@given(call=CALLS, ahead=st.timedeltas(timedelta(hours=3), timedelta(days=729)), separator=st.sampled_from(" T"))
def test_a_stamp_reads_back(call: datetime, ahead: timedelta, separator: str) -> None:
    wall = (call.astimezone(UTC) + ahead).replace(microsecond=0).astimezone(call.tzinfo).replace(tzinfo=None, fold=0)
    assert wording(resolve(wall.isoformat(sep=separator), call_time=call)) == wall.strftime(FORMAT)


@settings(deadline=None)
@given(text=st.from_regex(r"20[2-4][0-9]-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(:[0-9]{2})?", fullmatch=True))
def test_a_time_as_the_model_is_asked_for_it_is_read_as_any_other(text: str) -> None:
    with patch("calltasks.rules.follow_up_times._ASKED_FOR", re.compile("(?!)")):
        as_any_other = resolve(text, call_time=CALL)
    assert resolve(text, call_time=CALL) == as_any_other


@settings(deadline=None)
@given(call=CALLS, day=st.integers(0, 6), hour=st.integers(7, 23))
def test_a_weekday_is_the_next_one_still_ahead(call: datetime, day: int, hour: int) -> None:
    moment = resolve(f"周{WEEKDAYS[day]}{hour}点", call_time=call)
    check(moment, call)
    assert moment is not None
    assert (moment.weekday(), moment.hour, moment.minute) == (day, hour, 0)
    assert moment.replace(tzinfo=None) - call.replace(tzinfo=None) <= timedelta(days=7)


@settings(deadline=None)
@given(call=CALLS, day=st.integers(0, 6))
def test_a_weekday_of_next_week_is_in_the_next_calendar_week(call: datetime, day: int) -> None:
    moment = resolve(f"下周{WEEKDAYS[day]}", call_time=call)
    assert moment is not None
    monday = call.date() - timedelta(days=call.weekday())
    assert moment.date() == monday + timedelta(days=7 + day)
    assert (moment.hour, moment.minute, moment.second) == (9, 0, 0)


@settings(deadline=None)
@given(call=CALLS, days=st.integers(1, 700))
def test_days_later_counts_days_of_the_calendar(call: datetime, days: int) -> None:
    moment = resolve(f"{days}天后", call_time=call)
    assert wording(moment) == f"{call.date() + timedelta(days=days)} 09:00:00"

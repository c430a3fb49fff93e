"""When the platform dials: a strategy is read or refused in one line, reaches the job group, and is told of."""

import asyncio
import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.job_groups import CLOSED_LOOK
from calltasks.call_tasks import CallTasks
from calltasks.errors import SettingsError, WrongUseError
from calltasks.names import STALLED_SINCE
from calltasks.options import Options
from calltasks.platform.strategy import SHANGHAI, Strategy, read
from calltasks.settings import PlatformSettings, load
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import Fault, SimulatorOptions, running_in_thread
from simulators.clock import Clock
from simulators.strategy import NEVER, Hours
from tests.api_site import ApiSite, failed, opening
from tests.comparison import assert_finished
from tests.pipeline import QUICK, Site, Sites, eventually
from tests.programs import Program, own_environment
from workflows.call_task import STALLED_LOOKS

VENDORS_OWN = {
    "maxAttemptsPerDay": "3",
    "minAttemptInterval": "10",
    "routingStrategy": "LocalProvinceFirst",
    "repeatDays": ["1", "2", "3"],
    "workingTime": [
        {"beginTime": "10:00:00", "endTime": "11:00:00"},
        {"beginTime": "14:00:00", "endTime": "15:00:00"},
    ],
    "repeatable": True,
    "endTime": 1707494400000,
    "startTime": 1706976000000,
    "repeatBy": "Week",
}
"""The example of the platform's own documentation."""
DAYS = {"startTime": 1706976000000, "endTime": 1707494400000}
MORNING = [{"beginTime": "09:00:00", "endTime": "12:00:00"}]


def hours(*windows: tuple[str, str]) -> list[dict[str, str]]:
    return [{"beginTime": f"{begin}:00", "endTime": f"{end}:00"} for begin, end in windows]


def strategy(**fields: Any) -> Strategy:
    return read(json.dumps(fields))


def in_shanghai(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 12, day, hour, minute, tzinfo=SHANGHAI)


def soon(first: timedelta, last: timedelta, zone: tzinfo = SHANGHAI) -> list[dict[str, str]]:
    """Hours from then to then, counted from now; over midnight they are two."""
    begin, end = (datetime.now(zone) + later for later in (first, last))
    texts = f"{begin:%H:%M:%S}", f"{end:%H:%M:%S}"
    if texts[0] < texts[1]:
        return [{"beginTime": texts[0], "endTime": texts[1]}]
    return [{"beginTime": "00:00:00", "endTime": texts[1]}, {"beginTime": texts[0], "endTime": "23:59:59"}]


# --- reading one ----------------------------------------------------------------------------------------------------


def test_the_platforms_own_json_is_taken_as_it_is() -> None:
    recall = {"emptyNumberIgnore": True, "inArrearsIgnore": True, "outOfServiceIgnore": False}
    sent, recalled = read(json.dumps({**VENDORS_OWN, "recallStrategy": recall})).sent()
    assert json.loads(sent) == {**VENDORS_OWN, "maxAttemptsPerDay": 3, "minAttemptInterval": 10}
    assert json.loads(recalled) == recall
    assert strategy(recallStrategy={"emptyNumberIgnore": True}).sent() == ("", '{"emptyNumberIgnore":true}')
    assert read("{}").sent() == ("", "")


WRONG: dict[str, tuple[str, Any]] = {
    "no JSON": ("must be a JSON object", "hidden-word"),
    "a list": ("object", []),
    "an unknown field": ("workingHours: is no field", {"workingHours": MORNING}),
    "an unknown field of a window": ("workingTime.0.zone", {"workingTime": [{**MORNING[0], "zone": "hidden-word"}]}),
    "a time without seconds": ("workingTime.0.beginTime", {"workingTime": [{**MORNING[0], "beginTime": "09:00"}]}),
    "a time of no day": ("workingTime.0.endTime", {"workingTime": [{**MORNING[0], "endTime": "24:00:00"}]}),
    "a window without an end": ("workingTime.0.endTime", {"workingTime": [{"beginTime": "09:00:00"}]}),
    "no window": ("workingTime", {"workingTime": []}),
    "a window backwards": ("workingTime", {"workingTime": hours(("22:00", "06:00"))}),
    "an empty window": ("workingTime", {"workingTime": hours(("09:00", "09:00"))}),
    "windows that overlap": ("workingTime", {"workingTime": hours(("14:00", "18:00"), ("09:00", "14:01"))}),
    "no attempt": ("maxAttemptsPerDay", {"maxAttemptsPerDay": 0}),
    "attempts that are true": ("maxAttemptsPerDay", {"maxAttemptsPerDay": True}),
    "a negative interval": ("minAttemptInterval", {"minAttemptInterval": -1}),
    "half an interval": ("minAttemptInterval", {"minAttemptInterval": 1.5}),
    "an unknown repetition": ("repeatBy", {"repeatBy": "hidden-word", **DAYS}),
    "days without a repetition": ("repeatBy", DAYS),
    "a repetition without days": ("repeatDays", {"repeatBy": "Week", **DAYS}),
    "a repetition that has no begin": ("repeatBy", {"repeatBy": "Week", "repeatDays": [1]}),
    "an eighth day": ("repeatDays", {"repeatBy": "Week", "repeatDays": [7], **DAYS}),
    "a day 0 of a month": ("repeatDays", {"repeatBy": "Month", "repeatDays": [0], **DAYS}),
    "a day twice": ("repeatDays", {"repeatBy": "Month", "repeatDays": [5, "5"], **DAYS}),
    "days of every day": ("repeatDays", {"repeatBy": "Day", "repeatDays": [5], **DAYS}),
    "no end": ("endTime", {"repeatBy": "Day", "startTime": DAYS["startTime"]}),
    "an end before the begin": (
        "startTime",
        {"repeatBy": "Day", "startTime": DAYS["endTime"], "endTime": 1706976000000},
    ),
    "seconds": ("startTime", {"repeatBy": "Day", "startTime": 1706976000, "endTime": 1707494400}),
    "an unknown routing": ("routingStrategy", {"routingStrategy": "hidden-word"}),
    "an unknown recall": ("recallStrategy.busyIgnore", {"recallStrategy": {"busyIgnore": True}}),
    "a recall as text": ("recallStrategy.emptyNumberIgnore", {"recallStrategy": {"emptyNumberIgnore": "hidden-word"}}),
    "no zone": ("timeZone", {"timeZone": "Mars/hidden-word"}),
    "a file": ("timeZone", {"timeZone": "/etc/hidden-word"}),
    "a zone with summer time": ("timeZone", {"timeZone": "Europe/Berlin", "workingTime": MORNING}),
    "days that are others in Shanghai": (
        "timeZone",
        {"timeZone": "America/Bogota", "workingTime": MORNING, "repeatBy": "Week", "repeatDays": [1], **DAYS},
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_strategy_is_one_line_that_names_the_field(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field, wrong = WRONG[what]
    text = wrong if isinstance(wrong, str) else json.dumps(wrong)
    with pytest.raises(ValueError) as refused:
        read(text)
    for name in ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "OUTBOUND_BOT_INSTANCE_ID"):
        monkeypatch.setenv(name, "set")
    monkeypatch.setenv("OUTBOUND_BOT_STRATEGY", text)
    with pytest.raises(SettingsError) as setting:
        load(PlatformSettings)
    assert str(setting.value) == f"settings: OUTBOUND_BOT_STRATEGY: {refused.value}"
    assert field in str(refused.value) and "\n" not in str(refused.value)
    assert "hidden-word" not in str(refused.value) + repr(setting.value)


def test_hours_of_another_zone_are_sent_as_those_of_shanghai_and_split_at_midnight() -> None:
    tokyo = strategy(timeZone="Asia/Tokyo", workingTime=hours(("09:00", "18:00")))
    assert json.loads(tokyo.sent()[0]) == {"workingTime": hours(("08:00", "17:00"))}
    east = strategy(timeZone="Asia/Dubai", workingTime=hours(("09:00", "18:00"), ("19:00", "22:30")))
    sent = json.loads(east.sent()[0])["workingTime"]
    over_midnight = [{"beginTime": "23:00:00", "endTime": "23:59:59"}, {"beginTime": "00:00:00", "endTime": "02:30:00"}]
    assert sorted(map(str, sent)) == sorted(map(str, [*hours(("13:00", "22:00")), *over_midnight]))
    assert east.begins(in_shanghai(1, 0, 30)) == in_shanghai(1, 0, 30)
    assert east.begins(in_shanghai(1, 2, 30)) == in_shanghai(1, 13)


def test_when_dialling_begins() -> None:
    """The first of December 2026 is a Tuesday."""
    plain = strategy(workingTime=hours(("09:00", "12:00"), ("14:00", "18:00")))
    assert plain.begins(in_shanghai(1, 10)) == in_shanghai(1, 10)
    assert plain.begins(in_shanghai(1, 12)) == in_shanghai(1, 14)
    assert plain.begins(in_shanghai(1, 18)) == in_shanghai(2, 9)
    assert plain.begins(datetime(2026, 12, 1, 1, tzinfo=UTC)) == in_shanghai(1, 9)
    assert strategy(maxAttemptsPerDay=1).begins(in_shanghai(1, 3)) == in_shanghai(1, 3)
    days = {"startTime": in_shanghai(2, 11).timestamp() * 1000, "endTime": in_shanghai(20, 0).timestamp() * 1000}
    days = {name: int(at) for name, at in days.items()}
    weekly = strategy(workingTime=MORNING, repeatBy="Week", repeatDays=[0, 3], **days)
    assert weekly.begins(in_shanghai(1, 10)) == in_shanghai(2, 11)
    assert weekly.begins(in_shanghai(2, 12)) == in_shanghai(6, 9)
    assert weekly.begins(in_shanghai(16, 12)) is None
    assert strategy(repeatBy="Once", **days).begins(in_shanghai(25, 0)) is None


MINUTES = st.lists(st.integers(0, 1439), min_size=2, max_size=8, unique=True).map(sorted)


@st.composite
def strategies(draw: st.DrawFn) -> dict[str, Any]:
    edges = draw(MINUTES)
    texts = [f"{edge // 60:02}:{edge % 60:02}" for edge in edges]
    fields: dict[str, Any] = {"workingTime": hours(*zip(texts[::2], texts[1::2], strict=False))}
    by = draw(st.sampled_from(["", "Once", "Day", "Week", "Month"]))
    if by:
        first = draw(st.integers(0, 40 * 1440))
        last = first + draw(st.integers(1, 60 * 1440))
        begin = in_shanghai(1, 0)
        fields |= {"repeatBy": by, **{name: int((begin + timedelta(minutes=at)).timestamp() * 1000)
                   for name, at in (("startTime", first), ("endTime", last))}}  # fmt: skip
    if by in ("Week", "Month"):
        numbers = st.integers(0, 6) if by == "Week" else st.integers(1, 31)
        fields["repeatDays"] = draw(st.lists(numbers, min_size=1, max_size=5, unique=True))
    return fields


@given(strategies(), st.integers(0, 100 * 1440))
def test_we_say_what_the_platform_does(fields: dict[str, Any], minutes: int) -> None:
    """The simulator reads a strategy by itself, as the platform does."""
    now, clock = in_shanghai(1, 0) + timedelta(minutes=minutes), Clock()
    dialled = Hours(clock, read(json.dumps(fields)).sent()[0]).place([], clock.on_calendar(now.timestamp()))
    said = read(json.dumps(fields)).begins(now)
    assert said == (None if dialled == NEVER else datetime.fromtimestamp(round(clock.calendar(dialled), 3), SHANGHAI))


# --- on the real parts ----------------------------------------------------------------------------------------------


def shown(site: Site) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The strategies of the platform's job groups, by its own record."""
    return [(group.hours.strategy, group.hours.recall) for group in site.sim.world.groups.values()]


async def test_a_group_is_made_with_the_strategy_of_its_task_else_of_the_setting(sites: Sites) -> None:
    setting = {"workingTime": hours(("00:00", "23:59")), "maxAttemptsPerDay": 2}
    site = await sites(OUTBOUND_BOT_STRATEGY=json.dumps(setting))
    site.add_leads(3)
    own = strategy(maxAttemptsPerDay=1, recallStrategy={"emptyNumberIgnore": True})
    async with site.working():
        for options in (QUICK, QUICK.model_copy(update={"strategy": own})):
            task_id = await site.create_task()
            assert_finished(site, task_id, await site.run(task_id, options))
    assert shown(site) == [(setting, {}), ({"maxAttemptsPerDay": 1}, {"emptyNumberIgnore": True})]


async def test_a_group_that_is_tried_again_gets_the_strategy_of_the_first_try(sites: Sites) -> None:
    first, second = ({"workingTime": soon(-timedelta(hours=1), timedelta(hours=hour))} for hour in (1, 2))
    site = await sites(OUTBOUND_BOT_STRATEGY=json.dumps(first))
    site.add_leads(2)
    task_id = await site.create_task()
    site.sim.set_faults(Fault(target="CreateJobGroup", kind="status_500"))

    async def tried() -> bool:
        return bool(site.stats()["calls"].get("CreateJobGroup"))

    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await eventually(tried)
    site.sim.set_faults()
    site.environment["OUTBOUND_BOT_STRATEGY"] = json.dumps(second)
    async with site.working():
        assert_finished(site, task_id, await site.result(task_id))
    assert shown(site) == [(first, {})]


def asked(site: Site, action: str) -> int:
    """How often the platform was."""
    return sum(site.stats()["calls"].get(action, {}).values())


async def looked_at(site: Site, calls: CallTasks, task_id: int) -> None:
    """Have all calls looked at once."""
    before = asked(site, "ListJobs")

    async def done() -> bool:
        return asked(site, "ListJobs") > before

    await calls.signal(task_id, "refresh")
    await eventually(done)


async def test_nobody_is_dialled_before_the_hours_begin_and_the_run_says_when_they_do(sites: Sites) -> None:
    site = await sites(SimulatorOptions(answer_rate=0.5, seconds_per_call=20, retry_rate=0.5, concurrency=5))
    site.add_leads(20)
    task_id = await site.create_task()
    windows = soon(timedelta(hours=1), timedelta(hours=3), ZoneInfo("Asia/Tokyo"))
    later = strategy(workingTime=windows, timeZone="Asia/Tokyo", minAttemptInterval=5, maxAttemptsPerDay=2)
    async with site.working(), site.calls() as calls:
        start = await calls.start(task_id, QUICK.model_copy(update={"strategy": later}))
        assert start.started and start.hours.begins and start.hours.told.startswith("dialling begins at ")
        await site.until(task_id, called=20)
        before = await site.progress(task_id)
        assert (before["phase"], before["finished"]) == ("calling", 0)
        assert datetime.fromisoformat(before["dialling_begins"]) == start.hours.begins.replace(microsecond=0)
        for _ in range(STALLED_LOOKS + 1):
            await looked_at(site, calls, task_id)
        assert (await site.handle(task_id).describe()).typed_search_attributes.get(STALLED_SINCE) is None
        polls = asked(site, "DescribeJobGroup")
        await asyncio.sleep(CLOSED_LOOK * QUICK.poll_max - 1)
        # Once to learn the counters and once to see that they stand; with open hours it would be once a second.
        assert asked(site, "DescribeJobGroup") - polls <= 2
        details = str(await site.handle(task_id).query("__temporal_workflow_metadata"))
        assert f"dialling begins at {start.hours.begins:%Y-%m-%d %H:%M} (Asia/Shanghai)" in details
        assert [job["status_now"] for job in site.truth(task_id)] == ["Scheduling"] * 20
        site.sim.world.clock.advance(3000)
        await calls.signal(task_id, "refresh")
        assert {job["status_now"] for job in site.truth(task_id)} == {"Scheduling"}
        site.sim.world.clock.advance(2 * 86_400)
        await calls.signal(task_id, "refresh")
        assert_finished(site, task_id, await site.result(task_id))
    opens = start.hours.begins.timestamp()
    attempts = [[attempt["calendar"] - opens for attempt in job["attempts"]] for job in site.truth(task_id)]
    assert sum(map(len, attempts)) > 20 and min(map(min, attempts)) >= -1
    assert all((at + 1) % 86_400 <= 7202 for begun in attempts for at in begun)
    assert all(later - earlier >= 300 for begun in attempts for earlier, later in pairwise(begun))
    dates = [[datetime.fromtimestamp(opens + at, SHANGHAI).date() for at in begun] for begun in attempts]
    a_day = Counter((number, date) for number, begun in enumerate(dates) for date in begun)  # hours may span midnight
    assert max(a_day.values()) == 2 and max(map(len, attempts)) == 3


async def test_a_task_that_has_its_group_keeps_its_strategy_and_a_start_says_so(sites: Sites) -> None:
    site = await sites()
    site.add_leads(2)
    task_id = await site.create_task()
    other = QUICK.model_copy(update={"strategy": strategy(workingTime=soon(timedelta(hours=2), timedelta(hours=3)))})
    async with site.working(), site.calls() as calls:
        await site.run(task_id, QUICK.model_copy(update={"strategy": strategy(maxAttemptsPerDay=5)}))
        again = await calls.start(task_id, other)
        assert again.hours.told == "the strategy is not changed: the task has its job group, which keeps its own"
        assert again.hours.begins is None
        await site.result(task_id)
    [row] = site.sql("SELECT options FROM call_task_options WHERE task_id = %s", task_id)
    assert json.loads(row["options"])["strategy"] == {"maxAttemptsPerDay": 5}
    assert shown(site) == [({"maxAttemptsPerDay": 5}, {})]


async def test_a_start_outside_of_the_hours_says_when_dialling_will_begin(sites: Sites) -> None:
    site = await sites()
    site.add_leads(1)
    task_id = await site.create_task()
    night, noon = in_shanghai(1, 22), in_shanghai(1, 12)
    of_start = Options(strategy=strategy(workingTime=MORNING))
    async with site.calls() as calls:
        closed = await calls.calling_hours(task_id, of_start, now=night)
        assert (closed.begins, closed.told) == (
            in_shanghai(2, 9),
            "dialling begins at 2026-12-02 09:00 (Asia/Shanghai)",
        )
        assert (await calls.calling_hours(task_id, of_start, now=in_shanghai(1, 10))).told == ""
        assert "the platform's instance" in (await calls.calling_hours(task_id, now=night)).told
    site.environment["OUTBOUND_BOT_STRATEGY"] = json.dumps({"workingTime": hours(("14:00", "15:00"))})
    async with site.calls() as calls:
        assert (await calls.calling_hours(task_id, now=noon)).begins == in_shanghai(1, 14)
        assert (await calls.calling_hours(task_id, of_start, now=noon)).begins == in_shanghai(2, 9)
        ended = Options(strategy=strategy(repeatBy="Once", **DAYS))
        with pytest.raises(WrongUseError, match="endTime has passed: nobody is called"):
            await calls.start_call(task_id, ended)
    assert await site.runs() == []


async def test_start_call_takes_a_file_and_says_what_holds(sites: Sites, tmp_path: Path) -> None:
    site = await sites()
    site.add_leads(1)
    tasks = [await site.create_task() for _ in range(2)]
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"workingTime": soon(timedelta(hours=1), timedelta(hours=2))}))
    bad.write_text('{"workingTime": [{"beginTime": "hidden-word", "endTime": "12:00:00"}]}')

    async def starter(name: str, *arguments: Any, **settings: str) -> tuple[int | None, str, str]:
        environment = {**own_environment(), **site.environment, **settings}
        program = Program(environment, tmp_path / name, "starter.py", "start-call", *map(str, arguments), "--json")
        return await program.ended()

    closed, own, wrong, absent, setting = await asyncio.gather(
        starter("closed", tasks[0], "--strategy", good),
        starter("own", tasks[1]),
        starter("wrong", tasks[0], "--strategy", bad),
        starter("absent", tasks[0], "--strategy", tmp_path / "none.json"),
        starter("setting", tasks[0], OUTBOUND_BOT_STRATEGY=bad.read_text()),
    )
    assert closed[0] == 0 and "started; dialling begins at 20" in closed[2], closed
    assert datetime.fromisoformat(json.loads(closed[1])["dialling_begins"]).utcoffset() == timedelta(hours=8)
    assert own[0] == 0 and "the hours of the platform's instance hold" in own[2], own
    assert json.loads(own[1])["dialling_begins"] == ""
    said = "workingTime.0.beginTime: must be HH:MM:SS, as 09:00:00"
    assert wrong == (2, "", f"starter: --strategy {bad}: {said}\n")
    assert absent == (2, "", f"starter: --strategy {tmp_path / 'none.json'}: {os.strerror(errno.ENOENT)}\n")
    assert setting[0] == 2 and f"OUTBOUND_BOT_STRATEGY: {said}" in setting[2] and "hidden-word" not in setting[2]


@pytest.fixture(scope="module")
def api(mariadb: EmbeddedMariaDB, temporal: EmbeddedTemporal) -> Iterator[ApiSite]:
    with running_in_thread(SimulatorOptions()) as simulators, opening(mariadb, temporal, simulators.url) as site:
        yield site


def test_by_http_a_start_takes_a_strategy_and_says_when_dialling_begins(api: ApiSite) -> None:
    task_id = api.create()
    wrong = api.ask("POST", "/start-call-task", {"task_id": task_id, "strategy": {"workingTime": "hidden-word"}})
    assert failed(wrong, 400) == "strategy: workingTime: Input should be a valid list"
    windows = soon(timedelta(hours=1), timedelta(hours=2))
    answer = api.ask("POST", "/start-call-task", {"task_id": task_id, "strategy": {"workingTime": windows}}).json()
    begins = datetime.fromisoformat(answer["data"]["dialling_begins"])
    assert answer["data"]["started"] is True and f"{begins:%H:%M:%S}" == windows[0]["beginTime"]
    assert answer["message"] == f"call task started; dialling begins at {begins:%Y-%m-%d %H:%M} (Asia/Shanghai)"

"""People, clocks, zones and odd text."""

import asyncio
import os
from pathlib import Path

import pytest

from calltasks.call_tasks import CallTasks
from calltasks.names import CALL_TASKS, WORKFLOW, workflow_id
from simulators import SimulatorOptions
from tests.faults.invariants import Excused
from tests.faults.site import (
    PATIENT,
    SEED,
    Nursery,
    answered_by_hand,
    create,
    observing,
    sabotaged,
    start,
    until,
    verify,
)
from tests.pipeline import Sites

WORLD = SimulatorOptions(seed=SEED, seconds_per_call=2, time_scale=2, transcript_lag=1, recording_lag=1, retry_after=1)
OVER = SimulatorOptions(seed=SEED, calls_over=True)
LEADS = 30


# --- people ---------------------------------------------------------------------------------------------------------


async def test_a_follow_up_that_a_person_edits_or_deletes_stays_as_it_is(sites: Sites) -> None:
    site = await sites(WORLD)
    task_id = await create(site, LEADS)
    with observing(site) as observer:
        async with site.working():
            await start(site, task_id)
            await until(lambda: len(site.follow_ups()) >= 5, "some follow-ups")
            deleted, edited, *_ = sorted(site.follow_ups())
            observer.excused = Excused(follow_ups=frozenset({deleted}))
            site.sql("DELETE FROM dcc_leads_follow WHERE id = %s", deleted)
            site.sql("UPDATE dcc_leads_follow SET leads_remark = '已约到店；' WHERE id = %s", edited)
            site.sql("UPDATE dcc_leads SET leads_user_name = '改名' WHERE leads_id = 3")
            site.sql("UPDATE leads_task_list SET leads_name = '改名' WHERE leads_id = 3")
            await site.result(task_id)
            async with CallTasks.connect() as calls:
                await calls.start_call(task_id, PATIENT)
            await site.result(task_id)
    follow_ups = site.follow_ups()
    assert deleted not in follow_ups
    assert follow_ups[edited]["leads_remark"] == "已约到店；"
    await verify(site, {task_id: LEADS}, observer)


async def test_a_task_that_a_person_deletes_ends_in_one_line_and_disturbs_nobody(sites: Sites) -> None:
    from temporalio.client import WorkflowFailureError

    site = await sites(WORLD)
    gone, other = await create(site, LEADS), await create(site, LEADS, first=100)
    with observing(site, excused=Excused(tasks=frozenset({gone}))) as observer:
        async with site.working():
            await start(site, gone)
            await start(site, other)
            await until(lambda: len(site.follow_ups()) >= 5, "some follow-ups")
            site.sql("DELETE FROM call_tasks WHERE id = %s", gone)
            with pytest.raises(WorkflowFailureError) as failure:
                await site.result(gone)
            assert str(failure.value.cause) == f"UnknownTask: call task {gone} was deleted"
            await site.result(other)
    await verify(site, {other: LEADS}, observer)


async def test_a_group_that_a_person_deletes_at_the_platform_leaves_what_is_known(sites: Sites) -> None:
    """Calls that were over are followed up; nobody is dialled again in another group."""
    site = await sites(OVER)
    task_id = await create(site, LEADS)
    with observing(site) as observer:
        async with site.working():
            await start(site, task_id)
            await until(lambda: len(site.follow_ups()) >= LEADS, "the follow-ups")
            jobs = frozenset(row["call_job_id"] for row in site.rows(task_id))
            site.sim.world.delete_group(site.task(task_id)["job_group_id"])
            await site.result(task_id)
            async with CallTasks.connect() as calls:
                await calls.start_call(task_id, PATIENT)
            await site.result(task_id)
    assert not site.sim.world.groups
    await verify(site, {task_id: LEADS}, observer, excused=Excused(jobs=jobs))


async def test_signals_by_the_hundred_and_for_calls_that_do_not_exist(sites: Sites) -> None:
    site = await sites(WORLD)
    task_id = await create(site, LEADS)
    with observing(site) as observer:
        async with site.working():
            await start(site, task_id)
            handle = site.handle(task_id)
            await until(lambda: len(site.follow_ups()) >= 3, "some follow-ups")
            for number in range(100):
                await handle.signal("refresh")
                await handle.signal("force_analyze", {"call_job_ids": [f"no-such-call-{number}"]})
                await handle.signal("force_analyze", "nonsense")
            await handle.signal("pause_calls")
            await handle.signal("resume_calls")
            await site.result(task_id)
    await verify(site, {task_id: LEADS}, observer)


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [3600, -3600])
async def test_one_workers_clock_is_an_hour_off(sites: Sites, nursery: Nursery, tmp_path: Path, off: int) -> None:
    """The platform refuses its requests; another worker's are taken, and all times come from the database's clock."""
    site = await sites(WORLD)
    task_id = await create(site, LEADS)
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path, name="off", clock=off) as wrong:
            await start(site, task_id)
            await until(lambda: "InvalidTimeStamp" in wrong.log or bool(site.sim.stats.calls), "it was refused")
            async with sabotaged(nursery, site, tmp_path, name="right") as right:
                await site.result(task_id)
    now = site.sql("SELECT UTC_TIMESTAMP() + INTERVAL 8 HOUR AS now")[0]["now"]
    for follow_up in site.follow_ups().values():
        assert abs((now - follow_up["follow_time"]).total_seconds()) < 300
    await verify(site, {task_id: LEADS}, observer, logs=[wrong.log, right.log])


async def test_the_machines_zone_changes_nothing(sites: Sites, nursery: Nursery, tmp_path: Path) -> None:
    """TZ of the worker, and TIME_ZONE with daylight saving: columns hold the configured zone's wall clock."""
    hours = {}
    for zone, configured in (
        ("UTC", "Asia/Shanghai"),
        ("America/New_York", "Asia/Shanghai"),
        ("UTC", "America/New_York"),
    ):
        site = await sites(OVER)
        task_id = await create(site, 10)
        settings = {"TZ": zone, "TIME_ZONE": configured}
        name = f"{zone}-{configured}".replace("/", "-")
        with observing(site) as observer:
            async with sabotaged(nursery, site, tmp_path, name=name, settings=settings) as worker:
                await start(site, task_id)
                await site.result(task_id)
        await verify(site, {task_id: 10}, observer, logs=[worker.log])
        row = site.sql("SELECT follow_time, UTC_TIMESTAMP() AS now FROM dcc_leads_follow LIMIT 1")[0]
        hours[zone, configured] = round((row["follow_time"] - row["now"]).total_seconds() / 3600)
    assert hours["UTC", "Asia/Shanghai"] == hours["America/New_York", "Asia/Shanghai"] == 8
    assert hours["UTC", "America/New_York"] in (-4, -5)


# --- text -----------------------------------------------------------------------------------------------------------

NAMES = (
    "Robert'); DROP TABLE call_tasks;--",
    '<b>王</b> & "李" %s %(x)s {0}',
    "😀👩‍👩‍👧 ｆｕｌｌ ‮right-to-left",
    "a" * 255,
    "𠮷野家" * 60,
    " \t\r\n ",
    "NULL",
    "\x01\x1f\x7f",
)


@pytest.mark.parametrize("organization", ["o'r\"g%s", "经销商" * 21, "😀" * 16, "a b+c&d=e/?#"])
async def test_odd_names_and_organisations(sites: Sites, organization: str) -> None:
    """SQL, HTML, emoji and what a URL must escape, in names, organisations and therefore references."""
    site = await sites(OVER)
    site.enter_environment()
    site.insert(
        "dcc_leads",
        [
            {
                "leads_id": number,
                "organization_id": organization,
                "leads_user_name": NAMES[number % len(NAMES)],
                "leads_user_phone": f"139{number:08}",
            }
            for number in range(1, 41)
        ],
    )
    async with CallTasks.connect(temporal=False) as calls:
        task_id = await calls.create_task(organization, "'; DROP TABLE x", list(range(1, 41)))
    with observing(site) as observer:
        async with site.working():
            await start(site, task_id)
            result = await site.result(task_id)
    assert result["called"] == 40
    site.sql("UPDATE leads_task_list SET leads_name = NULL WHERE TRIM(leads_name) IN ('', 'NULL')")
    site.sql("UPDATE dcc_leads SET leads_user_name = NULL")
    await verify(site, {task_id: 40}, observer)


async def test_enormous_and_broken_transcripts(sites: Sites) -> None:
    """A megabyte, NUL and lone surrogates; the others of the batch do not notice."""
    site = await sites(OVER)
    task_id = await create(site, LEADS)
    odd = {0: "好" * 350_000, 1: "\0" * 100, 2: "\ud800abc", 3: "", 4: "\\\"'`" * 1000}
    answered_by_hand(site, task_id, lambda number: odd.get(number, "我想试驾，多少钱？"))
    async with site.working():
        await start(site, task_id)
        result = await site.result(task_id)
    assert result["follow_ups"] == LEADS
    rows = site.rows(task_id)
    assert [row["is_interested"] for row in rows[5:]] == [1] * (LEADS - 5)
    assert all(row["call_conversation"] for row in rows)


async def test_input_that_is_none_ends_in_one_line(sites: Sites) -> None:
    from temporalio.client import WorkflowFailureError

    site = await sites(OVER)
    async with site.working():
        for number, given in enumerate((None, "x", {"task_id": "1"}, {"task_id": 10**30}, {"task_id": 999999})):
            handle = await site.client.start_workflow(
                WORKFLOW, given, id=f"{workflow_id(1)}-{number}", task_queue=CALL_TASKS
            )
            with pytest.raises(WorkflowFailureError) as failure:
                await asyncio.wait_for(handle.result(), 150)
            assert "\n" not in str(failure.value.cause)
    assert os.environ["DATABASE_URL"]

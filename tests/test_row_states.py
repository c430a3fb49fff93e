"""Every state that any writer can leave a row in comes to its end, or to rest, in few activities (rule 14.6)."""

import asyncio
import itertools
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities import tasks
from calltasks.call_tasks import CallTasks
from calltasks.database.tables import jobs
from calltasks.database.tables.ledger import digest
from calltasks.database.tables.needs import final_status, is_final, is_status
from calltasks.names import FINAL, workflow_id
from simulators import Contact, Fault, SimulatorOptions
from tests.comparison import REMARKS
from tests.pipeline import QUICK, Site, Sites, eventually, phone

SAID = json.dumps([{"Speaker": "Contact", "Script": "不需要，别再打了。"}], ensure_ascii=False)
STATUSES = (None, "", *FINAL, "SUCCEEDED", " failed ", "cancelled\r\n", "Executing", "未知")
TRANSCRIPTS = (None, SAID, '[{"Speaker": ', "[]")
JOBS = ("listed", "gone")
ATTEMPTS = ("", "attempt")
FOLLOW_UPS = ("none", "linked", "missing", "ledger", "deleted")
RETRIES = ("none", "due", "in grace", "past grace")
NEVER_ENDS = ("", "Executing", "未知")
"""Statuses of which only the platform can say what becomes of them."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How somebody has left row ``id``."""

    id: int
    status: str | None
    transcript: str | None
    job: str
    attempt: str
    follow_up: str
    interest: int | None
    retry: str

    @property
    def ends(self) -> bool:
        return self.job != "gone" or (self.status or "") not in NEVER_ENDS

    @property
    def outcome(self) -> str:
        """What the platform says, where it lists the job."""
        return final_status(self.status or "") or ("Succeeded", "Failed")[self.id % 2]


def states() -> list[State]:
    kinds = itertools.product(STATUSES, TRANSCRIPTS, JOBS, FOLLOW_UPS, (True, False), RETRIES)
    without = itertools.product(STATUSES, TRANSCRIPTS, ("none",), FOLLOW_UPS, (True, False), ("none",))
    return [
        State(
            id=id_,
            status=status,
            transcript=transcript,
            job=job,
            attempt=ATTEMPTS[zlib.crc32(b"%d" % id_) % 2],
            follow_up=follow_up,
            interest=id_ % 3 if judged else None,
            retry=retry,
        )
        for id_, (status, transcript, job, follow_up, judged, retry) in enumerate((*kinds, *without), 1)
    ]


@pytest.mark.long
async def test_every_state_of_a_row_comes_to_its_end_or_to_rest(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    every = states()
    ending = leave(site, [state for state in every if state.ends])
    resting = leave(site, [state for state in every if not state.ends])
    before = {row["id"]: row for row in site.sql("SELECT * FROM leads_task_list")}
    async with site.working(), site.calls() as calls:
        assert await calls.start_call(resting, QUICK.model_copy(update={"poll_max": 60}))
        result = await site.run(ending)
        assert (result["outcome"], result["task_type"]) == ("complete", 4)
        await eventually(lambda: at_rest(site, resting))
        used = {task: sum((await activities(site, task)).values()) for task in (ending, resting)}
    print(f"{len(every)} states; activities: {used[ending]} to their end, {used[resting]} to rest")
    assert used[ending] <= 80
    assert used[resting] <= 100
    after = {row["id"]: row for row in site.sql("SELECT * FROM leads_task_list")}
    written = site.follow_ups()
    wrong = [(state, what) for state in every for what in faults(written, state, before[state.id], after[state.id])]
    assert not wrong, f"{len(wrong)} wrong: {wrong[:5]}"


def leave(site: Site, some: list[State]) -> int:
    """A task whose rows are in these states."""
    listed = [state for state in some if state.job == "listed"]
    task_id = site.old_task([], [Contact(phone=phone(s.id), reference=f"r{s.id}", outcome=s.outcome) for s in listed])
    group = site.sim.world.find_group(site.task(task_id)["job_group_id"])
    assert group is not None
    jobs = {state.id: job.id for state, job in zip(listed, group.jobs, strict=True)}
    now = datetime.now(UTC).replace(tzinfo=None)
    site.insert("leads_task_list", [row_of(task_id, state, jobs) for state in some])
    follow_ups = [
        {
            "id": s.id, "leads_id": s.id, "leads_remark": "前", "follow_time": now, "frist_follow_time": now,
            "new_follow_time": now,
        }
        for s in some
        if s.follow_up in ("linked", "ledger")
    ]  # fmt: skip
    ledger = [
        {
            "list_id": s.id, "task_id": task_id, "follow_id": s.id, "is_interested": s.interest or 0,
            "outcome": "default", "created_at": now,
            "call_job_id": job_of(s, jobs), "stored_hash": digest("前", None),
        }
        for s in some
        if s.follow_up in ("ledger", "deleted")
    ]  # fmt: skip
    retries = [
        {
            "list_id": s.id, "step": step, "task_id": task_id, "tries": 1, "since": since(s, now),
            "retry_at": {"due": now, "in grace": now + timedelta(seconds=1.5)}.get(s.retry, now - timedelta(hours=1)),
        }
        for s in some
        if s.retry != "none"
        for step in ("conversation", "analysis", "recording")
    ]  # fmt: skip
    for table, rows in (("dcc_leads_follow", follow_ups), ("call_follow_ups", ledger), ("call_retries", retries)):
        if rows:
            site.insert(table, rows)
    return task_id


def since(state: State, now: datetime) -> datetime:
    return now - timedelta(hours=2) if state.retry == "past grace" else now


def job_of(state: State, jobs: dict[int, str]) -> str:
    return {"listed": jobs.get(state.id, ""), "gone": f"gone-{state.id}", "none": ""}[state.job]


def row_of(task_id: int, state: State, jobs: dict[int, str]) -> dict[str, Any]:
    link = {"linked": state.id, "deleted": state.id, "missing": 10**7 + state.id}.get(state.follow_up)
    return {
        "id": state.id,
        "task_id": task_id,
        "leads_id": state.id,
        "leads_phone": phone(state.id),
        "reference_id": f"r{state.id}",
        "call_time": datetime(2026, 11, 20, 10, 0, 0),
        "call_job_id": job_of(state, jobs),
        "call_status": state.status,
        "call_conversation": state.transcript,
        "call_task_id": state.attempt,
        "leads_follow_id": link,
        "is_interested": state.interest,
    }


def faults(
    follow_ups: dict[int, dict[str, Any]], state: State, before: dict[str, Any], after: dict[str, Any]
) -> Iterator[str]:
    """What of a row is not as the rules say."""
    if final_status(state.status or "") and after["call_status"] != before["call_status"]:
        yield "the CRM's spelling of an outcome was rewritten"
    if state.transcript == SAID and after["call_conversation"] != SAID and state.job != "listed":
        yield "a transcript was lost"
    if state.job == "none":
        if final_status(after["call_status"] or "") == "":
            yield "a row that got no job has not failed"
        if after["leads_follow_id"] != before["leads_follow_id"] or after["is_interested"] != state.interest:
            yield "a row that was never called was followed up"
        return
    if not state.ends:
        if {**after, "updated_time": None} != {**before, "updated_time": None}:
            yield "a row of which nobody knows anything was changed"
        return
    if after["leads_follow_id"] is None or after["is_interested"] is None:
        yield "not followed up"
    if state.follow_up in ("linked", "missing", "deleted"):
        if after["leads_follow_id"] != before["leads_follow_id"]:
            yield "another follow-up was linked"
        if state.interest is not None and after["is_interested"] != state.interest:
            yield "judged again"
    if state.follow_up == "ledger" and after["leads_follow_id"] != state.id:
        yield "the follow-up of the ledger was not linked again"
    if state.follow_up == "none" and not after["call_conversation"]:
        remark = follow_ups[after["leads_follow_id"]]["leads_remark"]
        if remark != REMARKS[final_status(after["call_status"])]:
            yield f"a silent call's remark is {remark}"


async def activities(site: Site, task_id: int) -> Counter[str]:
    """Activities that all runs of a task have had."""
    found: Counter[str] = Counter()
    for run in await site.runs(f"WorkflowId = '{workflow_id(task_id)}'"):
        history = await site.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        for event in history.events:
            if event.HasField("activity_task_scheduled_event_attributes"):
                found[event.activity_task_scheduled_event_attributes.activity_type.name] += 1
    return found


async def at_rest(site: Site, task_id: int) -> bool:
    """Whether the run has had no new activity for a second, five times as long as at first."""
    before = await activities(site, task_id)
    await asyncio.sleep(1)
    return before == await activities(site, task_id)


@pytest.mark.parametrize(
    "column",
    [
        "VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "VARCHAR(40) CHARACTER SET gbk",
        "VARBINARY(40)",
    ],
)
async def test_a_status_is_final_to_sql_and_to_python_alike(sites: Sites, column: str) -> None:
    site = await sites()
    texts = ["", *FINAL, "SUCCEEDED", " failed ", "Cancelled\r\n", "\tsucceeded", "Succeeded1", "Executing", "成功"]
    if "utf8mb4" in column:
        texts += ["Súcceeded", "ＦＡＩＬＥＤ", "\u3000Failed\u00a0", "ſucceeded", "Failed\u0000"]
    site.sql(f"CREATE TABLE words (id INT, call_status {column})")
    site.insert("words", [{"id": id_, "call_status": text} for id_, text in enumerate(texts)])
    named = ", ".join(f"{is_status(status, 'w')} AS {status}" for status in FINAL)
    for row in site.sql(f"SELECT id, {named}, {is_final('w')} AS final FROM words w"):
        by_sql = next((status for status in FINAL if row[status]), "")
        assert final_status(texts[row["id"]]) == by_sql, texts[row["id"]]
        assert bool(row["final"]) == bool(by_sql)


async def test_work_that_changes_nothing_is_done_at_a_growing_pace(sites: Sites) -> None:
    """Transcripts lag, and then the platform answers nothing at all."""

    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1, transcript_lag=10_000))
    site.add_leads(5)
    task_id = await site.create_task()

    def asked() -> int:
        return sum(site.stats()["calls"]["ListJobs"].values())

    async def late() -> bool:
        return len(site.sql("SELECT 1 FROM call_retries WHERE step = 'conversation'")) == 5

    patient = {"poll_min": 1, "poll_max": 60, "conversation_grace": 300, "retry_interval": 60}
    async with site.working(), site.calls() as calls:
        assert await calls.start_call(task_id, QUICK.model_copy(update=patient))
        await eventually(late)
        site.sim.set_faults(Fault(target="ListJobs", kind="status_500"))
        known, began = asked(), time.monotonic()

        async def again() -> bool:
            return asked() >= known + 4

        await eventually(again)
        assert time.monotonic() - began >= 1 + 1.5
        # Who asks for it is served at once.
        known, began = asked(), time.monotonic()
        await calls.signal(task_id, "refresh")

        async def at_once() -> bool:
            return asked() > known

        await eventually(at_once)
        assert time.monotonic() - began < 2


async def test_a_talk_is_a_talk_whatever_becomes_of_its_job(sites: Sites) -> None:
    """A job that ends `Failed` though somebody spoke: its transcript comes later, like any other."""
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1, transcript_lag=1.5))
    site.add_leads(10)
    original = site.sim.outbound_bot._view.full

    def failed(job: Any, moment: float, status: str = "") -> bytes:
        return original(job, moment, ("Failed", "Cancelled")[job.contact.phone == phone(1)])

    site.sim.outbound_bot._view.full = failed  # type: ignore[method-assign]
    task_id = await site.create_task()
    async with site.working():
        result = await site.run(task_id, QUICK.model_copy(update={"conversation_grace": 10}))
    assert result["by_status"] == {"Failed": 9, "Cancelled": 1}
    assert all(row["call_conversation"] for row in site.rows(task_id))
    assert not {one["leads_remark"] for one in site.follow_ups().values()} & set(REMARKS.values())


async def test_an_outcome_that_the_database_does_not_take_stops_no_other(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.sql(
        "CREATE TRIGGER picky BEFORE UPDATE ON leads_task_list FOR EACH ROW BEGIN"
        " IF NEW.leads_id = 7 AND NEW.call_status = 'Succeeded' THEN SIGNAL SQLSTATE '45000'; END IF; END"
    )
    site.add_leads(20)
    task_id = await site.create_task()
    async with site.working():
        async with site.calls() as calls:
            assert await calls.start_call(task_id, QUICK)
        await site.until(task_id, follow_ups=19)
        aside = site.sql("SELECT step, error_code FROM call_retries WHERE step = 'outcome'")
        assert aside == [{"step": "outcome", "error_code": "1644"}]
        assert "1644" in (await site.progress(task_id))["last_error"]
        site.sql("DROP TRIGGER picky")
        result = await site.result(task_id)
    assert (result["outcome"], result["follow_ups"]) == ("complete", 20)
    assert site.sql("SELECT 1 FROM call_retries WHERE step = 'outcome' AND error_code <> ''") == []


async def test_a_job_id_and_a_recording_that_the_database_does_not_take_stop_no_other(sites: Sites) -> None:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(20)
    task_id = await site.create_task()
    site.sql(
        "CREATE TRIGGER picky BEFORE UPDATE ON leads_task_list FOR EACH ROW BEGIN"
        " IF NEW.leads_id = 7 AND NEW.call_job_id <> '' OR NEW.leads_id = 8 AND NEW.recording_url <> ''"
        " THEN SIGNAL SQLSTATE '45000'; END IF; END"
    )
    async with site.working():
        async with site.calls() as calls:
            assert await calls.start_call(task_id, QUICK)
        await site.until(task_id, follow_ups=19, recordings=18)

        async def set_aside() -> bool:
            return len(site.sql("SELECT 1 FROM call_retries WHERE error_code LIKE '%%1644%%'")) == 2

        await eventually(set_aside)
        assert site.rows(task_id)[6]["call_status"] is None
        site.sql("DROP TRIGGER picky")
        result = await site.result(task_id)
    assert (result["outcome"], result["follow_ups"]) == ("complete", 20)


async def test_zero_dates_are_none(sites: Sites) -> None:
    site = await sites()
    site.sql("SET SESSION sql_mode = ''")
    called = datetime(2026, 11, 20, 10, 0, 0)
    rows = [
        {
            "id": n, "leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}", "call_time": called,
            "call_job_id": f"gone-{n}", "call_status": "Succeeded", "call_conversation": SAID,
            "updated_time": "0000-00-00 00:00:00" if n == 7 else called,
            "planed_time": "2026-00-10 00:00:00" if n == 7 else called,
        }
        for n in range(1, 11)
    ]  # fmt: skip
    task_id = site.old_task(rows, [])
    async with site.working():
        result = await site.run(task_id)
    assert (result["outcome"], result["analysed"]) == ("complete", 10)


async def test_a_status_that_the_database_does_not_take_stops_no_dispatch_and_no_run(sites: Sites) -> None:
    """Of two rows without a number one is refused: it is nobody's call, and taken up when the database takes it."""
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(20)
    site.sql("UPDATE dcc_leads SET leads_user_phone = '' WHERE leads_id IN (7, 8)")
    task_id = await site.create_task()
    site.sql(
        "CREATE TRIGGER picky BEFORE UPDATE ON leads_task_list FOR EACH ROW BEGIN"
        " IF NEW.leads_id = 7 AND NEW.call_status <> '' THEN SIGNAL SQLSTATE '45000'; END IF; END"
    )
    async with site.working():
        async with site.calls() as calls:
            assert await calls.start_call(task_id, QUICK)
        await site.until(task_id, follow_ups=18, suppressed=1)
        statuses = {row["leads_id"]: row["call_status"] for row in site.rows(task_id)}
        assert (statuses[7], statuses[8]) == (None, "Cancelled")

        async def told() -> bool:
            return "refuses to set 1 rows" in (await site.progress(task_id))["last_error"]

        await eventually(told)
        site.sql("DROP TRIGGER picky")
        result = await site.result(task_id)
    assert (result["outcome"], result["follow_ups"], result["unmatched"]) == ("complete", 18, 2)


async def test_rows_without_a_job_fail_beside_one_that_the_database_keeps(sites: Sites) -> None:
    site = await sites()
    site.add_leads(6)
    task_id = await site.create_task()
    site.sql(
        "CREATE TRIGGER picky BEFORE UPDATE ON leads_task_list FOR EACH ROW BEGIN"
        " IF NEW.leads_id = 3 THEN SIGNAL SQLSTATE '45000'; END IF; END"
    )
    async with CallTasks.connect(temporal=False) as calls:
        assert await calls.database.run(jobs.fail_unmatched, task_id) == (5, 1)
        assert await calls.database.run(jobs.fail_unmatched, task_id) == (0, 1)
    assert [row["call_status"] for row in site.rows(task_id)] == ["Failed"] * 2 + [None] + ["Failed"] * 3


async def test_a_task_type_that_the_database_does_not_take_is_told_and_tried_again(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_TYPE_AGAIN", 1.0)
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.add_leads(5)
    task_id = await site.create_task()
    site.sql(
        "CREATE TRIGGER picky BEFORE UPDATE ON call_tasks FOR EACH ROW BEGIN"
        " IF NEW.task_type = 4 THEN SIGNAL SQLSTATE '45000'; END IF; END"
    )
    async with site.working():
        async with site.calls() as calls:
            assert await calls.start_call(task_id, QUICK)

        async def told() -> bool:
            return "1644" in (await site.progress(task_id))["last_error"]

        await eventually(told)
        site.sql("DROP TRIGGER picky")
        result = await site.result(task_id)
    assert (result["outcome"], result["task_type"], result["last_error"]) == ("complete", 4, "")

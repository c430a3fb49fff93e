"""Tasks of the program before this one, in every half-done state that it could leave behind, are taken up and finished.

That program worked in threads and ten-second loops and updated row by row, each column as it came; see
`docs/design.md`, Adoption. Each `State` is a small task of its own; all run at once in one pipeline.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from simulators import Contact
from tests.comparison import FINAL, REMARKS, ZONE
from tests.pipeline import QUICK, Site, Sites, eventually, phone

JOB, LINKED = "its job's id", "a follow-up's id"
SAID = json.dumps([{"Speaker": "Contact", "Script": "不需要，别再打了。"}])
OLD_REMARK = "客户表示有兴趣（旧系统）"
CALLED = datetime.now(ZONE).replace(tzinfo=None, microsecond=0) - timedelta(hours=2)
EXPIRED = "http://127.0.0.1:1/recordings/x.wav?Expires=1&Signature=x"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class State:
    """A task as it was left.

    Attributes:
        rows: their columns; `JOB` and `LINKED` stand for ids, `reference_id` is `r{lead}` unless given.
        outcomes: what the platform has for each row, None for no job.
        reference: of the contacts at the platform.
        uncalled: rows that stay without a job.
        by_hand: taken up by start-call with little patience: the monitor's rule does not apply, or time must pass.
        orphans: remarks of follow-ups that no row points to, by row, written right after the call.
        others: the same, of a person: changed since.
    """

    rows: tuple[Row, ...]
    outcomes: tuple[str | None, ...]
    task_type: int = 2
    grouped: bool = True
    reference: str = "r{lead}"
    uncalled: int = 0
    by_hand: bool = False
    orphans: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


DONE: Row = {"call_job_id": JOB, "call_status": "Succeeded", "call_conversation": SAID, "updated_time": CALLED}
WAITING: Row = {"call_job_id": ""}
TALKS = ("Succeeded", "Succeeded")

STATES = {
    "a group, but the type was not raised": State(
        rows=(WAITING, WAITING), outcomes=("Succeeded", "Failed"), task_type=1, by_hand=True
    ),
    "a group that holds some of the contacts": State(
        rows=(WAITING, WAITING), outcomes=("Succeeded", None), uncalled=1, by_hand=True
    ),
    "job ids in some rows": State(rows=({"call_job_id": JOB}, WAITING), outcomes=TALKS),
    "references in the old form": State(
        rows=({"reference_id": None}, {"reference_id": ""}), outcomes=TALKS, reference="task_{task}_lead_{lead}"
    ),
    "no reference but a phone number": State(
        rows=({"reference_id": None}, {"reference_id": ""}), outcomes=("Succeeded", "Failed"), reference=""
    ),
    "outcomes without a conversation": State(
        rows=tuple(
            {"call_job_id": JOB, "call_status": status, "call_conversation": text}
            for status, text in (("Succeeded", None), ("Succeeded", ""), ("Failed", None), ("Cancelled", ""))
        ),
        outcomes=("Succeeded", "Succeeded", "Failed", "Cancelled"),
    ),
    "statuses that are no outcome": State(
        rows=tuple(
            {"call_job_id": JOB, "call_status": status}
            for status in ("Scheduling", "Executing", "Paused", "Drafted", "SucceededFinish", "NoAnswer")
        ),
        outcomes=("Succeeded", "Failed", "Succeeded", "Failed", "Succeeded", "Failed"),
    ),
    "statuses that are no outcome, without job ids": State(
        rows=({"call_status": "Scheduling"}, {"call_status": "Executing"}), outcomes=("Failed", "Succeeded")
    ),
    "statuses that are no outcome, and no job": State(
        rows=({"call_status": "Scheduling"}, {"call_job_id": JOB}),
        outcomes=(None, "Succeeded"),
        uncalled=1,
        by_hand=True,
    ),
    "conversations without follow-ups": State(rows=(DONE, DONE), outcomes=TALKS),
    "conversations without outcomes": State(
        rows=(DONE | {"call_status": None}, DONE | {"call_status": "Executing"}, DONE | {"call_status": ""}),
        outcomes=("Succeeded", "Failed", "Cancelled"),
    ),
    "a follow-up that was never linked": State(rows=(DONE,), outcomes=("Succeeded",), orphans=(OLD_REMARK,)),
    "follow-ups of silent calls that were never linked": State(
        rows=tuple(
            {"call_job_id": JOB, "call_status": status, "updated_time": CALLED} for status in ("Failed", "Cancelled")
        ),
        outcomes=("Failed", "Cancelled"),
        orphans=(REMARKS["Failed"], REMARKS["Cancelled"]),
    ),
    "follow-ups that a person wrote meanwhile": State(rows=(DONE, DONE), outcomes=TALKS, others=("下周到店", "已成交")),
    "follow-ups whose rows were not judged": State(
        rows=(DONE | {"leads_follow_id": LINKED}, DONE | {"leads_follow_id": LINKED, "call_status": "Failed"}),
        outcomes=TALKS,
    ),
    "an interest without a follow-up": State(
        rows=(DONE | {"is_interested": 1}, DONE | {"is_interested": 0, "leads_follow_id": 0}), outcomes=TALKS
    ),
    "calls complete, but rows unfinished": State(
        rows=(WAITING, {"call_job_id": JOB}, DONE), outcomes=("Failed", "Succeeded", "Succeeded"), task_type=3
    ),
    "all done, but the type was not raised": State(
        rows=(DONE | {"leads_follow_id": LINKED, "is_interested": 2},), outcomes=("Succeeded",), task_type=3
    ),
    "calls complete, and no group": State(
        rows=({"call_job_id": JOB}, DONE, WAITING),
        outcomes=("Succeeded", "Succeeded", None),
        task_type=3,
        grouped=False,
        uncalled=1,
        by_hand=True,
    ),
    "calling, job ids, and no group": State(
        rows=({"call_job_id": JOB}, WAITING),
        outcomes=("Succeeded", "Succeeded"),
        grouped=False,
        uncalled=1,
        by_hand=True,
    ),
    "recordings whose links have expired": State(
        rows=(DONE | {"recording_url": EXPIRED, "call_task_id": "x"},), outcomes=("Succeeded",)
    ),
    "Failed, though the jobs were only late": State(
        rows=({"call_status": "Failed"}, {"call_status": "Failed", "call_job_id": None}),
        outcomes=("Succeeded", "Failed"),
    ),
    "two rows of one lead, each with its job": State(
        rows=({"leads_id": 1}, {"leads_id": 1}), outcomes=TALKS, reference="twice"
    ),
    "two rows of one lead, and one job": State(
        rows=({"leads_id": 1}, {"leads_id": 1}),
        outcomes=("Succeeded", None),
        reference="twice",
        uncalled=1,
        by_hand=True,
    ),
    "NULL here and '' there": State(
        rows=(
            {"call_job_id": None, "call_status": None, "call_conversation": None, "leads_follow_id": None},
            {"call_job_id": "", "call_status": "", "call_conversation": "", "leads_follow_id": 0, "call_task_id": ""},
            DONE | {"leads_follow_id": 0, "is_interested": None, "calling_number": "", "recording_url": ""},
        ),
        outcomes=("Succeeded", "Failed", "Succeeded"),
    ),
}


def leave(site: Site, number: int, state: State) -> int:
    """Make the state's task, its job group at the platform, and its follow-ups."""
    numbers = [100 * number + row.get("leads_id", index) for index, row in enumerate(state.rows, 1)]
    task_id = site.old_task([], task_type=state.task_type)
    contacts = [
        Contact(
            phone=phone(lead),
            reference=state.reference.format(task=task_id, lead=lead),
            outcome=outcome,
            course="test-drive-tomorrow" if outcome == "Succeeded" else "",
        )
        for lead, outcome in zip(numbers, state.outcomes, strict=True)
        if outcome
    ]
    group = site.sim.world.add_group(f"left {task_id}", contacts)
    jobs = iter(group.jobs)
    for lead, outcome, row in zip(numbers, state.outcomes, state.rows, strict=True):
        job = next(jobs).id if outcome else ""
        reference = state.reference if state.reference == "twice" else f"r{lead}"
        columns = {"leads_phone": phone(lead), "reference_id": reference, "call_job_id": "", **row, "leads_id": lead}
        if columns.get("leads_follow_id") == LINKED:
            columns["leads_follow_id"] = follow_up(site, lead, OLD_REMARK, CALLED)
        columns["call_job_id"] = job if columns["call_job_id"] == JOB else columns["call_job_id"]
        site.insert("leads_task_list", [{"task_id": task_id, "call_time": CALLED, **columns}])
    for lead, remark in zip(numbers, state.orphans, strict=False):
        follow_up(site, lead, remark, CALLED + timedelta(minutes=3))
    for lead, remark in zip(numbers, state.others, strict=False):
        follow_up(site, lead, remark, CALLED + timedelta(minutes=3), changed=timedelta(minutes=9))
    site.sql("UPDATE call_tasks SET job_group_id = %s WHERE id = %s", group.id if state.grouped else "", task_id)
    return task_id


def follow_up(site: Site, lead: int, remark: str, at: datetime, *, changed: timedelta = timedelta()) -> int:
    times = {"follow_time": at, "frist_follow_time": at, "new_follow_time": at + changed}
    site.insert("dcc_leads_follow", [{"leads_id": lead, "leads_remark": remark, **times}])
    return int(site.sql("SELECT MAX(id) AS id FROM dcc_leads_follow")[0]["id"])


def assert_adopted(site: Site, state: State, task_id: int, result: dict[str, Any], before: dict[int, Row]) -> None:
    assert (result["outcome"], result["task_type"], site.task(task_id)["task_type"]) == ("complete", 4, 4)
    rows, follow_ups = site.rows(task_id), site.follow_ups()
    called = [row for row in rows if row["call_job_id"]]
    assert len(rows) - len(called) == state.uncalled
    assert max(Counter(row["call_job_id"] for row in called).values()) == 1
    assert max(Counter(row["leads_follow_id"] for row in called).values()) == 1
    for row in called:
        job = site.sim.world.jobs[row["call_job_id"]]
        assert job.contact.phone == row["leads_phone"]
        assert row["call_status"] in FINAL and row["is_interested"] in (0, 1, 2)
        if before[row["id"]]["call_status"] not in FINAL:
            assert row["call_status"] == job.outcome
        assert bool(row["call_conversation"]) == (
            job.outcome == "Succeeded" or bool(before[row["id"]]["call_conversation"])
        )
        assert follow_ups[row["leads_follow_id"]]["leads_id"] == row["leads_id"]
        assert before[row["id"]]["call_job_id"] in ("", None, row["call_job_id"])
        assert before[row["id"]]["leads_follow_id"] in (0, None, row["leads_follow_id"])
        assert before[row["id"]]["recording_url"] in ("", None, row["recording_url"])
    for row in rows:
        if not row["call_job_id"]:
            assert row["leads_follow_id"] is None and row["is_interested"] is None
            assert row["call_status"] == ("Failed" if state.grouped else before[row["id"]]["call_status"])
    leads = {row["leads_id"] for row in rows}
    of_leads = [one for one in follow_ups.values() if one["leads_id"] in leads]
    assert len(of_leads) == len(called) + len(state.others)
    remarks = [follow_ups[row["leads_follow_id"]]["leads_remark"] for row in called]
    assert not set(remarks) & set(state.others)
    if state.orphans:
        assert remarks == list(state.orphans)


async def test_every_half_done_state_is_taken_up_and_finished_and_nobody_is_dialled(sites: Sites) -> None:
    site = await sites()
    left = {name: leave(site, number, state) for number, (name, state) in enumerate(STATES.items(), 1)}
    before = {row["id"]: row for task_id in left.values() for row in site.rows(task_id)}
    async with site.working(), site.calls() as calls:
        for name, state in STATES.items():
            if state.by_hand:
                await calls.start_call(left[name], QUICK)
        await calls.monitor("check")

        async def finish(name: str) -> None:
            async def started() -> bool:
                return bool(await site.runs(f"WorkflowId = 'call-task-{left[name]}'"))

            await eventually(started)
            result = await site.result(left[name], 120)
            assert_adopted(site, STATES[name], left[name], result, before)

        outcomes = await asyncio.gather(*map(finish, STATES), return_exceptions=True)
    failed = {name: outcome for name, outcome in zip(STATES, outcomes, strict=True) if outcome is not None}
    for name, error in failed.items():
        error.add_note(f"state: {name}")
    if failed:
        raise BaseExceptionGroup(f"{', '.join(failed)}", list(failed.values()))
    assert site.sim.outbound_bot.contacts_assigned == 0
    assert not {"CreateJobGroup", "AssignJobs"} & set(site.stats()["calls"])


async def test_a_task_that_was_never_handed_over_is_started_by_hand_alone_and_dials_each_lead_once(
    sites: Sites,
) -> None:
    """Type 2 without a group and without a job: there was nothing that could have dialled."""
    site = await sites()
    site.insert("call_tasks", [{"task_name": "old", "organization_id": "org7", "task_type": 2, "job_group_id": None}])
    rows = [{"task_id": 1, "leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in (1, 2, 3)]
    site.insert("leads_task_list", rows)
    async with site.working(), site.calls() as calls:
        await calls.monitor("check")
        await site.client.get_workflow_handle("call-task-monitor-check").result()
        assert site.task(1)["job_group_id"] is None
        result = await site.run(1)
    assert (result["outcome"], result["task_type"], result["called"]) == ("complete", 4, 3)
    assert site.sim.outbound_bot.contacts_assigned == 3 and site.stats()["dialled_twice"] == []

"""Every row that any writer can leave behind comes to its end, or to rest, within a bounded number of activities.

A row's state is status × transcript × job × follow-up × interest, each with some of attempt id × retry entry (all of
those in the end, chosen the same way every time). All rows whose call can end are one task, which must come to its end;
those whose job nobody knows are another, which must come to rest: looked at once every `poll_max`, and no more.
`test_row_states.py` has fewer kinds, all of their combinations, and the remarks.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from activities.follow_ups import FOLLOW_UP
from calltasks.database.tables.ledger import digest
from calltasks.names import workflow_id
from calltasks.options import Options
from calltasks.steps import REQUEST_ROWS
from simulators import Contact
from tests.comparison import FINAL
from tests.pipeline import Site, Sites, phone

SAID = json.dumps([{"Speaker": "Contact", "Script": "不需要，别再打了。"}])
OPTIONS = Options(
    poll_first=0, poll_min=0.5, poll_max=2, match_grace=1, conversation_grace=4, retry_interval=0.5, recording_grace=4
)
STATUSES = (None, "", *FINAL, "Executing", "Scheduling", "FAILED", " succeeded ", "NoAnswer")
TRANSCRIPTS = (None, SAID, '[{"Speaker": ', "[]")
JOBS = ("", "listed", "gone", "other")
FOLLOW_UPS = ("none", "linked", "linked to nothing", "unlinked", "deleted", "deleted and unlinked")
INTERESTS = (None, 0, 1, 2)
ATTEMPTS = ("", "attempt-x")
RETRIES = (
    None,
    *(("conversation", when) for when in ("due", "later", "over")),
    *(("analysis", when) for when in ("due", "later")),
    *(("recording", when) for when in ("due", "later", "over")),
)
A_STATE = 1
"""Of attempt id × retry entry, so many are tried with each of the others."""
ROUNDS = 12
"""Times that one piece of rows may be handed to one step: first looks, tries within a grace of 4 s, what was left."""
FOLLOW_UP_IDS = 1_000_000
"""The follow-up that a row has or had is this and its lead's number."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How a row was left."""

    lead: int
    status: str | None
    transcript: str | None
    job: str
    follow_up: str
    interest: int | None
    attempt: str
    retry: tuple[str, str] | None

    @property
    def outcome(self) -> str:
        """The final status that the row's text stands for, or `""`."""
        return next((one for one in FINAL if (self.status or "").strip().lower() == one.lower()), "")

    @property
    def at_rest(self) -> bool:
        """Nobody will ever tell how the call ended."""
        return self.job == "gone" and not self.outcome


def states() -> Iterator[State]:
    dice = random.Random(7)
    others = list(product(ATTEMPTS, RETRIES))
    lead = 0
    for status, transcript, job, follow_up, interest in product(STATUSES, TRANSCRIPTS, JOBS, FOLLOW_UPS, INTERESTS):
        for attempt, retry in dice.sample(others, A_STATE):
            lead += 1
            yield State(
                lead=lead,
                status=status,
                transcript=transcript,
                job=job,
                follow_up=follow_up,
                interest=interest,
                attempt=attempt,
                retry=retry,
            )


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_every_state_of_a_row_comes_to_its_end_or_to_rest(sites: Sites) -> None:
    site = await sites()
    everything = list(states())
    ending = [state for state in everything if not state.at_rest]
    resting = [state for state in everything if state.at_rest]
    ended, rested = leave(site, ending), leave(site, resting)
    async with site.working():
        async with site.calls() as calls:
            assert await calls.start_call(rested, OPTIONS)
            assert await calls.start_call(ended, OPTIONS)
        result = await site.result(ended, within=90)
        await asyncio.sleep(2 * OPTIONS.poll_max)  # what is at rest has nothing to wait for: time must pass
        before = await activities(site, rested)
        await asyncio.sleep(5 * OPTIONS.poll_max)
        looks = await activities(site, rested) - before
    assert result["outcome"] == "complete"
    wrong = [
        f"{state}: {why}" for state, row in zip(ending, site.rows(ended), strict=True) for why in faults(state, row)
    ]
    made = Counter(row["leads_id"] for row in site.follow_ups().values())
    wrong += [f"lead {lead}: {count} follow-ups" for lead, count in made.items() if count > 1]
    assert not wrong, f"{len(wrong)} of {len(everything)} states\n" + "\n".join(wrong[:20])
    done = await activities(site, ended)
    assert_bounded(done, len(ending))
    pieces = -(-len(resting) // REQUEST_ROWS) + 1
    assert looks["fetch_conversations"] <= 6 * pieces, looks
    assert looks["review_task"] <= 6 * 2 * pieces, looks
    assert not set(looks) - {"fetch_conversations", "review_task", "watch_calls", "match_pages", "settle_jobs"}, looks
    print(f"{len(everything)} states; the task of those that end needed {dict(done)}; at rest {dict(looks)}")


def assert_bounded(done: Counter[str], rows: int) -> None:
    """Each step handles each piece of rows a bounded number of times, and reviews do not outnumber them."""
    pieces = -(-rows // REQUEST_ROWS)
    assert done["fetch_conversations"] <= ROUNDS * pieces, done
    assert done["save_recordings"] <= ROUNDS * pieces, done
    assert done["follow_up"] <= 3 * -(-rows // FOLLOW_UP.few), done
    assert done["review_task"] <= 2 * ROUNDS + done.total() // 2, done


def leave(site: Site, some: list[State]) -> int:
    """A task whose rows stand like these; its jobs and those of another group are over."""
    contacts = [
        Contact(phone=phone(state.lead), reference=f"r{state.lead}", outcome=state.outcome or "Succeeded")
        for state in some
    ]
    listed = [contact for contact, state in zip(contacts, some, strict=True) if state.job == "listed"]
    other = [contact for contact, state in zip(contacts, some, strict=True) if state.job == "other"]
    task_id, elsewhere = site.old_task([], listed), site.old_task([], other, task_type=4)
    jobs: dict[str, str] = {}
    for task in (task_id, elsewhere):
        group = site.sim.world.find_group(site.task(task)["job_group_id"])
        assert group is not None
        jobs |= {job.contact.phone: job.id for job in group.jobs}
    site.insert("leads_task_list", [row_of(task_id, state, jobs) for state in some])
    ids = {row["leads_id"]: row["id"] for row in site.rows(task_id)}
    follow_ups = [follow_up_of(state) for state in some if state.follow_up in ("linked", "unlinked")]
    entries = [entry_of(task_id, ids[state.lead], state, jobs) for state in some if state.follow_up in LEDGER]
    tries = [try_of(task_id, ids[state.lead], state.retry) for state in some if state.retry]
    for table, values in (("dcc_leads_follow", follow_ups), ("call_follow_ups", entries), ("call_retries", tries)):
        if values:
            site.insert(table, values)
    # A follow-up that was deleted is not given away again as another one's id.
    site.sql(f"ALTER TABLE dcc_leads_follow AUTO_INCREMENT = {10 * FOLLOW_UP_IDS}")
    return task_id


LEDGER = ("unlinked", "deleted", "deleted and unlinked")


def job_of(state: State, jobs: dict[str, str]) -> str:
    return {"": "", "gone": f"gone-{state.lead}"}.get(state.job) or jobs.get(phone(state.lead), "")


def row_of(task_id: int, state: State, jobs: dict[str, str]) -> dict[str, Any]:
    linked = state.follow_up in ("linked", "linked to nothing", "deleted")
    return {
        "task_id": task_id,
        "leads_id": state.lead,
        "leads_phone": phone(state.lead),
        "reference_id": f"r{state.lead}",
        "call_time": datetime(2026, 11, 20, 10, 0, 0),
        "call_job_id": job_of(state, jobs),
        "call_status": state.status,
        "call_conversation": state.transcript,
        "call_task_id": state.attempt,
        "leads_follow_id": FOLLOW_UP_IDS + state.lead if linked else None,
        "is_interested": state.interest,
    }


def follow_up_of(state: State) -> dict[str, Any]:
    written = datetime(2026, 11, 20, 10, 30, 0)
    return {
        "id": FOLLOW_UP_IDS + state.lead,
        "leads_id": state.lead,
        "leads_remark": "旧",
        "follow_time": written,
        "frist_follow_time": written,
        "new_follow_time": written,
    }


def entry_of(task_id: int, list_id: int, state: State, jobs: dict[str, str]) -> dict[str, Any]:
    return {
        "list_id": list_id,
        "task_id": task_id,
        "follow_id": FOLLOW_UP_IDS + state.lead,
        "is_interested": state.interest or 0,
        "outcome": "default",
        "call_job_id": job_of(state, jobs),
        "stored_hash": digest("旧", None),
        "created_at": datetime(2026, 11, 20, 2, 30, 0),
    }


def try_of(task_id: int, list_id: int, retry: tuple[str, str]) -> dict[str, Any]:
    step, when = retry
    now = datetime.now(UTC).replace(tzinfo=None)
    since = now - timedelta(hours=1) if when == "over" else now
    retry_at = {"due": now, "later": now + timedelta(seconds=3), "over": since + timedelta(minutes=5)}[when]
    return {
        "list_id": list_id,
        "step": step,
        "task_id": task_id,
        "tries": 1,
        "since": since,
        "retry_at": retry_at,
    }


def faults(state: State, row: dict[str, Any]) -> Iterator[str]:
    """What of a row is not as the rules say."""
    if not row["call_job_id"]:
        if row["is_interested"] != state.interest:
            yield "a row that was never called was judged"
        return
    status = str(row["call_status"] or "").strip().lower()
    if status not in [one.lower() for one in FINAL]:
        yield f"ended as {row['call_status']!r}"
    if state.outcome == "Succeeded" and status != "succeeded":
        yield f"a success became {row['call_status']!r}"
    if row["is_interested"] is None or not row["leads_follow_id"]:
        yield "not judged"
    if state.follow_up != "none" and row["leads_follow_id"] != FOLLOW_UP_IDS + state.lead:
        yield f"follow-up {row['leads_follow_id']} instead of the one that it has or had"
    linked = state.follow_up in ("linked", "linked to nothing", "deleted")
    if linked and state.interest is not None and row["is_interested"] != state.interest:
        yield f"interest {row['is_interested']}"
    if state.transcript and not row["call_conversation"]:
        yield "the transcript was lost"


async def activities(site: Site, task_id: int) -> Counter[str]:
    """How often each activity was scheduled, in all runs of the task."""
    scheduled: Counter[str] = Counter()
    for run in await site.runs(f"WorkflowId = '{workflow_id(task_id)}'"):
        history = await site.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        scheduled.update(
            event.activity_task_scheduled_event_attributes.activity_type.name
            for event in history.events
            if event.HasField("activity_task_scheduled_event_attributes")
        )
    return scheduled

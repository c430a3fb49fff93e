"""What changed elsewhere in a task is no reason to do at once again what changed nothing."""

import asyncio
from datetime import UTC, datetime, timedelta

from simulators import Contact, Fault, SimulatorOptions
from tests.pipeline import QUICK, Sites, eventually, phone
from tests.test_row_states import activities

TALKS, JUDGED_BY_OTHERS = 5, 40


async def test_follow_ups_that_go_on_do_not_hurry_calls_that_cannot_be_asked_for(sites: Sites) -> None:
    """Transcripts lag, the platform answers nothing, and meanwhile other calls of the task are followed up."""
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1, transcript_lag=10_000))
    site.add_leads(TALKS)
    task_id = await site.create_task()

    async def late() -> bool:
        return len(site.sql("SELECT 1 FROM call_retries WHERE step = 'conversation'")) == TALKS

    patient = {"poll_min": 1, "poll_max": 60, "conversation_grace": 300, "retry_interval": 60}
    async with site.working(), site.calls() as calls:
        assert await calls.start_call(task_id, QUICK.model_copy(update=patient))
        await eventually(late)
        others = [
            {"task_id": task_id, "leads_id": n, "call_job_id": f"other-{n}", "call_status": "Failed"}
            for n in range(1000, 1000 + JUDGED_BY_OTHERS)
        ]
        site.insert("leads_task_list", others)
        ids = [row["id"] for row in site.rows(task_id) if row["leads_id"] >= 1000]
        now = datetime.now(UTC).replace(tzinfo=None)
        put_off = {
            "step": "analysis",
            "task_id": task_id,
            "tries": 1,
            "since": now,
            "retry_at": now + timedelta(hours=1),
        }
        site.insert("call_retries", [{"list_id": id_, **put_off} for id_ in ids])
        site.sim.set_faults(Fault(target="ListJobs", kind="status_500"))
        before = (await activities(site, task_id))["fetch_conversations"]
        for id_ in ids:
            site.sql("UPDATE leads_task_list SET leads_follow_id = 1, is_interested = 0 WHERE id = %s", id_)
            await asyncio.sleep(0.2)  # the pace at which others work: time must pass
        asked = (await activities(site, task_id))["fetch_conversations"] - before
    # After 1, 1.5, 2.25 and 3.4 seconds more, whatever else is going on.
    assert 1 <= asked <= 6


async def test_a_group_that_counts_far_more_jobs_than_it_lists_is_not_read_to_its_counted_end(sites: Sites) -> None:
    site = await sites()
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}"} for n in range(1, 7)]
    task_id = site.old_task(rows, [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 6)])
    page = site.sim.outbound_bot._page
    site.sim.outbound_bot._page = lambda *asked: (page(*asked)[0], 100_000)  # type: ignore[method-assign]
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, follow_ups=5)

        async def looked_again() -> bool:
            return (await activities(site, task_id))["settle_jobs"] >= 3

        await eventually(looked_again)
        read = sum(site.stats()["calls"]["QueryJobsWithResult"].values())
        looks = (await activities(site, task_id))["settle_jobs"] + 2
        await site.handle(task_id).terminate()
    assert read <= looks * 60

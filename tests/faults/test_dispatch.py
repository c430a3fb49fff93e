"""Nobody is dialled twice, whatever becomes of the requests that make the platform dial (issue 4, faults 2, 6, 7)."""

import signal
from pathlib import Path

import pytest

from simulators import Fault, SimulatorOptions
from tests.faults.site import PATIENT, SEED, Act, create, observing, sabotaged, start, until, verify
from tests.pipeline import Site, Sites
from workflows.options import Options

OVER = SimulatorOptions(seed=SEED, calls_over=True)
LEADS = 120
"""More than one batch."""


def assign(kind: str, **more: float) -> Fault:
    return Fault(target="AssignJobs", kind=kind, **more)  # type: ignore[arg-type]


def group(kind: str, **more: float) -> Fault:
    return Fault(target="CreateJobGroup", kind=kind, **more)  # type: ignore[arg-type]


def pages(kind: str, **more: object) -> Fault:
    return Fault(target="QueryJobsWithResult", kind=kind, **more)  # type: ignore[arg-type]


LOST = {
    "assign-lost": [assign("lost_answer", count=1)],
    "assign-lost-thrice": [assign("lost_answer", count=3)],
    "assign-lost-and-late": [assign("lost_late", count=2, seconds=3)],
    "assign-in-part": [assign("partial", count=2)],
    "assign-in-part-then-lost": [assign("partial", count=1), assign("lost_answer", count=2)],
    "assign-hangs-refused-reset": [
        assign("reset", count=1),
        assign("status_500", count=1),
        assign("success_false", count=1),
        assign("html", count=1),
        assign("empty", count=1),
        assign("wrong_shape", count=1),
    ],
    "assign-throttled": [assign("throttle", count=2, seconds=0.2), assign("throttle_plain", count=1)],
    "group-lost": [group("lost_answer", count=1)],
    "group-lost-and-late": [group("lost_late", count=1, seconds=3)],
    "group-lost-thrice": [group("lost_answer", count=3)],
    "group-unreadable": [group("wrong_shape", count=1), group("html", count=1)],
    "group-and-assign-lost": [group("lost_late", count=1, seconds=2), assign("lost_late", count=1, seconds=2)],
    "lost-and-pages-missing": [assign("lost_answer", count=1), pages("missing", count=3)],
    "lost-and-pages-shuffled": [assign("lost_answer", count=1), pages("shuffle", count=3)],
    "lost-and-pages-stale": [assign("lost_answer", count=1), pages("stale", count=3, seconds=60)],
    "lost-and-jobs-vanish": [assign("lost_answer", count=1), pages("vanish", count=1, seconds=6)],
    "lost-and-group-denied": [
        assign("lost_answer", count=1),
        pages("permanent", count=1, code="NotExist.JobGroup"),
    ],
    "lost-and-pages-unreadable": [assign("lost_answer", count=1), pages("wrong_shape", count=4)],
}


@pytest.mark.parametrize("faults", LOST.values(), ids=LOST.keys())
async def test_a_lost_answer_dials_nobody_twice(sites: Sites, faults: list[Fault]) -> None:
    site = await sites(OVER)
    site.sim.set_faults(*faults)
    task_id = await create(site, LEADS)
    with observing() as observer:
        async with site.working():
            await start(site, task_id)
            result = await site.result(task_id)
    assert result["outcome"] == "complete"
    assert result["called"] == LEADS
    assert sum(site.sim.faults.counts.values()), "no fault struck"
    await verify(site, {task_id: LEADS}, observer)


@pytest.mark.parametrize("grace", [0, 0.01])
async def test_without_any_grace_everybody_is_still_dialled_once(sites: Sites, grace: float) -> None:
    site = await sites(OVER)
    task_id = await create(site, LEADS)
    async with site.working():
        await start(site, task_id, Options(poll_first=0, poll_min=0.2, poll_max=1, match_grace=grace))
        await site.result(task_id, within=20)
    await verify(site, {task_id: LEADS}, None)


FROZEN = {
    "who-is-left": ("sql undialled SELECT leads_task_list after", []),
    "how-far-we-are": ("sql started SELECT call_dispatches after", []),
    "before-it-is-written-down": ("sql attempt INSERT call_dispatches before", []),
    "written-down": ("sql attempt INSERT call_dispatches after", []),
    "before-the-request": ("request AssignJobs before", []),
    "after-the-answer": ("request AssignJobs after", []),
    "before-it-is-accepted": ("sql accept UPDATE call_dispatches before", []),
    "the-rest-is-looked-up": ("request QueryJobsWithResult after", [assign("partial", count=1)]),
    "the-group-is-looked-up": ("request ListJobGroups after", []),
    "before-the-group": ("request CreateJobGroup before", []),
    "after-the-group": ("request CreateJobGroup after", []),
    "before-the-group-is-saved": ("sql save_group UPDATE call_tasks before", []),
}


@pytest.mark.parametrize(("at", "faults"), FROZEN.values(), ids=FROZEN.keys())
async def test_a_frozen_worker_that_thaws_dials_nobody_twice(
    sites: Sites, tmp_path: Path, at: str, faults: list[Fault]
) -> None:
    """SIGSTOP inside of dispatch, beyond the heartbeat timeout; SIGCONT once another worker has done the work."""
    site = await sites(OVER)
    site.sim.set_faults(*faults)
    task_id = await create(site, LEADS)
    with observing() as observer, sabotaged(tmp_path, Act(at=at, do="stop"), name="frozen") as frozen:
        await start(site, task_id)
        await until(lambda: bool(frozen.acts), 30, f"frozen at {at}")
        with sabotaged(tmp_path, name="other") as other:
            await until(lambda: site.sim.bot.contacts_assigned >= LEADS or _group_only(site, at), 60, "dispatched")
            frozen.thaw()
            await site.result(task_id)
        log = other.log
    await verify(site, {task_id: LEADS}, observer, logs=[frozen.log, log])


def _group_only(site: Site, at: str) -> bool:
    """Frozen at the job group, the interesting moment is the one after another worker has made it."""
    return "roup" in at and bool(site.sim.world.groups)


@pytest.mark.parametrize("boundary", ["before", "leaves", "after"])
async def test_a_killed_worker_dials_nobody_twice(sites: Sites, tmp_path: Path, boundary: str) -> None:
    """Killed at each batch anew, while answers get lost too."""
    site = await sites(OVER)
    site.sim.set_faults(assign("lost_late", count=1, seconds=2))
    task_id = await create(site, LEADS)
    acts = [Act(at=f"request AssignJobs {boundary}", nth=nth) for nth in (1, 1, 2)]
    with observing() as observer, sabotaged(tmp_path, *acts) as saboteurs:
        await start(site, task_id)
        await site.result(task_id)
    assert saboteurs.acts
    await verify(site, {task_id: LEADS}, observer, logs=[saboteurs.log])


async def test_two_starts_at_once_dial_everybody_once(sites: Sites) -> None:
    import asyncio

    from starter import CallTasks
    from tests.faults.site import PATIENT

    site = await sites(OVER)
    task_id = await create(site, LEADS)
    async with site.working(), CallTasks.connect() as first, CallTasks.connect() as second:
        started = await asyncio.gather(*(calls.start_call(task_id, PATIENT) for calls in (first, second) for _ in "ab"))
        assert sorted(started) == [False, False, False, True]
        await site.result(task_id)
        assert await first.start_call(task_id, PATIENT)
        assert (await site.result(task_id))["outcome"] == "complete"
    await verify(site, {task_id: LEADS}, None)
    signal.getsignal(signal.SIGTERM)

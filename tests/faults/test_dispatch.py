"""Nobody is dialled twice, whatever becomes of the requests that make the platform dial."""

import asyncio
import os
from pathlib import Path

import pytest

from calltasks.call_tasks import CallTasks
from simulators import Fault, SimulatorOptions
from tests.faults.saboteur import Act
from tests.faults.site import (
    PATIENT,
    SEED,
    Case,
    Nursery,
    create,
    observing,
    sabotaged,
    start,
    survive,
    until,
    verify,
)
from tests.pipeline import Site, Sites

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
    "assign-lost-and-late": [assign("lost_late", count=2, seconds=1.5)],
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
    "group-lost-and-late": [group("lost_late", count=1, seconds=1.5)],
    "group-lost-thrice": [group("lost_answer", count=3)],
    "group-unreadable": [group("wrong_shape", count=1), group("html", count=1)],
    "group-and-assign-lost": [group("lost_late", count=1, seconds=1.5), assign("lost_late", count=1, seconds=1.5)],
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


@pytest.mark.parametrize("part", range(3))
async def test_a_lost_answer_dials_nobody_twice(sites: Sites, part: int) -> None:
    await survive(sites, {name: Case(faults=faults) for name, faults in list(LOST.items())[part::3]})


async def test_without_any_grace_everybody_is_still_dialled_once(sites: Sites) -> None:
    hasty = {grace: PATIENT.model_copy(update={"match_grace": grace}) for grace in (0, 0.01)}
    await survive(sites, {str(grace): Case(options=options, struck=False) for grace, options in hasty.items()})


FROZEN = {
    "who-is-left": ("sql claim SELECT leads_task_list after", []),
    "how-far-we-are": ("sql claim SELECT call_dispatches after", []),
    "before-it-is-written-down": ("sql claim INSERT call_dispatches before", []),
    "written-down": ("sql claim INSERT call_dispatches after", []),
    "before-the-commit": ("sql claim COMMIT before", []),
    "after-the-commit": ("sql claim COMMIT after", []),
    "before-the-request": ("request AssignJobs before", []),
    "on-the-connection": ("request AssignJobs leaves", []),
    "after-the-answer": ("request AssignJobs after", []),
    "before-it-is-accepted": ("sql accept UPDATE call_dispatches before", []),
    "the-rest-is-looked-up": ("request QueryJobsWithResult after", [assign("partial", count=1)]),
    "the-rest-is-claimed": ("sql claim UPDATE call_dispatches before", [assign("partial", count=1)]),
    "the-group-is-looked-up": ("request ListJobGroups after", []),
    "before-the-group": ("request CreateJobGroup before", []),
    "after-the-group": ("request CreateJobGroup after", []),
    "before-the-group-is-saved": ("sql save_group UPDATE call_tasks before", []),
}
ONE_BATCH = 90


@pytest.mark.parametrize("part", range(3))
async def test_a_frozen_worker_that_thaws_dials_nobody_twice(
    sites: Sites, nursery: Nursery, tmp_path: Path, part: int
) -> None:
    """SIGSTOP inside of dispatch, beyond the heartbeat timeout; SIGCONT once another worker has done the work."""
    problems = {}

    async def freeze(name: str, at: str, site: Site, task_id: int) -> None:
        act = Act(at=at, do="stop")
        try:
            async with sabotaged(nursery, site, tmp_path, act, name=f"{name}-1") as frozen:
                with observing(site, every=0.3) as observer:
                    await until(lambda: bool(frozen.acts), f"frozen at {at}")
                    async with sabotaged(nursery, site, tmp_path, name=f"{name}-2") as other:
                        if any(part in at for part in ("COMMIT before", "sql claim ")):
                            # It holds the lock on the task's row: nobody goes on before it thaws, or its session ends.
                            await asyncio.sleep(3)
                        else:
                            done = _group_made if "roup" in at else _all_assigned
                            await until(lambda: done(site), f"{name}: another worker dispatched")
                        frozen.thaw()
                        await site.result(task_id)
            logs = [frozen.log, other.log]
            await verify(site, {task_id: ONE_BATCH}, observer, logs=logs)
        except (AssertionError, TimeoutError) as error:
            problems[name] = f"{error}"

    runs = []
    only = os.environ.get("FAULTS_ONLY", "")
    for name, (at, faults) in list(FROZEN.items())[part::3]:
        if only not in name:
            continue
        site = await sites(OVER)
        site.sim.set_faults(*faults)
        task_id = await create(site, ONE_BATCH)
        await start(site, task_id)
        runs.append(freeze(name, at, site, task_id))
    await asyncio.gather(*runs)
    assert not problems, "\n".join(f"--- {name}\n{text[:1500]}" for name, text in problems.items())


def _all_assigned(site: Site) -> bool:
    return site.sim.outbound_bot.contacts_assigned >= ONE_BATCH


def _group_made(site: Site) -> bool:
    return bool(site.sim.world.groups)


@pytest.mark.parametrize("boundary", ["before", "leaves", "after"])
async def test_a_killed_worker_dials_nobody_twice(
    sites: Sites, nursery: Nursery, tmp_path: Path, boundary: str
) -> None:
    """Killed at each batch anew, while answers get lost too."""
    site = await sites(OVER)
    site.sim.set_faults(assign("lost_late", count=1, seconds=1.5))
    task_id = await create(site, LEADS)
    acts = [Act(at=f"request AssignJobs {boundary}", nth=nth) for nth in (1, 1, 2)]
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path, *acts) as saboteurs:
            await start(site, task_id)
            await site.result(task_id)
    assert saboteurs.acts
    await verify(site, {task_id: LEADS}, observer, logs=[saboteurs.log])


async def test_two_starts_at_once_dial_everybody_once(sites: Sites) -> None:
    site = await sites(OVER)
    task_id = await create(site, LEADS)
    async with site.working(), CallTasks.connect() as first, CallTasks.connect() as second:
        started = await asyncio.gather(*(calls.start_call(task_id, PATIENT) for calls in (first, second) for _ in "ab"))
        assert sorted(started) == [False, False, False, True]
        await site.result(task_id)
        assert await first.start_call(task_id, PATIENT)
        assert (await site.result(task_id))["outcome"] == "complete"
    await verify(site, {task_id: LEADS}, None)

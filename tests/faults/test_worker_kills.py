"""Worker `kill -9` at every boundary of every activity, and at random."""

import random
from pathlib import Path

import pytest

from simulators import SimulatorOptions
from tests.faults.saboteur import Act, random_kills
from tests.faults.site import LONG, SEED, Nursery, create, observing, sabotaged, start, verify
from tests.pipeline import Sites

WORLD = SimulatorOptions(
    seed=SEED, seconds_per_call=2, time_scale=4, transcript_lag=2, recording_lag=2, cancelled_rate=0.1, retry_after=1
)
TASKS, LEADS = 3, 12
KILLS = 200 if LONG else 40
AT_START = ("sql check", "sql column_limits", "sql utc_now", "sql open_limit")
"""Before the worker polls: nothing is in its hands yet."""


async def boundaries(sites: Sites, nursery: Nursery, directory: Path) -> list[str]:
    """Every boundary that a campaign crosses, in the order of the first crossing."""
    site = await sites(WORLD)
    task_id = await create(site, LEADS)
    async with sabotaged(nursery, site, directory, name="scout") as scout:
        await start(site, task_id)
        await site.result(task_id)
    return [boundary for boundary in scout.passages if not boundary.startswith(AT_START)]


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_killed_at_every_boundary_nothing_is_lost(sites: Sites, nursery: Nursery, tmp_path: Path) -> None:
    """One life after the other dies at the next boundary, while several campaigns go on; without FAULTS_LONG at a
    sixth of the boundaries, another sixth with another seed."""
    crossed = await boundaries(sites, nursery, tmp_path)
    chosen = crossed if LONG else crossed[SEED % 6 :: 6]
    # A life that never comes to its boundary any more (dispatch is over) makes room for the next one.
    acts = [Act(at=boundary, gives_up=400) for boundary in chosen]
    site = await sites(WORLD)
    tasks: dict[int, int] = {}
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path, *acts) as saboteurs:
            struck = 0
            while struck < len(acts):
                # As long as lives are left there is work for them.
                batch = [await create(site, LEADS, first=1 + LEADS * (len(tasks) + n)) for n in range(TASKS)]
                tasks |= dict.fromkeys(batch, LEADS)
                for task_id in batch:
                    await start(site, task_id)
                for task_id in batch:
                    await site.result(task_id, within=1500)
                struck = len(saboteurs.acts)
    met = [act for act in saboteurs.acts if act[3] != "late"]
    figures = await verify(site, tasks, observer, logs=[saboteurs.log])
    print(f"{len(crossed)} boundaries, {len(met)} met of {len(chosen)}, {len(saboteurs.acts)} kills, {dict(figures)}")
    assert len(met) > len(chosen) / 2


@pytest.mark.timeout(1800)
async def test_killed_at_random_nothing_is_lost(sites: Sites, nursery: Nursery, tmp_path: Path) -> None:
    site = await sites(WORLD)
    acts = random_kills(SEED, KILLS, most=150)
    tasks: dict[int, int] = {}
    with observing(site) as observer:
        async with sabotaged(nursery, site, tmp_path, *acts) as saboteurs:
            while len(saboteurs.acts) < len(acts):
                batch = [await create(site, LEADS, first=1 + LEADS * (len(tasks) + n)) for n in range(TASKS)]
                tasks |= dict.fromkeys(batch, LEADS)
                for task_id in random.Random(SEED).sample(batch, len(batch)):
                    await start(site, task_id)
                for task_id in batch:
                    await site.result(task_id, within=1500)
    figures = await verify(site, tasks, observer, logs=[saboteurs.log])
    print(f"{len(saboteurs.acts)} kills, {len(tasks)} tasks, {dict(figures)}")

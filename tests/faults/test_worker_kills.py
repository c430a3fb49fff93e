"""Worker `kill -9` at every boundary of every activity, and at random (issue 4, fault 1)."""

from pathlib import Path

from simulators import SimulatorOptions
from tests.faults.site import PATIENT, create, observing, sabotaged, start, verify
from tests.pipeline import Sites

WORLD = SimulatorOptions(
    seed=4, seconds_per_call=2, time_scale=4, transcript_lag=2, recording_lag=2, cancelled_rate=0.1, retry_after=1
)


async def test_passages(sites: Sites, tmp_path: Path) -> None:
    site = await sites(WORLD)
    task_id = await create(site, 20)
    with observing() as observer, sabotaged(tmp_path) as saboteurs:
        await start(site, task_id)
        await site.result(task_id)
    print("\n".join(l for l in saboteurs.log.splitlines()))
    for k, v in saboteurs.passages.items():
        print(v, k)
    print(await verify(site, {task_id: 20}, observer, logs=[saboteurs.log]))

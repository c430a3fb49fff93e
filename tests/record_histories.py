"""Records the histories that `test_replay.py` replays: `python -m tests.record_histories [NAME …]`.

Run it when a workflow was changed on purpose; it needs what the tests need, and takes about a minute.
"""

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory

from calltasks.errors import RunFailedError
from devstack.mariadb import EmbeddedMariaDB
from devstack.temporal import EmbeddedTemporal
from simulators import Contact, Fault, SimulatorOptions
from tests.pipeline import QUICK, Site, Sites, eventually, opening_sites, phone
from tests.programs import own_environment

HISTORIES = Path(__file__).resolve().parent / "histories"
RESTARTING = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=150")


async def plain(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=40, transcript_lag=20, recording_lag=30))
    site.add_leads(120)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id, QUICK.model_copy(update={"poll_min": 1}))
    return site, task_id


async def late_jobs(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=20, late_rate=0.3, late_lag=60))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
    return site, task_id


async def adopted(sites: Sites) -> tuple[Site, int]:
    site = await sites()
    contacts = [Contact(phone=phone(n), reference=f"r{n}") for n in range(1, 1201)]
    rows = [{"leads_id": n, "leads_phone": phone(n), "reference_id": f"r{n}" if n % 9 else ""} for n in range(1, 1211)]
    task_id = site.old_task(rows, contacts)
    async with site.working():
        await site.run(task_id)
    return site, task_id


async def lost_answers(sites: Sites) -> tuple[Site, int]:
    site = await sites()
    site.sim.set_faults(
        Fault(target="CreateJobGroup", kind="lost_answer", count=1),
        Fault(target="AssignJobs", kind="lost_answer", count=1),
        Fault(target="AssignJobs", kind="partial", count=1),
    )
    site.add_leads(250)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
    return site, task_id


async def set_aside(sites: Sites) -> tuple[Site, int]:
    site = await sites()
    site.sim.set_faults(
        Fault(target="ListJobs", kind="status_500", count=4),
        Fault(target="QueryJobsWithResult", kind="html", count=2),
        Fault(target="model", kind="invalid_json", count=20),
    )
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id)
    return site, task_id


async def signals(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=6))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, analysed=2)
        await calls.force_analyze(task_id, every=True)
        for name in ("refresh", "pause_calls", "resume_calls", "cancel_calls"):
            await calls.signal(task_id, name)
        await site.handle(task_id).signal("force_analyze", "nonsense")
        await site.result(task_id)
    return site, task_id


async def controls(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=3))
    site.add_leads(20)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, called=20)
        for action in ("pause", "resume", "cancel"):
            assert (await calls.control(task_id, action))["done"]
        await site.result(task_id)
    return site, task_id


async def token_ceiling(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(time_scale=30, concurrency=20, answer_rate=1))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working():
        await site.run(task_id, QUICK.model_copy(update={"token_ceiling": 5000}))
    return site, task_id


async def force_analyze(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(calls_over=True, answer_rate=1))
    site.sim.model.down = True
    site.add_leads(20)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await site.run(task_id)
        site.sim.model.down = False
        await calls.force_analyze(task_id, failed=True)
        await site.result(task_id)
    return site, task_id


async def restarted_as_new(sites: Sites) -> tuple[Site, int]:
    site = await sites(SimulatorOptions(time_scale=20, concurrency=20))
    site.add_leads(60)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        await site.until(task_id, analysed=5)
        await calls.force_analyze(task_id, every=True)
        await site.result(task_id)
    return site, task_id


async def refused(sites: Sites) -> tuple[Site, int]:
    site = await sites()
    site.sim.set_faults(Fault(target="CreateJobGroup", kind="permanent", code="NotExist.Script"))
    site.add_leads(3)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)
        with suppress(RunFailedError):
            await calls.result(task_id)
    return site, task_id


async def monitor(sites: Sites) -> tuple[Site, int]:
    site = await sites()
    rows = [{"leads_id": 1, "leads_phone": phone(1), "reference_id": "r1"}]
    task_id = site.old_task(rows, [Contact(phone=phone(1), reference="r1")])
    async with site.working(), site.calls() as calls:
        await calls.monitor("check")

        async def over() -> bool:
            return len(await site.runs("ExecutionStatus != 'Running'")) == 2

        await eventually(over)
    return site, task_id


KINDS: tuple[Callable[[Sites], Awaitable[tuple[Site, int]]], ...] = (
    *(plain, late_jobs, adopted, lost_answers, set_aside, signals, controls, token_ceiling),
    *(force_analyze, refused, monitor),
)


async def record(kind: Callable[[Sites], Awaitable[tuple[Site, int]]], sites: Sites) -> None:
    """Write the history of every run of this kind: `name.json`, or `name-1.json` and on."""
    site, _ = await kind(sites)
    runs = sorted(await site.runs(), key=lambda run: run.start_time)
    name = kind.__name__.replace("_", "-")
    for old in HISTORIES.glob(f"{name}*.json"):
        old.unlink()
    for number, run in enumerate(runs, 1):
        history = await site.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        path = HISTORIES / (f"{name}-{number}.json" if len(runs) > 1 else f"{name}.json")
        path.write_text(as_text(history), "utf-8")
        print(f"{path.name}: {len(history.events)} events")


def as_text(history: WorkflowHistory) -> str:
    """As JSON, an event a line; without the machine that ran it and where the code lay there."""
    events = (
        json.dumps(anonymous(event), ensure_ascii=False, separators=(",", ":"))
        for event in json.loads(history.to_json())["events"]
    )
    return '{"events":[\n' + ",\n".join(events) + "\n]}\n"


def anonymous(value: Any) -> Any:
    """`value` without names of machines and paths of files."""
    if isinstance(value, list):
        return [anonymous(item) for item in value]
    if isinstance(value, dict):
        return {key: anonymous(item) for key, item in value.items() if key != "stackTrace"}
    # Identities of workers and names of their own queues hold process and machine.
    return value.replace(f"@{socket.gethostname()}", "@recorded") if isinstance(value, str) else value


async def main(names: list[str]) -> None:
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        for name in set(own_environment()) - set(own_environment(*SETTINGS)):
            patch.delenv(name)
        mariadb = EmbeddedMariaDB(Path(directory) / "mariadb", relaxed=True)
        temporal = EmbeddedTemporal(Path(directory) / "temporal", headless=True)
        restarting = EmbeddedTemporal(Path(directory) / "restarting", headless=True, options=RESTARTING)
        try:
            for server in (mariadb, temporal, restarting):
                server.start()
            for kinds, server in ((KINDS, temporal), ((restarted_as_new,), restarting)):
                for kind in kinds:
                    if not names or kind.__name__.replace("_", "-") in names:
                        async with opening_sites(mariadb, server, patch) as sites:
                            await record(kind, sites)
        finally:
            for server in (mariadb, temporal, restarting):
                server.stop()


SETTINGS = ("TEMPORAL_API_KEY", "TEMPORAL_PROFILE", "PAYLOAD_ENCRYPTION_KEYS", "RECORDING_ARCHIVE")

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

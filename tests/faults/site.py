"""What the scenarios share: sabotaged workers beside a `Site`, and one call that ends a run with the checker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from devstack.processes import Child, wait_until
from starter import CallTasks
from tests.faults.invariants import Excused, Observer, check
from tests.faults.saboteur import CLOCK, EVENTS, PASSAGES, PLAN, Act, plan_of
from tests.pipeline import Site
from workflows.options import CALL_TASKS, WORKFLOW, Options, workflow_id

PROJECT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("FAULTS_SEED", "4"))
LONG = bool(os.environ.get("FAULTS_LONG"))
"""Everything as often and as long as issue 4 names it: `FAULTS_LONG=1 make test PYTEST=tests/faults`."""
PATIENT = Options(
    poll_first=0,
    poll_min=0.2,
    poll_max=1,
    match_grace=4,
    conversation_grace=3,
    retry_interval=0.3,
    recording_grace=3,
)
"""Everything soon, but with time for what the platform shows late."""



class Saboteurs:
    """Workers that sabotage themselves; `log` is everything they said, `acts` what they did to themselves."""

    def __init__(self, directory: Path, name: str, acts: Sequence[Act], settings: Mapping[str, str]) -> None:
        self._directory = directory
        self._events = directory / f"{name}.events"
        self._passages = directory / f"{name}.passages"
        environment = dict(os.environ) | {
            PLAN: plan_of(acts),
            EVENTS: str(self._events),
            PASSAGES: str(self._passages),
            "PYTHONPATH": str(PROJECT),
        }
        self.child = Child(
            name,
            [sys.executable, "-m", "tests.faults.saboteur"],
            log=directory / f"{name}.log",
            environment=environment | dict(settings),
            directory=PROJECT,
            ready_line="worker ready" if not acts else "",
            grace=30,
        )

    @property
    def log(self) -> str:
        return self.child.log.read_text("utf-8", "replace")

    @property
    def acts(self) -> list[tuple[int, int, str, str]]:
        """Life, process id, act and boundary of everything that was struck."""
        text = self._events.read_text() if self._events.exists() else ""
        return [tuple(json.loads(line)) for line in text.splitlines()]

    @property
    def passages(self) -> Counter[str]:
        """How often each boundary was crossed, in the order of the first crossing."""
        return Counter(self._passages.read_text().splitlines())

    def thaw(self) -> None:
        """SIGCONT to every life that stopped itself."""
        for _, pid, do, _ in self.acts:
            if do == "stop":
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def strikes(self, count: int, within: float = 60) -> list[tuple[int, int, str, str]]:
        """Wait until so many acts were carried out."""
        wait_until(lambda: len(self.acts) >= count, within, f"{count} acts of {self.child.name}")
        return self.acts


@contextmanager
def sabotaged(
    directory: Path, *acts: Act, name: str = "saboteur", clock: float = 0, settings: Mapping[str, str] | None = None
) -> Iterator[Saboteurs]:
    """A worker whose lives carry out these acts one after the other, for as long as the block lasts."""
    saboteurs = Saboteurs(directory, name, acts, (settings or {}) | {CLOCK: str(clock)})
    saboteurs.child.start()
    try:
        yield saboteurs
    finally:
        saboteurs.child.stop()


async def start(site: Site, task_id: int, options: Options = PATIENT) -> None:
    """Start a task's workflow; its own tasks are handed on soon after a worker died."""
    await site.client.start_workflow(
        WORKFLOW,
        {"task_id": task_id, "options": options.model_dump()},
        id=workflow_id(task_id),
        task_queue=CALL_TASKS,
        task_timeout=timedelta(seconds=2),
    )


async def create(site: Site, leads: int, *, organization: str = "org7", first: int = 1) -> int:
    """A task of so many new leads."""
    site.add_leads(leads, first=first, organization=organization)
    async with CallTasks.connect(temporal=False) as calls:
        return await calls.create_task(organization, "autumn sale", list(range(first, first + leads)))


def truth(site: Site) -> dict[str, list[dict[str, Any]]]:
    """Every group of the platform with its jobs."""
    return {group.id: site.sim.world.truth(group) for group in site.sim.world.groups.values()}


async def verify(
    site: Site,
    tasks: Mapping[int, int],
    observer: Observer | None,
    *,
    logs: Sequence[str] = (),
    excused: Excused | None = None,
) -> Counter[str]:
    """The checker, on a site."""
    return await check(
        database_url=os.environ["DATABASE_URL"],
        tasks=tasks,
        stats=site.stats(),
        truth=truth(site),
        client=site.client,
        logs=logs,
        observer=observer,
        excused=excused,
    )


async def until(condition: Callable[[], bool], within: float, what: str) -> None:
    """Wait until something holds, leaving the event loop to others."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


def observing(**settings: Any) -> Observer:
    """Watches the database that the environment names."""
    return Observer(os.environ["DATABASE_URL"], **settings)

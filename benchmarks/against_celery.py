"""Figures against Celery and Redis: the same work by ``benchmarks/celery_program.py``, interleaved with one worker.

Celery lies in ``.stack/celery``, put there from ``benchmarks/celery.lock``; ``redis-server`` has to be installed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from benchmarks.figures import ANSWERED, WARM_UP, Figure, Sizes, at_least
from benchmarks.site import Bench, Ran
from devstack.processes import Child, StackError, free_port, wait_until
from devstack.stack import PROJECT

LOCK, PACKAGES = PROJECT / "benchmarks/celery.lock", PROJECT / ".stack/celery"
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATIENCE = 300.0


async def celery(sizes: Sizes) -> list[Figure]:
    """Throughput, CPU and statements of one worker against one Celery worker's, without latency and limits."""
    runs: dict[str, list[Ran]] = {"celery": [], "one": []}
    async with Bench.open(*ANSWERED) as site:
        worker = await site.worker()
        with CeleryWorker.running(site) as other:
            for leads, counted in ((WARM_UP, False), *[(sizes.leads, True)] * sizes.rounds):
                for name, run in (("celery", other.run), ("one", lambda task, n: site.run(task, n, worker))):
                    ran = await run(await site.task(leads), leads)
                    if counted:
                        runs[name].append(ran)
    ratios = [theirs.seconds / ours.seconds for theirs, ours in zip(*runs.values(), strict=True)]
    return [
        at_least(
            f"one worker against Celery and Redis, {sizes.leads:,} leads",
            median(ratios),
            3.5,
            "times",
            ratios=[round(ratio, 2) for ratio in ratios],
            runs={name: [_told(ran) for ran in several] for name, several in runs.items()},
        )
    ]


def _told(ran: Ran) -> dict[str, Any]:
    cpu = {name: round(seconds, 1) for name, seconds in ran.cpu.items()}
    return {"seconds": round(ran.seconds, 1), "cpu_seconds": cpu, "statements": ran.statements}


class CeleryWorker:
    """One Celery worker and its Redis; use :meth:`running`."""

    def __init__(self, site: Bench) -> None:
        sys.path.append(str(_packages()))
        from celery import Celery

        directory, port = site.stack.directory / "redis", free_port()
        directory.mkdir()
        url = f"redis://127.0.0.1:{port}/0"
        self._site, self._app = site, Celery(broker=url)
        self._redis = Child(
            "redis",
            [
                *(_redis_server(), "--bind", "127.0.0.1", "--port", str(port), "--dir", directory),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            ],
            log=directory / "log",
            ready_line="Ready to accept connections",
        )
        self._worker = Child(
            "celery",
            [
                *(sys.executable, "-m", "celery", "-A", "benchmarks.celery_program", "worker", "-P", "gevent"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"),
            ],
            log=site.stack.directory / "celery.log",
            environment=site.stack.environment | {"CELERY_BROKER_URL": url, "PYTHONPATH": str(PACKAGES)},
            directory=PROJECT,
            ready_line="celery ready",
        )

    @classmethod
    @contextmanager
    def running(cls, site: Bench) -> Iterator[CeleryWorker]:
        """Both, for as long as the block lasts."""
        made = cls(site)
        try:
            made._redis.start()
            made._worker.start()
            yield made
        finally:
            made._worker.kill()
            made._redis.stop()

    async def run(self, task_id: int, leads: int) -> Ran:
        """Run a task to its end."""
        site = self._site
        with site.metering(self._worker, redis=self._redis) as meter, site.questions() as questions:
            began = monotonic()
            self._app.send_task("open_task", [task_id])
            await asyncio.to_thread(self._wait, task_id)
            seconds = monotonic() - began
        written = site.value(
            "SELECT COUNT(DISTINCT l.leads_follow_id) FROM leads_task_list l"
            " JOIN dcc_leads_follow f ON f.id = l.leads_follow_id AND f.leads_id = l.leads_id WHERE l.task_id = %s",
            task_id,
        )
        assert written == leads, (written, self._worker.log_tail())
        return Ran(leads=leads, seconds=seconds, cpu=meter, statements=questions[0])

    def _wait(self, task_id: int) -> None:
        def closed() -> bool:
            self._worker.check()
            return f"closed task {task_id}." in self._worker.output()

        try:
            wait_until(closed, PATIENCE, "Celery closes the task")
        except TimeoutError as error:
            raise StackError(f"{error}\n{self._worker.log_tail()}") from None


def _packages() -> Path:
    """Where Celery lies, after what the lock names was installed there."""
    installed = PACKAGES / "installed.lock"
    if not installed.exists() or installed.read_bytes() != LOCK.read_bytes():
        shutil.rmtree(PACKAGES, ignore_errors=True)
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(PACKAGES)]
        trust = {"UV_SYSTEM_CERTS": "1"} if SYSTEM_CERTIFICATES.exists() else {}
        subprocess.run([*command, "--require-hashes", "-r", str(LOCK)], check=True, env=trust | os.environ)
        installed.write_bytes(LOCK.read_bytes())
    return PACKAGES


def _redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise StackError("redis-server is missing, type: sudo apt-get install --no-install-recommends redis-server")
    return found

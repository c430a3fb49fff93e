"""A new version is deployed in the middle of a run."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from simulators import SimulatorOptions
from tests.faults.site import PROJECT, SEED, create, observing, start, until, verify
from tests.pipeline import Site, Sites

WORLD = SimulatorOptions(seed=SEED, seconds_per_call=2, time_scale=2, transcript_lag=1, recording_lag=1, answer_rate=1)
LEADS = 30
OPENS = '            self._task = task = await Steps("", self._tally).run(OPEN_TASK, self._input.task_id)\n'
GUARDED = '            if workflow.patched("a-breath-first"):\n                await workflow.sleep(0.1)\n' + OPENS
UNGUARDED = "            await workflow.sleep(0.1)\n" + OPENS


def version(directory: Path, opens: str) -> Path:
    """A copy of the project whose workflow begins in another way, and whose prompt has another version."""
    shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.png"))
    code, prompt = directory / "workflows/call_task.py", directory / "calltasks/rules/prompts/judgement.zh.md"
    text = code.read_text("utf-8")
    assert text.count(OPENS) == 1
    code.write_text(text.replace(OPENS, opens), "utf-8")
    first, rest = prompt.read_text("utf-8").split("\n", 1)
    prompt.write_text(f"{first}-next\n{rest}", "utf-8")
    return directory


@asynccontextmanager
async def deployed(directory: Path, site: Site, log: Path) -> AsyncIterator[None]:
    """`python worker.py` of this version for as long as the block lasts, then SIGTERM as an operator sends it."""
    with log.open("wb") as file:
        environment = dict(os.environ) | site.environment
        process = await asyncio.create_subprocess_exec(
            sys.executable, "worker.py", cwd=directory, env=environment, stderr=file
        )
        try:
            await until(lambda: b"worker ready" in log.read_bytes(), "the worker is ready")
            yield
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 150) == 0


async def test_a_new_version_takes_over_what_the_old_one_began(sites: Sites, tmp_path: Path) -> None:
    """One after the other, and for a while both; each judges with its own prompt and says so."""
    site = await sites(WORLD)
    new = version(tmp_path / "new", GUARDED)
    logs = tmp_path / "old.log", tmp_path / "new.log"
    first, second = await create(site, LEADS), await create(site, LEADS, first=100)
    with observing(site) as observer:
        async with deployed(PROJECT, site, logs[0]):
            await start(site, first)
            await until(lambda: len(site.follow_ups()) >= 5, "some follow-ups by the old version")
            async with deployed(new, site, logs[1]):
                await start(site, second)
                await until(lambda: len(site.follow_ups()) >= 15, "follow-ups while both run")
        assert len(site.follow_ups()) < 2 * LEADS
        async with deployed(new, site, logs[1]):
            await site.result(first)
            await site.result(second)
    versions = {row["prompt_version"] for row in site.sql("SELECT DISTINCT prompt_version FROM call_analyses")}
    assert len(versions) == 2 and any(version.endswith("-next") for version in versions), versions
    texts = [log.read_text("utf-8") for log in logs]
    await verify(site, {first: LEADS, second: LEADS}, observer, logs=texts)


@pytest.mark.parametrize(("opens", "code"), [(GUARDED, 0), (UNGUARDED, 1)], ids=["guarded", "unguarded"])
async def test_a_change_that_would_break_runs_under_way_fails_the_replay_test(
    tmp_path: Path, opens: str, code: int
) -> None:
    changed = version(tmp_path / "changed", opens)
    test = [sys.executable, "-m", "pytest", "-q", "-x", "tests/test_replay.py", "-k", "recorded_history_replays"]
    done = await asyncio.to_thread(subprocess.run, test, cwd=changed, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout[-2000:]
    assert code == 0 or "Nondeterminism" in done.stdout

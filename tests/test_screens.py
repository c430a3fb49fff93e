"""What operators see of a run and hear of the platform: progress, the watch screen, pause, resume and cancel."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from calltasks.cli import commands, screens
from calltasks.names import MONITOR_SCHEDULE
from calltasks.progress import Progress
from simulators import Fault, SimulatorOptions
from tests.pipeline import QUICK, Site, Sites, eventually
from tests.programs import own_environment

SLOW = SimulatorOptions(time_scale=2, concurrency=2, seconds_per_call=60)
PROJECT = Path(__file__).resolve().parent.parent


async def command(*arguments: object) -> tuple[int, str, str]:
    run = await asyncio.to_thread(
        CliRunner().invoke, commands.app, [str(one) for one in arguments], env={"COLUMNS": "200"}
    )
    return run.exit_code, run.stdout, run.stderr


async def running(site: Site) -> int:
    """A task whose calls take long, and which has some."""
    site.add_leads(6)
    task_id = await site.create_task()
    async with site.calls() as calls:
        await calls.start_call(task_id, QUICK)
    await site.until(task_id, called=6)
    site.enter_environment()
    return task_id


async def test_a_run_that_failed_says_so_and_what_to_do(sites: Sites) -> None:
    site = await sites()
    site.sim.set_faults(Fault(target="CreateJobGroup", kind="permanent", code="NotExist.Script"))
    site.add_leads(3)
    task_id = await site.create_task()
    async with site.working(), site.calls() as calls:
        await calls.start_call(task_id, QUICK)

        async def failed() -> bool:
            return bool((await calls.progress(task_id))["phase"] == "failed")

        await eventually(failed)
        assert "NotExist.Script" in (await site.progress(task_id))["last_error"]
        details = str(await site.handle(task_id).query("__temporal_workflow_metadata"))
        assert f"start-call {task_id}" in details
        code, out, error = await command("progress", task_id)
        assert code == 1 and "failed" in out
        assert "NotExist.Script" in error and f"start-call {task_id}" in error
        code, out, _ = await command("progress", task_id, "--json")
        assert code == 1 and json.loads(out)["phase"] == "failed"
        code, _, error = await command("progress", task_id, "--watch")
        assert code == 1 and "NotExist.Script" in error and "Traceback" not in error
        site.sim.set_faults()
        assert (await site.run(task_id))["outcome"] == "complete"
        code, out, error = await command("progress", task_id, "--json")
        assert (code, error) == (0, "")
        assert list(json.loads(out)) == [field.name for field in fields(Progress)]
        code, out, _ = await command("progress", task_id, "--watch")
        assert (code, out) == (0, "complete\n")


async def test_a_run_that_was_terminated_says_so(sites: Sites) -> None:
    site = await sites(SLOW)
    async with site.working():
        task_id = await running(site)
        await site.handle(task_id).terminate()
        code, out, error = await command("progress", task_id, "--json")
    assert code == 1 and json.loads(out)["phase"] == "terminated" and f"start-call {task_id}" in error


async def test_an_error_is_forgotten_once_the_same_work_succeeds(sites: Sites) -> None:
    site = await sites(SLOW)
    async with site.working():
        task_id = await running(site)
        site.sim.set_faults(Fault(target="ListJobs", kind="permanent", code="Forbidden"))
        async with site.calls() as calls:
            await calls.signal(task_id, "refresh")

            async def said() -> bool:
                return "Forbidden" in (await calls.progress(task_id))["last_error"]

            await eventually(said)
            site.sim.set_faults()
            await calls.signal(task_id, "refresh")

            async def over() -> bool:
                return not (await calls.progress(task_id))["last_error"]

            await eventually(over)


async def test_pause_resume_and_cancel_say_what_the_platform_answered(sites: Sites) -> None:
    site = await sites(SLOW)
    async with site.working():
        task_id = await running(site)
        assert await command("pause", task_id) == (0, "pause: done\n", "")
        assert {job.status for job in site.sim.world.jobs.values()} & {"Paused"}
        code, out, _ = await command("resume", task_id, "--json")
        assert (code, json.loads(out)) == (
            0,
            {"task_id": task_id, "action": "resume", "done": True, "answer": "resume: done"},
        )
        site.sim.set_faults(Fault(target="SuspendJobs", kind="permanent", code="Forbidden.Suspend"))
        code, out, _ = await command("pause", task_id)
        assert code == 1 and out.startswith("pause: the platform did not take it") and "Forbidden.Suspend" in out
        site.sim.set_faults()
        assert (await command("cancel", task_id))[:2] == (0, "cancel: done\n")
        assert (await site.result(task_id))["outcome"] == "cancelled"
        code, _, error = await command("pause", task_id)
        assert code == 1 and "is not running" in error


async def test_a_check_of_the_monitor_says_what_it_does(sites: Sites) -> None:
    site = await sites()
    site.enter_environment()
    code, out, _ = await command("monitor", "check")
    assert code == 0 and "a check has started" in out and f"{MONITOR_SCHEDULE}-check" in out
    assert "the monitor is stopped" in out


async def test_no_help_names_a_directory_of_this_machine() -> None:
    for name in ("evaluate", "start-call", "force-analyze", "progress"):
        _, out, _ = await command(name, "--help")
        assert str(PROJECT) not in out and str(Path.home()) not in out


def test_the_screen_holds_what_one_looks_for() -> None:
    progress = {
        **dict.fromkeys((field.name for field in fields(Progress)), 0),
        **{"task_id": 42, "task_type": 2, "phase": "calling", "leads": 200, "called": 180, "finished": 90},
        **{"by_status": {"Succeeded": 60, "Failed": 30}, "by_interest": {"0": 30, "1": 40, "2": 20}},
        **{
            "follow_ups": 80,
            "analysed": 55,
            "token_ceiling": 5000,
            "over_ceiling": 3,
            "last_error": "a [bold]b[/bold]",
        },
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(screens.screen(progress, trouble="no worker answers"))
    shown = console.export_text()
    for part in ("call task 42: calling", "90 of 180", "Succeeded 60", "interested 40", "of at most 5000", "[bold]b"):
        assert part in shown, shown
    assert "no worker answers" in shown


async def test_the_watch_is_left_by_ctrl_c_without_a_word_too_many(sites: Sites) -> None:
    site = await sites(SLOW)
    async with site.working():
        task_id = await running(site)
        parent, child = pty.openpty()
        environment = {**own_environment(), **site.environment, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "starter.py", "progress", str(task_id), "--watch"),
            cwd=PROJECT,
            env=environment,
            stdout=child,
            stderr=child,
        )
        os.close(child)
        os.set_blocking(parent, False)
        seen = b""

        async def read() -> bool:
            nonlocal seen
            with suppress(OSError):
                seen += os.read(parent, 65536)
            return f"call task {task_id}: calling" in seen.decode("utf-8", "replace")

        try:
            await eventually(read)
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 150) == 1
            await read()
        finally:
            if process.returncode is None:
                process.kill()
            os.close(parent)
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode("utf-8", "replace"))
        assert "interrupted; what was started goes on" in said and "Traceback" not in said
        assert seen.decode("utf-8", "replace").rstrip().count("\x1b[?25h") == 1, "the cursor must come back"
        assert (await site.progress(task_id))["phase"] == "calling"
        await site.handle(task_id).terminate()

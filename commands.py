"""The command line of ``starter.py``: results on stdout, messages on stderr; exit code 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from clients.errors import ServiceError, explain, is_setting
from clients.tables.tasks import UnknownLeadsError
from settings import SettingsError
from starter import CallTasks, NotRunningError, NotStartedError, NoWorkerError, UnknownTaskError
from workflows.options import Options

app = typer.Typer(help="Start and steer call tasks.", no_args_is_help=True, add_completion=False)
monitor = typer.Typer(help="The schedule that takes up what nothing is working on.", no_args_is_help=True)
app.add_typer(monitor, name="monitor")

TaskId = Annotated[int, typer.Argument(min=1, help="Id of the call task.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show progress until it is done.")]
messages = Console(stderr=True)


class WrongUseError(Exception):
    """Arguments that do not go together."""


def run(use: Callable[[CallTasks], Coroutine[Any, Any, Any]], *, temporal: bool = True) -> Any:
    """Open what the environment names, use it, and turn errors into one line and an exit code."""

    async def opened() -> Any:
        async with CallTasks.connect(temporal=temporal) as calls:
            return await use(calls)

    try:
        return asyncio.run(opened())
    except (SettingsError, WrongUseError) as error:
        fail(str(error), 2)
    except ServiceError as error:
        fail(explain(error), 2 if is_setting(error) else 1)
    except (UnknownTaskError, UnknownLeadsError, NotRunningError, NotStartedError, NoWorkerError) as error:
        fail(str(error), 1)
    except WorkflowFailureError as error:
        fail(f"the run failed: {error.cause}", 1)
    except RPCError as error:
        fail(f"Temporal: {error.message}", 1)
    except KeyboardInterrupt:
        fail("interrupted; what was started goes on", 1)


def fail(message: str, code: int) -> None:
    """One line on stderr, and the exit code."""
    print(f"starter: {message}", file=sys.stderr)
    raise typer.Exit(code)


def show(result: dict[str, Any], as_json: bool, line: str) -> None:
    """The result on stdout: as JSON, or as a line for a person."""
    print(json.dumps(result, ensure_ascii=False) if as_json else line)


@app.command("init-db")
def init_db(as_json: Json = False) -> None:
    """Create missing tables and indexes; existing columns are left as they are."""
    created = run(lambda calls: calls.init_db(), temporal=False)
    show({"created": created}, as_json, "\n".join(f"created {name}" for name in created) or "nothing was missing")


@app.command("create-task")
def create_task(
    organization: Annotated[str, typer.Option(help="Organisation whose leads are called.")],
    name: Annotated[str, typer.Option(help="Name of the task.")],
    leads: Annotated[str, typer.Option(help="Ids of leads, separated by commas.")] = "",
    all_leads: Annotated[bool, typer.Option("--all-leads", help="Every lead of the organisation.")] = False,
    as_json: Json = False,
) -> None:
    """Create a call task; prints its id."""
    if bool(leads) == all_leads:
        fail("give either --leads 1,2,3 or --all-leads", 2)
    try:
        ids = None if all_leads else [int(lead) for lead in leads.split(",")]
    except ValueError:
        fail("--leads must be numbers separated by commas, for example 1,2,3", 2)
    task_id = run(lambda calls: calls.create_task(organization, name, ids), temporal=False)
    show({"task_id": task_id}, as_json, str(task_id))


@app.command("start-call")
def start_call(
    task_id: TaskId,
    wait: Wait = False,
    options: Annotated[str, typer.Option(help='How patient, as JSON, for example {"poll_max": 60}.')] = "",
    as_json: Json = False,
) -> None:
    """Start a task's calls, or say that they are running already."""
    try:
        chosen = Options.model_validate_json(options) if options else None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fail(f"--options: {'.'.join(map(str, first['loc']))}: {first['msg']}", 2)

    async def use(calls: CallTasks) -> dict[str, Any]:
        started = await calls.start_call(task_id, chosen)
        messages.print(f"call task {task_id}: " + ("started" if started else "is running already"), highlight=False)
        result = {"task_id": task_id, "workflow_id": f"call-task-{task_id}", "started": started}
        return result | (await watch(calls, task_id) if wait else {})

    result = run(use)
    show(result, as_json, result.get("outcome", result["workflow_id"]))


@app.command("progress")
def progress(
    task_id: TaskId,
    watching: Annotated[bool, typer.Option("--watch", help="Keep showing it until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a task stands."""
    found = run(lambda calls: watch(calls, task_id) if watching else calls.progress(task_id))
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        Console().print(table(found))


@app.command("query-task-execution")
def query_task_execution(
    task_id: TaskId,
    page: Annotated[int, typer.Option(min=1)] = 1,
    page_size: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    with_recording: Annotated[bool, typer.Option("--with-recording", help="Save recordings too.")] = False,
    no_update: Annotated[bool, typer.Option("--no-update", help="Only look.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the platform for one page of a task's calls and save what changed."""
    from activities.executions import NoJobIdsError

    async def use(calls: CallTasks) -> Any:
        try:
            return await calls.query_task_execution(
                task_id, page=page, page_size=page_size, skip_recording=not with_recording, apply_update=not no_update
            )
        except NoJobIdsError:
            return None

    found = run(use, temporal=False)
    if found is None:
        fail(f"call task {task_id} has no job ids yet", 1)
    summary = f"{len(found.jobs_data)} of {found.total} calls, {found.updated_count} rows changed"
    show(dataclasses.asdict(found), as_json, summary)


def _signal(name: str, signal: str, help_text: str) -> None:
    def command(task_id: TaskId, as_json: Json = False) -> None:
        run(lambda calls: calls.signal(task_id, signal))
        show({"task_id": task_id, "signal": signal}, as_json, "requested")

    app.command(name, help=help_text)(command)


_signal("refresh", "refresh", "Look at all calls of a running task now.")
_signal("pause", "pause_calls", "Suspend the platform's dialling for a task.")
_signal("resume", "resume_calls", "Resume the platform's dialling for a task.")
_signal("cancel", "cancel_calls", "Cancel a task's calls that were not made yet.")


def _monitor(action: str, help_text: str) -> None:
    def command(as_json: Json = False) -> None:
        running = run(lambda calls: calls.monitor(action))
        state = "running" if running else "stopped"
        show({"action": action, "is_running": running}, as_json, f"the monitor is {state}")

    monitor.command(action, help=help_text)(command)


_monitor("start", "Check every five minutes.")
_monitor("stop", "Check no more.")
_monitor("check", "Check once, now.")
_monitor("status", "Say whether it is running.")


async def watch(calls: CallTasks, task_id: int) -> dict[str, Any]:
    """Show a task's progress until its run ends; returns the result."""
    ended = asyncio.create_task(calls.result(task_id))
    with Live(console=messages, auto_refresh=False, transient=True) as live:
        while not ended.done():
            live.update(table(await calls.progress(task_id)), refresh=True)
            await asyncio.wait([ended], timeout=1)
    return await ended


def table(progress: dict[str, Any]) -> Table:
    """The progress object as a table."""
    found = Table(title=f"call task {progress['task_id']}", show_header=False)
    for name, value in progress.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        found.add_row(name, "" if shown is None else str(shown))
    return found


def main() -> None:
    """The command line. Ends the process itself: the SDK sometimes aborts at interpreter exit, its work done."""
    from commands_recordings import recordings

    app.add_typer(recordings, name="recordings")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        app()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


# Last, because it registers on what is above.
import commands_judgements  # noqa: E402, F401

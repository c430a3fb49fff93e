"""The command line of ``starter.py``: results on stdout, messages on stderr; exit code 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live

from calltasks.call_tasks import CallTasks
from calltasks.cli import screens
from calltasks.errors import NoWorkerError, TemporalError, ending
from calltasks.names import CANCEL, MONITOR_CHECK, PAUSE, REFRESH, RESUME, workflow_id
from calltasks.options import MOST_CALLS, MOST_DAYS, MOST_TOKENS, Options
from calltasks.platform.strategy import Strategy
from calltasks.platform.strategy import read as read_strategy
from calltasks.progress import ENDED_BADLY
from calltasks.temporal.monitor_schedule import Action

app = typer.Typer(
    help="Start and steer call tasks.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
monitor = typer.Typer(help="The schedule that takes up what nothing is working on.", no_args_is_help=True)
app.add_typer(monitor, name="monitor")

TaskId = Annotated[int, typer.Argument(min=1, help="Id of the call task.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show progress until it is done.")]
messages = Console(stderr=True)


def run(use: Callable[[CallTasks], Coroutine[Any, Any, Any]], *, temporal: bool = True) -> Any:
    """Open what the environment names, use it, and turn errors into one line and an exit code."""

    async def opened() -> Any:
        async with CallTasks.connect(temporal=temporal) as calls:
            return await use(calls)

    try:
        with ending("starter"):
            return asyncio.run(opened())
    except KeyboardInterrupt:
        fail("interrupted; what was started goes on", 1)


def fail(message: str, code: int) -> NoReturn:
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
    ids = None if all_leads else [lead.strip() for lead in leads.split(",")]
    if ids is not None and not all(ids):
        fail("--leads must be ids separated by commas, for example 1,2,3", 2)
    task_id = run(lambda calls: calls.create_task(organization, name, ids), temporal=False)
    show({"task_id": task_id}, as_json, str(task_id))


@app.command("start-call")
def start_call(
    task_id: TaskId,
    wait: Wait = False,
    options: Annotated[str, typer.Option(help='How patient, as JSON, for example {"poll_max": 60}.')] = "",
    token_ceiling: Annotated[
        int | None, typer.Option(min=1, max=MOST_TOKENS, help="Judge calls until so many tokens are spent.")
    ] = None,
    not_called_within: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_DAYS, help="Leave out whom another campaign has called in so many days."),
    ] = None,
    at_most: Annotated[
        int | None, typer.Option(min=0, max=MOST_CALLS, help="Leave out whom others have called so often already ...")
    ] = None,
    in_days: Annotated[int | None, typer.Option("--in", min=0, max=MOST_DAYS, help="... in so many days.")] = None,
    strategy: Annotated[
        Path | None, typer.Option(help="JSON file: the platform's calling hours and attempts (docs/calling-hours.md).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say who would be called, who not, and why.")] = False,
    as_json: Json = False,
) -> None:
    """Start a task's calls, or say that they are running already."""
    if (at_most is None) != (in_days is None):
        fail("--at-most N and --in DAYS go together", 2)
    named: dict[str, Any] = {
        "token_ceiling": token_ceiling,
        "not_called_within": not_called_within,
        "at_most": at_most,
        "in_days": in_days,
        "strategy": None if strategy is None else _strategy(strategy),
    }
    chosen = _options(options, {name: value for name, value in named.items() if value is not None})
    if dry_run:
        found = run(lambda calls: calls.dry_run(task_id, chosen))
        show(dataclasses.asdict(found), as_json, str(found))
        return

    async def use(calls: CallTasks) -> dict[str, Any]:
        start = await calls.start(task_id, chosen)
        running = "is running already" + (", with the options that it was started with" if chosen else "")
        said = ["started" if start.started else running, *filter(None, [start.hours.told])]
        messages.print(f"call task {task_id}: {'; '.join(said)}", highlight=False, soft_wrap=True)
        result = {"task_id": task_id, "workflow_id": workflow_id(task_id), "started": start.started}
        result["dialling_begins"] = start.hours.begins_at
        return result | (await watch(calls, task_id) if wait else {})

    result = run(use)
    show(result, as_json, result.get("outcome", result["workflow_id"]))


def _options(given: str, named: dict[str, Any]) -> Options | None:
    """Those of ``--options``, and those that have an option of the command."""
    try:
        chosen = Options.model_validate_json(given) if given else Options()
        chosen = Options.model_validate(chosen.model_dump(exclude_unset=True) | named)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fail(": ".join(["--options", *filter(None, [".".join(map(str, first["loc"]))]), first["msg"]]), 2)
    return chosen if given or named else None


def _strategy(file: Path) -> Strategy:
    try:
        return read_strategy(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        fail(f"--strategy {file}: {reason}", 2)


@app.command()
def progress(
    task_id: TaskId,
    watching: Annotated[bool, typer.Option("--watch", help="Keep showing it until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a task stands."""
    found = run(lambda calls: watch(calls, task_id) if watching else calls.progress(task_id))
    if as_json:
        print(json.dumps(screens.in_order(found), ensure_ascii=False))
    elif watching:
        print(found.get("outcome", found["phase"]))
    else:
        Console().print(screens.fields(found))
    if found["phase"] in ENDED_BADLY:
        fail(screens.advice(found), 1)


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
    options = {"skip_recording": not with_recording, "apply_update": not no_update}
    found = run(
        lambda calls: calls.query_task_execution(task_id, page=page, page_size=page_size, **options), temporal=False
    )
    summary = f"{len(found.jobs_data)} of {found.total} calls, {found.updated_count} rows changed"
    show(dataclasses.asdict(found), as_json, summary)


@app.command()
def refresh(task_id: TaskId, as_json: Json = False) -> None:
    """Look at all calls of a running task now."""
    run(lambda calls: calls.signal(task_id, REFRESH))
    show({"task_id": task_id, "signal": REFRESH}, as_json, "requested")


def _control(action: str, help_text: str) -> None:
    def command(task_id: TaskId, as_json: Json = False) -> None:
        said = run(lambda calls: calls.control(task_id, action))
        show({"task_id": task_id, "action": action, **said}, as_json, said["answer"])
        if said["done"] is False:
            raise typer.Exit(1)

    app.command(action, help=help_text)(command)


_control(PAUSE, "Suspend the platform's dialling for a task; says what the platform answered.")
_control(RESUME, "Resume the platform's dialling for a task; says what the platform answered.")
_control(CANCEL, "Cancel a task's calls that were not made yet; says what the platform answered.")

CHECKING = "a check has started: every task of type 2 or 3 with a job group that nothing works on is taken up"


def _monitor(action: Action, help_text: str) -> None:
    def command(as_json: Json = False) -> None:
        state = run(lambda calls: calls.monitor(action))
        line = f"{CHECKING} (Temporal UI: {MONITOR_CHECK}); {state}" if action == "check" else str(state)
        show(dataclasses.asdict(state), as_json, line)

    monitor.command(action, help=help_text)(command)


_monitor("start", "Check every five minutes.")
_monitor("stop", "Check no more.")
_monitor("check", "Check once, now: take up every task of type 2 or 3 that nothing works on.")
_monitor("status", "Say whether it is running.")


AWAY = (NoWorkerError, TemporalError)


async def watch(calls: CallTasks, task_id: int) -> dict[str, Any]:
    """Show a task's progress until its run ends; returns the result. A worker or server that is away for a while is
    said and waited for."""
    seen = await calls.progress(task_id)
    trouble = ""
    with Live(screens.screen(seen), console=messages, auto_refresh=False) as live:
        ended = asyncio.create_task(calls.result(task_id))
        while True:
            await asyncio.wait([ended], timeout=1)
            if ended.done() and not isinstance(ended.exception(), AWAY):
                break
            try:
                if ended.done():
                    ended = asyncio.create_task(calls.result(task_id))
                seen, trouble = await calls.progress(task_id), ""
            except AWAY as error:
                trouble = str(error) if isinstance(error, NoWorkerError) else "Temporal does not answer"
            live.update(screens.screen(seen, trouble=trouble), refresh=True)
        if ended.exception() is None:
            live.update(screens.screen(seen | ended.result()), refresh=True)
    return await ended


def main() -> None:
    """The command line. Ends the process itself: the SDK sometimes aborts at interpreter exit, its work done."""
    from calltasks.cli.events import events
    from calltasks.cli.recordings import recordings

    app.add_typer(events, name="events")
    app.add_typer(recordings, name="recordings")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        app()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


# Last, because they register on what is above.
from calltasks.cli import judgements as commands_judgements  # noqa: E402, F401
from calltasks.cli import opt_outs as commands_opt_outs  # noqa: E402, F401

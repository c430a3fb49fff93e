"""``starter.py recordings …``: the archive of recordings (docs/recordings.md)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calltasks.call_tasks import CallTasks
from calltasks.cli.commands import Json, fail, messages, run, show
from calltasks.errors import SettingsError
from calltasks.settings import ArchiveSettings, load

if TYPE_CHECKING:
    from calltasks.recordings.archiving import Archived

recordings = typer.Typer(help="The archive of recordings.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")]


@recordings.command("archive")
def archive_command(
    task: Annotated[int | None, typer.Option(min=1, help="Only this call task; all without it.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy to the archive what succeeded calls have elsewhere or lack; safe to interrupt and to repeat."""
    from calltasks.recordings.archiving import archive_older

    async def use(calls: CallTasks) -> dict[str, Any]:
        if task is not None:
            await calls.task(task)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as shown:
            bar = shown.add_task("recordings", total=None)

            def on_progress(so_far: Archived) -> None:
                shown.update(bar, completed=so_far.done, total=so_far.calls)
                if not messages.is_terminal:
                    messages.print(f"recordings: {so_far.done} of {so_far.calls}", highlight=False)

            archived = await archive_older(calls.clients, task_id=task, dry_run=dry_run, on_progress=on_progress)
        return dataclasses.asdict(archived)

    result = run(use, temporal=False)
    if dry_run:
        line = f"{result['calls']} calls are not in the archive, {result['vendor_urls']} of them have another link"
    else:
        done = f"{result['archived']} archived, {result['without_recording']} without a recording"
        line = f"{done}, {result['failed']} failed"
    show(result, as_json, line)
    if result["failed"]:
        fail(f"{result['failed']} recordings could not be archived ({result['error']}); the same again retries them", 1)


@recordings.command("prune")
def prune_command(
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Keep so many days; default RECORDING_RETENTION_DAYS.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete archived recordings of calls older than some days, and empty the links to them."""
    from calltasks.recordings.archiving import prune_older

    async def use(calls: CallTasks) -> dict[str, Any]:
        kept = days or load(ArchiveSettings).recording_retention_days
        if kept is None:
            raise SettingsError("settings: give --days, or set RECORDING_RETENTION_DAYS")
        with messages.status("looking through the archive") as status:
            pruned = await prune_older(
                calls.clients,
                days=kept,
                dry_run=dry_run,
                on_progress=lambda so_far: status.update(f"{so_far.files} recordings of {so_far.tasks} tasks"),
            )
        return dataclasses.asdict(pruned)

    result = run(use, temporal=False)
    what = "would be deleted" if dry_run else "deleted"
    size = f"{result['bytes'] / 1_000_000:.1f} MB"
    show(result, as_json, f"{result['files']} recordings ({size}) older than {result['days']} days {what}")

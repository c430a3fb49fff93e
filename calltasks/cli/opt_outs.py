"""``starter.py opt-outs …``: the numbers that an organisation does not call (docs/opt-outs.md)."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from calltasks.call_tasks import CallTasks
from calltasks.cli.commands import Json, app, fail, messages, run, show
from calltasks.database.tables.opt_outs import Kind
from calltasks.opt_outs import Imported, tell

opt_outs = typer.Typer(help="The numbers that an organisation does not call.", no_args_is_help=True)
app.add_typer(opt_outs, name="opt-outs")


def _user() -> str:
    """Who types this; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


Organization = Annotated[str, typer.Option(help="Whose numbers.")]
Phone = Annotated[str, typer.Argument(help="The number, as people write it.", show_default=False)]
By = Annotated[str, typer.Option(help="Who says so; default: the user who types it.", show_default=False)]


@opt_outs.command("list")
def list_command(
    organization: Organization,
    disputed: Annotated[
        bool, typer.Option("--disputed", help="Those whose call, judged again, has no refusal in it any more.")
    ] = False,
    lifted: Annotated[bool, typer.Option("--lifted", help="Those that may be called again.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Standing and lifted ones.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Behind the one with this id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Show who is not called, by whose word, and why; in the order in which they were entered."""
    if disputed + lifted + everything > 1:
        fail("give one of --disputed, --lifted and --all", 2)
    kind: Kind = "disputed" if disputed else "lifted" if lifted else "all" if everything else "standing"

    async def use(calls: CallTasks) -> list[dict[str, Any]]:
        found = await calls.opt_outs(organization, kind=kind, after=after, limit=limit)
        return [tell(one, calls.database) for one in found]

    found = run(use, temporal=False)
    following = found[-1]["id"] if len(found) == limit else None
    if as_json:
        print(json.dumps({"opt_outs": found, "next": following}, ensure_ascii=False))
        return
    _show(found)
    if following is not None:
        messages.print(f"there may be more: --after {following}", highlight=False)


def _show(found: list[dict[str, Any]]) -> None:
    table = Table("id", "number", "since", "by", Column("sentence or reason", overflow="fold", ratio=1), "")
    for one in found:
        who = one["created_by"] if one["source"] != "call" else f"call {one['call_job_id']}"
        state = f"disputed\n{one['disputed_at'][:10]}" if one["disputed_at"] else ""
        if not one["standing"]:
            state = f"lifted {one['lifted_at'][:10]}\n{one['lifted_by']}\n{one['lift_reason']}"
        table.add_row(str(one["id"]), one["phone"], one["created_at"][:10], who, one["evidence"], state)
    Console(highlight=False, markup=False).print(table if found else "none")


@opt_outs.command("check")
def check_command(organization: Organization, phone: Phone, as_json: Json = False) -> None:
    """Say whether the organisation may call a number."""

    async def use(calls: CallTasks) -> dict[str, Any] | None:
        found = await calls.check_opt_out(organization, phone)
        return None if found is None else tell(found, calls.database)

    found = run(use, temporal=False)
    result = {"opted_out": found is not None, "opt_out": found}
    show(result, as_json, f"opted out since {found['created_at'][:10]}, id {found['id']}" if found else "may be called")


@opt_outs.command("add")
def add_command(
    organization: Organization,
    phone: Phone,
    reason: Annotated[str, typer.Option(help="Why, or how it was said.")] = "",
    by: By = "",
    as_json: Json = False,
) -> None:
    """Let no campaign of the organisation call a number any more."""

    async def use(calls: CallTasks) -> bool:
        await calls.expect_organization(organization)
        return await calls.add_opt_out(organization, phone, reason, by=by or _user())

    added = run(use, temporal=False)
    show({"added": added}, as_json, "added" if added else "it was opted out already")


@opt_outs.command("lift")
def lift_command(
    organization: Organization,
    phone: Phone,
    reason: Annotated[str, typer.Option(help="Why it may be called again.")],
    by: By = "",
    as_json: Json = False,
) -> None:
    """Let a number be called again."""

    async def use(calls: CallTasks) -> dict[str, Any]:
        return tell(await calls.lift_opt_out(organization, phone, reason, by=by or _user()), calls.database)

    show({"lifted": True, "opt_out": run(use, temporal=False)}, as_json, "lifted")


@opt_outs.command("import")
def import_command(
    organization: Organization,
    file: Annotated[Path, typer.Argument(help="CSV: phone,reason, or a number a line.", exists=True, dir_okay=False)],
    by: By = "",
    as_json: Json = False,
) -> None:
    """Add the numbers of a list, all of them or none."""
    data = file.read_bytes()

    async def use(calls: CallTasks) -> Imported:
        await calls.expect_organization(organization)
        return await calls.import_opt_outs(organization, data, by=by or _user())

    done: Imported = run(use, temporal=False)
    line = f"{done.numbers} numbers, {done.added} added, {done.numbers - done.added} were opted out already"
    show(dataclasses.asdict(done), as_json, line)


@opt_outs.command("export")
def export_command(
    organization: Organization,
    file: Annotated[Path | None, typer.Argument(help="Where to; without it, stdout.", dir_okay=False)] = None,
    as_json: Json = False,
) -> None:
    """Write the standing numbers as CSV, for other systems that dial."""
    if as_json and file is None:
        fail("--json says how many were written: give the file", 2)
    if file is None:
        count = run(lambda calls: calls.export_opt_outs(organization, sys.stdout.write), temporal=False)
        messages.print(f"{count} exported", highlight=False)
        return
    # Nobody else of this machine is to read it; and it is there whole or not at all.
    part = file.with_name(f"{file.name}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", newline="") as to:
            count = run(lambda calls: calls.export_opt_outs(organization, to.write), temporal=False)
        part.replace(file)
    except OSError as error:
        fail(f"{file}: {error.strerror}", 1)
    finally:
        part.unlink(missing_ok=True)
    show({"exported": count}, as_json, f"{count} exported")

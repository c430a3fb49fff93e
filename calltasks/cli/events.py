"""``starter.py events …``: subscriptions to events (docs/events.md)."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import Annotated, Any

import typer

from calltasks.call_tasks import CallTasks
from calltasks.cli.commands import Json, fail, run, show
from calltasks.events.subscriptions import Subscribed

events = typer.Typer(help="Who is told what happens.", no_args_is_help=True)

Organization = Annotated[str, typer.Option(help="Organisation whose events they are.")]
Id = Annotated[int, typer.Argument(min=1, help="Id of the subscription.")]
_SINCE = (
    "From this moment on, such as 2026-11-30 or 2026-11-30T08:00, on the clock of TIME_ZONE unless it names its own."
)


@events.command("subscribe")
def subscribe_command(
    url: Annotated[str, typer.Argument(help="Where events are sent: https, a public address.")],
    organization: Organization,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind (repeatable); all without it.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Up to 500 events in a request.")] = False,
    personal_data: Annotated[bool, typer.Option("--personal-data", help="With remark and evidence.")] = False,
    since: Annotated[str, typer.Option(metavar="MOMENT", help=_SINCE)] = "",
    as_json: Json = False,
) -> None:
    """Have an organisation's events sent to a URL; prints the secret that signs them, this once."""
    moment = _moment(since) if since else None

    async def use(calls: CallTasks) -> Subscribed:
        return await calls.events.subscribe(
            organization,
            url,
            kinds=kind or (),
            batch=batch,
            personal_data=personal_data,
            since=moment and _in_zone(moment, calls),
        )

    _show_secret(run(use), as_json)


@events.command("list")
def list_command(organization: Organization, as_json: Json = False) -> None:
    """Show an organisation's subscriptions: how far each is, what failed, what was given up."""
    found = run(lambda calls: calls.events.subscriptions(organization), temporal=False)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for one in found:
        trouble = f", {one['last_error']}, next try {one['next_try_at']}" if one["failures"] else ""
        counts = f"{one['delivered']} delivered, {one['waiting']} waiting, {one['dead']} given up"
        print(f"{one['id']} {one['url']} {one['state']}: {counts}{trouble}")


@events.command("unsubscribe")
def unsubscribe_command(subscription: Id, organization: Organization, as_json: Json = False) -> None:
    """Send no more to a receiver."""
    run(lambda calls: calls.events.unsubscribe(organization, subscription), temporal=False)
    show({"id": subscription}, as_json, "unsubscribed")


@events.command("rotate")
def rotate_command(subscription: Id, organization: Organization, as_json: Json = False) -> None:
    """Make a new secret, and print it; for a day the old one signs too."""
    _show_secret(run(lambda calls: calls.events.rotate(organization, subscription), temporal=False), as_json)


@events.command("replay")
def replay_command(
    subscription: Id,
    organization: Organization,
    since: Annotated[str, typer.Option(metavar="MOMENT", help=_SINCE)],
    as_json: Json = False,
) -> None:
    """Send everything since a moment once more, also what was given up; events are kept for 30 days."""
    moment = _moment(since)
    run(lambda calls: calls.events.replay(organization, subscription, _in_zone(moment, calls)))
    show({"id": subscription, "since": since}, as_json, f"told again since {since}")


@events.command("test")
def test_command(subscription: Id, organization: Organization, as_json: Json = False) -> None:
    """Send a test event to a receiver, from here; exit code 1 if it does not take it."""
    error = run(lambda calls: calls.events.test(organization, subscription), temporal=False)
    show({"id": subscription, "error": error}, as_json, "the receiver took it" if not error else "")
    if error:
        fail(f"the receiver did not take it: {error}", 1)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        fail("--since must be a moment such as 2026-11-30, 2026-11-30T08:00 or 2026-11-30T00:00Z", 2)


def _in_zone(moment: datetime, calls: CallTasks) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=calls.database.zone)


def _show_secret(made: Subscribed, as_json: bool) -> None:
    result: dict[str, Any] = dataclasses.asdict(made)
    show(result, as_json, f"subscription {made.id}; its secret, which is not shown again: {made.secret}")

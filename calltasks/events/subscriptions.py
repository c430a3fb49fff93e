"""What a backend does with its subscriptions to events (rule 12.3): ``calls.events``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from calltasks.database.tables import event_subscriptions as table
from calltasks.database.tables.event_subscriptions import Subscription
from calltasks.database.tables.events import KINDS
from calltasks.errors import TemporalError, UnknownSubscriptionError, WrongUseError
from calltasks.names import CALL_TASKS, EVENTS, EVENTS_WORKFLOW
from calltasks.settings import EncryptionSettings, load
from calltasks.temporal.encryption import DecryptionError, opened, sealed

if TYPE_CHECKING:
    from calltasks.wiring import Clients


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """A new subscription, or a new secret of one. The secret is shown this once."""

    id: int
    secret: str


class Events:
    """An organisation's subscriptions. ``client``: None where only the database is used."""

    def __init__(self, clients: Clients, client: Client | None) -> None:
        self._clients = clients
        self._database = clients.database
        self._client = client

    async def subscribe(
        self,
        organization_id: str,
        url: str,
        *,
        kinds: Sequence[str] = (),
        batch: bool = False,
        personal_data: bool = False,
        since: datetime | None = None,
    ) -> Subscribed:
        """Have events sent to a URL.

        Args:
            organization_id: whose events.
            url: https, of a host with public addresses; what EVENTS_NETWORKS allows too.
            kinds: which; none: all.
            batch: up to 500 in a request.
            personal_data: with what follow-ups say.
            since: from when on; None: a minute ago. Naive is UTC.

        Raises:
            WrongUseError: the URL, a kind or the moment is none, or the organisation has as many as it may.
        """
        from calltasks.events import messages, receivers

        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise WrongUseError(f"kinds: there is no {ascii(unknown[0])[:40]}, but {', '.join(KINDS)}")
        from_then = None if since is None else _utc(since)
        await receivers.check(url, self._clients.event_networks)
        await self._begin()
        secret = messages.new_secret()
        id_ = await self._database.transaction(
            table.add,
            organization_id,
            url=url,
            kinds=[kind for kind in KINDS if kind in kinds or not kinds],
            batch=batch,
            personal_data=personal_data,
            secret=_sealed(secret),
            since=from_then,
        )
        return Subscribed(id=id_, secret=secret)

    async def _begin(self) -> None:
        if self._client is not None:
            try:
                await start_delivery(self._client)
            except RPCError as error:
                raise TemporalError(error.status.name, error.message) from None

    async def subscriptions(self, organization_id: str) -> list[dict[str, Any]]:
        """The organisation's subscriptions, and how far each is; never their secrets."""
        found = await self._database.run(table.of, organization_id)
        return [shown(subscription, behind) for subscription, behind in found]

    async def unsubscribe(self, organization_id: str, subscription_id: int) -> None:
        """Tell this receiver no more.

        Raises:
            UnknownSubscriptionError: there is no such subscription.
        """
        _known(await self._database.run(table.remove, organization_id, subscription_id), subscription_id)

    async def rotate(self, organization_id: str, subscription_id: int) -> Subscribed:
        """Sign by a new secret from now on, and for a day by the old one too.

        Raises:
            UnknownSubscriptionError: there is no such subscription.
        """
        from calltasks.events import messages

        secret = messages.new_secret()
        done = await self._database.run(table.rotate, organization_id, subscription_id, _sealed(secret))
        _known(done, subscription_id)
        return Subscribed(id=subscription_id, secret=secret)

    async def replay(self, organization_id: str, subscription_id: int, since: datetime) -> None:
        """Tell everything since then once more, in order; a receiver that wanted no more is told again.

        Raises:
            UnknownSubscriptionError: there is no such subscription.
            WrongUseError: there is no such moment.
        """
        moment = _utc(since)
        await self._begin()
        _known(await self._database.run(table.replay, organization_id, subscription_id, moment), subscription_id)

    async def test(self, organization_id: str, subscription_id: int) -> str:
        """Send an ``events.test`` to the receiver, from this process; returns what is wrong, or ``""``.

        Raises:
            UnknownSubscriptionError: there is no such subscription.
        """
        from calltasks.events import messages

        found = await self._database.run(table.of, organization_id, subscription_id)
        _known(bool(found), subscription_id)
        subscription, now = found[0][0], datetime.now(UTC)
        message = messages.test_message(subscription_id, now)
        headers = message.headers(valid_secrets(subscription, now), now)
        return (await self._clients.receivers.post(subscription.url, message.body, headers)).error


async def start_delivery(client: Client) -> None:
    """Start the one run that tells receivers, unless it is running."""
    await client.start_workflow(
        EVENTS_WORKFLOW, id=EVENTS, task_queue=CALL_TASKS, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
    )


def valid_secrets(subscription: Subscription, now: datetime) -> list[str]:
    """The secrets to sign by; ``now``: UTC."""
    keys = load(EncryptionSettings).keys
    secrets = [opened(subscription.secret, keys)]
    if subscription.old_until and now.replace(tzinfo=None) < subscription.old_until:
        # One whose key is gone is why there is a new one.
        with suppress(DecryptionError):
            secrets.append(opened(subscription.old_secret, keys))
    return secrets


def shown(subscription: Subscription, behind: int) -> dict[str, Any]:
    """A subscription for its owner: no secret; times as ISO 8601."""
    state = "ended" if subscription.ended_at else "failing" if subscription.failures else "active"
    fields = ("id", "url", "kinds", "batch", "personal_data", "delivered", "dead", "failures", "last_error")
    times = {"next_try_at": subscription.due_at if state == "failing" else None, "created_at": subscription.created_at}
    return {
        **{name: getattr(subscription, name) for name in fields},
        **{name: None if at is None else at.replace(tzinfo=UTC).isoformat() for name, at in times.items()},
        "state": state,
        "waiting": 0 if subscription.ended_at else behind,
    }


def _sealed(secret: str) -> str:
    return sealed(secret, load(EncryptionSettings).keys)


def _utc(moment: datetime) -> datetime:
    """As the database holds it: naive."""
    try:
        there = moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        there = datetime.min
    if there.year < 1970:
        raise WrongUseError("since: must be a moment between 1970 and 9999")
    return there


def _known(done: bool, subscription_id: int) -> None:
    if not done:
        raise UnknownSubscriptionError(subscription_id)

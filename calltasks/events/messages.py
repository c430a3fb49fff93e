"""What a receiver is sent, and its signature: Standard Webhooks (rule 12.3)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from calltasks.database.connection import to_json
from calltasks.database.tables.event_subscriptions import Told

BATCH = 500
"""Events of one request, where a subscription asks for batches."""
BODY_BYTES = 900_000
"""A body holds no more, but for one event: many servers take a megabyte."""
TEST = "events.test"
"""The kind of what ``events test`` sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One request. ``holds``: how many events are in it."""

    message_id: str
    body: str
    holds: int

    def headers(self, keys: Sequence[str], now: datetime) -> dict[str, str]:
        """Signed by each of these secrets; ``now``: UTC."""
        return {
            "content-type": "application/json",
            "webhook-id": self.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Webhook(key).sign(self.message_id, now, self.body) for key in keys),
        }


def new_secret() -> str:
    """A secret as the standard spells it."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def message(told: Sequence[Told], *, batch: bool) -> Message:
    """The first of these events, or as many of them as one body holds."""
    first = _event(told[0])
    if not batch:
        return Message(message_id=told[0].event_id, body=first, holds=1)
    events, size = [first], len(first.encode())
    for one in told[1:]:
        event = _event(one)
        size += len(event.encode()) + 1
        if size > BODY_BYTES:
            break
        events.append(event)
    ids = "\n".join(one.event_id for one in told[: len(events)])
    return Message(
        message_id=f"bat_{hashlib.sha256(ids.encode()).hexdigest()[:32]}",
        body=f'{{"type":"batch","timestamp":"{_moment(told[0].created_at)}","events":[{",".join(events)}]}}',
        holds=len(events),
    )


def test_message(subscription_id: int, now: datetime) -> Message:
    """What tells a receiver that it is reached; ``now``: UTC."""
    id_ = f"tst_{secrets.token_hex(16)}"
    body: dict[str, Any] = {
        "id": id_,
        "type": TEST,
        "timestamp": _moment(now),
        "data": {"subscription": subscription_id},
    }
    return Message(message_id=id_, body=to_json(body), holds=0)


def _event(one: Told) -> str:
    return to_json(
        {
            "id": one.event_id,
            "type": one.kind,
            "timestamp": _moment(one.created_at),
            "sequence": one.position,
            "data": one.data,
        }
    )


def _moment(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")

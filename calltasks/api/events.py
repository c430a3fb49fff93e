"""Subscriptions to events over HTTP (rule 12.3)."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    StringConstraints,
    WithJsonSchema,
)

from calltasks.api import examples, messages
from calltasks.api.access import Organization
from calltasks.api.answers import Answer, success
from calltasks.api.endpoints import Calls
from calltasks.database.tables.events import KINDS

router = APIRouter(redirect_slashes=False)
PATH = "/event-subscriptions"


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}")
    return kind


Kind = Annotated[StrictStr, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": list(KINDS)})]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[\x21-\x7e]+$", strict=True)]


class SubscribeRequest(messages.Request):
    """What to be told, and where."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"url": "https://crm.example.com/events"},
                {"url": "https://crm.example.com/events", "kinds": ["task.complete", "task.failed"]},
                {"url": "https://crm.example.com/events", "batch": True, "personal_data": True},
            ]
        }
    )

    url: Url = Field(description="https, of a host that has public addresses.")
    kinds: list[Kind] = Field(default=[], max_length=50, description="Which events; none: all.")
    batch: StrictBool = Field(default=False, description="Up to 500 events in a request.")
    personal_data: StrictBool = Field(default=False, description="With what follow-ups say, and why.")
    since: AwareDatetime | None = Field(default=None, description="From when on; without it: from a minute ago.")


class Subscribed(BaseModel):
    """The new subscription. The secret is shown this once."""

    id: int
    secret: str


class Subscription(BaseModel):
    """A subscription, and how far it is. ``dead``: events that were given up; ``waiting``: how many are to be sent."""

    id: int
    url: str
    kinds: list[str]
    batch: bool
    personal_data: bool
    state: Literal["active", "failing", "ended"]
    waiting: int
    delivered: int
    dead: int
    failures: int
    last_error: str
    next_try_at: datetime | None
    created_at: datetime


class Removed(BaseModel):
    """It is told no more."""

    id: int


@router.post(
    PATH,
    summary="Have events sent",
    response_model=messages.Success[Subscribed],
    responses=examples.responses(examples.SUBSCRIBED, 403),
)
async def subscribe(body: SubscribeRequest, organization: Organization, calls: Calls) -> Answer:
    """Have the organisation's events sent to a URL, signed by the secret of the answer (Standard Webhooks)."""
    body.check(organization)
    made = await calls.events.subscribe(
        organization,
        body.url,
        kinds=body.kinds,
        batch=body.batch,
        personal_data=body.personal_data,
        since=body.since,
    )
    return success(dataclasses.asdict(made), "subscribed; the secret is not shown again")


@router.get(
    PATH,
    summary="Who is told",
    response_model=messages.Success[list[Subscription]],
    responses=examples.responses(examples.SUBSCRIPTIONS),
)
async def subscriptions(organization: Organization, calls: Calls) -> Answer:
    """The organisation's subscriptions, and how far each is."""
    found = await calls.events.subscriptions(organization)
    return success(found, f"subscriptions: {len(found)}")


@router.delete(
    PATH,
    summary="Have no more events sent",
    response_model=messages.Success[Removed],
    responses=examples.responses(examples.UNSUBSCRIBED, 404),
)
async def unsubscribe(
    subscription_id: Annotated[messages.Id, Query(alias="id", description="Id of the subscription.", examples=[7])],
    organization: Organization,
    calls: Calls,
) -> Answer:
    """Send no more to this receiver."""
    await calls.events.unsubscribe(organization, subscription_id)
    return success({"id": subscription_id}, "unsubscribed")

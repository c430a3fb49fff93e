"""The endpoints on numbers that the caller's organisation does not call (rules 11.5 and 19.1)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, StringConstraints

from calltasks.api import examples, messages
from calltasks.api.access import Organization
from calltasks.api.answers import Answer, success
from calltasks.api.endpoints import Calls
from calltasks.database.tables.opt_outs import Kind
from calltasks.opt_outs import MOST_BY, tell
from calltasks.rules.opt_out_lists import MOST_REASON

BY = "http"
"""Who says so where a request does not name anybody."""

router = APIRouter(redirect_slashes=False)


def _plus(value: Any) -> Any:
    """In a query ``+`` is a blank: ``?phone=+8613900000001`` is meant as it looks."""
    return f"+{value[1:]}" if isinstance(value, str) and value.startswith(" ") else value


def _written(value: Any) -> Any:
    """A number that was sent as one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# What no number is, more than a pattern can tell, is refused later. The plainest form is what the specification shows.
_FORM = {"pattern": r"^(\+86)?1[3-9][0-9]{9}$", "examples": ["13900000001"]}
Phone = Annotated[
    StrictStr, BeforeValidator(_written), Field(json_schema_extra=_FORM, description="As people write it.")
]
Reason = Annotated[str, StringConstraints(max_length=MOST_REASON, strict=True)]
Said = Annotated[Reason, StringConstraints(pattern=r"[^\x00-\x20\x7f-\x9f\s]")]
By = Annotated[str, StringConstraints(max_length=MOST_BY, strict=True)]


class PhoneRequest(messages.Request):
    """Names a number."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"phone": "13900000001", "reason": "asked by letter"}]})

    phone: Phone
    by: By = Field(default=BY, description="Who says so.")


class AddRequest(PhoneRequest):
    """A number that is not to be called any more."""

    reason: Reason = Field(default="", description="Why, or how it was said.")


class LiftRequest(PhoneRequest):
    """A number that may be called again."""

    reason: Said = Field(description="Why it may be called again.")


class OptOut(BaseModel):
    """An entry. ``source``: ``call``, ``person`` or ``import``; ``evidence``: the customer's sentence, or a reason."""

    id: int
    phone: str
    standing: bool
    source: str
    evidence: str
    created_by: str
    created_at: str
    task_id: int | None
    list_id: int | None
    call_job_id: str | None
    disputed_at: str | None
    lifted_at: str | None
    lifted_by: str | None
    lift_reason: str | None


class Listed(BaseModel):
    """``next``: what to ask for ``after``; null at the end."""

    opt_outs: list[OptOut]
    next: int | None


class Added(BaseModel):
    """``added`` is false if it stood already."""

    added: bool


class Checked(BaseModel):
    """Whether the number is opted out, and by which entry."""

    opted_out: bool
    opt_out: OptOut | None


@router.get(
    "/opt-outs",
    summary="List who is not called",
    response_model=messages.Success[Listed],
    responses=examples.responses(examples.OPT_OUTS),
)
async def list_opt_outs(
    organization: Organization,
    calls: Calls,
    show: Annotated[Kind, Query(description="Which ones; disputed ones stand.")] = "standing",
    after: Annotated[int, Query(ge=0, le=9 * 10**18, description="Behind the one with this id.")] = 0,
    page_size: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
) -> Answer:
    """Numbers of the caller's organisation in the order in which they were entered."""
    found = await calls.opt_outs(organization, kind=show, after=after, limit=page_size)
    following = found[-1].id if len(found) == page_size else None
    data = {"opt_outs": [tell(one, calls.database) for one in found], "next": following}
    return success(data, f"opt-outs: {len(found)}")


@router.post(
    "/opt-outs",
    summary="Do not call a number any more",
    response_model=messages.Success[Added],
    responses=examples.responses(examples.OPTED_OUT, 403),
)
async def add_opt_out(body: AddRequest, organization: Organization, calls: Calls) -> Answer:
    """No campaign of the organisation calls it from now on. Asking again is harmless."""
    body.check(organization)
    added = await calls.add_opt_out(organization, body.phone, body.reason, by=body.by)
    return success({"added": added}, "opted out" if added else "it was opted out already")


@router.post(
    "/opt-outs/lift",
    summary="Call a number again",
    response_model=messages.Success[OptOut],
    responses=examples.responses(examples.LIFTED, 403, 404),
)
async def lift_opt_out(body: LiftRequest, organization: Organization, calls: Calls) -> Answer:
    """Campaigns may call it again; the entry stays, with who lifted it and why."""
    body.check(organization)
    lifted = await calls.lift_opt_out(organization, body.phone, body.reason, by=body.by)
    return success(tell(lifted, calls.database), "lifted")


@router.get(
    "/opt-outs/check",
    summary="Whether a number may be called",
    response_model=messages.Success[Checked],
    responses=examples.responses(examples.CHECKED),
)
async def check_opt_out(
    phone: Annotated[str, BeforeValidator(_plus), Query(json_schema_extra=_FORM, description="As people write it.")],
    organization: Organization,
    calls: Calls,
) -> Answer:
    """What campaigns of the caller's organisation do about a number."""
    found = await calls.check_opt_out(organization, phone)
    data = {"opted_out": found is not None, "opt_out": None if found is None else tell(found, calls.database)}
    return success(data, "opted out" if found else "may be called")

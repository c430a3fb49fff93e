"""Bodies of requests and answers. Fields that a request has beyond these are ignored."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from calltasks.errors import ForeignOrganizationError, WrongUseError
from calltasks.options import MOST_CALLS, MOST_DAYS, MOST_TOKENS, Options
from calltasks.platform.strategy import Strategy, complaint
from calltasks.rules.reanalysis import Day, PromptVersion, Reanalysis, check_which

T = TypeVar("T")


def _integer(value: Any) -> Any:
    """To JSON, 7.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A whole number from 1 to ``maximum``, as a JSON number or, as old front ends send it, as text of ``digits``.

    A text of ``names`` is taken as it is.
    """

    maximum: int
    digits: str
    names: str = ""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number = {"type": "integer", "minimum": 1, "maximum": self.maximum}
        return {"anyOf": [number, {"type": "string", "pattern": f"^({self.digits}{self.names and '|' + self.names})$"}]}

    def _read(self, value: Any) -> int | str:
        if self.names and isinstance(value, str) and re.fullmatch(self.names, value):
            return value
        number = int(value) if isinstance(value, str) and re.fullmatch(self.digits, value) else _integer(value)
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= self.maximum:
            raise PydanticCustomError("whole_number", "must be a whole number from 1 to {maximum}", asdict(self))
        return number


# The specification holds limits as floating-point numbers: this is a round one just below that of a BIGINT.
DIGITS = "[1-9][0-9]{0,17}|[1-8][0-9]{18}|90{18}"
Id = Annotated[int, Whole(maximum=9 * 10**18, digits=DIGITS)]
# Not in every CRM are leads numbers.
LeadId = Annotated[
    int | str, Whole(maximum=9 * 10**18, digits=DIGITS, names="[0-9_-]{0,20}[A-Za-z][A-Za-z0-9_-]{0,40}")
]
Page = Annotated[int, Whole(maximum=10**9 - 1, digits="[1-9][0-9]{0,8}")]
Tokens = Annotated[int, Whole(maximum=MOST_TOKENS, digits="[1-9][0-9]{0,11}|10{12}")]
PageSize = Annotated[int, Whole(maximum=1000, digits="[1-9][0-9]{0,2}|1000")]
# NUL and other control characters have no business in a name; neither has a name without anything to see.
_VISIBLE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f\s][^\x00-\x1f\x7f]*$"
TaskName = Annotated[str, StringConstraints(max_length=255, pattern=_VISIBLE, strict=True)]
JobId = Annotated[str, StringConstraints(min_length=1, max_length=64, strict=True)]


class Request(BaseModel):
    """What every body may hold."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    organization_id: StrictStr | Annotated[StrictInt, BeforeValidator(_integer)] = Field(
        default="", description="Not needed: the token says it. If it is there, it must be the token's."
    )

    def check(self, organization: str) -> None:
        """Raise :class:`ForeignOrganizationError` if the body names another organisation."""
        if "organization_id" in self.model_fields_set and str(self.organization_id) != organization:
            raise ForeignOrganizationError


class CreateRequest(Request):
    """Which leads to call: either named ones or all."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task_name": "spring sale", "all_leads": True},
                {"task_name": "spring sale", "leads_ids": [1, 2, 3]},
            ],
            "oneOf": [
                {
                    "required": ["leads_ids"],
                    "properties": {"leads_ids": {"minItems": 1}, "all_leads": {"const": False}},
                },
                {
                    "required": ["all_leads"],
                    "properties": {"leads_ids": {"maxItems": 0}, "all_leads": {"const": True}},
                },
            ],
        }
    )

    task_name: TaskName = Field(description="What the campaign is called.")
    leads_ids: list[LeadId] = Field(default=[], description="Leads of the organisation; each is called once.")
    all_leads: StrictBool = Field(default=False, description="Every lead of the organisation.")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if bool(self.leads_ids) == self.all_leads:
            raise ValueError("give either leads_ids, not empty, or all_leads: true")
        return self


class TaskRequest(Request):
    """Names a call task."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"task_id": 42}, {"task_id": "42"}]})

    task_id: Id = Field(description="Id of the call task, as a number or as text.")


Days = Annotated[int, Field(ge=0, le=MOST_DAYS), BeforeValidator(_integer), Strict()]
Times = Annotated[int, Field(ge=0, le=MOST_CALLS), BeforeValidator(_integer), Strict()]


class StartRequest(TaskRequest):
    """Names the call task to start, what it may cost, when its calls are made, and whom it leaves out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task_id": 42},
                {"task_id": 42, "token_ceiling": 500000},
                {"task_id": 42, "not_called_within": 7, "at_most": 3, "in_days": 30},
                {"task_id": 42, "not_called_within": 7, "dry_run": True},
                {"task_id": 42, "strategy": {"workingTime": [{"beginTime": "09:00:00", "endTime": "18:00:00"}]}},
            ],
            "dependentRequired": {"at_most": ["in_days"], "in_days": ["at_most"]},
        }
    )

    token_ceiling: Tokens | None = Field(
        default=None,
        description="Input and output tokens that the task's judgements may cost; calls beyond get a basic follow-up "
        "that says so. It stays with the task. Without it: as it was given before, or no ceiling.",
    )
    not_called_within: Days = Field(
        default=0,
        description="Leave out whom another campaign of the organisation has called within so many days; 0: nobody. "
        "It stays with the task. Without it: as it was given before.",
    )
    at_most: Times = Field(
        default=0,
        description="Leave out whom other campaigns have called so often already within in_days; 0: nobody. It stays "
        "with the task. Without it: as it was given before.",
    )
    in_days: Days = Field(default=0, description="Days in which at_most counts. Given with it.")
    dry_run: StrictBool = Field(
        default=False, description="true: call nobody, start nothing; say who would be called, who not, and why."
    )

    strategy: dict[str, Any] | None = Field(
        default=None,
        description="When the platform dials and how often, in its own words (docs/calling-hours.md). It counts until "
        "the task has its job group.",
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if len({"at_most", "in_days"} & self.model_fields_set) == 1:
            raise ValueError("at_most and in_days go together")
        return self

    def options(self) -> Options | None:
        """Those that the body has.

        Raises:
            WrongUseError: the strategy is none.
        """
        given = self.model_dump(include=set(Options.model_fields), exclude_unset=True, exclude_none=True)
        if self.strategy is not None:
            try:
                given["strategy"] = Strategy.model_validate(self.strategy)
            except ValidationError as error:
                raise WrongUseError(f"strategy: {complaint(error)}") from None
        return Options.model_validate(given) if given else None


class QueryRequest(TaskRequest):
    """Which page of a task's calls to ask for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task_id": 42}, {"task_id": 42, "page": 2, "page_size": 50}]}
    )

    page: Page = Field(default=1, description="From 1.")
    page_size: PageSize = Field(default=20, description="Calls a page.")
    skip_recording: StrictBool = Field(default=True, description="false: look for recordings too, and save them.")
    apply_update: StrictBool = Field(default=True, description="false: only look, save nothing.")


Interest = Annotated[int, Field(ge=0, le=2), BeforeValidator(_integer), Strict()]


def _only(chosen: str, others: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    absent = {"call_job_ids": {"maxItems": 0}, "all": {"const": False}, "failed": {"const": False}}
    return {"required": [chosen], "properties": {chosen: schema} | {other: absent[other] for other in others}}


class ForceRequest(TaskRequest):
    """Which calls to judge again: named ones, all, or those whose analysis failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task_id": 42, "call_job_ids": ["job-1", "job-2"]},
                {"task_id": 42, "failed": True},
                {"task_id": 42, "all": True},
                {"task_id": 42, "all": True, "interest": 0, "since": "2026-11-01", "until": "2026-11-07"},
                {"task_id": 42, "all": True, "prompt_version": "2026-11-1", "max_tokens": 200000, "override": True},
            ],
            "oneOf": [
                _only("call_job_ids", ["all", "failed"], {"minItems": 1}),
                _only("all", ["call_job_ids", "failed"], {"const": True}),
                _only("failed", ["call_job_ids", "all"], {"const": True}),
            ],
        }
    )

    call_job_ids: list[JobId] = Field(default=[], max_length=5000, description="Calls by job id.")
    all: StrictBool = Field(default=False, description="Every call of the task.")
    failed: StrictBool = Field(
        default=False, description="Calls whose analysis failed, or was not made because of the task's token ceiling."
    )
    interest: Interest | None = Field(default=None, description="Of these only calls that are judged so now.")
    since: Day | None = Field(default=None, description="Of these only calls of this day and later.")
    until: Day | None = Field(default=None, description="Of these only calls of this day and before.")
    prompt_version: PromptVersion = Field(default="", description="Of these only calls last judged with this prompt.")
    max_tokens: Tokens | None = Field(default=None, description="Stop before the next call once so much is spent.")
    override: StrictBool = Field(default=False, description="Replace what people have edited or deleted, too.")

    def request(self) -> Reanalysis:
        """What is asked for."""
        return Reanalysis(**self.model_dump(exclude=set(TaskRequest.model_fields)))

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        check_which(self.call_job_ids, self.all, self.failed)
        return self


class MonitorRequest(Request):
    """What to do with the monitor."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"action": "start"}, {"action": "check"}]})

    action: Literal["start", "stop", "check"] = Field(
        description="start: check every five minutes. stop: no more. check: once, now."
    )


# --- answers --------------------------------------------------------------------------------------------------------


class Success(BaseModel, Generic[T]):
    """A request that was carried out."""

    status: Literal["success"]
    code: Literal[200]
    message: str
    data: T


class Failure(BaseModel):
    """A request that was not carried out. ``code`` is the HTTP status, 4009 or 5003."""

    status: Literal["error"]
    code: int
    message: str


class Created(BaseModel):
    """The new task."""

    task_id: int


class Started(BaseModel):
    """``started`` is false if the task was running already; ``dialling_begins`` is empty if it does now, or as the
    platform's instance has it."""

    task_id: int
    workflow_id: str
    started: bool
    dialling_begins: str


class Requested(BaseModel):
    """The calls are judged one after the other; the progress tells how far that is."""

    task_id: int
    requested: bool


class Health(BaseModel):
    """Which of the servers behind us answer."""

    database: bool
    temporal: bool


class Unhealthy(Failure):
    """One of them does not."""

    data: Health

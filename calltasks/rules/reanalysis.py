"""The one request to judge calls again, and what it came to (rule 7).

Every door builds it, the signal ``force_analyze`` carries it as JSON, the workflow does it portion by portion, the
database finds its rows, and a trial shows what it would do.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import date
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator, StringConstraints, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

UUID = r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$"
WHICH = "say which calls in exactly one way: call_job_ids, all or failed"


def _day(value: Any) -> str:
    try:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            return date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    raise PydanticCustomError("day", "must be a day like 2026-11-01")


Day = Annotated[str, PlainValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
PromptVersion = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{0,32}$", strict=True)]


def check_which(call_job_ids: list[str] | None, every: bool, failed: bool) -> None:
    """Raise ValueError unless the calls are named in one way."""
    if [bool(call_job_ids), every, failed].count(True) != 1:
        raise ValueError(WHICH)


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Reanalysis:
    """Which calls of a task to judge again, and how. One that is wrong cannot be made.

    Attributes:
        call_job_ids, all, failed: one of them: named calls, all, or those that the model should have judged.
        interest: only calls that are judged so now.
        since, until: only calls from this day on, and up to this one, wall clock, both included.
        prompt_version: only calls whose last judgement was made with this prompt.
        override: replace follow-ups that a person has edited or deleted, too.
        max_tokens: stop before the next call once so much is spent.
        request_id: by which its answer is found; a request of the same id is done once. ``""``: the run gives it one.
    """

    call_job_ids: list[str] | None = None
    all: bool = False
    failed: bool = False
    interest: Annotated[int, Field(ge=0, le=2)] | None = None
    since: Day | None = None
    until: Day | None = None
    prompt_version: PromptVersion = ""
    override: bool = False
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    request_id: Annotated[str, StringConstraints(pattern=UUID)] = ""

    def __post_init__(self) -> None:
        check_which(self.call_job_ids, self.all, self.failed)

    def payload(self) -> dict[str, Any]:
        """As the signal carries it."""
        return dict(_ADAPTER.dump_python(self, mode="json", exclude_defaults=True))

    def size(self) -> int:
        """Bytes that it takes where it is carried."""
        return len(json.dumps(self.payload()))


_ADAPTER = TypeAdapter(Reanalysis)
_FIELDS = {field.name for field in fields(Reanalysis)}


def read(given: Any) -> Reanalysis:
    """The request that a door was given.

    Raises:
        ValueError: one line that says what is wrong, never with what was given.
    """
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # The name of a field that there is not may be anything.
        where = f"{first['loc'][0]}: " if first["loc"] and first["loc"][0] in _FIELDS else ""
        raise ValueError(where + first["msg"].removeprefix("Value error, ")) from None


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a request has come to so far.

    Attributes:
        selected: rows that it takes.
        unknown: named calls that are unknown, not over or left out.
        judged: calls whose follow-up says what was judged now; ``failed``: those without a judgement.
        kept_edits: follow-ups that were left because a person had edited or deleted them.
        over_ceiling: calls that were not judged because ``max_tokens`` were spent.
        set_aside: follow-ups that the database has refused, each time that it did.
        done: nothing of it is left to do.
    """

    request_id: str
    max_tokens: int | None = None
    selected: int = 0
    unknown: int = 0
    judged: int = 0
    failed: int = 0
    kept_edits: int = 0
    over_ceiling: int = 0
    set_aside: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    done: bool = False

    @property
    def spent(self) -> int:
        """Tokens."""
        return self.input_tokens + self.output_tokens

    def sayings(self) -> str:
        """What people should know of a request that left something as it was; or ``""``."""
        said = []
        if self.unknown:
            said.append(f"{self.unknown} of the named calls are unknown, not over or left out")
        if self.over_ceiling:
            said.append(f"the ceiling of {self.max_tokens} tokens is reached; calls not judged: {self.over_ceiling}")
        if self.kept_edits:
            said.append(f"follow-ups kept because a person edited or deleted them: {self.kept_edits}")
            said.append("ask again with override to replace them")
        return "; ".join(said)


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request on its way through the workflow. ``after``: rows up to this one are done, or so many of the names."""

    request: Reanalysis
    answer: Answer
    after: int = 0

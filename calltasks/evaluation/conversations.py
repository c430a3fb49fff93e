"""Labelled conversations: one JSON object a line (docs/judgements.md)."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NaiveDatetime, ValidationError, model_validator

from calltasks.errors import WrongUseError

SHIPPED = Path(__file__).parent / "conversations.jsonl"
"""The set that comes with the project."""


class ConversationsError(WrongUseError):
    """A file of labelled conversations cannot be used. ``str()`` is one line that names the file and the line."""


class Turn(BaseModel):
    """What one side says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speaker: Literal["Robot", "Contact"]
    text: str


class Labelled(BaseModel):
    """A conversation, and what a careful person makes of it.

    Attributes:
        called_at: with its offset from UTC.
        is_interested: 0 cannot tell, 1 interested, 2 not interested.
        next_follow_time: on the wall clock of ``called_at``, after it; None where none was agreed.
        do_not_call: the sentence in which the customer refuses further calls, as it is said; or ``""``.
        wrong_number: the number is not the lead's.
        note: why it is labelled so; the words of the agreed time in 「」.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1)]
    called_at: AwareDatetime
    turns: Annotated[list[Turn], Field(min_length=1)]
    is_interested: Literal[0, 1, 2]
    next_follow_time: NaiveDatetime | None
    do_not_call: str = ""
    wrong_number: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.next_time is not None and self.next_time <= self.called_at:
            raise ValueError("next_follow_time is not after called_at")
        said = [turn.text for turn in self.turns if turn.speaker == "Contact"]
        if self.do_not_call and not any(self.do_not_call in text for text in said):
            raise ValueError("do_not_call is not said by the customer")
        return self

    @property
    def next_time(self) -> datetime | None:
        """``next_follow_time``, aware."""
        return self.next_follow_time and self.next_follow_time.replace(tzinfo=self.called_at.tzinfo)

    def conversation(self) -> str:
        """The turns as the CRM stores a platform's conversation (rule 4.2)."""
        return json.dumps([{"Speaker": turn.speaker, "Script": turn.text} for turn in self.turns], ensure_ascii=False)


def load(path: Path = SHIPPED) -> list[Labelled]:
    """Read labelled conversations; empty lines are skipped.

    Raises:
        ConversationsError: the file cannot be read, holds nothing, or a line is wrong.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConversationsError(f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None
    found: dict[str, Labelled] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            labelled = Labelled.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ConversationsError(f"{path}, line {number}: {where + ': ' if where else ''}{first['msg']}") from None
        if labelled.id in found:
            raise ConversationsError(f"{path}, line {number}: the id {labelled.id} is there twice")
        found[labelled.id] = labelled
    if not found:
        raise ConversationsError(f"{path}: holds no conversation")
    return list(found.values())

"""Calls that people have corrected or found right, as labelled conversations without names and numbers
(docs/judgements.md)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from pydantic import ValidationError

from calltasks.database.connection import Database
from calltasks.database.tables import corrections as table
from calltasks.database.tables.corrections import Lesson
from calltasks.evaluation.conversations import Labelled, Turn
from calltasks.transcripts import turns_of

HIDDEN = "…"
_DIGITS = "0-9０-９零〇一二三四五六七八九幺两"
_NUMBER = re.compile(rf"[{_DIGITS}](?:[{_DIGITS}\s·.,，、-]*[{_DIGITS}]){{6,}}")
"""Seven digits or more, in figures or in words: a telephone, a card, a plate's number."""
_LATIN = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+")
_TITLED = re.compile(r"([\u4e00-\u9fff])(?=(?:先生|女士|小姐|太太|老师|师傅|总|经理))")
"""The character before a title: a family name, or a word that loses a character."""


async def lessons(database: Database, organization_id: str) -> list[Labelled]:
    """The calls of which people of an organisation have had the last word.

    A call without a conversation, or whose label cannot be one (a next time before the call), is left out.
    """
    return [labelled async for lesson in _all(database, organization_id) if (labelled := _labelled(database, lesson))]


async def _all(database: Database, organization_id: str) -> AsyncIterator[Lesson]:
    after = 0
    while part := await database.run(table.lessons, organization_id, after):
        for lesson in part:
            yield lesson
        after = part[-1].id


def _labelled(database: Database, lesson: Lesson) -> Labelled | None:
    said = lesson.said
    turns = [
        Turn(speaker="Robot" if turn.get("Speaker") == "Robot" else "Contact", text=text)
        for turn in turns_of(lesson.conversation)
        if isinstance(turn, dict) and (text := hide(" ".join(str(turn.get("Script") or "").split()), lesson.name))
    ]
    if lesson.called_at is None or not turns:
        return None
    try:
        return Labelled(
            id=f"correction-{lesson.id}",
            called_at=lesson.called_at.replace(tzinfo=database.zone, microsecond=0),
            turns=turns,
            is_interested=said.is_interested,  # type: ignore[arg-type]
            next_follow_time=said.next_follow_time,
            note=said.kind,
        )
    except ValidationError:
        return None


def hide(text: str, name: str) -> str:
    """A text without the customer's name, numbers, addresses of mail, and what stands before a title."""
    given = name.strip()
    for part in sorted({given, given[1:] if len(given) > 2 else ""}, key=len, reverse=True):
        if part:
            text = text.replace(part, HIDDEN)
    text = _LATIN.sub(HIDDEN, _NUMBER.sub(HIDDEN, text))
    return _TITLED.sub(HIDDEN, text)

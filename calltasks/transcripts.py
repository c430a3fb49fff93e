"""Transcripts as the CRM's column can hold them (rules 4.2, 4.9): always JSON, a list of turns.

A transcript that is too long for its column loses turns from its middle, where a turn with ``Omitted`` says how many:
who is called stands at the beginning, what was agreed at the end. What the column's character set lacks is escaped, as
JSON allows, so that nothing is lost.
"""

from __future__ import annotations

import json
from typing import Any

from calltasks.database.columns import Column
from calltasks.database.connection import Database, to_json

TABLE, COLUMN = "leads_task_list", "call_conversation"
OMITTED = "Omitted"
"""Of a turn that stands for others: how many."""


def transcript(turns: list[Any], known: str, database: Database) -> str:
    """What the row shall hold; ``""`` if there is nothing new or only less than is known."""
    if not turns or length(turns) < length(turns_of(known)):
        return ""
    column = database.column(TABLE, COLUMN)
    text = _fitted(turns, column)
    # Compared as JSON: MySQL reorders the keys of what it stores as such. Most rows have none yet.
    return "" if not text or (known and json.loads(text) == turns_of(known)) else text


def turns_of(text: str) -> list[Any]:
    """The turns of a stored transcript; none of what is no list of turns."""
    try:
        turns = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return turns if isinstance(turns, list) else []


def length(turns: list[Any]) -> int:
    """How many turns were said, whether or not they are all there."""
    return sum(omitted(turn) or 1 for turn in turns)


def omitted(turn: Any) -> int:
    """How many turns this one stands for; 0 if it is one that was said."""
    count = turn.get(OMITTED) if isinstance(turn, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def _fitted(turns: list[Any], column: Column) -> str:
    text = _text(turns, column)
    if column.holds(text):
        return text
    # The most turns that fit; less than two were no call, so that then each turn is cut in its middle.
    low, high = 0, len(turns) - 1
    while low < high:
        middle = (low + high + 1) // 2
        fits = column.holds(_text(_without_middle(turns, middle), column))
        low, high = (middle, high) if fits else (low, middle - 1)
    if low >= 2:
        return _text(_without_middle(turns, low), column)
    said = max((len(_script(turn)) for turn in turns), default=0)
    while said > 1:
        said //= 2
        text = _text(_without_middle([_shortened(turn, said) for turn in turns], 2), column)
        if column.holds(text):
            return text
    return ""


def _without_middle(turns: list[Any], kept: int) -> list[Any]:
    if kept >= len(turns):
        return turns
    head = kept // 2
    tail = len(turns) - (kept - head)
    return [*turns[:head], {"Speaker": "", "Script": "……", OMITTED: length(turns[head:tail])}, *turns[tail:]]


def _shortened(turn: Any, characters: int) -> Any:
    script = _script(turn)
    if len(script) <= characters:
        return turn
    half = characters // 2
    return {**turn, "Script": f"{script[:half]}……{script[len(script) - half :]}"}


def _script(turn: Any) -> str:
    script = turn.get("Script") if isinstance(turn, dict) else None
    return script if isinstance(script, str) else ""


def _text(turns: list[Any], column: Column) -> str:
    try:
        text = to_json(turns)
    except ValueError:
        # What JSON has no form for (NaN, which Python reads) becomes null.
        text = to_json(json.loads(json.dumps(turns), parse_constant=lambda _: None))
    return column.clean(text, json=True)

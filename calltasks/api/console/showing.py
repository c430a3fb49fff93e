"""How pages show things: masked numbers, turns of a conversation, pictures of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from calltasks.database.tables.campaigns import Hour
from calltasks.transcripts import omitted, turns_of

WIDTH, HEIGHT = 720, 120
MOST_HOURS = 96
"""Bars of a chart; older hours are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """What one side said. ``at``: milliseconds since 1970, or 0; ``omitted``: so many turns are not stored."""

    robot: bool
    text: Markup
    at: int
    omitted: int
    decisive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An hour of a chart, in pixels."""

    hour: Hour
    x: float
    width: float
    calls: float
    follow_ups: float


def masked(phone: str) -> str:
    """A number of which the middle is hidden: ``139****0001``."""
    digits = sum(c.isdigit() for c in phone)
    hidden, seen, shown = max(4, digits - 7), 0, []
    for c in phone:
        seen += c.isdigit()
        middle = c.isdigit() and 3 < seen <= 3 + hidden
        shown.append("*" if (digits < 8 and c.isdigit()) or middle else c)
    return "".join(shown)


_MOBILE = re.compile(r"(?<![0-9A-Za-z~._])(?<![a-z][=/])(?:\+?86[ -]?)?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}(?![0-9])")
"""A mobile number within a text; not the ids and searches of our own links."""


def masked_within(text: str) -> str:
    """A text, or a part of a page, of whose mobile numbers the middle is hidden."""
    return type(text)(_MOBILE.sub(lambda found: masked(found[0]), text))


def bubbles(conversation: str, sentences: Sequence[str]) -> list[Bubble]:
    """A conversation as it was said, with these sentences marked in it."""
    found = []
    for turn in turns_of(conversation):
        if not isinstance(turn, dict):
            continue
        script, at = turn.get("Script"), turn.get("Timestamp")
        text = " ".join(str(script or "").split())
        marked = _marked(text, sentences)
        if text or omitted(turn):
            found.append(
                Bubble(
                    robot=turn.get("Speaker") == "Robot",
                    text=marked,
                    at=_milliseconds(at),
                    omitted=omitted(turn),
                    decisive="<mark>" in marked,
                )
            )
    return found


def _milliseconds(at: Any) -> int:
    try:
        number = int(at)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 10**11 < number < 10**14 else 0


def _marked(text: str, sentences: Sequence[str]) -> Markup:
    """The text, safe for a page, with what it has of these sentences marked."""
    wanted = [" ".join(re.sub(r"^(?:客户|机器人)：", "", sentence.strip()).split()) for sentence in sentences]
    if some := [one for one in wanted if one and one in text]:
        before, sentence, behind = text.partition(max(some, key=len))
        return Markup("{}<mark>{}</mark>{}").format(before, sentence, behind)
    return escape(text)


def bars(hours: Sequence[Hour]) -> list[Bar]:
    """Hours as the bars of a chart of ``WIDTH`` by ``HEIGHT``."""
    shown = list(hours)[-MOST_HOURS:]
    most = max((max(hour.calls, hour.follow_ups) for hour in shown), default=0)
    if not most:
        return []
    width = min(WIDTH / len(shown), 60)
    scale = HEIGHT / most
    return [
        Bar(hour=hour, x=index * width, width=width, calls=hour.calls * scale, follow_ups=hour.follow_ups * scale)
        for index, hour in enumerate(shown)
    ]


def shares(counts: Sequence[int], width: float) -> list[tuple[float, float]]:
    """Where each count begins and how wide it is, side by side."""
    whole = sum(counts) or 1
    begins = [sum(counts[:index]) for index in range(len(counts))]
    return [(width * begin / whole, width * count / whole) for begin, count in zip(begins, counts, strict=True)]

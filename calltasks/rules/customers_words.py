"""What a model says that the customer said, and whether the customer did (rule 6.11)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

CUSTOMER, ROBOT = "客户：", "机器人："
"""Begin a line of a transcript."""
_YES = frozenset({"true", "1", "yes", "y", "是", "对"})
_NO = frozenset({"false", "0", "no", "n", "none", "null", "nil", "na", "否", "不", "不是", "无", "没有", "暂无"})
_NAMED = re.compile(r"\s*(?:客户|用户)\s*[:：]")
_LEAST = 2
"""Letters of a sentence that stands somewhere in a turn; a shorter one must be the whole turn."""


def claim(value: Any) -> tuple[bool | None, list[str]]:
    """What a field says: yes, no, or neither; and the sentences in it.

    Args:
        value: as read from an answer: a truth value, a number, a text, or these in a list or in an object (a tuple of
            names and values). A no anywhere is a no; what is odd says nothing.
    """
    yes, no, sentences = False, False, []
    for part in _parts(value):
        word = _letters(part)[0] if isinstance(part, str) else ""
        if part == 1 or word in _YES:
            yes = True
        elif part == 0 or word in _NO:
            no = True
        elif word:
            sentences.append(part.encode("utf-8", "replace").decode().replace("\0", "").strip())
    return (False if no else yes or None), sentences


def _parts(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += reversed(one)
        elif isinstance(one, tuple):
            waiting += [inner for _, inner in reversed(one)]
        else:
            yield one


def proven(sentences: list[str], transcript: str) -> str:
    """The first of these sentences that stands in one turn of the customer, as it stands there; or ``""``.

    Blanks, marks, width and case do not matter. What robot and customer said together proves nothing.
    """
    turns = [line.removeprefix(CUSTOMER) for line in transcript.splitlines() if line.startswith(CUSTOMER)]
    for sentence in sentences:
        wanted, bare = _letters(_NAMED.sub("", sentence, count=1))[0], _NAMED.sub("", sentence, count=1).strip()
        for turn in turns:
            said, places = _letters(turn)
            if wanted not in said or not wanted or (len(wanted) < _LEAST and wanted != said):
                continue
            begin = said.index(wanted)
            return bare if bare in turn else turn[places[begin] : places[begin + len(wanted) - 1] + 1]
    return ""


def _letters(text: str) -> tuple[str, list[int]]:
    """A text's letters and digits in one form, and where each stands."""
    found = [
        (letter, place)
        for place, mark in enumerate(text)
        for letter in unicodedata.normalize("NFKC", mark).casefold()
        if letter.isalnum()
    ]
    return "".join(letter for letter, _ in found), [place for _, place in found]

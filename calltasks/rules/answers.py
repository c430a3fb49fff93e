"""The objects in what a model wrote: JSON, or what a person reads as such.

Models think aloud, fence what they write, quote with the marks of their language and forget to escape. Such a text is
read. What a person would have to guess is refused: a value that does not end, a name with two values, a thought. (That
is why no general mender is used: those complete what was cut off, and take the last of two values.)

An object is a tuple of its names and values, so that a name which stands twice can be seen; an array is a list.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

Object = tuple[tuple[str, Any], ...]

MENDED_CHARACTERS = 10_000
"""A longer text must be JSON as it stands: mending takes time that grows with the square of its length."""

_THINKING = "think|thinking|thoughts?|reasoning|reasoning_content|reflection|scratch_?pad|monologue|思考(?:过程)?|推理"
_THOUGHT = re.compile(
    rf"(?:[<◁＜]|&lt;)([/／]?)\s*(?:\w{{1,20}}[:_])?(?:{_THINKING}|analysis)\b[^<>◁▷＜＞&]{{0,80}}?([/／]?)(?:[>▷＞]|&gt;)"
    r"|\[(/?)THINK()\]|<\|(?:begin|(end))_of_thought()\|>",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    rf"<\|channel\|>\s*analysis\s*<\|message\|>.*?(?:<\|end\|>|\Z)|```\s*(?:{_THINKING})\s*\n.*?(?:```|\Z)",
    re.IGNORECASE | re.DOTALL,
)
"""A thought whose beginning and end are no tags."""
THOUGHT_NAMES = frozenset(
    ["think", "thinking", "thought", "thoughts", "reasoning", "reasoningcontent", "reflection", "scratchpad", "draft"]
)
"""What stands in a field of such a name (as :func:`plain_name` spells it) is a thought."""
_OPENING = "\"'`“”‘’＂＇「『"
_ALIKE = ('"“”＂', "'‘’＇`", "「」", "『』")
_CLOSING = {mark: alike for alike in _ALIKE for mark in alike}
_APOSTROPHE = re.compile(r"(?<=[A-Za-z])['’](?=[A-Za-z])")
_MARKS = _OPENING + "」』"
_GAP = r"(?:\s|//[^\n]{0,200}\n|#[^\n]{0,200}\n|/\*[^*]{0,200}\*/){0,60}+"  # blanks and comments
_NAME = (
    rf"(?:[{_OPENING}](?P<quoted>[^{_MARKS}:：,，{{}}\n]{{1,40}})[{_MARKS}]"
    rf"|(?P<bare>[^\W\d][\w-]{{0,39}})[{_MARKS}]?)"
)
_KEY = rf"{_GAP}{_NAME}\s{{0,9}}[:：]{_GAP}"
_BEGIN = re.compile(rf"[{{｛](?=[,，\s]{{0,9}}{_KEY})")
_FIRST = re.compile(rf"[{{｛][,，\s]{{0,9}}{_KEY}")
_LEADING = re.compile(rf"(?:```(?:json)?)?\s{{0,9}}[{_OPENING}](?=leads_remark|is_interested){_NAME}\s{{0,9}}[:：]")
_STOP = re.compile(
    rf"{_GAP}(?:(?:[,，;；]{{1,9}}|(?<=[\s/])){_KEY}"
    rf"|[,，;；.…]{{0,9}}{_GAP}[.…]{{0,9}}{_GAP}(?P<end>[}}｝])|(?P<cut>\s*(?:```)?\s*\Z))"
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_NUMBER = re.compile(r"[-+]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_BARE = re.compile(rf"[^\s{_MARKS}{{}}\[\]｛｝:：,，]{{1,40}}")
_CLOSED = re.compile(rf"null|[{_OPENING}][^{_MARKS}]*[{_MARKS}]")
_WORDS = {"null": None, "none": None, "nil": None, "undefined": None, "true": True, "false": False}
_NOTHING = object()
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, strict=False)  # A raw line break in a string is forgiven.


class UnreadableTextError(ValueError):
    """No person could say for certain what is meant."""


def objects(text: str, names: frozenset[str]) -> list[Any]:
    """The objects that stand in a text, outermost ones only, without what the model thought.

    Args:
        text: what the model wrote.
        names: an object that has all of these (as :func:`plain_name` spells them) may lack its last brace.

    Raises:
        UnreadableTextError: something begins like an object and cannot be read as one, or a thought does not end.
    """
    text = _without_thoughts(_plain(text))
    found: list[Any] = []
    if _LEADING.match(text):
        text = "{" + text
    begin = _BEGIN.search(text)
    while begin:
        try:
            value, end = _object(text, begin.start(), names)
        except RecursionError:
            raise UnreadableTextError from None
        found.append(value)
        begin = _BEGIN.search(text, end)
    return found


def _plain(text: str) -> str:
    """Without invisible characters, and without a second layer of JSON escapes around the whole."""
    text = "".join(mark for mark in text if mark not in "\0\ufeff\u200b\u2060").strip()
    if text.startswith('"'):
        try:
            inner = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return text
        return inner if isinstance(inner, str) else text
    return text.replace('\\"', '"') if re.search(r'[{,]\s*\\"', text) and not re.search(r'[{,]\s*"', text) else text


def _without_thoughts(text: str) -> str:
    """What stands outside of thoughts; before a thought that ends without a beginning everything was thought."""
    kept, depth, at, text = "", 0, 0, _ASIDE.sub("", text)
    for tag in _THOUGHT.finditer(text):
        closes, alone = tag[1] or tag[3] or tag[5], tag[2]
        if not depth:
            kept += text[at : tag.start()]
        at = tag.end()
        if closes:
            kept, depth = kept if depth else "", max(0, depth - 1)
        elif not alone:
            depth += 1
    if depth:
        raise UnreadableTextError
    return kept + text[at:]


def _object(text: str, at: int, names: frozenset[str]) -> tuple[Any, int]:
    """The object that begins at this brace, and where it ends."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        if len(text) > MENDED_CHARACTERS:
            raise UnreadableTextError from None
        return _mended(text, at, names)


def _mended(text: str, at: int, names: frozenset[str]) -> tuple[Object, int]:
    """An object that is no JSON: a value lasts until it has ended and another name, or the closing brace, follows."""
    members: list[tuple[str, Any]] = []
    key = _FIRST.match(text, at)
    while key:
        name, begin = (key["quoted"] or key["bare"]).strip(), key.end()
        if text[begin : begin + 1] in ("{", "｛") and _BEGIN.match(text, begin):
            value, end = _object(text, begin, names)
            stop = _STOP.match(text, end)
        else:
            value, stop = _value(text, begin)
        if stop is None:
            break
        members.append((name, value))
        if stop["end"] or (stop["cut"] is not None and names <= {plain_name(name) for name, _ in members}):
            return tuple(members), stop.end()
        if stop["cut"] is not None:
            break
        key = stop
    raise UnreadableTextError


def _value(text: str, begin: int) -> tuple[Any, re.Match[str] | None]:
    """The value that begins here and what stops it: the first that leaves a value which has ended."""
    for stop in _STOP.finditer(text, begin):
        raw = text[begin : stop.start()].strip()
        value = _scalar(raw) if raw or stop[0].lstrip()[:1] in (*",，;；}｝",) else _NOTHING
        # What ends with the text must have ended for certain: a number, or a mark among others, might have gone on.
        if value is not _NOTHING and (stop["cut"] is None or _CLOSED.fullmatch(raw)):
            return value, stop
    return None, None


def _scalar(raw: str) -> Any:
    """A value as it was written, or ``_NOTHING`` if it does not end here."""
    if not raw:
        return None
    if raw[0] in _OPENING:
        return _string(raw)
    if raw[0] in "{｛":
        return () if re.fullmatch(r".\s*[}｝]", raw) else _NOTHING
    if raw[0] == "[":
        return _array(raw) if raw[-1] == "]" else _NOTHING
    if _NUMBER.fullmatch(raw):
        number = float(raw)
        return int(number) if number.is_integer() and "." not in raw else number
    return _WORDS.get(raw.lower(), raw) if _BARE.fullmatch(raw) else _NOTHING


def _string(raw: str) -> Any:
    alike = _CLOSING[raw[0]]
    thick = 3 if raw[:3] == raw[-3:] == raw[0] * 3 and len(raw) > 5 else 1
    inner = raw[thick:-thick]
    backslashes = len(inner) - len(inner.rstrip("\\"))
    if len(raw) < 2 or raw[-1] not in alike or backslashes % 2:
        return _NOTHING
    unescaped = _APOSTROPHE.sub("", re.sub(r"\\.", "", inner, flags=re.DOTALL))
    # Marks within come in pairs, and so do braces; else the value ends further on.
    if sum(map(unescaped.count, alike)) % 2 or unescaped.count("{") != unescaped.count("}"):
        return _NOTHING
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _ESCAPED.get(found[2], found[2]), inner)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _array(raw: str) -> list[Any]:
    try:
        found = json.loads(raw, strict=False)
    except (ValueError, RecursionError):
        return re.findall(rf"[{_OPENING}]([^{_MARKS}]*)[{_MARKS}]", raw)
    return found if isinstance(found, list) else []


def same(one: Any, other: Any) -> bool:
    """Whether two values were written alike; 1 and true are not."""
    return repr(one) == repr(other)


def plain_name(name: str) -> str:
    """A name without case, blanks and marks."""
    return re.sub(r"[^a-z]", "", unicodedata.normalize("NFKC", name).lower())

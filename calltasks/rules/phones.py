"""Phone numbers as people store them, as one number each (rules 3.3, 11.2)."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from phonenumbers import (
    NumberParseException,
    PhoneNumberFormat,
    format_number,
    is_possible_number,
    national_significant_number,
    parse,
)

REGION = "CN"
"""A number without a country's code is one of this country."""
_CHINA = 86
_PLAIN = re.compile(r"1[3-9]\d{9}", re.ASCII)
_MOBILE = re.compile(rf"(?:\+?0{{0,3}}86){{0,2}}0?({_PLAIN.pattern})", re.ASCII)
_CHINESE = re.compile(rf"{_PLAIN.pattern}|10\d{{8}}|2\d{{9}}|[3-9]\d{{9,10}}|[2-9]\d{{6,7}}|9[56]\d{{3,4}}|1\d{{4,5}}")
"""What is dialled in China: a mobile number, one with its area code, one without, a service. A mobile number that
lacks a digit, or has one too many, would be read as somebody else's."""
_AS_IT_IS = re.compile(rf"{_PLAIN.pattern}|[48]00\d{{7}}|\d{{1,8}}")
"""Mobile and service numbers have no leading zero; what has an area code has one."""
_WORDS = re.compile(r"[^\W\d_]+")
_NONE = re.compile(
    r"\*|\d[eE][+-]?\d|(?:19|20)\d\d([-/.])\d\d?\1\d\d?(?!\d)"
    r"|\d\s*[/\\|;:&=~、]\s*\d|\d[^\w+]\d\W*$"
)
"""A hidden digit, an amount in the scientific form, a date, what may stand for the last digits (``021-5876543/4``,
``1390000000-1``)."""
_LETTER = r"[^\W\d_\u3400-\u9fff]"
_LETTERS = re.compile(rf"{_LETTER}\d|^\D*\d.*{_LETTER}", re.DOTALL)
"""Letters right before a digit, or behind one: the keypad has digits for them, people hide digits by them
(``138-0000-xxxx``), or take an ``l`` for a 1. Where all digits of a mobile number stand together they are words."""
_EXTENSION = re.compile(r"ext(?:n|ension)?", re.IGNORECASE)
_SPREADSHEET = re.compile(r"\.0+$")
"""What a spreadsheet adds to a number that it took for an amount."""
_BETWEEN = re.compile(rf"[,;/、|\r\n]|或|\s+(?=(?:\+?86)?{_PLAIN.pattern})")
"""What stands between two numbers in one field."""


def _clean(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return plain.replace("\0", "").strip()


@lru_cache(maxsize=65_536)
def _read(text: str) -> tuple[str, str]:
    """In E.164 and as it is dialled; both ``""`` if it is no number."""
    if _PLAIN.fullmatch(text):
        return f"+{_CHINA}{text}", text
    plain = _SPREADSHEET.sub("", _clean(text))
    if _NONE.search(plain):
        return "", ""
    # Words before or behind a number ("张三 139…", "139…（妻）") are no part of it. Two numbers are none.
    pieces = [piece for piece in _WORDS.split(plain) if re.search(r"\d", piece)]
    if len(pieces) == 1 and (mobile := _MOBILE.fullmatch(re.sub(r"[^\d+]", "", pieces[0]))):
        return f"+{_CHINA}{mobile[1]}", mobile[1]
    return _parsed(plain)


def _parsed(plain: str) -> tuple[str, str]:
    try:
        number = parse(plain, REGION)
    except NumberParseException:
        return "", ""
    significant = national_significant_number(number)
    if _LETTERS.search(_EXTENSION.sub("", plain) if number.extension else plain):
        return "", ""
    # Behind an area code (0755-8234) there is more than that.
    if len(significant) < 9 and re.sub(r"\D", "", plain).endswith(f"0{significant}"):
        return "", ""
    if not is_possible_number(number) or (number.country_code == _CHINA and not _CHINESE.fullmatch(significant)):
        return "", ""
    if number.country_code != _CHINA:
        sent = f"00{number.country_code}{significant}"
    else:
        sent = significant if _AS_IT_IS.fullmatch(significant) else f"0{significant}"
    return format_number(number, PhoneNumberFormat.E164), sent


def e164(text: str) -> str:
    """The number in E.164 (``+8613900000001``), by which numbers are compared; ``""`` for what is no number.

    Blanks, hyphens, brackets, full-width digits, invisible characters, ``+86``, ``0086``, a spreadsheet's ``.0`` and
    words around the number make no difference.
    """
    return _read(text)[0]


def dialled(text: str) -> str:
    """The number as the platform takes it: ``13900000001``, ``01012345678``, a foreign one as ``0085251234567``;
    ``""`` for what is no number."""
    return _read(text)[1]


def comparable(text: str) -> frozenset[str]:
    """What a phone field holds, as it is compared with another one: they agree if they have one of these in common.

    The number in E.164; of a field with several numbers each of them; of what is no number (an extension) its text.
    What has no digit, or hides some (``139****0001``, ``139xxxx0001``), agrees with nothing.
    """
    if number := e164(text):
        return frozenset((number,))
    plain = _clean(text)
    numbers = frozenset(filter(None, map(e164, _BETWEEN.split(plain))))
    hidden = "*" in plain or _LETTERS.search(plain)
    return numbers or frozenset((plain,) if re.search(r"\d", plain) and not hidden else ())

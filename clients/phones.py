"""Phone numbers as people store them, as one number each (SPEC 3, 11)."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from phonenumbers import (
    NumberParseException,
    PhoneNumber,
    PhoneNumberFormat,
    format_number,
    is_possible_number,
    national_significant_number,
    parse,
)

REGION = "CN"
"""A number without a country's code is one of this country."""
_CHINA = 86
_SPREADSHEET = re.compile(r"\.0+\s*$")
"""What a spreadsheet adds to a number that it took for an amount."""


@lru_cache(maxsize=65_536)
def _read(text: str) -> PhoneNumber | None:
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    try:
        number = parse(_SPREADSHEET.sub("", plain.strip()), REGION)
    except NumberParseException:
        return None
    return number if is_possible_number(number) else None


def e164(text: str) -> str:
    """The number in E.164 (``+8613900000001``), by which numbers are compared; ``""`` for what is no number.

    Blanks, hyphens, brackets, full-width digits, invisible characters, ``+86``, ``0086`` and a spreadsheet's ``.0``
    make no difference.
    """
    number = _read(text)
    return format_number(number, PhoneNumberFormat.E164) if number else ""


def dialled(text: str) -> str:
    """The number as the platform takes it: ``13900000001``, ``01012345678``, a foreign one as ``0085251234567``;
    ``""`` for what is no number."""
    number = _read(text)
    if number is None:
        return ""
    significant = national_significant_number(number)
    if number.country_code != _CHINA:
        return f"00{number.country_code}{significant}"
    # Mobile and service numbers are dialled as they are, what has an area code with its leading zero.
    return significant if re.fullmatch(r"1\d{10}|[48]00\d+|\d{1,8}", significant) else f"0{significant}"

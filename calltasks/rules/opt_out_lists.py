"""Lists of numbers as CSV: read whole or refused whole (rule 11.6)."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence

from calltasks.errors import WrongUseError
from calltasks.rules.phones import e164

PHONE, REASON = "phone", "reason"
COLUMNS = (PHONE, REASON, "source", "created_by", "created_at", "disputed_at", "task_id", "call_job_id")
"""Of an export. An import takes the first two, and nothing of what others say."""
MOST_REASON = 1000
"""Characters of a reason."""
SHOWN_LINES = 20


def text(name: str, said: str, most: int = MOST_REASON) -> str:
    """What a person says, as our tables hold it.

    Raises:
        WrongUseError: it is longer than ``most`` characters; ``name`` says what.
    """
    clean = said.encode("utf-8", "replace").decode().replace("\0", "").strip()
    if len(clean) > most:
        raise WrongUseError(f"{name}: must not be longer than {most} characters")
    return clean


def read(data: bytes) -> list[tuple[str, str]]:
    """Numbers (in E.164) and reasons of a list, in its order.

    UTF-8, with a mark at its beginning or without, UTF-16 with one, or GB18030; separated by commas, semicolons or
    tabs. The first line may name the columns, ``phone,reason``, or those of an export; else a line is a number alone.
    Lines without anything are left out.

    Raises:
        WrongUseError: a line is none of this; it is named by its number, never by what it holds.
    """
    rows = [(line, cells) for line, cells in _rows(_decoded(data)) if any(cells)]
    if not rows:
        raise WrongUseError("the list is empty; nothing was imported")
    header = [cell.lower() for cell in rows[0][1]]
    names = [PHONE]
    if PHONE in header:
        names, rows = header, rows[1:]
        named = [name for name in names if name]
        if len(set(named)) < len(named) or not set(named) <= set(COLUMNS):
            raise WrongUseError(f"line 1: names columns that are not known; known are {', '.join(COLUMNS)}")
    found = [(line, _entry(names, cells)) for line, cells in rows]
    if wrong := [str(line) for line, entry in found if entry is None]:
        more = f" and {len(wrong) - SHOWN_LINES} more" if len(wrong) > SHOWN_LINES else ""
        raise WrongUseError(
            f"no number that can be dialled, or more than the columns {PHONE} and {REASON}, in these lines:"
            f" {', '.join(wrong[:SHOWN_LINES])}{more}; nothing was imported"
        )
    return [entry for _, entry in found if entry is not None]


def _entry(names: Sequence[str], cells: Sequence[str]) -> tuple[str, str] | None:
    """Number and reason of a line; None if they cannot be told. What stands outside of all columns may be a number."""
    told = dict(zip(names, cells, strict=False))
    reason = told.get(REASON, "")
    unnamed = [cell for name, cell in zip(names, cells, strict=False) if not name] + list(cells[len(names) :])
    phone = e164(told.get(PHONE, ""))
    return None if not phone or any(unnamed) or len(reason) > MOST_REASON else (phone, text(REASON, reason))


def _decoded(data: bytes) -> str:
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise WrongUseError("the list is no text in UTF-8, UTF-16 or GB18030; nothing was imported")


def _rows(content: str) -> Iterator[tuple[int, list[str]]]:
    """The lines, each with its number and its cells."""
    first = content.lstrip().partition("\n")[0]
    between = next((mark for mark in ",\t;" if mark in first), ",")
    lines = csv.reader(io.StringIO(content, newline=""), delimiter=between, strict=True)
    number = 1
    try:
        for cells in lines:
            yield number, [cell.strip() for cell in cells]
            number = lines.line_num + 1
    except csv.Error:
        raise WrongUseError(
            f"line {number}: its quotation marks do not match, or a field is too long; nothing was imported"
        ) from None

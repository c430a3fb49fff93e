"""CSV that no spreadsheet takes for formulas (rules 11.6, 13.1)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""With what a cell begins that a spreadsheet may calculate."""


def lines(rows: Iterable[Sequence[object]]) -> str:
    """These rows as CSV."""
    made = io.StringIO()
    csv.writer(made).writerows([[_cell(value) for value in row] for row in rows])
    return made.getvalue()


def _cell(value: object) -> str:
    # NUL is dropped before the look at what it begins with: no reader of CSV takes it, and some pass over it.
    said = "" if value is None else str(value).replace("\0", "")
    return f"'{said}" if said.startswith(_FORMULA) or said.lstrip().startswith(_FORMULA) else said
